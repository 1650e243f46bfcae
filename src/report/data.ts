import type { Ablation } from "../circuit/meaning.ts";
import type { ExactMiss, Score } from "../circuit/ranking.ts";
import type { Interval } from "../interventions/clusters.ts";
import type { FeatureSpread } from "../interventions/spread.ts";
import type { Split } from "../prompts/pairs.ts";
import type { SiteName } from "../site.ts";
import type { FeatureCards } from "./cards.ts";
import type { ReportCircuit, ReportEvaluation } from "./circuit.ts";

/**
 * Everything that a report shows, ready to draw: small enough to live inside one HTML file (a few MB at most), and nothing in it has to be
 * computed from the model again. Long lists are cut off; `limits` says where.
 *
 * Sign: m = logit(patch answer) − logit(clean answer). A positive effect moves the model to the patch answer.
 */
export interface ReportData {
  readonly format: 1;
  readonly run: ReportRun;
  /** One line each, for the reader of the report: low accuracy, dummy dictionaries, a missing test split. */
  readonly warnings: readonly string[];
  /** By split and case, in the order of the pairs file. */
  readonly accuracy: readonly CaseAccuracy[];
  readonly checks: readonly ReportCheck[];
  /** By split and site, in the order of computation. */
  readonly importance: readonly SiteImportance[];
  /** By split, case and site; `case: ""` is all cases together. */
  readonly features: readonly TopFeatures[];
  /** Mean of m(patch) − m(clean) over the pairs of each split, in logits; none for scores. */
  readonly change: Readonly<Partial<Record<Split, number>>>;
  /** By site, the share of the variance of its activations on these prompts that its SAE leaves unexplained; empty where it was not measured. */
  readonly unexplained: Readonly<Record<SiteName, number>>;
  /** Words of each split that intervals are over; with fewer than five there are none. Empty for scores. */
  readonly words: Readonly<Partial<Record<Split, number>>>;
  /** How many words train and test have in common; null where that is not known. */
  readonly wordsShared: number | null;
  /** How the strongest features were patched by themselves; null where none was. */
  readonly exact: ExactSample | null;
  /** By site; empty without a test split. */
  readonly agreement: readonly SiteAgreement[];
  /** Prompts for the map of tokens × layers; empty for scores that are not kept per token. */
  readonly examples: readonly ReportExample[];
  /** The top features of every site with the tokens that drive them; empty for scores that are not kept per token. */
  readonly drivers: readonly FeatureDrivers[];
  /** What single features stand for, where it was measured (`ablation.json` in the run's folder). */
  readonly meaning: Ablation | null;
  /**
   * What is known of each feature that the run names (`feature-cards.json` in the run's folder); null in runs of before. A card's neighbours in the
   * circuit are those of `circuit`, see `flowAt`.
   */
  readonly cards: FeatureCards | null;
  /** The graph of the circuit, where `sfc circuit` made one. */
  readonly circuit: ReportCircuit | null;
  /** What circuits of the run's features are worth, where `sfc evaluate` measured it. */
  readonly evaluation: ReportEvaluation | null;
  readonly limits: ReportLimits;
}

/** What was run, by what, and what it cost. */
export interface ReportRun {
  readonly model: ReportModel;
  readonly dictionaries: ReportDictionaries;
  readonly task: string;
  readonly method: string;
  readonly score: Score;
  readonly command: string;
  readonly seed: number;
  /** `finished`, or what the run's folder says of itself. */
  readonly status: string;
  /** Name and version of everything that took part, e.g. `analytic-sfc` and `onnxruntime-node`. */
  readonly versions: readonly Named<string>[];
  /** The options that the run was started with, as text. */
  readonly options: readonly Named<string>[];
  /** What was counted along the way, e.g. tokens and forest nodes. */
  readonly counts: readonly Named<number>[];
  readonly phases: readonly { readonly name: string; readonly seconds: number }[];
  /** Largest resident memory of the process, in bytes; null if it was not measured. */
  readonly peakBytes: number | null;
}

/** A value under a name, in the order in which it is shown. */
export interface Named<T> {
  readonly name: string;
  readonly value: T;
}

export interface ReportModel {
  readonly name: string;
  /** Fingerprint of the weights; null if unknown. */
  readonly sha256: string | null;
}

export interface ReportDictionaries {
  readonly name: string;
  /** Random unit directions in place of trained features: the numbers then mean nothing. */
  readonly dummy: boolean;
  readonly sha256: string | null;
}

/** How often, and by how much, the model prefers the clean answer. */
export interface CaseAccuracy {
  readonly split: Split;
  readonly case: string;
  readonly pairs: number;
  /** Share of pairs with m < 0 at the clean prompt, in [0, 1]. */
  readonly accuracy: number;
  /** Mean of m over the pairs at the clean and at the patch prompt, in logits; null where the patch prompt was not run. */
  readonly cleanMean: number;
  readonly patchMean: number | null;
}

/** One line of the run's checks: |gap| ≤ tolerance · scale. */
export interface ReportCheck {
  readonly name: string;
  /** Empty for checks of the whole model. */
  readonly site: SiteName | "";
  readonly gap: number;
  readonly scale: number;
  readonly tolerance: number;
  readonly passed: boolean;
}

