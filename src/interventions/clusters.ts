import { isChanged, type PrefixForest } from "../forest/forest.ts";
import type { TokenPair } from "../prompts/pairs.ts";
import { Random } from "../random.ts";

/** A range that holds a number with the probability asked for, 95 % by default. */
export interface Interval {
  readonly low: number;
  readonly high: number;
}

/**
 * What of some pairs hangs together: those with one first word in which their prompts differ, whichever of the two prompts has which form of it. In a
 * forest such a cluster is a subtree. Pairs of a cluster share most of what the model computes, so intervals over single pairs are too narrow.
 */
export interface Clusters {
  /** For each pair, its cluster. */
  readonly of: Int32Array;
  readonly count: number;
}

/** The clusters of pairs. */
export function clusterPairs(pairs: readonly TokenPair[]): Clusters {
  const index = new Map<string, number>();
  const of = Int32Array.from(pairs, ({ clean, patch }) => {
    const at = clean.findIndex((token, t) => token !== patch[t]);
    return placeOf(index, at < 0 ? -1 : clean[at]!, at < 0 ? -1 : patch[at]!);
  });
  return { of, count: index.size };
}

/** For each backward node the cluster of the pairs below it, numbered as `clusterPairs` does; −1 where clean and patch prefix are equal. */
export function clusterNodes(forest: PrefixForest): Clusters {
  const index = new Map<string, number>();
  for (const { clean, patch } of forest.pairs) {
    const at = clean.findIndex((token, t) => token !== patch[t]);
    placeOf(index, at < 0 ? -1 : clean[at]!, at < 0 ? -1 : patch[at]!);
  }
  const { backward } = forest;
  const of = new Int32Array(backward.size).fill(-1);
  for (let node = 0; node < backward.size; node++) {
    if (!isChanged(backward, node)) continue;
    const parent = backward.parent[node]!;
    const above = parent < 0 ? -1 : of[parent]!;
    of[node] = above >= 0 ? above : placeOf(index, backward.token[node]!, backward.patchToken[node]!);
  }
  return { of, count: index.size };
}

function placeOf(index: Map<string, number>, a: number, b: number): number {
  const key = a < b ? `${a}/${b}` : `${b}/${a}`;
  const place = index.get(key) ?? index.size;
  index.set(key, place);
  return place;
}

/** Each pair by itself: for intervals beside those over clusters. */
export const eachPair = (pairs: number): Clusters => ({
  of: Int32Array.from({ length: pairs }, (_, i) => i),
  count: pairs,
});

/** Sums of a number over the members of each cluster. */
export function sumByCluster({ of, count }: Clusters, values: ArrayLike<number>): Float64Array {
  const sums = new Float64Array(count);
  of.forEach((cluster, i) => {
    if (cluster >= 0) sums[cluster]! += values[i]!;
  });
  return sums;
}

export interface ResampleOptions {
  /** How often clusters are drawn; 1,000 by default. */
  readonly samples?: number;
  readonly level?: number;
  readonly seed?: string;
}

/**
 * Draws as many clusters as there are, with replacement, again and again (the bootstrap), and calls `visit` with how often each was drawn. The draws
 * follow from the seed and the number of clusters alone.
 */
export function resample(
  count: number,
  visit: (times: Int32Array) => void,
  { samples = 1000, seed = "resample" }: ResampleOptions = {},
): void {
  const random = new Random(`${seed}/${count}`);
  for (let sample = 0; sample < samples; sample++) {
    const times = new Int32Array(count);
    for (let i = 0; i < count; i++) times[random.below(count)]!++;
    visit(times);
  }
}

/**
 * The interval of a ratio of sums over clusters, by percentiles of resampled clusters, widened where there are few of them.
 *
 * @param top sums by cluster, and so is `bottom`
 * @returns null with fewer than two clusters
 */
export function ratioInterval(
  top: ArrayLike<number>,
  bottom: ArrayLike<number>,
  options: ResampleOptions = {},
): Interval | null {
  if (top.length < 2) return null;
  const found: number[] = [];
  resample(
    top.length,
    (times) => {
      let [a, b] = [0, 0];
      times.forEach((n, cluster) => {
        a += n * top[cluster]!;
        b += n * bottom[cluster]!;
      });
      found.push(a / b);
    },
    options,
  );
  return percentiles(found, widened(options.level ?? 0.95, top.length));
}

/** The middle part of some values; those that are no numbers do not count. */
export function percentiles(values: ArrayLike<number>, level = 0.95): Interval | null {
  const finite = new Float64Array(values.length);
  let size = 0;
  for (let i = 0; i < values.length; i++) if (Number.isFinite(values[i])) finite[size++] = values[i]!;
  const sorted = finite.subarray(0, size).sort();
  if (sorted.length === 0) return null;
  const at = (share: number) => {
    const place = share * (sorted.length - 1);
    const [below, above] = [sorted[Math.floor(place)]!, sorted[Math.ceil(place)]!];
    return below + (place - Math.floor(place)) * (above - below);
  };
  return { low: at((1 - level) / 2), high: at((1 + level) / 2) };
}

/**
 * The level at which percentiles of resampled means of few clusters hold the mean as often as asked: resampling n of n clusters makes too little of the
 * spread, by √((n−1)/n), and of its own uncertainty, which Student's t counts (Hesterberg, arXiv:1411.5279, "expanded percentiles"). 0.95 becomes 0.998
 * for 5 clusters, 0.968 for 20, 0.9537 for 100.
 */
export function widened(level: number, clusters: number): number {
  const t = studentQuantile((1 + level) / 2, clusters - 1);
  return 2 * normalShare(t * Math.sqrt(clusters / (clusters - 1))) - 1;
}

/**
 * The quantile of Student's t, for shares in (0.5, 1), by its expansion in 1/freedom (Abramowitz and Stegun 26.7.5): within 0.3 % from 4 degrees of freedom
 * on.
 */
export function studentQuantile(share: number, freedom: number): number {
  const z = normalQuantile(share);
  const n = freedom;
  return (
    z +
    (z ** 3 + z) / (4 * n) +
    (5 * z ** 5 + 16 * z ** 3 + 3 * z) / (96 * n ** 2) +
    (3 * z ** 7 + 19 * z ** 5 + 17 * z ** 3 - 15 * z) / (384 * n ** 3) +
    (79 * z ** 9 + 776 * z ** 7 + 1482 * z ** 5 - 1920 * z ** 3 - 945 * z) / (92160 * n ** 4)
  );
}

/** The share of a standard normal below z (Abramowitz and Stegun 26.2.17, to 1e-7). */
function normalShare(z: number): number {
  if (z < 0) return 1 - normalShare(-z);
  const t = 1 / (1 + 0.2316419 * z);
  const series = t * (0.31938153 + t * (-0.356563782 + t * (1.781477937 + t * (-1.821255978 + t * 1.330274429))));
  return 1 - (series * Math.exp((-z * z) / 2)) / Math.sqrt(2 * Math.PI);
}

/** The inverse of `normalShare`, by bisection. */
function normalQuantile(share: number): number {
  let [low, high] = [-8, 8];
  for (let i = 0; i < 60; i++) {
    const middle = (low + high) / 2;
    if (normalShare(middle) < share) low = middle;
    else high = middle;
  }
  return (low + high) / 2;
}
