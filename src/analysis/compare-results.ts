import { z } from "zod";
import {
  joined,
  likenessOf,
  type PairedEffects,
  relativeError,
  relativeGap,
  type SiteMeans,
  setSideBySide,
  sharedStrongest,
  strongestFeatures,
  strongestOf,
} from "../circuit/likeness.ts";
import type { ComparedMethod, Comparison } from "../report/comparison.ts";
import { parseSite, type SiteName } from "../site.ts";
import { mean, median } from "../stats.ts";
import type { MethodSpec } from "./compare-methods.ts";
import { likenessSpread, type MethodWords } from "./compare-spread.ts";

const numbers = z.array(z.number());

/** What a method found and took: also its checkpoint while a comparison is unfinished. */
export const methodResultSchema = z.strictObject({
  seconds: z.number(),
  loading_seconds: z.number(),
  loaded_bytes: z.int(),
  peak_bytes: z.int(),
  /** Whether the peak counts from when the model was loaded, not from the beginning of the process. */
  peak_above_loaded: z.boolean(),
  rows: z.int(),
  /** The words that pairs share: how many, and the pairs of each (of each group of words, where there are more than 64). */
  words: z.strictObject({ count: z.int(), pairs: numbers }).optional(),
  /** The metric at each pair's prompts, in logits. */
  m_clean: numbers,
  m_patch: numbers,
  sites: z.array(
    z.strictObject({
      site: z.string(),
      /** The features and their effects, means over all pairs, BOS, padding and the error left out. */
      feature: numbers,
      effect: numbers,
      /** Σ of all effects, BOS, padding and the error included: the mean over the pairs, and each pair's where they were kept apart. */
      sum: z.number(),
      pair_sums: numbers.nullable(),
      /** The strongest features' sums over the pairs of each word [features][words]. */
      by_word: z.strictObject({ feature: numbers, sums: z.array(numbers) }).optional(),
    }),
  ),
});

export type MethodResult = z.infer<typeof methodResultSchema>;

/** Features to patch: by site, or the so many strongest of `analytic` at each; null for all. */
export type FeatureChoice = readonly (readonly [SiteName, readonly number[]])[] | number | null;

/** A method with what it found. */
export interface MeasuredMethod {
  readonly spec: MethodSpec;
  readonly result: MethodResult;
}

/** The part of a comparison that follows from what the methods found. */
export type Findings = Pick<
  Comparison,
  "accuracy" | "words" | "methods" | "agreement" | "scatter" | "sums" | "exactness" | "warnings"
>;

/** Features in the scatter plot of two methods. */
const plotted = 300;
/** The site that stands for all of them together. */
const allSites = "";
/** Accuracy below which a behaviour is hardly one. */
const fairAccuracy = 0.8;

/**
 * Sets methods side by side.
 *
 * @param measured in the order in which they were named, on the same sites and pairs
 * @param top the features that `exact` patched are the so many strongest per site; null: all
 */
export function findingsOf(measured: readonly MeasuredMethod[], top: number | null): Findings {
  const pairs = measured.flatMap((a, i) => measured.slice(i + 1).map((b) => [a, b] as const));
  const sides = pairs.map(([a, b]) => ({ a, b, sites: besideEachOther(a, b) }));
  const { m_clean } = measured[0]!.result;
  const accuracy = m_clean.filter((m) => m < 0).length / m_clean.length;
  return {
    accuracy,
    words: measured[0]!.result.words?.count ?? null,
    methods: measured.map(describe),
    agreement: sides.flatMap(({ a, b, sites }) =>
      withAll(sites).map(([site, effects]) => {
        const spread = site === allSites ? likenessSpread(effects, wordsOfMethod(a), wordsOfMethod(b)) : null;
        return {
          a: a.spec.name,
          b: b.spec.name,
          site,
          ...likenessOf(effects),
          top_10: sharedStrongest(effects, 10),
          top_50: sharedStrongest(effects, 50),
          top_100: sharedStrongest(effects, 100),
          pearson_by_words: spread?.pearson ?? null,
          top_10_by_words: spread?.top_10 ?? null,
          top_50_by_words: spread?.top_50 ?? null,
          top_100_by_words: spread?.top_100 ?? null,
        };
      }),
    ),
    scatter: sides.map(({ a, b, sites }) => ({
      a: a.spec.name,
      b: b.spec.name,
      ...mutable(strongestOf(joined(sites.map(([, effects]) => effects)), plotted)),
    })),
    sums: measured.filter(({ spec }) => !(isExact(spec) && top !== null)).flatMap(sumsOf),
    exactness: measured.filter(({ spec }) => isExact(spec)).flatMap((exact) => exactnessOf(measured, exact)),
    warnings: warningsOf(measured, accuracy),
  };
}

