import { heldDictionary } from "../dictionaries/held.ts";
import { closeDictionaries } from "../dictionaries/open.ts";
import { keptSessions } from "../graph/kept-sessions.ts";
import type { KeptSessions } from "../graph/runtime.ts";
import type { Answer } from "../jobs/serve.ts";
import { answerLive, type OpenLive } from "../live/answers.ts";
import { idleSessions } from "../live/open.ts";
import { parameterCount } from "../models/model.ts";
import { heldWeights, loadedModel, streamedWeights } from "../models/weights.ts";
import { checkRuntime } from "../open/device.ts";
import { openModel, openSaes } from "../open/open.ts";
import type { Reporter } from "../progress.ts";
import { thisMachine } from "../storage/machine.ts";
import { residentBytes } from "../storage/resident.ts";
import type { LiveJob, LiveResult, ModelOptions } from "./live-jobs.ts";

/** An open model with what opened it, and how it is closed. */
interface OpenChoice extends OpenLive {
  readonly key: string;
  readonly kept: KeptSessions;
  /** Closes the model's files. */
  close(): Promise<void>;
}

/** Does live work on one model at a time: another one takes its place. */
export function liveWork(): Answer<LiveJob, LiveResult, never> {
  let open: OpenChoice | undefined;
  return async ({ kind, options, request }, { reporter }) => {
    const begun = performance.now();
    const key = JSON.stringify(options);
    if (open?.key !== key) {
      const before = open;
      open = undefined;
      if (before) await closeChoice(before);
      open = await openChoice(key, options, reporter);
    }
    const opening_seconds = (performance.now() - begun) / 1000;
    const { opened, ...answer } = await answerLive(open, kind, request, reporter);
    return {
      seconds: (performance.now() - begun) / 1000,
      opening_seconds,
      ...answer,
      opened: { ...opened, bytes: { ...opened.bytes, resident: residentBytes() } },
    };
  };
}

async function openChoice(key: string, options: ModelOptions, reporter: Reporter): Promise<OpenChoice> {
  await checkRuntime("cpu", reporter);
  const { model_name, allow_config_field, bos } = options;
  const opened = await openModel(model_name, reporter, undefined, allow_config_field, bos);
  try {
    const { model, checkpoint } = opened;
    const saes = await openSaes(opened, options, reporter);
    const bytes = 4 * parameterCount(model);
    const isHeld = bytes < thisMachine.availableMemory() / 2;
    const weights = isHeld ? await heldWeights(model, checkpoint) : streamedWeights(checkpoint);
    const kept = keptSessions(idleSessions);
    return {
      key,
      name: opened.name,
      tokenizer: opened.tokenizer,
      warnings: opened.warnings,
      loaded: loadedModel(model, weights, { kept }),
      dictionaries: new Map([...saes].map(([site, dictionary]) => [site, heldDictionary(dictionary)])),
      kept,
      weightBytes: isHeld ? bytes : 0,
      close: () => opened.close(),
    };
  } catch (error) {
    await opened.close();
    throw error;
  }
}

async function closeChoice({ dictionaries, kept, close }: OpenChoice): Promise<void> {
  await kept.release();
  await closeDictionaries(dictionaries);
  await close();
}
