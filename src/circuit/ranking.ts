import { z } from "zod";
import { type EffectRows, errorFeature } from "../effects/rows.ts";
import type { PatchedSample, RankedFeature } from "../effects/strongest.ts";
import { overlapSpread, type SplitSpread } from "../interventions/spread.ts";
import type { Split } from "../prompts/pairs.ts";
import { compareSites, parseSite, type SiteKind, type SiteName } from "../site.ts";

/** What features are ranked by: the effect, or one of the two scores that need no patch prompt (METHOD: "Node effects"). */
export const scores = ["effect", "gradient", "gradient-activation"] as const;

/** One of `scores`. */
export type Score = (typeof scores)[number];

/** How deep the lists of train and test are compared. */
const overlapDepths = { overlap_10: 10, overlap_50: 50 } as const;

const share = z.number().min(0).max(1).nullable();
const interval = z.strictObject({ low: z.number(), high: z.number() }).nullable().default(null);

const rankedFeature = z.strictObject({
  rank: z.int().min(1).describe("1 is the largest |effect|; ties go to the lower feature"),
  feature: z.int().min(0),
  effect: z.number().describe("mean over the pairs of the split, signed, in logits"),
  nodes_active: z.int().min(0).describe("nodes at which the feature has a row"),
  exact: z
    .strictObject({
      effect: z.number().describe("the metric's change when this feature alone takes its patch value, node by node"),
      method: z.number().describe("what the run's method says on the same pairs"),
      first_order: z.number().nullable().default(null).describe("what `analytic` says on them"),
      secant: z
        .number()
        .nullable()
        .default(null)
        .describe("what `secant` says on them; null where that takes too long, and in runs of before"),
    })
    .nullable()
    .default(null)
    .describe("mean over the pairs of `exact.pairs`, signed, in logits; null where the feature was not patched"),
  by_words: interval.describe(
    "95 % interval of `effect` over other words: the words that pairs share (the first token in which a pair's prompts differ) are drawn again. Null for scores, with fewer than five words, and from the 41st feature on; so are the next three",
  ),
  by_pairs: interval.describe(
    "the same as if every pair were drawn by itself: too narrow where pairs share words. What pairs share at a node is split evenly among them",
  ),
  ranks: interval.describe("95 % interval of `rank` over the same draws of words"),
  in_top_10: share
    .default(null)
    .describe("share of those draws in which the feature is among the site's ten strongest"),
});

const siteSplit = z.strictObject({
  importance: z.number().describe("Σ |effect| over the site's features, without the error"),
  error: z
    .number()
    .nullable()
    .describe("effect of the site's error, mean over the pairs; null for scores, which have none"),
  error_share: share.describe("|error| / (|error| + importance); null without an error or when both are 0"),
  explained: z
    .number()
    .nullable()
    .default(null)
    .describe(
      "(Σ effect + error) / mean of m(patch) − m(clean) over the pairs; null for scores, and where the metric does not change",
    ),
  left_out: share
    .default(null)
    .describe(
      "Σ|effect| at nodes of BOS and padding, which count nowhere else in this file, over Σ|effect| at all nodes; null for `gradient`",
    ),
  features: z.int().min(0).describe("features with a row"),
  stability_10: share
    .default(null)
    .describe("mean Jaccard overlap of the ten strongest features with those of draws of words; null as `by_words`"),
  top: z.array(rankedFeature),
});

const agreement = z.strictObject({
  features: z.int().min(0).describe("features with a row in both splits"),
  spearman: z.number().nullable().describe("rank correlation of their signed effects; null if undefined"),
  overlap_10: share.describe("share of the ten strongest that both splits have"),
  overlap_50: share,
  overlap_10_by_words: interval.describe(
    "95 % interval of `overlap_10`: ± 1.96 standard deviations over draws of the words of both splits, within [0, 1]. Null as `by_words`",
  ),
  overlap_50_by_words: interval,
});

const layerSplit = z.strictObject({
  importance: z
    .number()
    .describe("that of the layer's resid_post; without one, of attn_out (or attn_z) and mlp_out (or mlp_act) together"),
  error_share: share.describe("Σ |error| / (Σ |error| + importance) over the same sites"),
});