/**
 * The features that `exact` patches at each site: those among the `top` strongest of any of the other methods. A number, if there is no other method:
 * then they are the strongest of `analytic`, which exact finds out itself.
 */
export function featuresToPatch(others: readonly MethodResult[], top: number | null): FeatureChoice {
  if (top === null) return null;
  if (others.length === 0) return top;
  return others[0]!.sites.map(({ site }) => [
    site,
    strongestFeatures(
      others.map((result) => at(result, site)),
      top,
    ),
  ]);
}

/** What a method kept of its words; undefined if it kept nothing. */
function wordsOfMethod({ result: { words, sites } }: MeasuredMethod): MethodWords | undefined {
  return (
    words && { ...words, sites: new Map(sites.flatMap(({ site, by_word }) => (by_word ? [[site, by_word]] : []))) }
  );
}

const isExact = ({ method }: MethodSpec) => method === "exact";

const at = ({ sites }: MethodResult, site: SiteName): MethodResult["sites"][number] => {
  const found = sites.find((of) => of.site === site);
  if (!found) throw new Error(`internal: a method has no effects at ${site}`);
  return found;
};

/** Effects by two methods at each site. Beside exact only what it patched counts: of other features it knows nothing. */
function besideEachOther(a: MeasuredMethod, b: MeasuredMethod): (readonly [SiteName, PairedEffects])[] {
  return a.result.sites.map((of) => {
    const other = at(b.result, of.site);
    if (isExact(a.spec)) return [of.site, swapped(setSideBySide(other, of, "second"))];
    return [of.site, setSideBySide(of, other, isExact(b.spec) ? "second" : "either")];
  });
}

const swapped = ({ x, y, ...rest }: PairedEffects): PairedEffects => ({ ...rest, x: y, y: x });

/** All sites together, then each; with one site alone both say the same. */
function withAll(sites: readonly (readonly [SiteName, PairedEffects])[]): (readonly [string, PairedEffects])[] {
  return [[allSites, joined(sites.map(([, effects]) => effects))], ...sites];
}

const mutable = ({ site, feature, x, y }: PairedEffects) => ({
  site: [...site],
  feature: [...feature],
  x: [...x],
  y: [...y],
});

function describe({ spec, result }: MeasuredMethod): ComparedMethod {
  const { seconds, loading_seconds, loaded_bytes, peak_bytes, rows } = result;
  return { ...spec, seconds, loading_seconds, loaded_bytes, peak_bytes, above_bytes: peak_bytes - loaded_bytes, rows };
}

/** Where all positions of a site patched give m(patch) − m(clean): Σ of all effects beside it. */
function sumsOf({ spec, result }: MeasuredMethod): Comparison["sums"] {
  const { m_clean, m_patch } = result;
  const totals = m_clean.map((clean, pair) => m_patch[pair]! - clean);
  const total = mean(totals);
  return result.sites.filter(isWhole).map(({ site, sum, pair_sums }) => ({
    method: spec.name,
    site,
    sum,
    total,
    gap: relativeGap(sum, total),
    median_gap:
      pair_sums && median(pair_sums.map((of, pair) => relativeGap(of, totals[pair]!)).filter((gap) => gap !== null)),
  }));
}

function isWhole({ site }: SiteMeans): boolean {
  const { kind } = parseSite(site);
  return kind === "resid_post" || kind === "embed";
}

function exactnessOf(measured: readonly MeasuredMethod[], exact: MeasuredMethod): Comparison["exactness"] {
  return measured
    .filter((method) => method !== exact)
    .flatMap((method) =>
      withAll(besideEachOther(method, exact)).map(([site, effects]) => {
        const spread = site === allSites ? likenessSpread(effects, wordsOfMethod(method), wordsOfMethod(exact)) : null;
        return {
          method: method.spec.name,
          site,
          ...likenessOf(effects),
          error: relativeError(effects),
          pearson_by_words: spread?.pearson ?? null,
          error_by_words: spread?.error ?? null,
        };
      }),
    );
}

function warningsOf(measured: readonly MeasuredMethod[], accuracy: number): string[] {
  const warnings: string[] = [];
  if (accuracy < fairAccuracy) {
    warnings.push(
      `The model gets ${(100 * accuracy).toFixed(0)} % of the pairs right: effects may not explain the behaviour.`,
    );
  }
  if (measured.some(({ result }) => !result.peak_above_loaded)) {
    warnings.push("Peak memory cannot be reset on this system, so peaks include loading the model.");
  }
  return warnings;
}
