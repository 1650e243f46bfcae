import { type EffectRows, errorFeature } from "../effects/rows.ts";
import { allCases, type NodeIndex, type PairCount, type Sums } from "../effects/sums.ts";
import { groupKey, type Split } from "../prompts/pairs.ts";
import { rounded } from "../stats.ts";
import { type FeatureEffects, rankOrder } from "./ranking.ts";
import type { RankOptions } from "./tables.ts";

/** Both splits, in the order of files and reports. */
export const splits = ["train", "test"] as const satisfies readonly Split[];

/**
 * The features of a site on one split and case, or on all its cases: columns of equal length, the error first where there is one, then the features by
 * rank. effect: mean over the pairs, signed, in logits.
 */
export interface RankedMeans {
  readonly split: Split;
  /** '' for all cases together. */
  readonly case: string;
  readonly feature: Int32Array;
  readonly effect: Float64Array;
  readonly nodesActive: Int32Array;
  /** From 1 up; 0 for the error. */
  readonly rank: Int32Array;
}

/**
 * Divides a site's sums by the pairs and ranks them: train before test, of each all cases together first, then the cases by their names. Sums over cases
 * are taken in the order of the names, so that they have the same bits on every run.
 *
 * @param pairs every split and case that has nodes
 */
export function rankedMeans(sums: Sums, { groups }: NodeIndex, pairs: readonly PairCount[]): RankedMeans[] {
  const counted = new Map(pairs.map((of) => [groupKey(of.split, of.case), of.pairs]));
  const uncounted = groups.find((of) => !counted.get(groupKey(of.split, of.case)));
  if (uncounted) throw new Error(`internal: no pairs for the nodes of ${uncounted.split}, ${uncounted.case}`);
  const rowsOf = groupedRows(sums.group, groups.length);
  const width = largestOf(sums.feature, errorFeature) + 1 - errorFeature;
  return splits.flatMap((split) => {
    const own = casesOf(groups, split);
    if (own.length === 0) return [];
    const all = { total: new Float64Array(width), nodes: new Int32Array(width), seen: new Uint8Array(width) };
    const byCase = own.map(([group, of]) => {
      const rows = rowsOf[group]!;
      addSums(all, sums, rows);
      return ranked(split, of.case, sums, rows, counted.get(groupKey(split, of.case))!);
    });
    const count = pairs.reduce((sum, of) => sum + (of.split === split ? of.pairs : 0), 0);
    const feature = new Int32Array(width);
    for (let at = 0; at < width; at++) feature[at] = at + errorFeature;
    const places = groupedRows(all.seen, 2)[1]!;
    return [ranked(split, allCases, { feature, ...all }, places, count), ...byCase];
  });
}

/** The splits and cases of what `rankedMeans` gives of any site, in its order. */
export function partsOf({ groups }: NodeIndex): Pick<RankedMeans, "split" | "case">[] {
  return splits.flatMap((split) => {
    const own = casesOf(groups, split).map(([, of]) => ({ split, case: of.case }));
    return own.length === 0 ? [] : [{ split, case: allCases }, ...own];
  });
}

/** The groups of a split with their places, by the names of their cases. */
const casesOf = (groups: NodeIndex["groups"], split: Split) =>
  [...groups.entries()].filter(([, of]) => of.split === split).sort(([, a], [, b]) => (a.case < b.case ? -1 : 1));

// The loops are functions of their own: in a closure each site would have them compiled anew.

/** The rows of each group, in order. */
function groupedRows(group: Uint16Array | Uint8Array, groups: number): Int32Array[] {
  const counts = new Int32Array(groups);
  for (let row = 0; row < group.length; row++) counts[group[row]!]!++;
  const rows = Array.from(counts, (count) => new Int32Array(count));
  counts.fill(0);
  for (let row = 0; row < group.length; row++) rows[group[row]!]![counts[group[row]!]!++] = row;
  return rows;
}

function largestOf(values: Int32Array, least: number): number {
  let most = least;
  for (let i = 0; i < values.length; i++) if (values[i]! > most) most = values[i]!;
  return most;
}

/** Adds some rows of sums to those of all features, the error at place 0. */
function addSums(
  all: { readonly total: Float64Array; readonly nodes: Int32Array; readonly seen: Uint8Array },
  { feature, total, nodes }: Sums,
  rows: Int32Array,
): void {
  for (let i = 0; i < rows.length; i++) {
    const row = rows[i]!;
    const at = feature[row]! - errorFeature;
    all.total[at]! += total[row]!;
    all.nodes[at]! += nodes[row]!;
    all.seen[at] = 1;
  }
}

/** values[places], each divided by `by`. */
function dividedAt(values: Float64Array, places: Int32Array, by: number): Float64Array {
  const to = new Float64Array(places.length);
  for (let i = 0; i < places.length; i++) to[i] = values[places[i]!]! / by;
  return to;
}

function valuesAt(values: Int32Array, places: Int32Array): Int32Array {
  const to = new Int32Array(places.length);
  for (let i = 0; i < places.length; i++) to[i] = values[places[i]!]!;
  return to;
}

/** The rows of some sums as means over `pairs` pairs, by rank. */
function ranked(
  split: Split,
  name: string,
  { feature, total, nodes }: Pick<Sums, "feature" | "total" | "nodes">,
  rows: Int32Array,
  pairs: number,
): RankedMeans {
  const errors = rows.filter((row) => feature[row] === errorFeature);
  const others = rows.filter((row) => feature[row] !== errorFeature);
  const order = rankOrder(valuesAt(feature, others), dividedAt(total, others, pairs));
  const ordered = new Int32Array(rows.length);
  ordered.set(errors);
  ordered.set(valuesAt(others, order), errors.length);
  const rank = new Int32Array(rows.length);
  for (let i = errors.length; i < rank.length; i++) rank[i] = i + 1 - errors.length;
  return {
    split,
    case: name,
    feature: valuesAt(feature, ordered),
    effect: dividedAt(total, ordered, pairs),
    nodesActive: valuesAt(nodes, ordered),
    rank,
  };
}

/**
 * What the ranking takes of a site: the features over all cases, by split, the error beside them.
 *
 * @param change as in `RankOptions`
 * @param leftOut by split, as in `FeatureEffects`
 */
export function effectsBySplit(
  means: readonly RankedMeans[],
  change: RankOptions["change"],
  leftOut: (split: Split) => number | null,
): Partial<Record<Split, FeatureEffects>> {
  const whole = means.filter((of) => of.case === allCases);
  return Object.fromEntries(
    whole.map(({ split, feature, effect, nodesActive }) => {
      const from = feature[0] === errorFeature ? 1 : 0;
      return [
        split,
        {
          feature: feature.subarray(from),
          effect: effect.subarray(from),
          nodesActive: nodesActive.subarray(from),
          error: from === 1 ? effect[0]! : null,
          change: change?.[split] ?? null,
          leftOut: leftOut(split),
        },
      ];
    }),
  );
}

/** The share of a site's Σ|effect| over features, six digits of it, that lies at nodes of BOS and padding, which are left out of the sums. */
export function leftOutShare({ node, feature, effect }: EffectRows, nodes: NodeIndex, split: Split): number {
  let [outside, total] = [0, 0];
  for (let i = 0; i < node.length; i++) {
    const row = nodes.rowOf[node[i]!]!;
    if (feature[i] === errorFeature || nodes.groups[nodes.group[row]!]!.split !== split) continue;
    total += Math.abs(effect[i]!);
    if (nodes.outside[row]) outside += Math.abs(effect[i]!);
  }
  return rounded(outside / (total || 1), 6);
}
