import { findCircuit, usualPoints } from "../analysis/circuit.ts";
import { liveEffects } from "../analysis/live.ts";
import { dictionaryWarnings } from "../analysis/pairs.ts";
import { type HeldDictionary, heldDictionary } from "../dictionaries/held.ts";
import { closeDictionaries } from "../dictionaries/open.ts";
import { UserError } from "../errors.ts";
import { prefixForest } from "../forest/forest.ts";
import { keptSessions } from "../graph/kept-sessions.ts";
import type { KeptSessions } from "../graph/runtime.ts";
import { intervene } from "../interventions/intervene.ts";
import { readInterventions } from "../interventions/read-interventions.ts";
import type { Answer } from "../jobs/serve.ts";
import { parameterCount } from "../models/model.ts";
import { heldWeights, type LoadedModel, loadedModel, streamedWeights } from "../models/weights.ts";
import { checkRuntime } from "../open/device.ts";
import { type OpenModel, openModel, openSaes } from "../open/open.ts";
import type { Reporter } from "../progress.ts";
import { tokenizePairs } from "../prompts/check.ts";
import { spacedPair } from "../prompts/inline.ts";
import type { TokenPair } from "../prompts/pairs.ts";
import { reportCircuit } from "../report/circuit.ts";
import { reportLimits } from "../report/data.ts";
import { parseSite, type SiteName } from "../site.ts";
import { rounded } from "../stats.ts";
import { thisMachine } from "../storage/machine.ts";
import { residentBytes } from "../storage/resident.ts";
import type { TypedPair } from "./api.ts";
import type { LiveAsks, LiveJob, LiveKind, LiveResult, ModelOptions } from "./live-jobs.ts";

/** Sessions that stay open while nobody uses them: of a few shapes of prompts, each with a pass or two and its encoders. */
const idleSessions = 24;

/** A model that is open, with all that stays in memory for the next question. */
interface OpenLive {
  readonly key: string;
  readonly opened: OpenModel;
  readonly loaded: LoadedModel;
  readonly dictionaries: ReadonlyMap<SiteName, HeldDictionary>;
  readonly kept: KeptSessions;
  readonly weightBytes: number;
}

/** Does live work on one model at a time: another one takes its place. */
export function liveWork(): Answer<LiveJob, LiveResult, never> {
  let open: OpenLive | undefined;
  return async ({ kind, options, request }, { reporter }) => {
    const begun = performance.now();
    const key = JSON.stringify(options);
    if (open?.key !== key) {
      const before = open;
      open = undefined;
      if (before) await closeLive(before);
      open = await openLive(key, options, reporter);
    }
    const opening_seconds = (performance.now() - begun) / 1000;
    const { opened, dictionaries, loaded, weightBytes } = open;
    const { pairs, rejected, notes } = readPairs(request.pairs, opened);
    const found = await works[kind](open, pairs, request as never, reporter);
    const saes = [...dictionaries.values()].reduce((sum, dictionary) => sum + dictionary.heldBytes(), 0);
    return {
      seconds: (performance.now() - begun) / 1000,
      opening_seconds,
      rejected,
      notes,
      opened: {
        layers: loaded.model.layers,
        sites: [...dictionaries].map(([site, { featureCount }]) => ({ site, features: featureCount })),
        warnings: [...opened.warnings, ...dictionaryWarnings(dictionaries, pairs, opened.tokenizer)],
        bytes: { weights: weightBytes, saes, resident: residentBytes() },
      },
      found,
    };
  };
}

async function openLive(key: string, options: ModelOptions, reporter: Reporter): Promise<OpenLive> {
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
      opened,
      loaded: loadedModel(model, weights, { kept }),
      dictionaries: new Map([...saes].map(([site, dictionary]) => [site, heldDictionary(dictionary)])),
      kept,
      weightBytes: isHeld ? bytes : 0,
    };
  } catch (error) {
    await opened.close();
    throw error;
  }
}

async function closeLive({ opened, dictionaries, kept }: OpenLive): Promise<void> {
  await kept.release();
  await closeDictionaries(dictionaries);
  await opened.close();
}

/** Typed pairs as tokens. @throws UserError if none can be used */
function readPairs(typed: readonly TypedPair[], { tokenizer, model }: OpenModel) {
  const spaced = typed.map(({ clean, patch, clean_answer, patch_answer }) =>
    spacedPair(clean, patch, [clean_answer, patch_answer], tokenizer),
  );
  const { kept, rejected } = tokenizePairs(
    spaced.map(({ pair }) => pair),
    tokenizer,
    model.maxLength,
    model.vocabulary,
  );
  if (kept.length === 0) {
    throw new UserError(
      `pairs: expected some that this model can use, got none (${rejected[0]?.reason ?? "no pair"}). Change the prompts or the answers.`,
      { code: "no_pairs" },
    );
  }
  return {
    pairs: kept,
    rejected: rejected.map(({ index, reason }) => ({ pair: index, reason })),
    notes: [...new Set(spaced.flatMap(({ notes }) => notes))],
  };
}

type Work<K extends LiveKind> = (
  open: OpenLive,
  pairs: readonly TokenPair[],
  request: LiveAsks[K]["request"],
  reporter: Reporter,
) => Promise<LiveAsks[K]["found"]>;

const works: { readonly [K in LiveKind]: Work<K> } = {
  effects: ({ loaded, opened: { tokenizer }, dictionaries }, pairs, request, reporter) =>
    liveEffects({ loaded, tokenizer, dictionaries }, pairs, request, reporter),

  async intervene({ loaded, opened: { tokenizer }, dictionaries }, pairs, request, { stopped }) {
    const interventions = readInterventions(request, loaded.model, dictionaries);
    const forest = prefixForest(pairs);
    const setting = { loaded, forest, dictionaries, outside: tokenizer.outside };
    const { before, after, next } = await intervene(setting, interventions, { stopped });
    return {
      interventions,
      pairs: Array.from(forest.endIndexOfPair, (end) => ({
        before: before[end]!,
        after: after[end]!,
        next: next[end]!.map((one) => ({ ...one, text: tokenizer.token(one.token) })),
      })),
    };
  },

  async circuit({ loaded, opened, dictionaries }, pairs, { size }, reporter) {
    const residual = new Map([...dictionaries].filter(([site]) => parseSite(site).kind === "resid_post"));
    const chosen = residual.size > 0 ? residual : dictionaries;
    const found = await findCircuit(
      {
        loaded,
        dictionaries: chosen,
        outside: opened.tokenizer.outside,
        pairs,
        drawn: pairs,
        all: pairs,
        // A live answer takes the usual points of many pairs, where a single one would get more.
        steps: usualPoints(Number.POSITIVE_INFINITY),
        about: {
          model: opened.name,
          layers: loaded.model.layers,
          dictionaries: [...chosen].map(([site, { name }]) => ({ site, source: name })),
          subject: { kind: "pairs", pairs: pairs.length, cases: [], split: null },
          metric: "logit(patch answer) − logit(clean answer)",
        },
      },
      {
        way: "secant",
        size,
        threshold: null,
        ablation: "mean",
        jacobian: "secant",
        edgeThreshold: 0,
        influence: 0.8,
        edgeInfluence: 0.98,
        byPosition: false,
      },
      {
        chosen: async () => undefined,
        keepChosen: async () => {},
        masks: { read: async () => undefined, write: async () => {} },
        read: async () => undefined,
        write: async () => {},
      },
      reporter,
    );
    return { circuit: reportCircuit(found.whole, reportLimits.edges, rounded) };
  },
};
