import { expect } from "vitest";
import { compile, int64 } from "../src/graph/session.ts";
import { contextInputs, forward, type Model, type Weights } from "../src/models/model.ts";

/** The logits after a prompt. */
export async function lastLogits(model: Model, weights: Weights, tokens: readonly number[]): Promise<Float32Array> {
  const T = tokens.length;
  const x = forward(model, weights, contextInputs(T, "float32"), (_, value) => value);
  const session = await compile({ logits: model.logits(weights, x) });
  const mask = Float32Array.from({ length: T * T }, (_, i) => (i % T <= Math.floor(i / T) ? 0 : -Infinity));
  const { logits } = await session.run({
    tokens: int64(tokens, T),
    positions: int64([...tokens.keys()], T),
    mask: { dtype: "float32", data: mask, shape: [1, T, T] },
  });
  return (logits.data as Float32Array).subarray((T - 1) * model.vocabulary);
}

/** Largest difference over the largest expected number. */
export function relativeGap(got: ArrayLike<number>, expected: ArrayLike<number>): number {
  expect(got.length).toBeGreaterThanOrEqual(expected.length);
  let [gap, scale] = [0, 0];
  for (let i = 0; i < expected.length; i++) {
    gap = Math.max(gap, Math.abs(got[i]! - expected[i]!));
    scale = Math.max(scale, Math.abs(expected[i]!));
  }
  return gap / scale;
}
