import type { Loops } from "../graph/loops/loops.ts";

/** Unit roundoff of float32. */
const unit = 2 ** -24;

/**
 * A row v as whole numbers of at most `most`: v = scale·q + rest. Lengths are float32 numbers that are not below the true ones.
 */
export interface QuantisedRow {
  readonly scale: number;
  /** ‖rest‖ */
  readonly rest: number;
  /** ‖v‖ */
  readonly norm: number;
}

/** Where a row lies in the memory of the loops while it is rounded, in bytes. */
export interface RowPlace {
  /** A multiple of 16, the row filled up with zeros. */
  readonly width: number;
  /** float32 [width] */
  readonly v: number;
  /** float32 [width], a vector g whose product with the row is wanted */
  readonly g: number;
  /** byte [width], where the whole numbers go */
  readonly q: number;
  /** float64 [3] */
  readonly sums: number;
}

/** Where rows of D numbers lie from byte 0 on, and how many bytes that takes; filled up to a multiple of `multiple` numbers. */
export function rowPlace(D: number, multiple: number): RowPlace & { readonly bytes: number } {
  const width = Math.ceil(D / multiple) * multiple;
  const sums = 9 * width + ((-9 * width) & 15);
  return { width, v: 0, g: 4 * width, q: 8 * width, sums, bytes: sums + 32 };
}

/**
 * Rounds a row to whole numbers of one byte. Scale and rest are computed in float64, in which scale·q is exact, so that `rest` bounds what the numbers
 * q leave out, whatever they are.
 *
 * @param most 127, or 63 where byte products of larger numbers saturate
 * @param zero what stands for 0 in the bytes
 * @returns also ⟨g, v⟩
 */
export function quantiseRow(
  loops: Loops,
  { width, v, g, q, sums }: RowPlace,
  most: number,
  zero: number,
): QuantisedRow & { readonly product: number } {
  const largest = loops.largest(v, width);
  const scale = Math.fround(largest / most);
  loops.round(v, width, g, scale, largest === 0 ? 0 : most / largest, zero, q, sums);
  const [rest, norm, product] = new Float64Array(loops.memory.buffer, sums, 3) as unknown as [number, number, number];
  if (largest === 0) return { scale, rest: 0, norm: 0, product: 0 };
  return { scale, rest: roundUp(Math.sqrt(rest)), norm: roundUp(Math.sqrt(norm)), product };
}

/** A float32 number that is not below x, a sum of float64 numbers with its rounding. */
export function roundUp(x: number): number {
  return Math.fround(x + 4 * unit * Math.abs(x) + 1e-37);
}

/**
 * Share of ‖x‖·‖e‖ + |b| within which a float32 product ⟨x, e⟩ + b of length D lies around the exact number, whatever the order of its sums
 * (Higham, Accuracy and Stability of Numerical Algorithms, 3.1: n·u/(1 − n·u), n = D + 1), with room for the float32 arithmetic of the bound itself.
 */
export function productError(D: number): number {
  const n = (D + 64) * unit;
  return n / (1 - n);
}
