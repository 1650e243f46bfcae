import { copyFile, mkdir, mkdtemp, readFile, rm, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { checkFits, estimateRun, type Machine } from "../src/analysis/estimate.ts";
import { openFolder } from "../src/bytes/file.node.ts";
import { capture } from "../src/capture/capture.ts";
import { captureCost } from "../src/capture/cost.ts";
import { memoryStore, type Store } from "../src/capture/store.ts";
import { prefixForest } from "../src/forest/forest.ts";
import { planCapture } from "../src/forest/packs.ts";
import { modelFromConfig } from "../src/models/architectures.ts";
import { type Checkpoint, openCheckpoint } from "../src/models/checkpoint.ts";
import type { Model } from "../src/models/model.ts";
import { heldWeights, loadedModel, streamedWeights } from "../src/models/weights.ts";
import type { TokenPair } from "../src/prompts/pairs.ts";
import { Random } from "../src/random.ts";
import {
  examples,
  expectError,
  llama,
  manifestOf,
  sfc,
  start,
  succeeds,
  succeedsAlone,
  writeExamples,
} from "./cli-harness.ts";

const fixtures = new URL("fixtures/", import.meta.url).pathname;

const machineWith = (bytes: number): Machine => ({ availableMemory: () => bytes, mostMemory: () => bytes });

describe("the cost of a capture", () => {
  let model: Model;
  let checkpoint: Checkpoint;
  beforeAll(async () => {
    checkpoint = await openCheckpoint(await openFolder(`${fixtures}gemma2`));
    model = modelFromConfig(checkpoint.config, "gemma2");
  });
  afterAll(() => checkpoint.close());

  const random = new Random(5);
  const pairs = Array.from({ length: 80 }, (): TokenPair => {
    const prefixes = { clean_prefix: "", patch_prefix: "", clean_answer: "", patch_answer: "" };
    const draw = () => [1, ...Array.from({ length: 5 }, () => 4 + random.below(20))];
    return {
      pair: { ...prefixes, case: "a", split: "train" },
      clean: draw(),
      patch: draw(),
      cleanAnswer: 30,
      patchAnswer: 31,
    };
  });
  const plan = planCapture(prefixForest(pairs), { wanted: "changed", nodes: 64, tileSize: 64 });
  const sites = ["embed", "attn_z.1", "mlp_act.1", "resid_post.0", "resid_post.2"];

  it.each(["held", "streamed"] as const)(
    "%s: what is stored is told to the byte at the end, and near the peak before",
    async (where) => {
      const { stored } = captureCost(model, [plan], sites, where, checkpoint.storedType);
      const store = weighedStore();
      const weights = where === "held" ? await heldWeights(model, checkpoint) : streamedWeights(checkpoint);
      await capture(loadedModel(model, weights), plan, { sites, store });
      expect(store.held()).toBe(stored.end);
      expect(store.peak()).toBeLessThan(1.2 * stored.peak);
      expect(store.peak()).toBeGreaterThan(0.8 * stored.peak);
    },
  );

  it("weights stay on a device where its buffers can be as large as the largest, as those of all adapters can up to 1 GB", async () => {
    const machine = { ...machineWith(1e12), lacksDevice: true };
    const options = { weights: "auto", method: "analytic", score: "effect", precision: "float32" } as const;
    const held = async (vocab_size: number, device: "cpu" | "webgpu", precision: "float32" | "float64" = "float32") => {
      const large = modelFromConfig({ ...checkpoint.config, vocab_size }, "gemma2");
      // Of the sizes nothing is read here.
      const files = { model: large, checkpoint: { bytes: checkpoint.bytes, storedType: checkpoint.storedType } };
      const plans = [plan, plan, plan] as const;
      const estimate = await estimateRun(files, new Map(), plans, { ...options, device, precision, steps: 4 }, machine);
      return estimate.weights === "held";
    };
    const most = Math.floor(2 ** 28 / model.width);
    expect([await held(most, "cpu"), await held(most, "webgpu")]).toEqual([true, true]);
    expect([await held(most + 1, "cpu"), await held(most + 1, "webgpu")]).toEqual([true, false]);
    // Nothing is sent in float64.
    expect(await held(most + 1, "webgpu", "float64")).toBe(true);
  });

  it("computing again costs a pass more, but only in the blocks that gradients pass", () => {
    const flops = (where: "held" | "streamed", wanted: string[]) =>
      captureCost(model, [plan], wanted, where, checkpoint.storedType).flops;
    const rows = (kind: string) =>
      plan.packs.reduce((sum, pack) => sum + (pack.kind === kind ? pack.tokens.length : 0), 0);
    const [forward, backward] = [rows("forward"), rows("backward")];
    // Per row: the linear layers, and attention to all rows of a tile, which the backward pass takes twice.
    const [one, seen] = [model.flopsPerToken, plan.tileSize * model.attentionFlops];
    expect(flops("held", ["embed"])).toBeCloseTo((forward + 2 * backward) * one + (forward + 3 * backward) * seen, -1);
    expect(flops("streamed", ["embed"])).toBeCloseTo(
      (forward + 3 * backward) * one + (forward + 4 * backward) * seen,
      -1,
    );
    const last = `resid_post.${model.layers - 1}`;
    expect(flops("streamed", [last])).toBeCloseTo((forward + backward) * (one + seen), -1);
  });

  it("rows beside the tiles go forward alone, and see the tile besides themselves", () => {
    const { packs, ...rest } = planCapture(plan.forest, {
      wanted: "changed",
      nodes: 64,
      tileSize: 32,
      beside: "always",
    });
    const sum = (of: (pack: (typeof packs)[number]) => number) => packs.reduce((all, pack) => all + of(pack), 0);
    const [N, M] = [sum(({ tokens }) => tokens.length), sum(({ beside }) => beside!.tokens.length)];
    const m = packs[0]!.beside!.tokens.length / packs[0]!.tiles;
    expect(M).toBeGreaterThan(0);
    const { flops } = captureCost(model, [{ packs, ...rest }], ["embed"], "held", checkpoint.storedType);
    const seen = 3 * N * 32 + M * (32 + m);
    expect(flops).toBeCloseTo((2 * N + M) * model.flopsPerToken + seen * model.attentionFlops, -1);
  });

  it.each(["held", "streamed"] as const)("%s: long prompts take memory in proportion to their length", (where) => {
    const memory = (T: number) => {
      const draw = (i: number) => Array.from({ length: T }, (_, t) => 4 + ((t * (i + 1)) % 20));
      const long = Array.from({ length: 4 }, (_, i) => ({ ...pairs[i]!, clean: draw(i), patch: draw(i + 4) }));
      const one = planCapture(prefixForest(long), { wanted: "changed" });
      return captureCost(model, [one], sites, where, checkpoint.storedType).memory();
    };
    const [short, middle, long] = [memory(1024), memory(2048), memory(4096)];
    expect(middle! - short!).toBeGreaterThan(0);
    // Four times as much for the second step would be the square of the length.
    expect((long! - middle!) / (middle! - short!)).toBeLessThan(2.2);
  });

  /** A store that knows how many bytes of activations and gradients are in it; metric values do not count. */
  function weighedStore() {
    const inner = memoryStore();
    const sizes = new Map<string, number>();
    let peak = 0;
    const held = () => [...sizes.values()].reduce((a, b) => a + b, 0);
    const store: Store = {
      ...inner,
      async save(part, tensors) {
        const bytes = [...tensors].filter(([name]) => name !== "metric").map(([, data]) => data.byteLength);
        if (!part.endsWith("metric"))
          sizes.set(
            part,
            bytes.reduce((a, b) => a + b, 0),
          );
        peak = Math.max(peak, held());
        await inner.save(part, tensors);
      },
      async remove(part) {
        sizes.delete(part);
        await inner.remove(part);
      },
    };
    return { ...store, held, peak: () => peak };
  }
});

describe("sfc estimate", () => {
  let folder: string;
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "sfc-estimate-"));
  });
  afterAll(() => rm(folder, { recursive: true, force: true }));

  it("tells what a run takes before it begins, and the run keeps it beside what was measured", async () => {
    const flags = ["--num_examples", "2", "--layers", "2", "--sites", "resid_post"];
    const told = JSON.parse((await succeeds(["estimate", ...flags, "--json"])).stdout);
    expect(told).toMatchObject({ pairs: 64, saes: { sites: 1, features: 1536 }, model: { name: "demo" } });
    const output = join(folder, "run");
    await succeedsAlone(["run", ...flags, "--output_dir", output, "--quiet"]);
    const manifest = await manifestOf(output);
    expect(manifest.estimate).toMatchObject({
      weights: told.weights,
      memory_bytes: told.memory_bytes,
      disk_bytes: told.disk_bytes,
    });
    // Every phase that can take long is told, and the report that comes after what the folder has measured.
    const phases = ["reading", "capture", "effects", "writing", "exact", "meaning", "cards", "report"];
    expect(Object.keys(told.seconds)).toEqual(phases);
    const measured = Object.keys(manifest.seconds).filter((phase) => phase !== "checks");
    expect(measured).toEqual(phases.slice(0, -1));
    expect(Object.values(told.seconds).every((seconds) => Number(seconds) > 0)).toBe(true);
    const gradient = JSON.parse((await succeeds(["estimate", ...flags, "--score", "gradient", "--json"])).stdout);
    expect(Object.keys(gradient.seconds)).toEqual(["reading", "capture", "effects", "writing", "report"]);
    // Memory differs from system to system, but not by much: a tenth or ten times of it is a fault.
    expect(manifest.peak_rss_bytes / told.memory_bytes).toBeGreaterThan(0.6);
    expect(manifest.peak_rss_bytes / told.memory_bytes).toBeLessThan(1.7);
    const text = (await succeeds(["estimate", ...flags])).stdout;
    for (const word of ["model", "SAEs", "pairs", "weights", "memory", "disk", "time"])
      expect(text).toMatch(new RegExp(`^${word} `, "m"));
  });

  it("tells the memory of prompts of 1,000 tokens, which the run then takes", async () => {
    const model = join(folder, "long");
    await mkdir(model);
    const config = JSON.parse(await readFile(join(llama, "config.json"), "utf8"));
    await writeFile(join(model, "config.json"), JSON.stringify({ ...config, max_position_embeddings: 1024 }));
    for (const file of ["tokenizer.json", "model.safetensors"]) await copyFile(join(llama, file), join(model, file));
    const words = (await readFile(await writeExamples(join(folder, "words.jsonl"), examples(2)), "utf8")).split("\n");
    const long = words.filter(Boolean).map((line) => {
      const pair = JSON.parse(line);
      const filler = Array(Math.floor(990 / pair.clean_prefix.split(" ").length))
        .fill(pair.clean_prefix)
        .join(" ");
      return JSON.stringify({
        ...pair,
        clean_prefix: `${pair.clean_prefix} ${filler}`,
        patch_prefix: `${pair.patch_prefix} ${filler}`,
      });
    });
    await writeFile(join(folder, "long.jsonl"), long.slice(0, 4).join("\n"));
    const flags = ["--model_name", model, "--sae_source", "dummy", "--pairs", join(folder, "long.jsonl")];
    for (const weights of ["held", "streamed"]) {
      const output = join(folder, `long-${weights}`);
      await succeedsAlone(["run", ...flags, "--weights", weights, "--output_dir", output, "--quiet"]);
      const { estimate, peak_rss_bytes, counts } = await manifestOf(output);
      expect(counts.tokens / counts.pairs / 3).toBeGreaterThan(900);
      expect(peak_rss_bytes).toBeLessThan(600e6);
      expect(estimate!.memory_bytes / peak_rss_bytes).toBeGreaterThan(0.7);
      expect(estimate!.memory_bytes / peak_rss_bytes).toBeLessThan(1.4);
    }
  });

  /** The small Llama with a hidden layer that makes it 2.4 GB, or larger: the file has holes in place of its numbers. */
  async function largeModel(where: string, intermediate_size = 3_000_000): Promise<string> {
    const path = join(where, `large-${intermediate_size}`);
    await mkdir(path);
    const config = { ...JSON.parse(await readFile(join(llama, "config.json"), "utf8")), intermediate_size };
    await writeFile(join(path, "config.json"), JSON.stringify(config));
    await copyFile(join(llama, "tokenizer.json"), join(path, "tokenizer.json"));
    const header: Record<string, object> = {};
    let end = 0;
    for (const [name, shape] of modelFromConfig(config, path).parameters) {
      const begin = end;
      end += 4 * shape.reduce((a, b) => a * b, 1);
      header[name] = { dtype: "F32", shape, data_offsets: [begin, end] };
    }
    const text = Buffer.from(JSON.stringify(header));
    const size = Buffer.alloc(8);
    size.writeBigUInt64LE(BigInt(text.length));
    await writeFile(join(path, "model.safetensors"), Buffer.concat([size, text]));
    await truncate(join(path, "model.safetensors"), 8 + text.length + end);
    return path;
  }

  it("holds a small model's weights whatever layers are asked: what comes behind the capture is faster with them", async () => {
    const { stdout } = await succeeds(["estimate", "--num_examples", "2", "--layers", "3", "--sites", "resid_post"]);
    expect(stdout).toContain("held in memory");
  });

  it.each(["held", "streamed"])("takes --weights %s as asked", async (where) => {
    const output = join(folder, where);
    const flags = ["--num_examples", "2", "--layers", "1", "--sites", "mlp_out", "--weights", where];
    await succeeds(["run", ...flags, "--output_dir", output, "--quiet"]);
    expect((await manifestOf(output)).estimate).toMatchObject({ weights: where });
    // Where the weights are is no option that bears on the results: the finished run is shown again.
    const again = await succeeds([
      "run",
      ...flags.with(-1, where === "held" ? "streamed" : "held"),
      "--output_dir",
      output,
    ]);
    expect(again.stdout).toContain("holds the finished run");
  });

  it("refuses a run and a comparison that take more memory than there is, before it begins", async () => {
    // Hundreds of gigabytes for the activations of one block.
    const large = await largeModel(folder, 2 ** 24);
    const file = await writeExamples(join(folder, "pairs-large.jsonl"), examples(200));
    const flags = ["--model_name", large, "--sae_source", "dummy", "--pairs", file, "--sites", "resid_post"];
    expect((await succeeds(["estimate", ...flags])).stdout).toMatch(/^memory .*: too little$/m);
    const output = join(folder, "too-large");
    const refused = await sfc("run", ...flags, "--output_dir", output);
    expectError(refused, 1, "memory: expected about", "Use a small --batch_size, shorter prompts");
    expect((await manifestOf(output)).status).toBe("failed");
    const comparison = ["--weights", "streamed", "--methods", "analytic", "--output_dir", join(folder, "compared")];
    expectError(await sfc("compare", ...flags, ...comparison), 1, "memory: expected about");
  });

  it("says what takes less memory than what was asked for", () => {
    const draw = (first: number) => [1, first, 5, 6, 7];
    const prompts = { clean_prefix: "", patch_prefix: "", clean_answer: "", patch_answer: "", case: "a" };
    const pairs = Array.from({ length: 60 }, (_, i) => ({
      pair: { ...prompts, split: "train" as const },
      clean: draw(10 + i),
      patch: draw(90 - i),
      cleanAnswer: 1,
      patchAnswer: 2,
    }));
    const plans = [planCapture(prefixForest(pairs), { wanted: "changed" })];
    const refusal = (weights: "held" | "streamed", method: "analytic" | "sfc") => () =>
      checkFits({ memory_bytes: 1e9, weights }, plans, method, machineWith(1e9 - 1));
    expect(refusal("held", "analytic")).toThrow("Use --weights streamed, a small --batch_size, shorter prompts");
    expect(refusal("held", "sfc")).toThrow("to be free for sfc, got");
    expect(refusal("held", "sfc")).toThrow("Use --weights streamed, a small --batch_size");
    expect(refusal("streamed", "analytic")).toThrow("Use a small --batch_size");
    expect(() => checkFits({ memory_bytes: 1e9, weights: "held" }, plans, "analytic", machineWith(1e9))).not.toThrow();
  });

  it("fetches nothing", async () => {
    const ended = await start(["estimate", "--model_name", "gemma-2-2b"], undefined, { HF_HOME: folder }).ended;
    expectError(ended, 1, "estimate: expected files on this machine", "sfc pull gemma-2-2b --dry_run");
  });

  it("says what is wrong as run does", async () => {
    expectError(await sfc("estimate", "--model_name", llama), 1, "SAEs: expected a folder saes");
    expectError(await sfc("estimate", "--weights", "elsewhere"), 2, "--weights");
    const large = await largeModel(folder);
    const flags = [
      "--model_name",
      large,
      "--sae_source",
      "dummy",
      "--pairs",
      await writeExamples(join(folder, "pairs.jsonl"), examples(2)),
    ];
    // Some devices get their weights inside the graph; the processor reads them where they are, and WebGPU keeps them.
    const inGraphs = [...flags, "--device", "cuda"];
    const ended = await sfc("estimate", ...inGraphs, "--weights", "held");
    expectError(ended, 1, "--weights held: expected a model of at most 1.9 GB", "Use --weights streamed.");
    expect((await succeeds(["estimate", ...inGraphs, "--method", "sfc"])).stdout).toContain("streamed, block by block");
    expect((await succeeds(["estimate", ...inGraphs])).stdout).toContain("streamed, block by block");
    expect((await succeeds(["estimate", ...flags, "--weights", "held"])).stdout).toContain("held in memory");
    const held = [...flags, "--device", "webgpu", "--weights", "held"];
    expect((await succeeds(["estimate", ...held])).stdout).toContain("held in memory");
  });
});
