import { existsSync } from "node:fs";
import { cp, mkdir, mkdtemp, readdir, readlink, realpath, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { chooseSites } from "../src/analysis/sites.ts";
import { writeSafetensors } from "../src/bytes/safetensors.ts";
import { pairs as runPairs } from "../src/commands/check-pairs.ts";
import { type RunRequest, run } from "../src/commands/run.ts";
import { closeDictionaries } from "../src/dictionaries/open.ts";
import { UserError } from "../src/errors.ts";
import { openModel, openSaes } from "../src/open/open.ts";
import type { Reporter } from "../src/progress.ts";
import { examples, llama, manifestOf, writeExamples, writeSae } from "./cli-harness.ts";

const broken: { meaning?: Error } = {};
vi.mock("../src/circuit/meaning.ts", async (original) => {
  const real = await original<typeof import("../src/circuit/meaning.ts")>();
  return {
    ...real,
    measureMeaning: (...args: Parameters<typeof real.measureMeaning>) => {
      if (broken.meaning) throw broken.meaning;
      return real.measureMeaning(...args);
    },
  };
});

const reporter: Reporter = { begin() {}, set() {}, end() {}, line() {}, stopped: () => false, seconds: {} };

let home: string;
let request: RunRequest;
beforeEach(async () => {
  home = await realpath(await mkdtemp(join(tmpdir(), "sfc-run-")));
  await cp(llama, join(home, "model"), { recursive: true });
  for (const site of ["mlp_out.0", "resid_post.0", "resid_post.1"]) await writeSae(join(home, "saes"), site);
  request = {
    command: "run",
    folder: join(home, "run"),
    force: false,
    options: {
      model_name: join(home, "model"),
      sae_source: join(home, "saes"),
      layers: null,
      sites: "resid_post",
      num_examples: null,
      batch_size: null,
      task: null,
      pairs: await writeExamples(join(home, "pairs.jsonl"), examples(8)),
      seed: 1,
      method: "analytic",
      score: "effect",
      precision: "float32",
      device: "cpu",
      top: 5,
      keep: "all",
      weights: "auto",
    },
  };
});
afterEach(async () => {
  delete broken.meaning;
  await rm(home, { recursive: true, force: true });
});

const withOptions = (more: Partial<RunRequest["options"]>) => ({
  ...request,
  options: { ...request.options, ...more },
});

describe.runIf(existsSync("/proc/self/fd"))("files that are closed in the end", () => {
  /** The files below this test's folder that this process has open. */
  async function openFiles(): Promise<string[]> {
    const links = await Promise.all(
      (await readdir("/proc/self/fd")).map((fd) => readlink(`/proc/self/fd/${fd}`).catch(() => "")),
    );
    return links.filter((path) => path.startsWith(home));
  }

  it("those of SAEs that were not chosen, at once", async () => {
    const opened = await openModel(request.options.model_name);
    const chosen = await openSaes(opened, { ...request.options, layers: "1" });
    expect([...chosen.keys()]).toEqual(["resid_post.1"]);
    expect((await openFiles()).filter((path) => path.includes("/saes/"))).toEqual([
      join(home, "saes/resid_post.1/sae_weights.safetensors"),
    ]);
    await closeDictionaries(chosen);
    await opened.checkpoint.close();
    expect(await openFiles()).toEqual([]);
  });

  it("all of a run, of the same one shown again, and of sfc pairs", async () => {
    await run(request, reporter);
    expect(await openFiles()).toEqual([]);
    expect((await run(request, reporter)).again).toBe(true);
    expect(await openFiles()).toEqual([]);
    await runPairs({ options: request.options, output: null }, reporter);
    expect(await openFiles()).toEqual([]);
  });

  it("all, whatever a run is refused for", async () => {
    await run(request, reporter);
    const refused: [what: string, RunRequest, RegExp][] = [
      ["sites without SAEs", withOptions({ sites: "attn_out" }), /expected one for attn_out/],
      ["pairs that are not there", withOptions({ pairs: join(home, "none.jsonl") }), /does not exist/],
      ["a folder with other options", withOptions({ seed: 2 }), /--seed 1 here, 2 asked/],
    ];
    for (const [what, asked, message] of refused) {
      await expect(run(asked, reporter), what).rejects.toThrow(message);
      expect(await openFiles(), what).toEqual([]);
    }
    await writeFile(join(home, "model/tokenizer.json"), "{}");
    await expect(run(request, reporter)).rejects.toThrow("tokenizer");
    expect(await openFiles()).toEqual([]);
  });
});

it("a run says once what files of SAEs leave open", async () => {
  const [D, F] = [32, 40];
  const shapes = { W_enc: [F, D], W_dec: [F, D], b_enc: [F], b_dec: [D], "activation_function.threshold": [F] };
  const tensors = Object.entries(shapes).map(([name, shape]) => {
    return [name, { shape, data: new Float32Array(shape.reduce((a, b) => a * b)).fill(0.1) }] as const;
  });
  await mkdir(join(home, "layers"));
  for (const layer of [0, 1]) {
    await writeFile(join(home, `layers/layer_${layer}.safetensors`), writeSafetensors(new Map(tensors)));
  }
  await run(withOptions({ sae_source: join(home, "layers") }), reporter);
  const { warnings } = await manifestOf(request.folder);
  expect(
    warnings.filter((line: string) => line.startsWith("Read as SAEs of resid_post: layer files in ")),
  ).toHaveLength(1);
});

it("an error in reading is not said to be one of the output folder", async () => {
  broken.meaning = Object.assign(new Error("ENOENT: no such file or directory, open 'x'"), { code: "ENOENT" });
  await expect(run(request, reporter)).rejects.toBe(broken.meaning);
  expect(await manifestOf(request.folder)).toMatchObject({ status: "failed", error: broken.meaning.message });
});

it("a full disk is said to be one, whatever was written", async () => {
  broken.meaning = Object.assign(new Error("ENOSPC: no space left on device, write"), { code: "ENOSPC" });
  await expect(run(request, reporter)).rejects.toThrow(/^output file: expected room on the disk/);
});

describe("the sites of --sites and --layers", () => {
  const there = ["embed", "mlp_out.0", "resid_post.1", "resid_post.2"];
  const layers = (...list: number[]) => new Set(list);

  it("are all but embed by default, and kind and layer together otherwise", () => {
    expect(chooseSites(there, null, null)).toEqual(["mlp_out.0", "resid_post.1", "resid_post.2"]);
    expect(chooseSites(there, ["resid_post"], null)).toEqual(["resid_post.1", "resid_post.2"]);
    expect(chooseSites(there, null, layers(0, 2))).toEqual(["mlp_out.0", "resid_post.2"]);
    expect(chooseSites(there, ["resid_post", "embed"], layers(2))).toEqual(["embed", "resid_post.2"]);
  });

  it("must have a dictionary for whatever is named", () => {
    const cases: [Parameters<typeof chooseSites>, string][] = [
      [[there, ["resid_post", "attn_out"], null], "attn_out"],
      [[there, null, layers(0, 3)], "a site in block 3"],
      [[there, ["resid_post"], layers(0, 1)], "resid_post.0"],
      [[["mlp_out.0"], ["embed"], null], "embed"],
      [[["embed"], null, null], "a site in a block"],
    ];
    for (const [args, name] of cases) {
      expect(() => chooseSites(...args)).toThrow(UserError);
      expect(() => chooseSites(...args)).toThrow(`SAEs: expected one for ${name}, got only ${args[0].join(", ")}.`);
    }
  });
});
