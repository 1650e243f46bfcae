import { type EstimateResult, estimateStep } from "../analysis/estimate.ts";
import type { JobOptions } from "../analysis/options.ts";
import { dictionaryWarnings, usablePairs } from "../analysis/pairs.ts";
import { silent } from "../hub/pull.ts";
import { openJob } from "../open/open.ts";
import type { Reporter } from "../progress.ts";
import { thisMachine } from "../storage/machine.ts";

export interface EstimateRequest {
  readonly options: JobOptions;
}

/** Estimates a run without reading any weights (`sfc estimate`). @throws UserError for bad input */
export async function estimate({ options }: EstimateRequest, reporter: Reporter): Promise<EstimateResult> {
  reporter.begin("estimate", 1);
  const cached = { ...silent, cachedOnly: true };
  await using opened = await openJob(options, cached, { patchless: options.score !== "effect" });
  const { dictionaries } = opened;
  for (const warning of opened.warnings) reporter.line(warning);
  const { kept } = usablePairs(opened.source, opened, options, reporter);
  for (const warning of dictionaryWarnings(dictionaries, kept, opened.tokenizer)) reporter.line(warning);
  const result = await estimateStep(opened, dictionaries, kept, options, thisMachine);
  reporter.end();
  return result;
}