/** How much of the behaviour runs through a site. */
export interface SiteImportance {
  readonly split: Split;
  readonly site: SiteName;
  /** Σ_i |effect_i| over features, without the error; in the score's unit, per pair. */
  readonly importance: number;
  /** |error| / (importance + |error|), in [0, 1]; null where there is no error term. */
  readonly errorShare: number | null;
  /** (Σ effect + error) / mean of m(patch) − m(clean), signed: what the site's effects account for; null for scores. */
  readonly explained: number | null;
  /** Share of Σ|effect| at BOS and padding, which nothing else here counts; null where it is not known. */
  readonly leftOut: number | null;
}

/** The sample of pairs on which features were patched by themselves, and how far the method is from that. */
export interface ExactSample extends ExactMiss {
  readonly split: Split;
  readonly pairs: number;
  /** Pairs of the split. */
  readonly of: number;
}

/** The strongest features of a site by |effect|, as columns of equal length. */
export interface TopFeatures {
  readonly split: Split;
  readonly case: string;
  readonly site: SiteName;
  readonly feature: readonly number[];
  /** Mean per pair, signed. */
  readonly effect: readonly number[];
  /** Forest nodes at which the feature has a row. */
  readonly nodes: readonly number[];
  /** The error term's effect, mean per pair; null where there is none. */
  readonly error: number | null;
  /** What a feature does when patched by itself, on the pairs of `ReportData.exact`, mean per pair; null where it was not patched. */
  readonly exact: readonly (number | null)[];
  /** What it is first-order and secant on the same pairs, whichever the run's method is not; null where that was not measured. */
  readonly beside: readonly { readonly kind: "first-order" | "secant"; readonly effect: readonly (number | null)[] }[];
  /** How much effect and rank would change with other words; null where that is not known, as of a single case. */
  readonly spread: readonly (FeatureSpread | null)[];
  /** Mean Jaccard overlap of the ten strongest with those of draws of words; null likewise. */
  readonly stability10: number | null;
}

/** Train against test at one site; points as columns of equal length, the strongest first. */
export interface SiteAgreement {
  readonly site: SiteName;
  /** Rank correlation of the signed effects over features present in both splits; null for fewer than two. */
  readonly spearman: number | null;
  /** Number of features present in both splits. */
  readonly both: number;
  /** Share of the strongest 10 (and 50) features of one split that are among those of the other, in [0, 1]. */
  readonly overlap10: number | null;
  readonly overlap50: number | null;
  /** Their 95 % intervals over other words; null where there are too few words, and for scores. */
  readonly overlap10ByWords: Interval | null;
  readonly overlap50ByWords: Interval | null;
  readonly feature: readonly number[];
  readonly train: readonly number[];
  readonly test: readonly number[];
}

/** One pair's prompts with the effect of every site at every token. */
export interface ReportExample {
  readonly split: Split;
  readonly case: string;
  readonly prompt: ReportPrompt;
  readonly cleanAnswer: string;
  readonly patchAnswer: string;
  readonly cleanMetric: number;
  readonly patchMetric: number | null;
  /** Per site one number per token, mean over the pairs that share the prefix: Σ over features, and the error; and the strongest features there. */
  readonly sites: readonly {
    readonly site: SiteName;
    readonly features: readonly number[];
    readonly error: readonly number[];
    readonly top: readonly { readonly feature: readonly number[]; readonly effect: readonly number[] }[];
  }[];
}

/** Tokens as text. `patch` has the patch prompt's token where it differs from the clean one, else null. */
export interface ReportPrompt {
  readonly clean: readonly string[];
  readonly patch: readonly (string | null)[];
}

/** The tokens at which one feature has its largest effects. */
export interface FeatureDrivers {
  readonly site: SiteName;
  readonly feature: number;
  /** Mean per pair over all cases of the split that the ranking is from, signed. */
  readonly effect: number;
  /** What it does when patched by itself, mean per pair of `ReportData.exact`; null where it was not patched. */
  readonly exact: number | null;
  /** Strongest first; each with another token. */
  readonly contexts: readonly DriverContext[];
}

/** One token in one prompt. */
export interface DriverContext {
  readonly split: Split;
  readonly case: string;
  readonly prompt: ReportPrompt;
  /** Index of the driving token in `prompt`. */
  readonly position: number;
  /** The feature's code at the clean and at the patch prefix; null where the patch prompt was not run. */
  readonly codeClean: number;
  readonly codePatch: number | null;
  /** Mean over the pairs that share this prefix, in logits. */
  readonly effect: number;
  /** Number of pairs that share this prefix. */
  readonly pairs: number;
}

/** Where lists are cut off; what is left out is in the run's folder. */
export interface ReportLimits {
  /** Features per split, case and site. */
  readonly features: number;
  /** Points per scatter plot. */
  readonly points: number;
  readonly examples: number;
  /** Features per site for which driving tokens are kept, and tokens per feature. */
  readonly drivers: number;
  readonly contexts: number;
  /** Edges of the circuit's graph, the strongest. */
  readonly edges: number;
  /** Cards of features, those of the largest |effect|. */
  readonly cards: number;
}

/** The limits that `sfc report` uses; a run with 100 sites and 12 cases then makes about 3 MB. */
export const reportLimits: ReportLimits = {
  features: 20,
  points: 150,
  examples: 24,
  drivers: 5,
  contexts: 6,
  edges: 20_000,
  cards: 500,
};
