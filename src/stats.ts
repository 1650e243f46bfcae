/** The mean; NaN of none. */
export function mean(values: readonly number[]): number {
  return sum(values) / values.length;
}

/** The sum, in the order of the values. */
export function sum(values: readonly number[]): number {
  let total = 0;
  for (const value of values) total += value;
  return total;
}

/** The standard deviation of a population: √ of the mean squared distance from the mean; NaN of none. */
export function standardDeviation(values: readonly number[]): number {
  const middle = mean(values);
  return Math.sqrt(mean(values.map((value) => (value - middle) ** 2)));
}

/** The middle value, or the mean of the two in the middle; null of none. */
export function median(values: readonly number[]): number | null {
  if (values.length === 0) return null;
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}

/** A number with so many digits that count. */
export function rounded(value: number, digits = 5): number {
  return Number(value.toPrecision(digits));
}

/** A value whose numbers, however deep, keep five significant digits; whole numbers stay. */
export function roundAll<T>(value: T): T {
  return JSON.parse(
    JSON.stringify(value, (_, value) =>
      Number.isInteger(value) || typeof value !== "number" ? value : rounded(value),
    ),
  ) as T;
}

/** Half the width of a 95 % interval in standard deviations. */
const z95 = 1.959964;

/**
 * Wilson's 95 % interval of a share: which true shares an observed one is likely under. Members must not hang together; where pairs share words it is
 * too narrow.
 *
 * @param share in [0, 1], of `n` members; NaN for both ends without members
 */
export function shareInterval(share: number, n: number): { low: number; high: number } {
  const z2 = z95 ** 2 / n;
  const middle = (share + z2 / 2) / (1 + z2);
  const half = (z95 / (1 + z2)) * Math.sqrt((share * (1 - share)) / n + z2 / (4 * n));
  return { low: Math.max(0, middle - half), high: Math.min(1, middle + half) };
}

/**
 * 95 % interval of an area under the ROC curve by Newcombe's fifth method (Statistics in Medicine 25, 2006): the areas θ from which the observed one
 * lies no further than 1.96 standard errors, these taken at θ, so that an area of 1 has an interval too. V(θ) = θ(1 − θ)[1 + (N − 1)((1 − θ)/(2 − θ) +
 * θ/(1 + θ))]/(n·m) with N = (n + m)/2.
 *
 * @param auc in [0, 1]
 * @param n members of the group
 * @param m all others
 */
export function aucInterval(auc: number, n: number, m: number): { low: number; high: number } {
  const off = (theta: number) => {
    const spread = 1 + ((n + m) / 2 - 1) * ((1 - theta) / (2 - theta) + theta / (1 + theta));
    return Math.abs(auc - theta) - z95 * Math.sqrt((theta * (1 - theta) * spread) / (n * m));
  };
  // `off` is below 0 next to the observed area, and not at the ends unless the area is one of them.
  const edge = (far: number) => {
    if (far === auc) return far;
    let [inside, outside] = [auc, far];
    if (off(auc) === 0) inside = auc + (far - auc) * 1e-9;
    for (let step = 0; step < 60; step++) {
      const between = (inside + outside) / 2;
      if (off(between) < 0) inside = between;
      else outside = between;
    }
    return inside;
  };
  return { low: edge(0), high: edge(1) };
}

/** The places of the n largest values, the largest first; of equal ones the earlier. */
export function placesOfLargest(values: Float32Array | Float64Array, n: number): number[] {
  if (n === 0) return [];
  const top: number[] = [];
  /** The nth largest so far. */
  let least: number | undefined;
  for (let i = 0; i < values.length; i++) {
    if (least !== undefined && !(values[i]! > least)) continue;
    let at = top.length;
    while (at > 0 && values[i]! > values[top[at - 1]!]!) at--;
    top.splice(at, 0, i);
    if (top.length > n) top.pop();
    if (top.length === n) least = values[top.at(-1)!]!;
  }
  return top;
}
