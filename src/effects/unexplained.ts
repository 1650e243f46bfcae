import type { Capture } from "../capture/capture.ts";
import type { Floats } from "../capture/hooks.ts";
import type { Dictionary, Normalization } from "../dictionaries/dictionary.ts";
import { type CodeReader, type CodeRow, chunkRows, codeRow, type SparseCodes } from "../dictionaries/encode.ts";
import { directionsOf } from "./directions.ts";

/**
 * The share of the variance of a site's activations that a dictionary leaves unexplained on the run's own prompts: Σ‖x − x̂‖² / Σ‖x − mean‖², 0 for a
 * perfect one, 1 for one that knows the mean alone, more for a worse one. It is taken over `fitNodes`.
 *
 * @returns null where fewer than two activations, or equal ones alone, are kept
 */
export async function unexplainedShare(
  capture: Capture,
  dictionary: Dictionary,
  codes: CodeReader,
): Promise<number | null> {
  const { writes: site, outputWidth: D } = dictionary;
  const sample = await capture.sample(site);
  const chosen = chooseRows(capture);
  const x = sample.slice(0, chosen.length * D);
  for (const [i, row] of chosen.entries()) x.set(sample.subarray(row * D, (row + 1) * D), i * D);
  const sparse = await codes.encode(dictionary, x);
  const { data, start } = await directionsOf(dictionary, sparse.features);
  const bias = await dictionary.decoderBias();
  const takeOut: TakeOut = (left, { features, values }) => {
    for (let k = 0; k < features.length; k++) {
      const at = start[features[k]!]!;
      const value = values[k]!;
      for (let d = 0; d < D; d++) left[d]! -= value * data[at + d]!;
    }
  };
  return unexplainedOf(dictionary, { x, codes: sparse, rows: [...chosen.keys()] }, takeOut, bias);
}

/** Takes a row's codes times their directions out of `left`, of which the first D numbers count. */
export type TakeOut = (left: Float64Array, codes: CodeRow) => void;

/**
 * The forward nodes on which the fit of dictionaries is judged: at most 256 of those that are kept, of packs that are spread over all of them. First
 * tokens, whose activations are of another size, are left out.
 */
export function fitNodes(capture: Capture): number[] {
  return chooseRows(capture).map((row) => capture.sampledNodes[row]!);
}

/** Indices of the nodes of a sample that are judged. */
function chooseRows({ plan, sampledNodes }: Capture): number[] {
  const { position } = plan.forest.forward;
  const kept = sampledNodes.flatMap((node, row) => (position[node]! > 0 ? [row] : []));
  const count = Math.min(chunkRows, kept.length);
  return Array.from({ length: count }, (_, i) => kept[Math.floor((i * kept.length) / count)]!);
}

/** Activations and their codes. */
interface Encoded {
  /** x[rows,D] */
  readonly x: Floats;
  /** The codes of all rows of x. */
  readonly codes: SparseCodes;
  /** The rows that are looked at. */
  readonly rows: readonly number[];
}

/**
 * The share of the variance of some activations that is left when their codes are decoded; null where there is none.
 *
 * @param bias b_dec[D]
 * @param left where the rests are put, at least D numbers
 */
export function unexplainedOf(
  { outputWidth: D, normalization }: Dictionary,
  { x, codes, rows }: Encoded,
  takeOut: TakeOut,
  bias: Float32Array,
  left: Float64Array = new Float64Array(D),
): number | null {
  if (rows.length < 2) return null;
  const mean = meanRow(x, rows, D);
  const sums = { missed: 0, variance: 0 };
  for (const row of rows) {
    const token = x.subarray(row * D, (row + 1) * D);
    takeWithoutBias(left, token, bias, normalization);
    takeOut(left, codeRow(codes, row));
    addSquares(sums, left, token, mean);
  }
  return sums.variance > 0 ? sums.missed / sums.variance : null;
}

/** Mean[D] of some rows of x. */
function meanRow(x: Floats, rows: readonly number[], D: number): Float64Array {
  const mean = new Float64Array(D);
  for (const row of rows) for (let d = 0; d < D; d++) mean[d]! += x[row * D + d]! / rows.length;
  return mean;
}

/** Adds Σ left² and Σ (token − mean)². */
function addSquares(
  sums: { missed: number; variance: number },
  left: Float64Array,
  token: Floats,
  mean: Float64Array,
): void {
  let { missed, variance } = sums;
  for (let d = 0; d < mean.length; d++) {
    missed += left[d]! ** 2;
    variance += (token[d]! - mean[d]!) ** 2;
  }
  sums.missed = missed;
  sums.variance = variance;
}

/** left[D] = a token's activation x[D] less all of its reconstruction that no feature contributes: b_dec, or σ·b_dec and the token's mean. */
function takeWithoutBias(
  left: Float64Array,
  x: Floats,
  bias: Float32Array,
  normalization: Normalization | undefined,
): void {
  const D = x.length;
  let [mean, scale] = [0, 1];
  if (normalization === "layer_norm") for (let d = 0; d < D; d++) mean += x[d]! / D;
  if (normalization !== undefined) {
    let squares = 0;
    for (let d = 0; d < D; d++) squares += (x[d]! - mean) ** 2;
    scale = Math.sqrt(squares / (normalization === "layer_norm" ? D - 1 : D));
  }
  for (let d = 0; d < D; d++) left[d] = x[d]! - mean - scale * bias[d]!;
}
