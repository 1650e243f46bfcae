import { openFolder } from "#file";
import { fitDictionary } from "../dictionaries/fit.ts";
import type { JumpReluWeights } from "../dictionaries/formats/sae-lens.ts";
import { closeDictionaries, openDictionaries } from "../dictionaries/open.ts";
import { type Answer, serveThread } from "../jobs/serve.ts";
import { modelFromConfig } from "../models/architectures.ts";
import { heldWeights } from "../models/weights.ts";
import { openModel } from "../open/open.ts";
import { demoLexicon } from "../prompts/english/lexicon-demo.ts";
import { loadTokenizer } from "../prompts/tokenizer.ts";
import type { SiteName } from "../site.ts";
import {
  type ActivationReader,
  activationBatches,
  activationReader,
  piecesOf,
  readAhead,
} from "../training/activations.ts";
import { type DictionaryQuality, evaluateDictionaries } from "../training/evaluate.ts";
import { shardGradient } from "../training/lm.ts";
import { type DictionaryProgress, trainDictionaries } from "../training/sae.ts";
import { generatedText } from "../training/text.ts";
import {
  type CaptureJob,
  type DictionaryJob,
  type EvaluationJob,
  type GradientJob,
  type GradientRequest,
  isReported,
  type Job,
} from "./train-messages.ts";
import { openText } from "./train-text.ts";
import { captureThread } from "./train-threads.ts";

const oneThread = { threads: 1 };

function gradients(job: GradientJob): Answer<GradientRequest, readonly number[], never> {
  const model = modelFromConfig(job.config, "the recipe");
  const text = generatedText(loadTokenizer(job.tokenizer), demoLexicon, job.recipe.seed);
  const opened = shardGradient(model, text, job.recipe, oneThread);
  return async ({ step, shards }) => {
    const { run } = await opened;
    const losses: number[] = [];
    for (const shard of shards) losses.push(await run(step, shard, job.weights, job.gradients[shard]!));
    return losses;
  };
}

async function dictionaries(
  job: DictionaryJob,
  tell: (progress: DictionaryProgress) => void,
): Promise<readonly JumpReluWeights[]> {
  const { model, checkpoint } = await openModel(job.model, undefined, undefined, job.allowedFields);
  await checkpoint.close();
  const ahead = Math.floor(job.threads / 2);
  const reader =
    ahead === 0
      ? await openReader(job)
      : readAhead(captureThread({ ...job, kind: "capture", threads: ahead }), piecesOf(job.recipe.steps));
  const source = activationBatches(model, job.sites, reader);
  const report = (progress: DictionaryProgress) => {
    if (isReported(progress.step)) tell(progress);
  };
  const trained = await trainDictionaries(source, job.recipe, report, { threads: job.threads - ahead });
  await source.close();
  return trained;
}

async function openReader(job: Omit<CaptureJob, "kind">): Promise<ActivationReader> {
  const { model, checkpoint, tokenizer } = await openModel(job.model, undefined, undefined, job.allowedFields);
  const text = await openText(job.text, "train", tokenizer, model.vocabulary);
  const weights = await heldWeights(model, checkpoint);
  await checkpoint.close();
  return activationReader(model, weights, job.sites, text, job.length, { threads: job.threads });
}

function capture(job: CaptureJob): Answer<string | number, ReadonlyMap<SiteName, Float32Array>, never> {
  const reader = openReader(job);
  // The first piece that is asked for tells what is wrong.
  reader.catch(() => {});
  return async (piece) => (await reader).read(piece);
}

async function evaluation(
  job: EvaluationJob,
  tell: (progress: { done: number; total: number }) => void,
): Promise<readonly DictionaryQuality[]> {
  const { model, checkpoint, tokenizer } = await openModel(job.model, undefined, undefined, job.allowedFields);
  const text = await openText(job.text, "held-out", tokenizer, model.vocabulary);
  const found = await openDictionaries(await openFolder(job.saes), job.sites);
  const fitted = [...found.values()].map((dictionary) => fitDictionary(dictionary, model));
  const weights = await heldWeights(model, checkpoint);
  await checkpoint.close();
  const report = (done: number, total: number) => tell({ done, total });
  const { length, threads, tokens, lossTokens } = job;
  const options = { threads, lossTokens };
  try {
    return await evaluateDictionaries(model, weights, fitted, text, length, tokens, report, options);
  } finally {
    await closeDictionaries(found);
  }
}

serveThread<Job, never, unknown, unknown>((job) => {
  switch (job.kind) {
    case "gradients":
      return gradients(job);
    case "capture":
      return capture(job);
    case "dictionaries":
      return (_, { tell }) => dictionaries(job, tell);
    case "evaluation":
      return (_, { tell }) => evaluation(job, tell);
  }
});
