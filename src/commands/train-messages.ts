import type { SiteName } from "../site.ts";
import type { LanguageModelRecipe } from "../training/lm.ts";
import type { DictionaryRecipe } from "../training/sae.ts";
import type { TextChoice } from "./train-text.ts";

/** Gradients of a language model's shards of a step; weights and gradients are shared with the main thread. */
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
  readonly shards: readonly number[];
}

export interface DictionaryJob {
  readonly kind: "dictionaries";
  /** The model's folder. */
  readonly model: string;
  /** Unknown fields of config.json to go on with. */
  readonly allowedFields: readonly string[];
  readonly sites: readonly SiteName[];
  readonly recipe: DictionaryRecipe;
  readonly text: TextChoice;
  /** Tokens per row. */
  readonly length: number;
  /** Threads of this job; with more than one the model runs in half of them, ahead of the SAEs. */
  readonly threads: number;
}

/** Reads the pieces of text that it is sent the names of. */
export interface CaptureJob extends Omit<DictionaryJob, "kind" | "recipe"> {
  readonly kind: "capture";
}

export interface EvaluationJob {
  readonly kind: "evaluation";
  readonly model: string;
  /** Unknown fields of config.json to go on with. */
  readonly allowedFields: readonly string[];
  /** The folder that holds the SAEs. */
  readonly saes: string;
  readonly sites: readonly SiteName[];
  readonly text: TextChoice;
  readonly length: number;
  readonly threads: number;
  readonly tokens: number;
  readonly lossTokens: number;
}

/** What a training thread is started with; gradients and captures are then asked for one at a time, the others once. */
export type Job = GradientJob | DictionaryJob | CaptureJob | EvaluationJob;

/** Whether a step of an SAE, counted from 1, is reported: every 20th, and the first, which tells that the steps have begun. */
export const isReported = (step: number) => step === 1 || step % 20 === 0;
