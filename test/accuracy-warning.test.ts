import { copyFile, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import type { JobOptions } from "../src/analysis/options.ts";
import { run } from "../src/commands/run.ts";
import { postingReporter } from "../src/progress.ts";
import { toyModel } from "./toy-model.ts";

const llama = new URL("fixtures/llama-mha", import.meta.url).pathname;

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "sfc-accuracy-"));
  // After a word of an even number the model says w11, after one of an odd number w13.
  const words = Array.from({ length: 80 }, (_, id) => (id % 2 === 0 ? [1, 0] : [0, 1]));
  const toy = toyModel(
    words,
    new Map([
      [11, [1, 0]],
      [13, [0, 1]],
    ]),
    2,
  );
  await copyFile(join(llama, "tokenizer.json"), join(folder, "tokenizer.json"));
  await writeFile(join(folder, "config.json"), JSON.stringify(toy.config));
  await writeFile(join(folder, "model.safetensors"), toy.file);
});
afterAll(() => rm(folder, { recursive: true, force: true }));

/** So many pairs of a case whose clean answer is right, and so many where it is wrong. */
function pairs(name: string, right: number, wrong: number, split = "train") {
  return Array.from({ length: right + wrong }, (_, i) => {
    const word = 20 + 2 * i;
    const [clean, patch] = i < right ? [word, word + 1] : [word + 1, word];
    const answers = { clean_answer: " w11", patch_answer: " w13" };
    return { clean_prefix: `w${clean}`, patch_prefix: `w${patch}`, ...answers, case: name, split };
  });
}

async function warningsOf(name: string, list: readonly object[]) {
  const file = join(folder, `${name}.jsonl`);
  await writeFile(file, list.map((pair) => JSON.stringify(pair)).join("\n"));
  const options: JobOptions = {
    model_name: folder,
    sae_source: "dummy",
    layers: "0",
    sites: "resid_post",
    num_examples: null,
    batch_size: null,
    task: null,
    pairs: file,
    seed: 1,
    method: "analytic",
    score: "effect",
    precision: "float32",
    device: "cpu",
    top: 5,
    keep: "all",
    weights: "auto",
  };
  const reporter = postingReporter(
    () => {},
    () => false,
  );
  const request = { command: "run", options, folder: join(folder, name), force: false };
  const { manifest } = await run(request, reporter);
  return manifest;
}

it("a run warns of cases of which the model gets less than 80 % right, and of no others", async () => {
  const fair = await warningsOf("fair", [...pairs("four of five", 4, 1), ...pairs("all", 5, 0)]);
  expect(fair.accuracy).toEqual([
    { split: "train", case: "four of five", pairs: 5, correct: 4, accuracy: 0.8 },
    { split: "train", case: "all", pairs: 5, correct: 5, accuracy: 1 },
  ]);
  expect(fair.warnings.filter((line) => line.startsWith("Accuracy"))).toEqual([]);
  const poor = await warningsOf("poor", [
    ...pairs("three of four", 3, 1),
    ...pairs("seven of nine", 7, 2, "test"),
    ...pairs("four of five", 4, 1),
  ]);
  expect(poor.warnings.filter((line) => line.startsWith("Accuracy"))).toEqual([
    expect.stringContaining("Accuracy below 80 % in 2 of 3 cases (lowest: 75 % on train three of four)"),
  ]);
});
