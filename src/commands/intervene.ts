import { prefixForest } from "../forest/forest.ts";
import { intervene as changeFeatures, type NextToken } from "../interventions/intervene.ts";
import { type InterventionTexts, readInterventions } from "../interventions/read-interventions.ts";
import type { Reporter } from "../progress.ts";
import type { InterventionResult } from "../report/intervention-text.ts";
import { openRun, pairsOfCases } from "./open-run.ts";

/** What `sfc evaluate` is asked with features to change. */
export interface InterveneRequest extends InterventionTexts {
  /** The folder of a finished run. */
  readonly run: string;
  /** Cases that are looked at; null for all. */
  readonly cases: readonly string[] | null;
}

/**
 * Changes features of a run's SAEs, at the clean prompts of its pairs, and reads the metric and the next token (`sfc evaluate --ablate`, `--scale`,
 * `--set`). Nothing is written.
 *
 * @throws UserError for bad input; StoppedError if asked to stop
 */
export async function intervene(request: InterveneRequest, reporter: Reporter): Promise<InterventionResult> {
  const { run, cases } = request;
  await using open = await openRun(run, { sites: null, layers: null }, reporter);
  const { loaded, dictionaries, opened } = open;
  const interventions = readInterventions(request, loaded.model, dictionaries);
  const pairs = pairsOfCases(open, cases);
  const { tokenizer } = opened;
  const forest = prefixForest(pairs);
  reporter.begin("interventions", 1);
  const found = await changeFeatures({ loaded, forest, dictionaries, outside: tokenizer.outside }, interventions, {
    stopped: reporter.stopped,
    onProgress: (done, total) => reporter.set(done, total),
  });
  opened.inputs.check();
  reporter.end();
  const withText = (next: readonly NextToken[]) => next.map((one) => ({ ...one, text: tokenizer.token(one.token) }));
  return {
    run,
    interventions,
    groups: found.groups.map((group) => ({ ...group, next: withText(group.next) })),
    pairs: pairs.map(({ pair: { split, case: name, clean_prefix, clean_answer, patch_answer } }, p) => {
      const end = forest.endIndexOfPair[p]!;
      return {
        split,
        case: name,
        clean_prefix,
        clean_answer,
        patch_answer,
        before: found.before[end]!,
        after: found.after[end]!,
        next: withText(found.next[end]!),
      };
    }),
  };
}
