import type { Dictionary } from "../dictionaries/dictionary.ts";
import type { Loops } from "../graph/loops/loops.ts";

/** Decoder directions of some features of a dictionary. */
export interface Directions {
  /** d_i one after another, D numbers each. */
  readonly data: Float32Array;
  /** Where a feature's direction begins in `data`, by feature; −1 for those that were not asked for. */
  readonly start: Int32Array;
}

/** The directions of the features named, each as often as it likes: of a large dictionary only the rows that are used are read. */
export async function directionsOf(dictionary: Dictionary, features: Int32Array): Promise<Directions> {
  const start = new Int32Array(dictionary.featureCount).fill(-1);
  for (const feature of features) start[feature] = 0;
  const used: number[] = [];
  start.forEach((named, feature) => {
    if (named === 0) start[feature] = (used.push(feature) - 1) * dictionary.outputWidth;
  });
  return { data: await dictionary.decoderRows(used), start };
}

/** Σ_d a[i+d]·b[j+d] over D numbers, in float64. */
export function dot(a: ArrayLike<number>, i: number, b: ArrayLike<number>, j: number, D: number): number {
  let sum = 0;
  for (let d = 0; d < D; d++) sum += a[i + d]! * b[j + d]!;
  return sum;
}

/**
 * What `directionsOf` gives in the memory of loops, from a place on; a direction takes `stride` numbers, D rounded up to a multiple of 4, zeros behind it.
 *
 * @returns the byte at which each feature's direction begins, by feature
 */
export async function placeDirections(
  dictionary: Dictionary,
  features: Int32Array,
  loops: Loops,
  from: number,
): Promise<Int32Array> {
  const D = dictionary.outputWidth;
  const stride = strideOf(D);
  const { data, start } = await directionsOf(dictionary, features);
  const count = data.length / D;
  loops.reserve(from + 4 * stride * count);
  const to = new Float32Array(loops.memory.buffer, from, stride * count);
  if (stride === D) to.set(data);
  else {
    // What lay there before may be no number, and 0 times that neither.
    to.fill(0);
    for (let i = 0; i < count; i++) to.set(data.subarray(i * D, (i + 1) * D), i * stride);
  }
  return start.map((at) => (at < 0 ? -1 : from + 4 * stride * (at / D)));
}

/** Numbers that a vector of D takes in the memory of loops. */
export const strideOf = (D: number) => Math.ceil(D / 4) * 4;