/** The schema of `ranking.json`. */
export const rankingSchema = z.strictObject({
  score: z.enum(scores),
  top: z.int().min(1).describe("features listed per site and split"),
  change: z
    .partialRecord(z.enum(["train", "test"]), z.number())
    .default({})
    .describe("mean of m(patch) − m(clean) over the pairs of a split, in logits; empty for scores"),
  exact: z
    .strictObject({
      split: z.enum(["train", "test"]),
      pairs: z
        .int()
        .min(1)
        .describe("pairs on which the strongest features were patched, spread over all of the split"),
      of: z.int().min(1).describe("pairs of the split"),
      patches: z.int().min(0),
    })
    .nullable()
    .default(null)
    .describe("the sample behind the features' `exact`; null where none was patched"),
  words: z
    .partialRecord(z.enum(["train", "test"]), z.int().min(0))
    .default({})
    .describe(
      "words of each split that intervals are over (more than 64 are drawn in 64 groups); with fewer than five there are no intervals. Empty for scores, and in runs of before",
    ),
  words_shared: z
    .int()
    .min(0)
    .nullable()
    .default(null)
    .describe(
      "words that train and test have in common: with any, test is not made of other words. Null for scores, and in runs of before",
    ),
  sites: z.array(
    z.strictObject({
      site: z.string(),
      splits: z.partialRecord(z.enum(["train", "test"]), siteSplit),
      train_test: agreement.nullable().describe("null if the run has only one split"),
    }),
  ),
  layers: z.array(
    z.strictObject({
      layer: z.int().min(0),
      splits: z.partialRecord(z.enum(["train", "test"]), layerSplit),
    }),
  ),
});

/** The content of `ranking.json`: the strongest features of every site, and what each site and layer contributes. */
export type Ranking = z.infer<typeof rankingSchema>;

/** What a ranking says of one site. */
export type SiteRanking = Ranking["sites"][number];

/**
 * Effects of one site's features over all cases of a split: columns of equal length, features distinct and in any order.
 *
 * effect: mean over the pairs, signed, in logits; error: that of the error node, null where the score has none.
 */
export interface FeatureEffects {
  readonly feature: ArrayLike<number>;
  readonly effect: ArrayLike<number>;
  readonly nodesActive: ArrayLike<number>;
  readonly error: number | null;
  /** Mean of m(patch) − m(clean) over the pairs; null or left out where no patch prompt was run. */
  readonly change?: number | null;
  /** Share of Σ|effect| over all nodes that lies at BOS and padding; null or left out where effects are not kept by node. */
  readonly leftOut?: number | null;
}

/**
 * Indices of the rows from the largest |effect| to the smallest; ties go to the lower feature.
 *
 * @returns a permutation of 0 … n−1
 */
export function rankOrder(feature: ArrayLike<number>, effect: ArrayLike<number>): Int32Array {
  const order = Int32Array.from({ length: effect.length }, (_, i) => i);
  return order.sort((a, b) => Math.abs(effect[b]!) - Math.abs(effect[a]!) || feature[a]! - feature[b]!);
}

/** The features of a site by |effect| summed over its rows, the strongest first, ties by lower feature; the error is left out. */
export function rankFeatures({ feature, effect }: Pick<EffectRows, "feature" | "effect">): RankedFeature[] {
  const sums = new Map<number, number>();
  feature.forEach((f, i) => {
    if (f !== errorFeature) sums.set(f, (sums.get(f) ?? 0) + effect[i]!);
  });
  const [features, totals] = [[...sums.keys()], [...sums.values()]];
  return [...rankOrder(features, totals)].map((i) => ({ feature: features[i]!, effect: totals[i]! }));
}

/**
 * Spearman's rank correlation of two columns of equal length: Pearson's correlation of the ranks, ties sharing their average rank.
 *
 * @returns a number in [−1, 1]; NaN with fewer than two rows or when a column is constant
 */
export function spearman(a: ArrayLike<number>, b: ArrayLike<number>): number {
  if (a.length !== b.length) throw new Error(`internal: spearman of ${a.length} and ${b.length} values`);
  const [x, y] = [averageRanks(a), averageRanks(b)];
  const mean = (a.length + 1) / 2;
  let [xy, xx, yy] = [0, 0, 0];
  for (let i = 0; i < x.length; i++) {
    const [dx, dy] = [x[i]! - mean, y[i]! - mean];
    xy += dx * dy;
    xx += dx * dx;
    yy += dy * dy;
  }
  return xx === 0 || yy === 0 ? Number.NaN : Math.max(-1, Math.min(1, xy / Math.sqrt(xx * yy)));
}

/** 1-based ranks from the smallest value up; equal values share the mean of their places. */
function averageRanks(values: ArrayLike<number>): Float64Array {
  const order = Int32Array.from({ length: values.length }, (_, i) => i).sort((a, b) => values[a]! - values[b]!);
  const ranks = new Float64Array(values.length);
  for (let start = 0, end = 0; start < order.length; start = end) {
    while (end < order.length && values[order[end]!] === values[order[start]!]) end++;
    for (let i = start; i < end; i++) ranks[order[i]!] = (start + 1 + end) / 2;
  }
  return ranks;
}

