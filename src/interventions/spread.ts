import type { Split } from "../prompts/pairs.ts";
import { rounded, standardDeviation } from "../stats.ts";
import { type Interval, percentiles, resample, studentQuantile, widened } from "./clusters.ts";
import type { Candidates, EffectSums, SplitUnits } from "./units.ts";

/** With fewer words no interval is given: so few say little about others. */
export const leastWords = 5;
/** How often words are drawn. */
export const wordSamples = 500;
/** Digits that are kept: draws settle two or three. */
const digits = 4;
/** How deep lists of the strongest are compared. */
const depths = [10, 50] as const;
/** Features of a site and split that take part in a draw's ranking, and how many of them get intervals, the strongest. */
const [taken, given] = [80, 40] as const;

/** How much one feature's effect and rank would change with other words. */
export interface FeatureSpread {
  /** 95 % intervals of the mean effect: over words, and as if each pair were drawn by itself. */
  readonly by_words: Interval;
  readonly by_pairs: Interval;
  /** 95 % interval of the rank. */
  readonly ranks: Interval;
  /** Share of the draws in which the feature is among the ten strongest. */
  readonly in_top_10: number;
}

/** What drawing the words of one split again tells. */
export interface SplitSpread {
  readonly split: Split;
  /** The strongest features, by rank. */
  readonly features: readonly FeatureSpread[];
  /** Mean Jaccard overlap of the ten strongest features with those of the draws. */
  readonly stability_10: number;
  /** The strongest features of each draw, ten of them and 50. */
  readonly strongest: readonly StrongestByDraw[];
}

/** The strongest features of each draw, the first ones first [draws, depth]. */
interface StrongestByDraw {
  readonly depth: number;
  readonly drawn: Int32Array;
}

/** Which features of a ranked list take part in draws. @param feature by rank */
export function candidatesOf(feature: ArrayLike<number>, top: number): Candidates {
  const strongest = Int32Array.from({ length: Math.min(taken, feature.length) }, (_, i) => feature[i]!);
  return { feature: strongest, listed: Math.min(given, top, strongest.length) };
}

/** Draws of groups of words: for each how often every group was drawn. Sites of a run share them. */
export function wordDraws({ words, pairsOfGroup, split }: SplitUnits): readonly Float64Array[] {
  const draws: Float64Array[] = [];
  if (words < leastWords) return draws;
  resample(pairsOfGroup.length, (times) => draws.push(Float64Array.from(times)), { samples: wordSamples, seed: split });
  return draws;
}

/**
 * Intervals of mean effects and ranks, by drawing the words of a split again (the bootstrap over clusters; percentiles, widened for few words, see
 * `widened`). A draw's mean is its sum over its pairs, whose number changes with the words.
 *
 * By pairs, where nothing need be drawn: mean ± Student's t times the standard error over pairs. What pairs share at a node is split evenly among
 * them, so this interval is, if anything, too narrow.
 *
 * @returns null with fewer than five words
 */
export function spreadOf(sums: EffectSums, draws: readonly Float64Array[]): SplitSpread | null {
  const { units, feature, listed } = sums;
  if (units.words < leastWords || feature.length === 0) return null;
  const size = feature.length;
  const means = Array.from({ length: listed }, () => new Float64Array(draws.length));
  /** How often each feature has each rank, counted from 0 [features, ranks]. */
  const ranks = new Int32Array(size * size);
  const strongest = depths.map((k) => {
    const depth = Math.min(k, size);
    return { depth, drawn: new Int32Array(depth * draws.length) };
  });
  const [drawn, sizes, order] = [new Float64Array(size), new Float64Array(size), new Int32Array(size)];
  for (let s = 0; s < draws.length; s++) {
    drawMeans(sums, draws[s]!, drawn);
    for (let i = 0; i < size; i++) sizes[i] = Math.abs(drawn[i]!);
    sortBySize(sizes, order);
    for (let i = 0; i < listed; i++) means[i]![s] = drawn[i]!;
    for (let rank = 0; rank < size; rank++) ranks[order[rank]! * size + rank]!++;
    for (const { depth, drawn: all } of strongest) {
      for (let rank = 0; rank < depth; rank++) all[s * depth + rank] = feature[order[rank]!]!;
    }
  }
  const { depth } = strongest[0]!;
  const inTop = (i: number) => ranks.subarray(i * size, i * size + depth).reduce((sum, n) => sum + n, 0) / draws.length;
  const level = widened(0.95, units.pairsOfGroup.length);
  const pairwise = overPairs(sums);
  return {
    split: units.split,
    features: means.map((values, i) => ({
      by_words: roundedInterval(percentiles(values, level)!),
      by_pairs: roundedInterval(pairwise(i)),
      ranks: rankInterval(ranks.subarray(i * size, (i + 1) * size), draws.length),
      in_top_10: rounded(inTop(i), digits),
    })),
    stability_10: rounded(meanJaccard(feature.subarray(0, depth), strongest[0]!.drawn), digits),
    strongest,
  };
}

