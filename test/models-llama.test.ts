import { readFile } from "node:fs/promises";
import { describe, expect, it } from "vitest";
import { openFile, openFolder } from "../src/bytes/file.node.ts";
import { openSafetensors } from "../src/bytes/safetensors.ts";
import { capture } from "../src/capture/capture.ts";
import { planCapture } from "../src/capture/packs.ts";
import { heldWeights } from "../src/capture/weights.ts";
import { compile, int64 } from "../src/graph/session.ts";
import { modelFromConfig } from "../src/models/architectures.ts";
import { openCheckpoint } from "../src/models/checkpoint.ts";
import { contextInputs, forward } from "../src/models/model.ts";
import { prefixForest } from "../src/prompts/forest.ts";
import type { TokenPair } from "../src/prompts/pairs.ts";
import type { SiteName } from "../src/site.ts";

interface Expected {
  readonly sites: readonly SiteName[];
  readonly prompts: readonly {
    readonly tokens: readonly number[];
    readonly clean_answer: number;
    readonly patch_answer: number;
    readonly metric: number;
  }[];
}

const fixtures = new URL("fixtures/", import.meta.url).pathname;

/** The fixture's figures come from transformers in float64 (test/oracles/make_llamas.py). */
describe.each(["llama-mha", "llama-gqa", "llama-mqa-headdim"])("%s gives what transformers gives", (name) => {
  it.each(["float32", "float64"] as const)("activations and ∂m/∂x at every site and position, %s", async (dtype) => {
    const { model, weights, expected, tensors } = await load(name, dtype);
    const tolerance = dtype === "float32" ? 1e-5 : 2e-7;
    for (const [p, prompt] of expected.prompts.entries()) {
      const plan = planCapture(prefixForest([pairOf(prompt)]), { wanted: "clean" });
      const result = await capture(model, weights, plan, { sites: expected.sites, dtype });
      expect(Math.abs(result.cleanMetric[0]! - prompt.metric)).toBeLessThan(tolerance * 10);
      for (const site of expected.sites) {
        const { x, g } = await result.site(site);
        expect(relativeGap(x, await tensors.read(`p${p}/x/${site}`)), `x at ${site}`).toBeLessThan(tolerance);
        expect(relativeGap(g, await tensors.read(`p${p}/g/${site}`)), `g at ${site}`).toBeLessThan(tolerance);
      }
    }
  });

  it("logits of the whole vocabulary", async () => {
    const { model, weights, expected, tensors } = await load(name, "float32");
    for (const [p, { tokens }] of expected.prompts.entries()) {
      const T = tokens.length;
      const x = forward(model, weights, contextInputs(T, "float32"), (_, value) => value);
      const session = await compile({ logits: model.logits(weights, x) });
      const mask = Float32Array.from({ length: T * T }, (_, i) => (i % T <= Math.floor(i / T) ? 0 : -Infinity));
      const { logits } = await session.run({
        tokens: int64(tokens, T),
        positions: int64([...tokens.keys()], T),
        mask: { dtype: "float32", data: mask, shape: [1, T, T] },
      });
      const last = (logits.data as Float32Array).subarray((T - 1) * model.vocabulary);
      expect(relativeGap(last, await tensors.read(`p${p}/logits`))).toBeLessThan(1e-5);
    }
  });
});

describe("a config that is not understood is refused by name", () => {
  it.each([
    [{ rope_scaling: { rope_type: "yarn", factor: 4 } }, "rope_scaling.rope_type"],
    [{ hidden_act: "gelu" }, "hidden_act"],
    [{ attention_bias: true }, "attention_bias"],
    [{ sliding_window: 128 }, "sliding_window"],
    [{ hidden_size: "64" }, "hidden_size"],
    [{ model_type: "mamba" }, "model_type"],
    [{ model_type: "toString" }, "model_type"],
  ])("%j", async (change, field) => {
    const config = JSON.parse(await readFile(`${fixtures}llama-mha/config.json`, "utf8"));
    expect(() => modelFromConfig(config, "somewhere")).not.toThrow();
    expect(() => modelFromConfig({ ...config, ...change }, "somewhere")).toThrow(`${field}: expected`);
  });
});

async function load(name: string, dtype: "float32" | "float64") {
  const checkpoint = await openCheckpoint(await openFolder(`${fixtures}${name}`));
  const model = modelFromConfig(checkpoint.config, name);
  const expected = JSON.parse(await readFile(`${fixtures}${name}/expected.json`, "utf8")) as Expected;
  const tensors = await openSafetensors(await openFile(`${fixtures}${name}/expected.safetensors`));
  return { model, weights: await heldWeights(model, checkpoint, dtype), expected, tensors };
}

/** A pair whose patch prompt differs in every token, so that no prefix is unchanged. */
function pairOf({ tokens, clean_answer, patch_answer }: Expected["prompts"][number]): TokenPair {
  const pair = {
    clean_prefix: "",
    patch_prefix: "",
    clean_answer: "",
    patch_answer: "",
    case: "",
    split: "test",
  } as const;
  const patch = tokens.map((t) => (t + 1) % 60);
  return { pair, clean: tokens, patch, cleanAnswer: clean_answer, patchAnswer: patch_answer };
}

/** Largest difference over the largest expected number. */
function relativeGap(got: ArrayLike<number>, expected: ArrayLike<number>): number {
  expect(got.length).toBeGreaterThanOrEqual(expected.length);
  let [gap, scale] = [0, 0];
  for (let i = 0; i < expected.length; i++) {
    gap = Math.max(gap, Math.abs(got[i]! - expected[i]!));
    scale = Math.max(scale, Math.abs(expected[i]!));
  }
  return gap / scale;
}
