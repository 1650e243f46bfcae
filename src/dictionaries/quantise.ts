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

/**
 * Rounds a row to whole numbers of one byte. Scale and rest are computed in float64, in which scale·q is exact, so that `rest` bounds what the numbers
 * q leave out, whatever they are.
 *
 * @param v [D], float32 numbers
 * @param most 127, or 63 where byte products of larger numbers saturate
 * @param q int8[D], where they go
 */
export function quantiseRow(v: Float32Array, most: number, q: Int8Array): QuantisedRow {
  let largest = 0;
  for (let d = 0; d < v.length; d++) largest = Math.max(largest, Math.abs(v[d]!));
  if (largest === 0) {
    q.fill(0);
    return { scale: 0, rest: 0, norm: 0 };
  }
  const scale = Math.fround(largest / most);
  const inverse = most / largest;
  let [rest, norm] = [0, 0];
  for (let d = 0; d < v.length; d++) {
    const value = v[d]!;
    // Rounded to the nearest by cutting off: shifted, it is positive.
    const n = ((value * inverse + 128.5) | 0) - 128;
    q[d] = n;
    const left = value - scale * n;
    rest += left * left;
    norm += value * value;
  }
  return { scale, rest: roundUp(Math.sqrt(rest)), norm: roundUp(Math.sqrt(norm)) };
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
