import type { Dictionary } from "../dictionaries/dictionary.ts";

/** Decoder directions of some features of a dictionary. */
export interface Directions {
  /** d_i one after another, D numbers each. */
  readonly data: Float32Array;
  /** Where a feature's direction begins in `data`, by feature; −1 for those that were not asked for. */
  readonly start: Int32Array;
}

/** The directions of the features named, each as often as it likes: of a large dictionary only the rows that are used are read. */
export async function directionsOf(dictionary: Dictionary, features: Int32Array): Promise<Directions> {
  const start = new Int32Array(dictionary.width).fill(-1);
  for (const feature of features) start[feature] = 0;
  const used: number[] = [];
  start.forEach((named, feature) => {
    if (named === 0) start[feature] = (used.push(feature) - 1) * dictionary.inputWidth;
  });
  return { data: await dictionary.decoderRows(used), start };
}

/** Σ_d a[i+d]·b[j+d] over D numbers, in float64. */
export function dot(a: ArrayLike<number>, i: number, b: ArrayLike<number>, j: number, D: number): number {
  let sum = 0;
  for (let d = 0; d < D; d++) sum += a[i + d]! * b[j + d]!;
  return sum;
}
