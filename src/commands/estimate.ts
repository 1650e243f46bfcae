import { type EstimateResult, estimateStep } from "../analysis/estimate.ts";
import type { JobOptions } from "../analysis/options.ts";
import { dictionaryWarnings, usablePairs } from "../analysis/pairs.ts";
import { assumedGflops } from "../analysis/rates.ts";
import { messageOf } from "../errors.ts";
import type { Device } from "../graph/runtime.ts";
import { silent } from "../hub/pull.ts";
import { checkRuntime } from "../open/device.ts";
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
  const missing = await missingDevice(options.device as Device, reporter);
  const machine = { ...thisMachine, lacksDevice: missing !== undefined };
  const result = await estimateStep(opened, dictionaries, kept, options, machine, reporter);
  if (missing !== undefined) reporter.line(`${missing} The time is told for ${assumedGflops} GFLOP/s.`);
  reporter.end();
  return result;
}

/** Why this machine cannot use the device, which is no error here: the run may be one for another machine. */
async function missingDevice(device: Device, reporter: Reporter): Promise<string | undefined> {
  return device === "cpu" ? undefined : await checkRuntime(device, reporter).then(() => undefined, messageOf);
}
