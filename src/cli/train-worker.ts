import { readFileSync } from "node:fs";
import { parentPort, workerData } from "node:worker_threads";
import { messageOf } from "../errors.ts";
import { modelFromConfig } from "../models/architectures.ts";
import { demoLexicon } from "../prompts/lexicon-demo.ts";
import { loadTokenizer } from "../prompts/tokenizer.ts";
import { type LanguageModelRecipe, partGradient } from "../training/lm.ts";
import { generatedText, type TextSource } from "../training/text.ts";

/** What a gradient thread is started with; weights and gradients are shared with the main thread. */
export interface GradientJob {
  readonly kind: "gradients";
  readonly config: Readonly<Record<string, unknown>>;
  /** Folder of tokenizer.json and tokenizer_config.json. */
  readonly tokenizerFolder: string;
  readonly recipe: LanguageModelRecipe;
  readonly weights: Float32Array;
  readonly gradients: readonly Float32Array[];
}

export interface GradientRequest {
  readonly step: number;
  readonly parts: readonly number[];
}

/** The answer to a request: the parts' losses, or why there are none. */
export type GradientReply = { readonly losses: readonly number[] } | { readonly error: string };

/** The text that a model of this recipe is trained on. */
export function trainingText(tokenizerFolder: string, seed: number | string): TextSource {
  const json = (name: string) => JSON.parse(readFileSync(`${tokenizerFolder}/${name}`, "utf8")) as unknown;
  const tokenizer = loadTokenizer(json("tokenizer.json"), json("tokenizer_config.json"), tokenizerFolder);
  return generatedText(tokenizer, demoLexicon, seed);
}

async function computeGradients(job: GradientJob): Promise<void> {
  const model = modelFromConfig(job.config, job.tokenizerFolder);
  const text = trainingText(job.tokenizerFolder, job.recipe.seed);
  const { run } = await partGradient(model, text, job.recipe, { threads: 1 });
  parentPort!.on("message", async ({ step, parts }: GradientRequest) => {
    try {
      const losses: number[] = [];
      for (const part of parts) losses.push(await run(step, part, job.weights, job.gradients[part]!));
      parentPort!.postMessage({ losses } satisfies GradientReply);
    } catch (error) {
      parentPort!.postMessage({ error: messageOf(error) } satisfies GradientReply);
    }
  });
}

if (parentPort) await computeGradients(workerData as GradientJob);
