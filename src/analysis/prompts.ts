import type { Floats, Job } from "../capture/hooks.ts";
import { newFloats, readingHooks } from "../capture/hooks.ts";
import { runModel } from "../capture/run.ts";
import { UserError } from "../errors.ts";
import { prefixForest } from "../forest/forest.ts";
import { planCapture } from "../forest/packs.ts";
import type { LoadedModel } from "../models/weights.ts";
import type { Watch } from "../progress.ts";
import { tokenizePairs } from "../prompts/check.ts";
import { excerpt } from "../prompts/excerpt.ts";
import type { TokenPair } from "../prompts/pairs.ts";
import type { Tokenizer } from "../prompts/tokenizer.ts";
import { parseSite, type SiteName } from "../site.ts";

/** A prompt with the two answers between which the metric decides, each of one token: m = logit(patch answer) − logit(clean answer) at its end. */
export interface AnsweredPrompt {
  readonly prompt: string;
  readonly clean_answer: string;
  readonly patch_answer: string;
}

/** Activations of prompts. T is a prompt's number of tokens, D the width of a site. */
export interface PromptActivations<S extends SiteName = SiteName> {
  /** The tokens [T] of each prompt, BOS included where the model has one. */
  readonly tokens: readonly (readonly number[])[];
  /** D of each site. */
  readonly width: Readonly<Record<S, number>>;
  /** Activations of each site, x[T,D] of each prompt, row by row. */
  readonly x: Readonly<Record<S, readonly Floats[]>>;
}

/** Activations of prompts with answers, with the gradients of the metric. */
export interface PromptGradients<S extends SiteName = SiteName> extends PromptActivations<S> {
  /** Gradients at each site, g[T,D] = ∂m/∂x of each prompt by itself, in logits per unit of x. */
  readonly g: Readonly<Record<S, readonly Floats[]>>;
  /** m of each prompt, in logits: below 0 where the model prefers the clean answer. */
  readonly m: Float64Array;
}

/**
 * Runs a model on prompts; a prefix that several of them share is computed once.
 *
 * @returns gradients and metric only where prompts have answers
 * @param sites where activations are read, as `resid_post.3` or `embed`
 * @throws UserError if a site does not exist, a prompt is too long, or an answer is not one token; StoppedError
 */
export async function capturePrompts<S extends SiteName>(
  loaded: LoadedModel,
  tokenizer: Tokenizer,
  prompts: readonly (string | AnsweredPrompt)[],
  sites: readonly S[],
  watch: Watch = {},
): Promise<PromptActivations<S> | PromptGradients<S>> {
  const width = Object.fromEntries(sites.map((site) => [site, widthOf(loaded, site)])) as Record<S, number>;
  const answered = prompts.some((prompt) => typeof prompt !== "string");
  const pairs = prompts.map((prompt) => tokensOf(loaded, tokenizer, prompt, answered));
  // Gradients are each prompt's own, so that only activations are shared.
  const forest = prefixForest(pairs, { merge: answered ? "forward" : "all" });
  const { backward, endNodeOfPair, endIndexOfPair, ends } = forest;
  const { packs } = planCapture(forest, { wanted: "none" });
  const everywhere = () =>
    Object.fromEntries(sites.map((site) => [site, newFloats(loaded.dtype, backward.size * width[site])]));
  const nodes = { value: everywhere(), gradient: answered ? everywhere() : {} };
  const metric = new Float64Array(ends.length);
  const jobs = packs.map((pack): Job => {
    return {
      pack: answered ? pack : { ...pack, kind: "forward" },
      metric: (values) => {
        pack.metric.end.forEach((end, i) => {
          if (pack.metric.prompt[i] === "clean") metric[end] = values[i]!;
        });
      },
      found({ site, kind, tensors: { x } }) {
        if (kind === "beside") return undefined;
        const D = width[site as S];
        const to = nodes[kind][site]!;
        for (const [row, node] of pack.node.entries()) {
          if (node < 0) continue;
          // A node that several packs compute has the same activation in each, and a part of its gradient.
          for (let d = 0; d < D; d++) {
            const value = x![row * D + d]!;
            to[node * D + d] = kind === "value" ? value : to[node * D + d]! + value;
          }
        }
        return undefined;
      },
    };
  });
  await runModel(loaded, jobs, { hooks: readingHooks(sites), ...watch });
  const rowsOf = (kind: "value" | "gradient") =>
    Object.fromEntries(
      sites.map((site) => {
        const D = width[site];
        const rows = pairs.map(({ clean }, p) => {
          const out = newFloats(loaded.dtype, clean.length * D);
          for (let node = endNodeOfPair[p]!; node >= 0; node = backward.parent[node]!) {
            out.set(nodes[kind][site]!.subarray(node * D, (node + 1) * D), backward.position[node]! * D);
          }
          return out;
        });
        return [site, rows];
      }),
    ) as Record<S, Floats[]>;
  const activations = { tokens: pairs.map(({ clean }) => clean), width, x: rowsOf("value") };
  if (!answered) return activations;
  return {
    ...activations,
    g: rowsOf("gradient"),
    m: Float64Array.from(endIndexOfPair, (entry) => metric[entry]!),
  };
}

/** D of a site. @throws UserError if the model has no such site */
function widthOf({ model }: LoadedModel, site: SiteName): number {
  const { kind, layer } = parseSite(site);
  const D = model.sites[kind];
  if (D !== undefined && layer < model.layers) return D;
  throw new UserError(
    `site: expected one of a model with ${model.layers} layers and ${Object.keys(model.sites).join(", ")}, got ${site}. Layers are counted from 0.`,
    { code: "not_found" },
  );
}

/** A prompt as tokens. @throws UserError saying why the model cannot read it */
function tokensOf(
  { model }: LoadedModel,
  tokenizer: Tokenizer,
  prompt: string | AnsweredPrompt,
  answered: boolean,
): TokenPair {
  const text = typeof prompt === "string" ? prompt : prompt.prompt;
  const fail = (why: string): never => {
    throw new UserError(
      `prompt: expected one that this model can read, got "${excerpt(text, 60)}" (${why}). Change it.`,
    );
  };
  const { clean_answer, patch_answer } = typeof prompt === "string" ? { clean_answer: "", patch_answer: "" } : prompt;
  const pair = {
    clean_prefix: text,
    patch_prefix: null,
    clean_answer,
    patch_answer,
    case: "prompt",
    split: "train",
  } as const;
  if (typeof prompt !== "string") {
    const { kept, rejected } = tokenizePairs([pair], tokenizer, model.maxLength, model.vocabulary);
    return kept[0] ?? fail(rejected[0]!.reason);
  }
  if (answered) fail("it has no answers, but others have");
  const tokens = tokenizer.encode(text);
  if (tokens.length === 0) fail("no tokens");
  if (tokens.length > model.maxLength) fail(`${tokens.length} tokens, and it reads ${model.maxLength}`);
  if (tokens.some((token) => token >= model.vocabulary)) fail("a token that it does not have");
  return { pair, clean: tokens, patch: tokens, cleanAnswer: 0, patchAnswer: 0 };
}
