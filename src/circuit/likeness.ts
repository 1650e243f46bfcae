import { mean } from "../stats.ts";
import { rankOrder, spearman } from "./ranking.ts";

/** Effects of a site's features by one method, mean over the pairs, in logits: columns of equal length, features distinct. The error is left out. */
export interface SiteMeans {
  readonly site: string;
  readonly feature: ArrayLike<number>;
  readonly effect: ArrayLike<number>;
}

/** Effects of the same features by two methods, x by the first and y by the second: columns of equal length, in logits. */
export interface PairedEffects {
  readonly site: readonly string[];
  readonly feature: readonly number[];
  readonly x: readonly number[];
  readonly y: readonly number[];
}

/** How alike two columns are; null where that is undefined. */
export interface Likeness {
  readonly features: number;
  readonly pearson: number | null;
  readonly spearman: number | null;
  /** Share of the features with an effect in both whose signs agree. */
  readonly sign: number | null;
  /** Largest |x − y|, and the largest of all |x| and |y|, in logits; 0 without features. */
  readonly difference: number;
  readonly scale: number;
}

/** Two |effects| that differ by no more than this share of the largest count as tied. */
const tie = 1e-4;

/**
 * Sets the effects of one site by two methods side by side, features in ascending order.
 *
 * @param among which features: those that either method has, the others' effect being 0; or those of the second alone, where it computed only some
 */
export function setSideBySide(a: SiteMeans, b: SiteMeans, among: "either" | "second" = "either"): PairedEffects {
  if (a.site !== b.site) throw new Error(`internal: effects of ${a.site} beside those of ${b.site}`);
  const [first, second] = [byFeature(a), byFeature(b)];
  const feature = [...new Set([...(among === "either" ? first.keys() : []), ...second.keys()])].sort((i, j) => i - j);
  return {
    site: feature.map(() => a.site),
    feature,
    x: feature.map((i) => first.get(i) ?? 0),
    y: feature.map((i) => second.get(i) ?? 0),
  };
}

function byFeature({ feature, effect }: SiteMeans): ReadonlyMap<number, number> {
  return new Map(Array.from(feature, (i, row) => [i, effect[row]!]));
}

/** The columns of several sites as one. */
export function joined(parts: readonly PairedEffects[]): PairedEffects {
  return {
    site: parts.flatMap((part) => part.site),
    feature: parts.flatMap((part) => part.feature),
    x: parts.flatMap((part) => part.x),
    y: parts.flatMap((part) => part.y),
  };
}

/** How alike two sets of effects are, x[i] and y[i] those of the same feature. */
export function likenessOf({ x, y }: PairedEffects): Likeness {
  let [both, agreeing, difference, scale] = [0, 0, 0, 0];
  for (let i = 0; i < x.length; i++) {
    const [xi, yi] = [x[i]!, y[i]!];
    if (xi !== 0 && yi !== 0) {
      both++;
      if (xi > 0 === yi > 0) agreeing++;
    }
    difference = Math.max(difference, Math.abs(xi - yi));
    scale = Math.max(scale, Math.abs(xi), Math.abs(yi));
  }
  return {
    features: x.length,
    pearson: defined(pearson(x, y)),
    spearman: defined(spearman(x, y)),
    sign: both === 0 ? null : agreeing / both,
    difference,
    scale,
  };
}

/**
 * Pearson's correlation of two columns of equal length.
 *
 * @returns a number in [−1, 1]; NaN with fewer than two rows or when a column is constant
 */
export function pearson(x: readonly number[], y: readonly number[]): number {
  if (x.length !== y.length) throw new Error(`internal: pearson of ${x.length} and ${y.length} values`);
  const [mx, my] = [mean(x), mean(y)];
  let [xy, xx, yy] = [0, 0, 0];
  for (let i = 0; i < x.length; i++) {
    const [dx, dy] = [x[i]! - mx, y[i]! - my];
    xy += dx * dy;
    xx += dx * dx;
    yy += dy * dy;
  }
  // Of equal values the mean may be off by a last digit.
  const constant = (values: readonly number[]) => values.every((value) => value === values[0]);
  return x.length === 0 || constant(x) || constant(y) ? Number.NaN : Math.max(-1, Math.min(1, xy / Math.sqrt(xx * yy)));
}

/**
 * Share of the k strongest by x that are among the k strongest by y, up to ties: whose |y| is at least the k-th largest, less 1e-4 of the largest but no
 * more than 1 % of the k-th. k is at most the number of features with an effect in x; one without an effect in y is never shared.
 *
 * @returns a number in [0, 1]; null without features
 */
export function sharedStrongest({ feature, x, y }: PairedEffects, k: number): number | null {
  const depth = Math.min(k, x.filter((value) => value !== 0).length);
  if (depth === 0) return null;
  const byY = rankOrder(feature, y);
  const [largest, last] = [Math.abs(y[byY[0]!]!), Math.abs(y[byY[depth - 1]!]!)];
  const enough = last - Math.min(tie * largest, 0.01 * last);
  const found = rankOrder(feature, x)
    .subarray(0, depth)
    .filter((row) => y[row] !== 0 && Math.abs(y[row]!) >= enough);
  return found.length / depth;
}

/** Σ|x − y| / Σ|y|: how far x is from y, which is taken for true; null where every y is 0. */
export function relativeError({ x, y }: PairedEffects): number | null {
  let [distance, size] = [0, 0];
  for (let i = 0; i < x.length; i++) {
    distance += Math.abs(x[i]! - y[i]!);
    size += Math.abs(y[i]!);
  }
  return size === 0 ? null : distance / size;
}

/** The features with the largest effect in either column, max(|x|, |y|), strongest first, at most `most` of them. */
export function strongestOf({ site, feature, x, y }: PairedEffects, most: number): PairedEffects {
  const larger = x.map((value, i) => Math.max(Math.abs(value), Math.abs(y[i]!)));
  const rows = [...rankOrder(feature, larger).subarray(0, most)];
  return {
    site: rows.map((row) => site[row]!),
    feature: rows.map((row) => feature[row]!),
    x: rows.map((row) => x[row]!),
    y: rows.map((row) => y[row]!),
  };
}

/** The features of a site that are among the `top` strongest of any of some methods, in ascending order. */
export function strongestFeatures(methods: readonly SiteMeans[], top: number): number[] {
  const strong = methods.flatMap(({ feature, effect }) =>
    [...rankOrder(feature, effect).subarray(0, top)].map((row) => feature[row]!),
  );
  return [...new Set(strong)].sort((a, b) => a - b);
}

/** |sum − total| / |total|; null where the total is 0. */
export function relativeGap(sum: number, total: number): number | null {
  return total === 0 ? null : Math.abs(sum - total) / Math.abs(total);
}

const defined = (value: number): number | null => (Number.isNaN(value) ? null : value);
