import { type PairedEffects, pearson, relativeError, sharedStrongest, strongestOf } from "../circuit/likeness.ts";
import { type EffectRows, errorFeature } from "../effects/rows.ts";
import type { NodeIndex } from "../effects/sums.ts";
import type { PrefixForest } from "../forest/forest.ts";
import { clusterNodes, type Interval, percentiles, resample, widened } from "../interventions/clusters.ts";
import { leastWords } from "../interventions/spread.ts";
import { mostGroups } from "../interventions/units.ts";
import { rounded } from "../stats.ts";

/** Strongest features of a site whose sums by word a method keeps: enough for the 100 strongest to change places. */
export const keptStrongest = 150;
/** Of all sites together, features that change from draw to draw; the others keep their effects. */
const drawnFeatures = 400;
/** How often words are drawn. */
const samples = 300;

/** Sums of a site's strongest features over the pairs of each word, or group of words [features][groups], in logits. */
export interface WordSums {
  readonly feature: number[];
  readonly sums: number[][];
}

/** The words that pairs share, of both splits together, for the rows of a method: see `clusterPairs`. More than 64 are dealt to 64 groups. */
export function wordsOf(forest: PrefixForest) {
  const { of, count } = clusterNodes(forest);
  const groups = Math.min(count, mostGroups);
  const pairsOfGroup = new Array<number>(groups).fill(0);
  for (const end of forest.endNodeOfPair) if (of[end]! >= 0) pairsOfGroup[of[end]! % groups]!++;
  return {
    count,
    pairs: pairsOfGroup,
    /** @param strongest features, the strongest first; BOS and padding are left out as in all sums */
    sums(rows: EffectRows, index: NodeIndex, strongest: readonly number[]): WordSums {
      const features = strongest.slice(0, keptStrongest);
      const groupOf = of.map((word, node) => (word < 0 || index.outside[index.rowOf[node]!] ? -1 : word % groups));
      const sums = sumsByGroup(rows, features, groupOf, groups);
      return {
        feature: features,
        sums: features.map((_, i) => Array.from(sums.subarray(i * groups, (i + 1) * groups), (sum) => rounded(sum, 6))),
      };
    },
  };
}

/** Σ effect of each feature over the nodes of each group [features, groups]; nodes of group −1 are left out, and so is the error. */
function sumsByGroup(
  { node, feature, effect }: EffectRows,
  features: readonly number[],
  groupOf: Int32Array,
  groups: number,
): Float64Array {
  const sums = new Float64Array(features.length * groups);
  const placeOf = new Int32Array(features.reduce((most, f) => Math.max(most, f), 0) + 1).fill(-1);
  for (const [place, f] of features.entries()) placeOf[f] = place * groups;
  for (let i = 0; i < node.length; i++) {
    const f = feature[i]!;
    if (f === errorFeature || f >= placeOf.length) continue;
    const [place, group] = [placeOf[f]!, groupOf[node[i]!]!];
    if (place >= 0 && group >= 0) sums[place + group]! += effect[i]!;
  }
  return sums;
}

/** The words of a method's pairs, and by site its strongest features' sums over them. */
export interface MethodWords {
  readonly count: number;
  readonly pairs: readonly number[];
  readonly sites: ReadonlyMap<string, WordSums>;
}

/** 95 % intervals, over words that are drawn again, of how alike two methods' effects are; null where that is not known. */
export interface LikenessSpread {
  readonly pearson: Interval | null;
  readonly top_10: Interval | null;
  readonly top_50: Interval | null;
  readonly top_100: Interval | null;
  /** Σ|x − y| / Σ|y|. */
  readonly error: Interval | null;
}

const unknown: LikenessSpread = { pearson: null, top_10: null, top_50: null, top_100: null, error: null };

/**
 * Draws the words again, the same for both methods. What changes are the 400 strongest features of either whose sums by word are known; all others, which
 * are weak, keep their effects.
 */
export function likenessSpread(
  effects: PairedEffects,
  first: MethodWords | undefined,
  second: MethodWords | undefined,
): LikenessSpread {
  if (!first || !second || first.count < leastWords) return unknown;
  const strong = strongestOf(effects, drawnFeatures);
  const chosen = new Set(strong.feature.map((feature, i) => `${strong.site[i]}/${feature}`));
  const rest = [...effects.feature.keys()].filter((i) => !chosen.has(`${effects.site[i]}/${effects.feature[i]}`));
  const [restX, restY] = [rest.map((i) => effects.x[i]!), rest.map((i) => effects.y[i]!)];
  const rowsX = rowsOf(strong, first);
  const rowsY = rowsOf(strong, second);
  const found: Record<keyof LikenessSpread, number[]> = { pearson: [], top_10: [], top_50: [], top_100: [], error: [] };
  resample(
    first.pairs.length,
    (times) => {
      const pairs = dot(times, first.pairs);
      const drawn = (rows: readonly (readonly number[] | undefined)[], as: readonly number[]) =>
        rows.map((row, i) => (row ? dot(times, row) / pairs : as[i]!));
      const own = { ...strong, x: drawn(rowsX, strong.x), y: drawn(rowsY, strong.y) };
      const all = { ...own, x: [...own.x, ...restX], y: [...own.y, ...restY] };
      found.pearson.push(pearson(all.x, all.y));
      found.error.push(relativeError(all) ?? Number.NaN);
      for (const k of [10, 50, 100] as const) found[`top_${k}`].push(sharedStrongest(own, k) ?? Number.NaN);
    },
    { samples, seed: "methods" },
  );
  const level = widened(0.95, first.pairs.length);
  const interval = (values: readonly number[]) => {
    const range = percentiles(values, level);
    return range && { low: rounded(range.low, 6), high: rounded(range.high, 6) };
  };
  return {
    pearson: interval(found.pearson),
    top_10: interval(found.top_10),
    top_50: interval(found.top_50),
    top_100: interval(found.top_100),
    error: interval(found.error),
  };
}

/** Each feature's sums by word; undefined where a method did not keep them. */
function rowsOf({ site, feature }: PairedEffects, { sites }: MethodWords): (readonly number[] | undefined)[] {
  const bySite = new Map(
    [...sites].map(([name, { feature: own, sums }]) => [name, new Map(own.map((f, i) => [f, sums[i]!]))]),
  );
  return feature.map((f, i) => bySite.get(site[i]!)?.get(f));
}

function dot(times: Int32Array, values: readonly number[]): number {
  let sum = 0;
  for (let k = 0; k < times.length; k++) sum += times[k]! * values[k]!;
  return sum;
}
