import { expect } from "vitest";
import type { Dictionary, Encoder } from "../src/dictionaries/dictionary.ts";

/** Codes and reconstructions of x[n,D], and how near each code is to a jump: |z − θ| relative to the largest |z|, or Infinity without jumps. */
export interface Applied {
  readonly codes: number[];
  readonly reconstruction: number[];
  readonly margins: number[];
}

/** By the definitions, in float64: what a dictionary's parts are documented to mean. */
export async function apply(dictionary: Dictionary, x: Float32Array | Float64Array): Promise<Applied> {
  const { inputWidth: D, featureCount: F } = dictionary;
  const encoder = await dictionary.encoder();
  await expectParts(dictionary, encoder);
  const { weight, bias, inputBias, activation, normalization } = encoder;
  const [decoder, decoderBias] = [await dictionary.decoder(), await dictionary.decoderBias()];
  const result: Applied = { codes: [], reconstruction: [], margins: [] };
  for (let t = 0; t < x.length / D; t++) {
    const token = Array.from(x.subarray(t * D, (t + 1) * D));
    const total = (values: number[]) => values.reduce((sum, v) => sum + v, 0);
    let [mean, σ, given] = [0, 1, token];
    if (normalization === "layer_norm") {
      mean = total(token) / D;
      σ = Math.sqrt(total(token.map((v) => (v - mean) ** 2)) / (D - 1));
      given = token.map((v) => (v - mean) / (σ + 1e-5));
    } else if (normalization === "constant_norm_rescale") {
      σ = Math.sqrt(total(token.map((v) => v * v)) / D);
      given = token.map((v) => v / σ);
    }
    const z = Array.from(bias, (b, i) =>
      given.reduce((sum, v, d) => sum + (v - (inputBias?.[d] ?? 0)) * weight[d * F + i]!, b),
    );
    const kept = activation.kind === "topk" ? z.toSorted((a, b) => b - a)[activation.k - 1]! : Number.NEGATIVE_INFINITY;
    const largest = Math.max(...z.map(Math.abs));
    const codes = z.map((v, i) => {
      const θ = activation.kind === "jumprelu" ? activation.threshold[i]! : 0;
      result.margins.push(
        activation.kind === "jumprelu" && θ > 0 ? Math.abs(v - θ) / largest : Number.POSITIVE_INFINITY,
      );
      return v > θ && v >= kept ? σ * v : 0;
    });
    result.codes.push(...codes);
    for (let d = 0; d < D; d++) {
      result.reconstruction.push(
        codes.reduce((sum, f, i) => sum + f * decoder[i * D + d]!, σ * decoderBias[d]! + mean),
      );
    }
  }
  return result;
}

/** What is read of some features is what all of the encoder has for them, number for number. */
async function expectParts({ encoderPart, inputWidth: D, featureCount: F }: Dictionary, encoder: Encoder) {
  if (!encoderPart) return;
  for (const [first, end] of [
    [0, F],
    [0, 1],
    [F >> 1, F - 1],
  ] as const) {
    const { rows, bias, activation, ...rest } = await encoderPart(first, end);
    const { weight, bias: allBias, activation: all, ...allRest } = encoder;
    expect(rest).toEqual(allRest);
    expect(bias).toEqual(allBias.slice(first, end));
    expect(rows.length).toBe((end - first) * D);
    expect([...rows].every((value, at) => value === weight[(at % D) * F + first + Math.floor(at / D)])).toBe(true);
    expect(activation).toEqual(all.kind === "jumprelu" ? { ...all, threshold: all.threshold.slice(first, end) } : all);
  }
}

/** Largest difference; codes nearer than 1e-5 to a jump are left out and counted (METHOD: "JumpReLU jumps"). */
export function largestGap(
  got: ArrayLike<number>,
  expected: ArrayLike<number>,
  margins?: readonly number[],
): { gap: number; leftOut: number } {
  let [gap, leftOut] = [got.length === expected.length ? 0 : Number.NaN, 0];
  for (let i = 0; i < expected.length; i++) {
    if ((margins?.[i] ?? 1) <= 1e-5) leftOut++;
    else gap = Math.max(gap, Math.abs(got[i]! - expected[i]!));
  }
  return { gap, leftOut };
}
