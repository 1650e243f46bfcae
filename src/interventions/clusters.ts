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
 * The interval of a ratio of sums over clusters, by percentiles of resampled clusters.
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
  return percentiles(found, options.level);
}

/** The middle part of some values; those that are no numbers do not count. */
export function percentiles(values: readonly number[], level = 0.95): Interval | null {
  const sorted = values.filter(Number.isFinite).sort((a, b) => a - b);
  if (sorted.length === 0) return null;
  const at = (share: number) => {
    const place = share * (sorted.length - 1);
    const [below, above] = [sorted[Math.floor(place)]!, sorted[Math.ceil(place)]!];
    return below + (place - Math.floor(place)) * (above - below);
  };
  return { low: at((1 - level) / 2), high: at((1 + level) / 2) };
}