/** The mean Jaccard overlap of some features with lists of as many, one list behind the other. */
function meanJaccard(features: Int32Array, lists: Int32Array): number {
  const [members, depth] = [new Set(features), features.length];
  let sum = 0;
  for (let start = 0; start < lists.length; start += depth) {
    let both = 0;
    for (let i = start; i < start + depth; i++) if (members.has(lists[i]!)) both++;
    sum += both / (2 * depth - both);
  }
  return (sum * depth) / lists.length;
}

/** Puts places into the order of their sizes, the largest first, ties by place. By insertion: the places are nearly in order already. */
function sortBySize(sizes: Float64Array, order: Int32Array): void {
  for (let i = 0; i < sizes.length; i++) {
    const size = sizes[i]!;
    let at = i;
    for (; at > 0 && sizes[order[at - 1]!]! < size; at--) order[at] = order[at - 1]!;
    order[at] = i;
  }
}

/** Mean effects of all features in one draw. Four features share a pass over the groups: this is where the time goes. */
function drawMeans({ units: { pairsOfGroup }, byGroup }: EffectSums, times: Float64Array, means: Float64Array): void {
  const groups = times.length;
  let pairs = 0;
  for (let k = 0; k < groups; k++) pairs += times[k]! * pairsOfGroup[k]!;
  const last = means.length - 1;
  for (let i = 0; i <= last; i += 4) {
    // Where fewer than four are left the last one is computed again.
    const [b, c, d] = [Math.min(i + 1, last), Math.min(i + 2, last), Math.min(i + 3, last)];
    let [sumA, sumB, sumC, sumD] = [0, 0, 0, 0];
    for (let k = 0; k < groups; k++) {
      const n = times[k]!;
      sumA += n * byGroup[i * groups + k]!;
      sumB += n * byGroup[b * groups + k]!;
      sumC += n * byGroup[c * groups + k]!;
      sumD += n * byGroup[d * groups + k]!;
    }
    means[i] = sumA / pairs;
    means[b] = sumB / pairs;
    means[c] = sumC / pairs;
    means[d] = sumD / pairs;
  }
}

/**
 * 95 % intervals of the shares of the 10 and of the 50 strongest features that two splits have in common: share ± 1.96 standard deviations over draws of
 * the words of both, within [0, 1]. The draws themselves lie lower, because each lacks some words.
 *
 * @param shares as they are without draws; null where there is none
 * @returns null for a split without draws
 */
export function overlapSpread(
  a: SplitSpread | null,
  b: SplitSpread | null,
  shares: readonly (number | null)[],
): (Interval | null)[] {
  return shares.map((share, d) => {
    if (a === null || b === null || share === null) return null;
    const shared = sharedByDraw(a.strongest[d]!, b.strongest[d]!);
    const half = 1.96 * standardDeviation(shared);
    return roundedInterval({ low: Math.max(0, share - half), high: Math.min(1, share + half) });
  });
}

/** For a listed feature the interval of its mean over pairs: each pair has the mean effects of the nodes on its way. */
function overPairs({ units, byNode }: EffectSums): (i: number) => Interval {
  const { parent, ends, pairs } = units;
  const size = parent.length;
  const along = new Float64Array(size);
  return (i) => {
    for (let node = 0; node < size; node++) {
      along[node] = byNode[i * size + node]! + (parent[node]! < 0 ? 0 : along[parent[node]!]!);
    }
    let sum = 0;
    for (const end of ends) sum += along[end]!;
    const middle = sum / pairs;
    let squares = 0;
    for (const end of ends) squares += (along[end]! - middle) ** 2;
    const half = studentQuantile(0.975, pairs - 1) * Math.sqrt(squares / (pairs - 1) / pairs);
    return { low: middle - half, high: middle + half };
  };
}

const roundedInterval = ({ low, high }: Interval): Interval => ({
  low: rounded(low, digits),
  high: rounded(high, digits),
});
/** For each draw the share of the strongest of two splits that both have. */
function sharedByDraw(first: StrongestByDraw, second: StrongestByDraw): number[] {
  /** The last draw in which each feature was among the first split's. */
  const seen = new Int32Array(Math.max(...[first, second].map(({ drawn }) => largest(drawn))) + 1).fill(-1);
  return Array.from({ length: first.drawn.length / first.depth }, (_, s) => {
    for (let i = s * first.depth; i < (s + 1) * first.depth; i++) seen[first.drawn[i]!] = s;
    let both = 0;
    for (let i = s * second.depth; i < (s + 1) * second.depth; i++) if (seen[second.drawn[i]!] === s) both++;
    return both / Math.max(first.depth, second.depth);
  });
}

const largest = (values: Int32Array) => values.reduce((most, value) => Math.max(most, value), 0);

/** The middle 95 % of ranks, from how often each occurs. */
function rankInterval(times: Int32Array, draws: number): Interval {
  const at = (share: number) => {
    let seen = 0;
    return times.findIndex((n) => {
      seen += n;
      return seen > share * (draws - 1);
    });
  };
  return { low: 1 + at(0.025), high: 1 + at(0.975) };
}