/**
 * Share of the k first entries that two ranked lists have in common: |first k of a ∩ first k of b| / k, where k is at most the length of the
 * longer list, so that equal lists give 1 and an entry that the other list lacks counts as missed.
 *
 * @returns a number in [0, 1]; NaN if both lists are empty
 */
export function overlap(a: readonly number[], b: readonly number[], k: number): number {
  const depth = Math.min(k, Math.max(a.length, b.length));
  const first = new Set(a.slice(0, depth));
  return b.slice(0, depth).filter((feature) => first.has(feature)).length / depth;
}

/**
 * Ranks the features of one site and compares train with test.
 *
 * Importance is Σ_i |effect_i| over the features, without the error; the error's share stands beside it, |error| / (|error| + importance), both
 * being means over the pairs.
 *
 * @param top how many features are listed per split; the other numbers count all of them
 */
export function rankSite(
  site: SiteName,
  effects: Readonly<Partial<Record<Split, FeatureEffects>>>,
  top: number,
): SiteRanking {
  const { train, test } = effects;
  const splits: SiteRanking["splits"] = {};
  if (train) splits.train = rankSplit(train, top);
  if (test) splits.test = rankSplit(test, top);
  return { site, splits, train_test: train && test ? compareSplits(train, test) : null };
}

const noSpread = { by_words: null, by_pairs: null, ranks: null, in_top_10: null } as const;

/** A site's ranking with how much it would change with other words. */
export function withSpread(site: SiteRanking, spreads: readonly (SplitSpread | null)[]): SiteRanking {
  const of = (split: Split) => spreads.find((spread) => spread?.split === split) ?? null;
  const splits: SiteRanking["splits"] = { ...site.splits };
  for (const split of ["train", "test"] as const) {
    const [ranked, spread] = [splits[split], of(split)];
    if (!ranked || !spread) continue;
    const top = ranked.top.map((row, i) => ({ ...row, ...(spread.features[i] ?? noSpread) }));
    splits[split] = { ...ranked, stability_10: spread.stability_10, top };
  }
  if (site.train_test === null) return { ...site, splits };
  const { overlap_10, overlap_50 } = site.train_test;
  const [ten, fifty] = overlapSpread(of("train"), of("test"), [overlap_10, overlap_50]);
  const train_test = { ...site.train_test, overlap_10_by_words: ten!, overlap_50_by_words: fifty! };
  return { ...site, splits, train_test };
}

/** A ranking with what its strongest features do when patched by themselves, on a sample of a split's pairs. */
export function withExact(ranking: Ranking, split: Split, pairs: number, sample: PatchedSample): Ranking {
  const found = new Map(sample.features.map((f) => [`${f.site}/${f.feature}`, f]));
  return {
    ...ranking,
    exact: { split, pairs: sample.pairs, of: pairs, patches: sample.patches },
    sites: ranking.sites.map((site) => {
      const ranked = site.splits[split];
      if (!ranked) return site;
      const top = ranked.top.map((row) => {
        const one = found.get(`${site.site}/${row.feature}`);
        if (!one) return row;
        const { exact: effect, method, firstOrder: first_order, secant } = one;
        return { ...row, exact: { effect, method, first_order, secant } };
      });
      return { ...site, splits: { ...site.splits, [split]: { ...ranked, top } } };
    }),
  };
}

/** What stands beside a method's own effects of the strongest features, besides the exact ones: what they are first-order and secant. */
export function kindsBeside(method: string): readonly ("first_order" | "secant")[] {
  const own = method === "analytic" ? "first_order" : method;
  return (["first_order", "secant"] as const).filter((kind) => kind !== own);
}

/** How far a method's effects are from the exact ones, over the features that were patched by themselves; both on the same pairs. */
export interface ExactMiss {
  /** Σ|effect − exact| / Σ|exact|; null if no patch moves the metric. */
  readonly distance: number | null;
  /** The feature furthest off, in logits. */
  readonly worst: {
    readonly site: SiteName;
    readonly feature: number;
    readonly effect: number;
    readonly exact: number;
  };
}

/** What a ranking's exact values say of its effects; null if no feature was patched. */
export function exactMiss({ sites, exact }: Ranking): ExactMiss | null {
  const rows = sites.flatMap(({ site, splits }) => {
    const top = exact === null ? [] : (splits[exact.split]?.top ?? []);
    return top.flatMap((row) =>
      row.exact === null ? [] : [{ site, feature: row.feature, effect: row.exact.method, exact: row.exact.effect }],
    );
  });
  if (rows.length === 0) return null;
  const miss = (row: ExactMiss["worst"]) => Math.abs(row.effect - row.exact);
  const size = rows.reduce((sum, row) => sum + Math.abs(row.exact), 0);
  return {
    distance: size === 0 ? null : rows.reduce((sum, row) => sum + miss(row), 0) / size,
    worst: rows.reduce((a, b) => (miss(b) > miss(a) ? b : a)),
  };
}

