import { parentPort, workerData } from "node:worker_threads";
import { openFolder } from "#file";
import { heldWeights } from "../capture/weights.ts";
import { closeDictionaries, openDictionaries } from "../dictionaries/open.ts";
import type { JumpReluWeights } from "../dictionaries/sae-lens.ts";
import { messageOf } from "../errors.ts";
import { modelFromConfig } from "../models/architectures.ts";
import { demoLexicon } from "../prompts/lexicon-demo.ts";
import { loadTokenizer } from "../prompts/tokenizer.ts";
import type { SiteName } from "../site.ts";
import { activationSource } from "../training/activations.ts";
import { type DictionaryQuality, evaluateDictionaries } from "../training/evaluate.ts";
import { type LanguageModelRecipe, partGradient } from "../training/lm.ts";
import { type DictionaryProgress, type DictionaryRecipe, trainDictionaries } from "../training/sae.ts";
import { generatedText } from "../training/text.ts";
import { openModel } from "./setting.ts";

/** Gradients of a language model's parts of a step; weights and gradients are shared with the main thread. */
export interface GradientJob {
  readonly kind: "gradients";
  readonly config: Readonly<Record<string, unknown>>;
  /** The parsed tokenizer.json. */
  readonly tokenizer: unknown;
  readonly recipe: LanguageModelRecipe;
  readonly weights: Float32Array;
  readonly gradients: readonly Float32Array[];
}

export interface GradientRequest {
  readonly step: number;
  readonly parts: readonly number[];
}

export interface DictionaryJob {
  readonly kind: "dictionaries";
  /** The model's folder. */
  readonly model: string;
  readonly sites: readonly SiteName[];
  readonly recipe: DictionaryRecipe;
  /** Names the text. */
  readonly text: string;
  /** Tokens per row. */
  readonly length: number;
}

export interface EvaluationJob {
  readonly kind: "evaluation";
  readonly model: string;
  /** The folder that holds the SAEs. */
  readonly saes: string;
  readonly sites: readonly SiteName[];
  readonly text: string;
  readonly length: number;
  readonly tokens: number;
  readonly lossTokens: number;
}

export type Job = GradientJob | DictionaryJob | EvaluationJob;

/** What a thread sends: how far it is, its result, or why there is none. */
export type Reply<Result, Progress = never> =
  | { readonly progress: Progress }
  | { readonly result: Result }
  | { readonly error: string };

/** How many steps lie between two reports of an SAE's training. */
export const reportEvery = 20;

const oneThread = { threads: 1 };

async function gradients(job: GradientJob): Promise<void> {
  const model = modelFromConfig(job.config, "the recipe");
  const text = generatedText(loadTokenizer(job.tokenizer), demoLexicon, job.recipe.seed);
  const { run } = await partGradient(model, text, job.recipe, oneThread);
  parentPort!.on("message", ({ step, parts }: GradientRequest) =>
    answer(async () => {
      const losses: number[] = [];
      for (const part of parts) losses.push(await run(step, part, job.weights, job.gradients[part]!));
      return losses;
    }),
  );
}

async function dictionaries(job: DictionaryJob): Promise<readonly JumpReluWeights[]> {
  const { model, checkpoint, tokenizer } = await openModel(job.model);
  const text = generatedText(tokenizer, demoLexicon, job.text);
  const weights = await heldWeights(model, checkpoint);
  await checkpoint.close();
  const source = await activationSource(model, weights, job.sites, text, job.length, oneThread);
  const report = (progress: DictionaryProgress) => {
    if (progress.step % reportEvery === 0) parentPort!.postMessage({ progress });
  };
  return trainDictionaries(source, job.recipe, report, oneThread);
}

async function evaluation(job: EvaluationJob): Promise<readonly DictionaryQuality[]> {
  const { model, checkpoint, tokenizer } = await openModel(job.model);
  const text = generatedText(tokenizer, demoLexicon, job.text);
  const found = await openDictionaries(await openFolder(job.saes), job.sites);
  const weights = await heldWeights(model, checkpoint);
  await checkpoint.close();
  const report = (done: number, total: number) => parentPort!.postMessage({ progress: { done, total } });
  const { length, tokens, lossTokens } = job;
  const options = { ...oneThread, lossTokens };
  try {
    return await evaluateDictionaries(model, weights, [...found.values()], text, length, tokens, report, options);
  } finally {
    await closeDictionaries(found);
  }
}

async function answer(work: () => Promise<unknown>): Promise<void> {
  try {
    parentPort!.postMessage({ result: await work() });
  } catch (error) {
    parentPort!.postMessage({ error: messageOf(error) });
  }
}

if (parentPort) {
  const job = workerData as Job;
  if (job.kind === "gradients") await gradients(job);
  else if (job.kind === "dictionaries") await answer(() => dictionaries(job));
  else await answer(() => evaluation(job));
}
