import { setImmediate as turn } from "node:timers/promises";
import { type MethodRun, measureStep } from "../analysis/compare-measure.ts";
import type { WorkOptions } from "../analysis/options.ts";
import { usablePairs } from "../analysis/pairs.ts";
import type { MethodInput } from "../effects/method.ts";
import type { Device } from "../graph/runtime.ts";
import { silent } from "../hub/pull.ts";
import { heldWeights, loadedModel, streamedWeights } from "../models/weights.ts";
import { openJob } from "../open/open.ts";
import type { Reporter } from "../progress.ts";
import { writeMethodResult } from "../results/method-result.ts";
import { type FileState, InputFiles } from "../storage/input-files.ts";
import { processMeter } from "../storage/resident.ts";

/** What a method is to do, and where its results go. */
export interface MethodRequest extends MethodRun {
  readonly options: WorkOptions;
  readonly weights: "held" | "streamed";
  /** The folder for its results. */
  readonly folder: string;
  /** How the files that it reads were when they were hashed. */
  readonly inputs: readonly (readonly [path: string, state: FileState])[];
}

/** The work of a method that takes long, told before it begins. */
export type Work = Parameters<NonNullable<MethodInput["onWork"]>>[0];

/**
 * Runs a method and measures what it takes; then writes `features.parquet` and `result.json` into its folder. It is alone in its process, which has
 * loaded neither the database nor anything else that the method does not need.
 *
 * @throws UserError for bad input; StoppedError if asked to stop
 */
export async function measureMethod(
  { options, weights: where, folder, inputs, ...run }: MethodRequest,
  reporter: Reporter,
  onWork: (work: Work) => void,
): Promise<void> {
  reporter.begin("reading", 1);
  await using opened = await openJob(options, { ...silent, cachedOnly: true });
  const { kept: pairs } = usablePairs(opened.source, opened, options, reporter);
  const { model, checkpoint, tokenizer, dictionaries } = opened;
  const began = performance.now();
  const weights =
    where === "held" ? await heldWeights(model, checkpoint, options.precision) : streamedWeights(checkpoint);
  const loading = (performance.now() - began) / 1000;
  const loaded = loadedModel(model, weights, { dtype: options.precision, device: options.device as Device });
  const input = { loaded, tokenizer, dictionaries, pairs };
  const measured = await measureStep(input, run, processMeter, reporter, { onWork, afterSite: () => turn() });
  reporter.begin("writing", 1);
  new InputFiles(inputs).check();
  await writeMethodResult(folder, pairs, measured, loading);
  reporter.end();
}
