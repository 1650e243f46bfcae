import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openFile } from "../../src/bytes/file.node.ts";
import { openSafetensors } from "../../src/bytes/safetensors.ts";
import { pairs } from "../../src/commands/check-pairs.ts";
import { pairsText } from "../../src/commands/pairs-text.ts";
import { compile, int64 } from "../../src/graph/session.ts";
import { input } from "../../src/graph/tensor.ts";
import { contextInputs, forward, type Model, type Weights } from "../../src/models/model.ts";
import { heldWeights } from "../../src/models/weights.ts";
import { type OpenModel, openModel } from "../../src/open/open.ts";
import { postingReporter } from "../../src/progress.ts";

interface Prompt {
  readonly text: string;
  readonly tokens: readonly number[];
  readonly top: string;
}

/** Where the weights are kept, and the Python that has torch, transformers and gguf. */
const cache =
  process.env.SFC_REAL_CACHE ?? join(process.env.XDG_CACHE_HOME ?? join(homedir(), ".cache"), "analytic-sfc");
const script = new URL("../oracles/real_gguf.py", import.meta.url).pathname;

beforeAll(() => {
  mkdirSync(cache, { recursive: true });
  execFileSync(python(), [script, cache], { stdio: "inherit", env: { ...process.env, PYTHONDONTWRITEBYTECODE: "1" } });
});

/** SFC_PYTHON, or an environment in the cache that is made the first time. */
function python(): string {
  if (process.env.SFC_PYTHON !== undefined) return process.env.SFC_PYTHON;
  const folder = join(cache, "python");
  const program = join(folder, "bin/python");
  if (!existsSync(join(folder, "made"))) {
    const run = (file: string, ...args: string[]) => execFileSync(file, args, { stdio: "inherit" });
    run("python3", "-m", "venv", folder);
    const packages = ["torch", "transformers>=5", "gguf", "accelerate", "safetensors"];
    run(program, "-m", "pip", "install", "--quiet", ...packages);
    mkdirSync(join(folder, "made"));
  }
  return program;
}

describe.each([
  ["smollm2-135m", "SmolLM2-135M-Instruct.Q4_1.gguf"],
  ["gemma3-270m", "gemma-3-270m-q4_k_m.gguf"],
])("%s", (name, file) => {
  const path = join(cache, name, file);
  let opened: OpenModel;
  let prompts: readonly Prompt[];
  beforeAll(async () => {
    opened = await openModel(path);
    prompts = JSON.parse(readFileSync(join(cache, name, "prompts.json"), "utf8"));
  });
  afterAll(() => opened.checkpoint.close());

  it("splits texts as the model's own tokenizer does", () => {
    const fixture = new URL(`../fixtures/gguf/${name.split("-")[0]}-tokens.json`, import.meta.url);
    const { rows } = JSON.parse(readFileSync(fixture, "utf8")) as { rows: { text: string; ids: number[] }[] };
    expect(rows.length).toBeGreaterThan(200);
    for (const { text, ids } of rows) expect(opened.tokenizer.encode(text), JSON.stringify(text)).toEqual(ids);
  });

  it("gives the logits that transformers gives for the same file", async () => {
    const expected = await openSafetensors(await openFile(join(cache, name, "logits.safetensors")));
    const weights = await heldWeights(opened.model, opened.checkpoint);
    const lengths = prompts.map(({ tokens }) => tokens.length);
    const longest = Math.max(...lengths);
    for (const group of [
      prompts.filter((_, p) => lengths[p]! < longest),
      prompts.filter((_, p) => lengths[p] === longest),
    ]) {
      const logits = await lastLogits(opened.model, weights, group);
      for (const [i, { text, tokens, top }] of group.entries()) {
        const { gap, scale } = largestGap(logits[i]!, await expected.read(`p${prompts.indexOf(group[i]!)}`));
        console.log(
          `${name}: ${tokens.length} tokens, "${text.slice(0, 40)}" → ${JSON.stringify(top)}: ` +
            `largest gap ${gap.toExponential(1)}, largest logit ${scale.toFixed(2)}, ${(gap / scale).toExponential(1)} of it`,
        );
        expect(gap / scale, text).toBeLessThan(1e-3);
      }
    }
    await expected.source.close();
  });

  it("is right on most agreement pairs", async () => {
    const reporter = postingReporter(
      () => {},
      () => false,
    );
    const options = { model_name: path, task: "agreement", pairs: null, num_examples: 16, seed: 0 };
    console.log(`${name}\n${pairsText(await pairs({ options, output: null }, reporter))}`);
  });
});

/** The logits after each prompt, all prompts in one pass, padded behind their ends. */
async function lastLogits(model: Model, w: Weights, prompts: readonly Prompt[]): Promise<Float32Array[]> {
  const n = Math.max(...prompts.map(({ tokens }) => tokens.length));
  const x = forward(model, w, contextInputs(n, "float32", true), (_, value) => value);
  const session = await compile({ logits: model.logits(w, x.gather(input("ends", "int64", ["P"]))) });
  const mask = Float32Array.from({ length: n * n }, (_, i) => (i % n <= Math.floor(i / n) ? 0 : -Infinity));
  const rows = prompts.flatMap(({ tokens }) => [...tokens, ...Array(n - tokens.length).fill(0)]);
  const { logits } = await session.run({
    tokens: int64(rows, rows.length),
    positions: int64(
      rows.map((_, i) => i % n),
      rows.length,
    ),
    mask: { dtype: "float32", data: mask, shape: [1, n, n] },
    ends: int64(
      prompts.map(({ tokens }, p) => p * n + tokens.length - 1),
      prompts.length,
    ),
  });
  const V = model.vocabulary;
  return prompts.map((_, p) => (logits.data as Float32Array).subarray(p * V, (p + 1) * V));
}

function largestGap(got: Float32Array, expected: Float32Array): { gap: number; scale: number } {
  expect(got.length).toBe(expected.length);
  let [gap, scale] = [0, 0];
  for (let i = 0; i < expected.length; i++) {
    gap = Math.max(gap, Math.abs(got[i]! - expected[i]!));
    scale = Math.max(scale, Math.abs(expected[i]!));
  }
  return { gap, scale };
}
