import { type PairedEffects, pearson, relativeError, sharedStrongest, strongestOf } from "../circuit/likeness.ts";
import { type EffectRows, errorFeature } from "../effects/rows.ts";
import type { NodeIndex } from "../effects/sums.ts";
import type { PrefixForest } from "../forest/forest.ts";
import { clusterNodes, type Interval, percentiles, resample, widened } from "../interventions/clusters.ts";
import { leastWords } from "../interventions/spread.ts";
import { mostGroups } from "../interventions/units.ts";
import { rounded } from "../stats.ts";

/** Strongest features of a site whose sums by word a method keeps: enough for the 100 strongest to change places. */
const kept = 150;
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
    sums({ node, feature, effect }: EffectRows, index: NodeIndex, strongest: readonly number[]): WordSums {
      const places = new Map(strongest.slice(0, kept).map((f, i) => [f, i]));
      const sums = [...places].map(() => new Float64Array(groups));
      for (let i = 0; i < node.length; i++) {
        const at = feature[i] === errorFeature ? undefined : places.get(feature[i]!);
        if (at === undefined || of[node[i]!]! < 0 || index.outside[index.rowOf[node[i]!]!]) continue;
        sums[at]![of[node[i]!]! % groups]! += effect[i]!;
      }
      return { feature: [...places.keys()], sums: sums.map((row) => Array.from(row, (sum) => rounded(sum, 6))) };
    },
  };
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
