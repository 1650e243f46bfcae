import type { Capture } from "../capture/capture.ts";
import type { Dictionary } from "../dictionaries/dictionary.ts";
import type { PrefixForest } from "../forest/forest.ts";
import type { LoadedModel } from "../models/weights.ts";
import type { Watch } from "../progress.ts";
import type { SiteName } from "../site.ts";
import type { KeptCodes } from "./kept-codes.ts";
import type { EffectRows } from "./rows.ts";

/**
 * The ways to compute effects (METHOD: "Node effects").
 *
 * - `analytic`: Δf·⟨g, d⟩ with g of the plain model; no SAE in any pass
 * - `analytic-ig`: the same with the mean gradient between the clean and the patch activation
 * - `sfc`: SAEs spliced into forward and backward at all sites, gradients straight through (arXiv:2403.19647)
 * - `sfc-ig`: SAEs spliced in at one site at a time, on the way from the clean to the patch codes
 * - `spliced`: SAEs at all sites with a detached error and no pass-through: gradients run through the encoders
 * - `secant`: the gradient through averages of each sublayer's Jacobian between its clean and its patch input: sums at residual sites are the metric's
 *   whole change
 * - `exact`: each feature of each node patched by itself, and the metric computed again
 */
export const methodNames = ["analytic", "analytic-ig", "sfc", "sfc-ig", "spliced", "secant", "exact"] as const;

export type MethodName = (typeof methodNames)[number];

/** What kind of number a method's effects are, as the end of a sentence that begins with "Effects are". */
export const effectKinds: Readonly<Record<MethodName, string>> = {
  analytic:
    "first-order: the slope at the clean prompt times the feature's change; what bends on the way to the patch prompt is missed",
  sfc: "first-order: the slope at the clean prompt times the feature's change; what bends on the way to the patch prompt is missed",
  spliced: "first-order, with gradients through the encoders of later SAEs: not the plain model's",
  "analytic-ig":
    "integrated gradients: the mean slope between clean and patch activations, all features moving together",
  "sfc-ig": "integrated gradients: the mean slope between clean and patch codes, all features moving together",
  secant:
    "secant: each sublayer's mean slope between its clean and its patch input, so that a residual site's effects and error add up to the whole change",
  exact: "exact: the metric's change when the feature alone takes its patch value, summed over nodes",
};

/** Whether a method takes the mean of gradients over steps from clean to patch. */
export const isIntegrated = (method: MethodName) => method === "analytic-ig" || method === "sfc-ig";

/** Whether passes of a method's own serve all sites at once, so that an interrupted one starts them over. */
export const hasOnePass = (method: MethodName) => method === "secant" || method === "sfc" || method === "spliced";

/** Whether a method takes gradients at several points. */
export const takesSteps = (method: MethodName) => isIntegrated(method) || method === "secant";

/** Where along the way from clean to patch gradients are taken, with K steps: at (k + ½)/K, or at k/K as the public code does. */
export const rules = ["midpoint", "left"] as const;

export type Rule = (typeof rules)[number];

/** Steps of the integrated methods. */
export const defaultSteps = 10;

/** What a method works on, and how. */
export interface MethodInput extends LoadedModel, Watch {
  readonly forest: PrefixForest;
  /** The sites, in order of computation. */
  readonly dictionaries: ReadonlyMap<SiteName, Dictionary>;
  /** Padded batches of so many pairs, as the field runs them, instead of the prefix forest: `forest` then has nothing merged. */
  readonly batch?: number;
  /** Steps of the integrated methods, 10 by default; points of `secant`, 4 by default, 8 with the site `embed`. */
  readonly steps?: number;
  /** `midpoint` by default. */
  readonly rule?: Rule;
  /** `exact`: the features to patch, by site; or the so many strongest of `analytic` at each site; by default all. */
  readonly features?: ReadonlyMap<SiteName, readonly number[]> | { readonly top: number };
  /** `exact`: whether the error is patched too; true by default. */
  readonly patchErrors?: boolean;
  /** Activations and gradients of the plain model, as `needsOf` says, where there are any already. */
  readonly captured?: Capture;
  /** Told m at the clean and at the patch prompt of each of the forest's ends, in logits, once they are known. */
  readonly onMetric?: (clean: Float64Array, patch: Float64Array) => void;
  /** Told the share of the variance of a site's activations that its SAE leaves unexplained (see `unexplainedShare`), where a method encodes them anyway. */
  readonly onFit?: (site: SiteName, unexplained: number | null) => void;
  /** Keeps the codes of the capture's activations, where a method encodes them, and gives those that are there. */
  readonly keptCodes?: KeptCodes;
  /** Told the work before it begins, where it is long (`exact`): metric evaluations, and floating-point operations. */
  readonly onWork?: (work: { readonly patches: number; readonly flops: number }) => void;
}

/** How well the effects at each node of a site add up: the largest |Σ effects − ⟨g, Δx⟩| / Σ|effects| over its nodes, and where. */
export interface SumCheck {
  readonly node: number;
  /** |Σ features + error − ⟨g, Δx⟩| there, in logits. */
  readonly gap: number;
  /** Σ |effects| there, the error's included, in logits. */
  readonly scale: number;
}

/** Effects at one site. */
export interface SiteEffects {
  readonly rows: EffectRows;
  /** Absent for methods that have no such sum. */
  readonly check?: SumCheck;
}

/** A method: effects site by site, each of the given sites once, in the order in which the method comes to them. */
export type Method = (given: MethodInput) => AsyncGenerator<SiteEffects>;
