import type { Dictionary } from "../dictionaries/dictionary.ts";
import { planFor } from "../effects/capture-for.ts";
import { wantedBy } from "../effects/dispatch.ts";
import type { Reporter } from "../progress.ts";
import type { TokenPair } from "../prompts/pairs.ts";
import type { Comparison } from "../report/comparison.ts";
import type { SiteName } from "../site.ts";
import { forestOf, type MethodRun } from "./compare-measure.ts";
import type { MethodSpec } from "./compare-methods.ts";
import { featuresToPatch, findingsOf, type MethodResult } from "./compare-results.ts";
import { checkFits, estimateRun, type Machine, type ModelFiles } from "./estimate.ts";
import type { CompareOptions } from "./options.ts";

/** What is known of a comparison before any method has run. */
export type ComparisonContext = Omit<Comparison, "status" | keyof typeof nothingFound>;

const nothingFound = {
  accuracy: null,
  words: null,
  methods: [],
  agreement: [],
  scatter: [],
  sums: [],
  exactness: [],
} satisfies Partial<Comparison>;

/** Where a comparison runs its methods and puts what they find: in a folder for `sfc compare`. */
export interface ComparisonPlaces {
  /** Takes what is known before any method has run; comes first. */
  begin(comparison: Comparison): Promise<void>;
  /** What a method that has finished left; null if it has not, or it is not whole any more. */
  stored(spec: MethodSpec): Promise<MethodResult | null>;
  /** Runs a method and keeps what it finds. @throws StoppedError if asked to stop */
  measure(run: MethodRun): Promise<MethodResult>;
  /** Takes the whole comparison. @throws UserError if a file that it was made of has changed meanwhile */
  finish(comparison: Comparison): Promise<void>;
}

/** Refuses methods that need more memory than there is. @throws UserError saying what to do instead */
export async function checkMethodsFit(
  specs: readonly MethodSpec[],
  { by_pair, ...options }: CompareOptions,
  files: ModelFiles,
  dictionaries: ReadonlyMap<SiteName, Dictionary>,
  pairs: readonly TokenPair[],
  machine: Machine,
): Promise<void> {
  for (const spec of specs) {
    const { method, batch, steps } = spec;
    const plan = planFor(
      { forest: forestOf(pairs, spec, by_pair), ...(batch !== null && { batch }) },
      wantedBy(method),
    );
    const work = { ...options, method, score: "effect", ...(steps !== null && { steps }) } as const;
    checkFits(await estimateRun(files, dictionaries, [plan], work, machine), [plan], method, machine);
  }
}

/**
 * Runs the methods that have not run yet, and sets all of them side by side. `exact` comes last: which features it patches may depend on the others.
 *
 * @param top the features that `exact` patches are the so many strongest per site of the others, or of `analytic` where there are none; null: all
 * @throws StoppedError if asked to stop, the methods that have finished stay in their places
 */
export async function compareStep(
  specs: readonly MethodSpec[],
  { top, byPair }: { readonly top: number | null; readonly byPair: boolean },
  context: ComparisonContext,
  places: ComparisonPlaces,
  reporter: Pick<Reporter, "begin">,
): Promise<Comparison> {
  await places.begin({ ...context, ...nothingFound, status: "running" });
  const results = new Map<string, MethodResult>();
  const isExact = ({ method }: MethodSpec) => method === "exact";
  for (const spec of [...specs.filter((of) => !isExact(of)), ...specs.filter(isExact)]) {
    const features = isExact(spec) ? featuresToPatch([...results.values()], top) : null;
    results.set(spec.name, (await places.stored(spec)) ?? (await places.measure({ spec, byPair, features })));
  }
  reporter.begin("comparing", 1);
  const findings = findingsOf(
    specs.map((spec) => ({ spec, result: results.get(spec.name)! })),
    top,
  );
  const warnings = [...context.warnings, ...findings.warnings];
  const comparison: Comparison = { ...context, ...findings, status: "finished", warnings };
  await places.finish(comparison);
  return comparison;
}
