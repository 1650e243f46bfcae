import { groupPairs, type Split, type TokenPair } from "../prompts/pairs.ts";
import type { SiteName } from "../site.ts";

/** What a run checks of its own numbers. */
export interface Check {
  readonly name: string;
  /** The site at which it was made; null for a check of the whole run. */
  readonly site: SiteName | null;
  /** The largest absolute difference found. */
  readonly gap: number;
  /** What the gap is measured against. */
  readonly scale: number;
  readonly tolerance: number;
  /** Whether gap ≤ tolerance · scale. */
  readonly passed: boolean;
}

/** A check's line: passed if gap ≤ tolerance · scale. A gap or scale that is not finite does not pass. */
export function check(name: string, site: SiteName | null, gap: number, scale: number, tolerance: number): Check {
  const passed = gap <= tolerance * scale && Number.isFinite(scale);
  const finite = (value: number, otherwise: number) => (Number.isFinite(value) ? value : otherwise);
  return { name, site, gap: finite(gap, Number.MAX_VALUE), scale: finite(scale, 0), tolerance, passed };
}

/** What a model gets right of the pairs of a split and case. */
export interface CaseAccuracy {
  readonly split: Split;
  readonly case: string;
  readonly pairs: number;
  /** Pairs whose clean answer has the larger logit at the clean prompt. */
  readonly correct: number;
  /** correct / pairs */
  readonly accuracy: number;
}

/**
 * What a model gets right, by split and case in the order in which they come.
 *
 * @param metric m at the clean prompt of pair i, in logits: below 0 where the clean answer wins
 */
export function accuracyOf(pairs: readonly TokenPair[], metric: (i: number) => number): CaseAccuracy[] {
  return groupPairs(pairs.map(({ pair }) => pair)).map(({ split, case: name, members }) => {
    const correct = members.filter((i) => metric(i) < 0).length;
    return { split, case: name, pairs: members.length, correct, accuracy: correct / members.length };
  });
}

/** Share of a site's variance from which on effects there are the error's as much as the features'. */
const poorFit = 0.5;

/** What to say where SAEs leave much of the variance of the run's own prompts unexplained; undefined where they do not. */
export function poorFitLine(unexplained: Readonly<Record<SiteName, number | null>>): string | undefined {
  const poor = Object.entries(unexplained).flatMap(([site, share]) =>
    share !== null && share > poorFit ? [{ site, share }] : [],
  );
  if (poor.length === 0) return undefined;
  const worst = poor.reduce((a, b) => (b.share > a.share ? b : a));
  const of = Object.keys(unexplained).length;
  const few =
    worst.share > 1
      ? " Above 100 % their mean would fit better; with few prompts, which vary little, that says little."
      : "";
  return `SAEs leave more than half of the variance of these prompts' activations unexplained at ${poor.length} of ${of} sites (most: ${percent(worst.share)} at ${worst.site}): what they call features is the lesser part there.${few}`;
}

/** What to say where effects of the strongest features are far from what patching them does; undefined where they are not. */
export function poorEffectsLine(distance: number | null): string | undefined {
  if (distance === null || distance <= 1) return undefined;
  return `Effects of the strongest features miss what patching them alone does by more than its own size (Σ|effect − exact| is ${percent(distance)} of Σ|exact|): take their order, not their sizes, or --method exact.`;
}

const percent = (share: number) => `${Math.round(100 * share)} %`;
