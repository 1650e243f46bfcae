import { mkdtemp, readFile, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { isDeepStrictEqual } from "node:util";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { estimateStep, type Machine } from "../src/analysis/estimate.ts";
import { memoryPlaces } from "../src/analysis/memory.ts";
import type { JobOptions } from "../src/analysis/options.ts";
import { usablePairs } from "../src/analysis/pairs.ts";
import {
  type AnalysisInput,
  type AnalysisRecord,
  analysePairs,
  captureStep,
  effectsStep,
  type Places,
  prepare,
  rankOptions,
} from "../src/analysis/steps.ts";
import { memoryStore } from "../src/capture/store.ts";
import type { Score } from "../src/circuit/ranking.ts";
import { run } from "../src/commands/run.ts";
import type { Dictionary } from "../src/dictionaries/dictionary.ts";
import { codeReader } from "../src/dictionaries/encode.ts";
import { nodesTable } from "../src/effects/sums.ts";
import { StoppedError } from "../src/errors.ts";
import { heldWeights, loadedModel } from "../src/models/weights.ts";
import { type OpenJob, openJob } from "../src/open/open.ts";
import { postingReporter, type Reporter } from "../src/progress.ts";
import { readFeatures } from "../src/results/tables.ts";

const options: JobOptions = {
  model_name: "demo",
  sae_source: null,
  layers: "2,5",
  sites: "resid_post,mlp_out",
  num_examples: 3,
  batch_size: null,
  task: "agreement",
  pairs: null,
  seed: 1,
  method: "analytic",
  score: "effect",
  precision: "float32",
  device: "cpu",
  top: 7,
  keep: "all",
  weights: "held",
};

const quiet = (stopped = () => false): Reporter => postingReporter(() => {}, stopped);
const emptyRecord = (): AnalysisRecord => ({
  counts: { pairs: 0, nodes_forward: 0, nodes_backward: 0, tokens: 0, rows: 0 },
  accuracy: [],
  checks: [],
  warnings: [],
});

let home: string;
let opened: OpenJob;
let input: AnalysisInput;
beforeAll(async () => {
  home = await mkdtemp(join(tmpdir(), "sfc-steps-"));
  opened = await openJob(options);
  const loaded = loadedModel(opened.model, await heldWeights(opened.model, opened.checkpoint));
  input = { loaded, tokenizer: opened.tokenizer, dictionaries: opened.dictionaries, options };
});
afterAll(async () => {
  await opened.close();
  await rm(home, { recursive: true, force: true });
});

const pairs = () => usablePairs(opened.source, opened, options, quiet()).kept;

describe("the steps of an analysis, in memory", () => {
  it.each<[Score, boolean]>([
    ["effect", true],
    ["gradient-activation", false],
    ["gradient", false],
  ])("give the ranking and the features that a run with --score %s writes", async (score, hasExact) => {
    const folder = join(home, score);
    const { manifest } = await run({ command: "run", options: { ...options, score }, folder, force: false }, quiet());
    const scored = { ...input, options: { ...options, score } };
    const places = memoryPlaces();
    const record = emptyRecord();
    const exactFlops = Math.max(100, 0.25 * manifest.estimate!.capture_gflop) * 1e9;
    const found = await analysePairs(scored, prepare(pairs(), scored.options), places, record, quiet(), { exactFlops });
    expect(found.ranking).toEqual(JSON.parse(await readFile(join(folder, "ranking.json"), "utf8")));
    expect(found.ranking.exact !== null).toBe(hasExact);
    expect(Object.keys(record)).toEqual(expect.arrayContaining(["counts", "accuracy", "checks", "warnings"]));
    expect(manifest).toMatchObject(record);
    const written = await readFeatures(folder);
    expect(written.length).toBeGreaterThan(1000);
    const byCase = new Map<string, typeof written>();
    for (const row of written) {
      const key = [row.site, row.split, row.case].join("|");
      const rows = byCase.get(key);
      if (rows) rows.push(row);
      else byCase.set(key, [row]);
    }
    const names = new Set(written.map((row) => row.case));
    for (const { site } of found.ranking.sites) {
      for (const split of ["train", "test"] as const) {
        for (const name of names) {
          const there = byCase.get([site, split, name].join("|")) ?? [];
          const here = places.tables.features(site, split, name);
          // toEqual takes seconds for all of them: it only shows what differs.
          if (!isDeepStrictEqual(here, there)) expect(here).toEqual(there);
        }
      }
    }
  });

  it("of secant say how far a residual site is from the whole change: one point does not pass, four do, eight come nearer", async () => {
    const gaps: number[] = [];
    for (const steps of [1, 4, 8]) {
      const record = emptyRecord();
      const secant = { ...input, options: { ...options, method: "secant" as const, steps } };
      await analysePairs(secant, prepare(pairs(), secant.options), memoryPlaces(), record, quiet());
      const own = record.checks.filter(({ name }) => name === "secant effects are the whole change");
      expect(own.map(({ site }) => site).sort()).toEqual(["resid_post.2", "resid_post.5"]);
      expect(own.every(({ passed }) => passed)).toBe(steps > 1);
      expect(record.warnings.some((line) => line.includes("with --steps 2 and --force"))).toBe(steps === 1);
      gaps.push(Math.max(...own.map(({ gap, scale }) => gap / scale)));
    }
    expect(gaps[0]).toBeGreaterThan(0.5);
    expect(gaps[1]).toBeLessThan(0.035);
    expect(gaps[2]).toBeLessThan(0.01);
  });

  it("read each SAE once for its effects and its fit", async () => {
    const reads: string[] = [];
    const counted = [...input.dictionaries].map(([site, dictionary]): [string, Dictionary] => [
      site,
      {
        ...dictionary,
        encoder() {
          reads.push(`encoder ${site}`);
          return dictionary.encoder();
        },
        decoderRows(features) {
          reads.push(`decoder ${site}`);
          return dictionary.decoderRows(features);
        },
      },
    ]);
    const record = emptyRecord();
    const counting = { ...input, dictionaries: new Map(counted) };
    await analysePairs(counting, prepare(pairs(), options), memoryPlaces(), record, quiet());
    const sites = [...input.dictionaries.keys()];
    expect(reads).toEqual(sites.flatMap((site) => [`encoder ${site}`, `decoder ${site}`]));
    expect(Object.keys(record.unexplained!)).toEqual(sites);
  });

  it("find again what an interrupted analysis has put into its places", async () => {
    const whole = memoryPlaces();
    const prepared = prepare(pairs(), options);
    const { ranking } = await analysePairs(input, prepared, whole, emptyRecord(), quiet());

    const store = memoryStore();
    const tables = memoryPlaces().tables;
    const interrupted: Places = { ...memoryPlaces(), tables, store: () => store };
    const record = emptyRecord();
    const stop = quiet(() => tables.effects.size === 1);
    await expect(analysePairs(input, prepared, interrupted, record, stop)).rejects.toThrow(StoppedError);
    expect([...tables.effects.keys()]).toEqual(["mlp_out.2"]);
    const kept = tables.effects.get("mlp_out.2");
    expect(Object.keys(record.unexplained!)).toEqual(["mlp_out.2"]);

    const again = await analysePairs(input, prepared, interrupted, record, quiet());
    expect(again.ranking).toEqual(ranking);
    expect(tables.effects.get("mlp_out.2")).toBe(kept);
    expect(record.checks.map(({ name, site }) => `${name} ${site}`)).toEqual(
      ["sum of effects", "forest equals example by example"].flatMap((name) =>
        ["mlp_out.2", "resid_post.2", "mlp_out.5", "resid_post.5"].map((site) => `${name} ${site}`),
      ),
    );
  });

  it("of secant take as many points for the sites that are left as for all", async () => {
    const asked = {
      ...options,
      sae_source: "dummy",
      sites: "embed,resid_post",
      layers: null,
      method: "secant",
    } as const;
    await using job = await openJob(asked);
    const secant = { ...input, dictionaries: job.dictionaries, options: asked };
    const prepared = prepare(pairs(), asked);
    const { ranking } = await analysePairs(secant, prepared, memoryPlaces(), emptyRecord(), quiet());

    const store = memoryStore();
    const tables = memoryPlaces().tables;
    const interrupted: Places = { ...memoryPlaces(), tables, store: () => store };
    const stop = quiet(() => tables.effects.size === 1);
    await expect(analysePairs(secant, prepared, interrupted, emptyRecord(), stop)).rejects.toThrow(StoppedError);
    expect([...tables.effects.keys()]).toEqual(["embed"]);
    const again = await analysePairs(secant, prepared, interrupted, emptyRecord(), quiet());
    for (const [i, { site, splits }] of ranking.sites.entries()) {
      const got = again.ranking.sites[i]!.splits.train!;
      expect(Math.abs(got.importance / splits.train!.importance - 1), site).toBeLessThan(1e-5);
    }
  });

  it("can be taken one by one", async () => {
    const { tables } = memoryPlaces();
    const prepared = prepare(pairs(), options);
    const { run: captured } = await captureStep(input, prepared, memoryStore());
    await tables.writeNodes(
      nodesTable(prepared.forest, (id) => opened.tokenizer.token(id)),
      opened.tokenizer.outside,
    );
    const codes = codeReader(input.loaded);
    await effectsStep(input, captured, codes, tables, quiet());
    await codes.release();
    const { ranking, rows } = await tables.rank(rankOptions(input, prepared, captured));
    const all = await analysePairs(input, prepared, memoryPlaces(), emptyRecord(), quiet());
    expect(ranking).toEqual(all.ranking);
    expect(rows).toBe([...tables.effects.values()].reduce((sum, { node }) => sum + node.length, 0));
  });
});

describe("the estimate of an analysis", () => {
  const machineWith = (bytes: number): Machine => ({ availableMemory: () => bytes, mostMemory: () => bytes });
  const estimateOn = (bytes: number, weights: JobOptions["weights"]) =>
    estimateStep(opened, opened.dictionaries, pairs(), { ...options, weights }, machineWith(bytes), quiet());

  it("counts what there is to compute, and holds weights where there is room", async () => {
    const { forest } = prepare(pairs(), options);
    // 6 layers of 192 wide, 64 of them keys and values, 512 wide in the MLP, with two norms; 2,667 tokens; the last norm.
    const parameters = 6 * (2 * 192 * 192 + 2 * 64 * 192 + 3 * 192 * 512 + 2 * 192) + 2667 * 192 + 192;
    const { size } = await stat(new URL("../models/demo/model.safetensors", import.meta.url));
    expect(await estimateOn(64e9, "auto")).toMatchObject({
      weights: "held",
      model: { name: "demo", parameters, bytes: size },
      saes: { sites: 4, features: 4 * 1536 },
      pairs: pairs().length,
      nodes: { forward: forest.forward.size, backward: forest.backward.size },
      available_memory_bytes: 64e9,
    });
  });

  it("streams weights that do not fit, unless they are to be held", async () => {
    expect(await estimateOn(20e6, "auto")).toMatchObject({ weights: "streamed", available_memory_bytes: 20e6 });
    expect(await estimateOn(20e6, "held")).toMatchObject({ weights: "held" });
    await expect(estimateOn(5e6, "held")).rejects.toThrow("weights: expected 11 MB of free memory to hold them");
  });
});