function rankSplit({ feature, effect, nodesActive, error, change, leftOut }: FeatureEffects, top: number) {
  let [importance, sum] = [0, error ?? 0];
  for (let i = 0; i < effect.length; i++) {
    importance += Math.abs(effect[i]!);
    sum += effect[i]!;
  }
  const listed = [...rankOrder(feature, effect).subarray(0, top)];
  return {
    importance,
    error,
    error_share: error === null ? null : shareOf(Math.abs(error), importance),
    // −0 is 0.
    explained: change ? sum / change + 0 : null,
    left_out: leftOut ?? null,
    features: feature.length,
    stability_10: null,
    top: listed.map((row, i) => ({
      rank: i + 1,
      feature: feature[row]!,
      effect: effect[row]!,
      nodes_active: nodesActive[row]!,
      exact: null,
      ...noSpread,
    })),
  };
}

function compareSplits(train: FeatureEffects, test: FeatureEffects): z.infer<typeof agreement> {
  const rowInTest = new Map(Array.from(test.feature, (feature, row) => [feature, row]));
  const both = Array.from(train.feature, (feature, row) => [row, rowInTest.get(feature)] as const).filter(
    (pair): pair is readonly [number, number] => pair[1] !== undefined,
  );
  const ranked = (of: FeatureEffects) => [...rankOrder(of.feature, of.effect)].map((row) => of.feature[row]!);
  const [a, b] = [ranked(train), ranked(test)];
  return {
    features: both.length,
    spearman: defined(
      spearman(
        both.map(([row]) => train.effect[row]!),
        both.map(([, row]) => test.effect[row]!),
      ),
    ),
    overlap_10: defined(overlap(a, b, overlapDepths.overlap_10)),
    overlap_50: defined(overlap(a, b, overlapDepths.overlap_50)),
    overlap_10_by_words: null,
    overlap_50_by_words: null,
  };
}

/**
 * Puts the sites of a run together, in the order of computation, and tells the importance of each layer. `embed` comes before the first layer and
 * belongs to none.
 *
 * @param change mean of m(patch) − m(clean) over the pairs of each split, in logits; empty for scores
 * @param words of each split that the sites' intervals are over
 * @param words_shared how many of them both splits have
 */
export function rankRun(
  score: Score,
  top: number,
  sites: readonly SiteRanking[],
  change: Ranking["change"] = {},
  words: Ranking["words"] = {},
  words_shared: Ranking["words_shared"] = null,
): Ranking {
  const ordered = sites.toSorted((a, b) => compareSites(a.site, b.site));
  const layerOf = ({ site }: SiteRanking) => (site === "embed" ? null : parseSite(site).layer);
  const layers = [...new Set(ordered.map(layerOf))].filter((layer) => layer !== null);
  return {
    score,
    top,
    change,
    exact: null,
    words,
    words_shared,
    sites: ordered,
    layers: layers.map((layer) => ({
      layer,
      splits: sumLayer(separate(ordered.filter((site) => layerOf(site) === layer))),
    })),
  };
}

/**
 * Sites of a layer of which none is part of another, so that no effect counts twice: its residual stream, which holds what attention and MLP add to
 * it; else what they add, before the output matrix only where that is all there is.
 */
function separate(sites: readonly SiteRanking[]): readonly SiteRanking[] {
  const of = (wanted: SiteKind) => sites.filter(({ site }) => parseSite(site).kind === wanted);
  const stream = of("resid_post");
  if (stream.length > 0) return stream;
  const either = (wanted: SiteKind, before: SiteKind) => (of(wanted).length > 0 ? of(wanted) : of(before));
  return [...either("attn_out", "attn_z"), ...either("mlp_out", "mlp_act")];
}

function sumLayer(sites: readonly SiteRanking[]): Ranking["layers"][number]["splits"] {
  const splits: Ranking["layers"][number]["splits"] = {};
  for (const split of ["train", "test"] as const) {
    const members = sites.flatMap((site) => site.splits[split] ?? []);
    if (members.length === 0) continue;
    const importance = members.reduce((sum, member) => sum + member.importance, 0);
    const errors = members.flatMap(({ error }) => (error === null ? [] : [Math.abs(error)]));
    const error = errors.reduce((sum, value) => sum + value, 0);
    splits[split] = { importance, error_share: errors.length === 0 ? null : shareOf(error, importance) };
  }
  return splits;
}

const shareOf = (part: number, rest: number): number | null => (part + rest === 0 ? null : part / (part + rest));
const defined = (value: number): number | null => (Number.isNaN(value) ? null : value);
