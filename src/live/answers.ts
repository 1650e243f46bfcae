import { findCircuit, usualPoints } from "../analysis/circuit.ts";
import { dictionaryWarnings } from "../analysis/pairs.ts";
import type { HeldDictionary } from "../dictionaries/held.ts";
import { UserError } from "../errors.ts";
import { prefixForest } from "../forest/forest.ts";
import { intervene } from "../interventions/intervene.ts";
import { readInterventions } from "../interventions/read-interventions.ts";
import type { LoadedModel } from "../models/weights.ts";
import type { Reporter } from "../progress.ts";
import { tokenizePairs } from "../prompts/check.ts";
import { spacedPair } from "../prompts/inline.ts";
import type { TokenPair } from "../prompts/pairs.ts";
import type { Tokenizer } from "../prompts/tokenizer.ts";
import { reportCircuit } from "../report/circuit.ts";
import { reportLimits } from "../report/data.ts";
import { parseSite, type SiteName } from "../site.ts";
import { rounded } from "../stats.ts";
import { liveEffects } from "./effects.ts";
import type { LiveAnswer, LiveAsks, LiveKind, OpenedModel, TypedPair } from "./questions.ts";

/** A model that is open, with all that stays in memory for the next question. */
export interface OpenLive {
  /** As asked for. */
  readonly name: string;
  readonly tokenizer: Tokenizer;
  readonly loaded: LoadedModel;
  readonly dictionaries: ReadonlyMap<SiteName, HeldDictionary>;
  /** What whoever reads the numbers has to know of the model. */
  readonly warnings: readonly string[];
  /** Bytes of weights in memory. */
  readonly weightBytes: number;
}

/** What was found, and what there is to know of the pairs and the model. What opened it is told without its choice, which is not known here. */
export interface Answered<K extends LiveKind> extends Pick<LiveAnswer, "rejected" | "notes"> {
  readonly opened: Omit<OpenedModel, "id" | "model" | "saes">;
  readonly found: LiveAsks[K]["found"];
}

/**
 * Answers a question about typed pairs.
 *
 * @throws UserError if none of the pairs can be used, features that are named do not exist, or a number is not finite; StoppedError if asked to stop
 */
export async function answerLive<K extends LiveKind>(
  open: OpenLive,
  kind: K,
  request: LiveAsks[K]["request"],
  reporter: Reporter,
): Promise<Answered<K>> {
  const { loaded, tokenizer, dictionaries, warnings, weightBytes } = open;
  const { pairs, rejected, notes } = readPairs(request.pairs, open);
  const found = await works[kind](open, pairs, request, reporter);
  return {
    rejected,
    notes,
    opened: {
      layers: loaded.model.layers,
      sites: [...dictionaries].map(([site, { featureCount }]) => ({ site, features: featureCount })),
      warnings: [...warnings, ...dictionaryWarnings(dictionaries, pairs, tokenizer)],
      bytes: {
        weights: weightBytes,
        saes: [...dictionaries.values()].reduce((sum, dictionary) => sum + dictionary.heldBytes(), 0),
      },
    },
    found,
  };
}

/** Typed pairs as tokens. @throws UserError if none can be used */
function readPairs(typed: readonly TypedPair[], { tokenizer, loaded: { model } }: OpenLive) {
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
  effects: (open, pairs, request, reporter) => liveEffects(open, pairs, request, reporter),

  async intervene({ loaded, tokenizer, dictionaries }, pairs, request, { stopped }) {
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

  async circuit({ name, loaded, tokenizer, dictionaries }, pairs, { size }, reporter) {
    const residual = new Map([...dictionaries].filter(([site]) => parseSite(site).kind === "resid_post"));
    const chosen = residual.size > 0 ? residual : dictionaries;
    const found = await findCircuit(
      {
        loaded,
        dictionaries: chosen,
        outside: tokenizer.outside,
        pairs,
        drawn: pairs,
        all: pairs,
        // A live answer takes the usual points of many pairs, where a single one would get more.
        steps: usualPoints(Number.POSITIVE_INFINITY),
        about: {
          model: name,
          layers: loaded.model.layers,
          dictionaries: [...chosen].map(([site, dictionary]) => ({ site, source: dictionary.name })),
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
