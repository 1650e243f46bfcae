import type { Capture } from "../capture/capture.ts";
import type { Dictionary, Encoder } from "../dictionaries/dictionary.ts";
import { type CodeReader, chunkRows, codeRow } from "../dictionaries/encode.ts";
import { directionsOf } from "./directions.ts";

/**
 * The share of the variance of a site's activations that a dictionary leaves unexplained on the run's own prompts: Σ‖x − x̂‖² / Σ‖x − mean‖², 0 for a
 * perfect one, 1 for one that knows the mean alone, more for a worse one. It is taken over at most 256 of the activations that are kept, of packs that are
 * spread over all of them; those of first tokens, which are of another size, do not count.
 *
 * @returns null where fewer than two activations, or equal ones alone, are kept
 */
export async function unexplainedShare(
  capture: Capture,
  dictionary: Dictionary,
  codes: CodeReader,
): Promise<number | null> {
  const { position } = capture.plan.forest.forward;
  const D = dictionary.inputWidth;
  const { nodes, x } = await capture.sample(dictionary.site);
  const kept = nodes.flatMap((node, row) => (position[node]! > 0 ? [row] : []));
  const count = Math.min(chunkRows, kept.length);
  if (count < 2) return null;
  const sample = x.slice(0, count * D);
  for (let i = 0; i < count; i++) {
    const from = kept[Math.floor((i * kept.length) / count)]! * D;
    sample.set(x.subarray(from, from + D), i * D);
  }
  const sparse = await codes.encode(dictionary, sample);
  const { data, start } = await directionsOf(dictionary, sparse.features);
  const bias = await dictionary.decoderBias();
  const { normalization } = await dictionary.encoder();
  const mean = new Float64Array(D);
  for (let i = 0; i < sample.length; i++) mean[i % D]! += sample[i]! / count;
  let [missed, variance] = [0, 0];
  for (let i = 0; i < count; i++) {
    const token = sample.subarray(i * D, (i + 1) * D);
    const left = withoutBias(token, bias, normalization);
    const { features, values } = codeRow(sparse, i);
    features.forEach((feature, k) => {
      const at = start[feature]!;
      for (let d = 0; d < D; d++) left[d]! -= values[k]! * data[at + d]!;
    });
    for (let d = 0; d < D; d++) {
      missed += left[d]! ** 2;
      variance += (token[d]! - mean[d]!) ** 2;
    }
  }
  return variance > 0 ? missed / variance : null;
}

/** A token's activation less all of its reconstruction that no feature contributes: b_dec, or σ·b_dec and the token's mean. */
function withoutBias(x: ArrayLike<number>, bias: Float32Array, normalization: Encoder["normalization"]): Float64Array {
  const D = x.length;
  const numbers = Array.from(x);
  const mean = normalization === "layer_norm" ? numbers.reduce((a, b) => a + b, 0) / D : 0;
  const squares = numbers.reduce((sum, value) => sum + (value - mean) ** 2, 0);
  const scale = normalization === undefined ? 1 : Math.sqrt(squares / (normalization === "layer_norm" ? D - 1 : D));
  return Float64Array.from(numbers, (value, d) => value - mean - scale * bias[d]!);
}
