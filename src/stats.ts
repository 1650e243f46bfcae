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
