export type Split = "train" | "test";

/** A pair of prompts that differ in one respect, in the field's public format, with the split it belongs to. */
export interface PromptPair {
  readonly clean_prefix: string;
  /** Null where there is none: the scores gradient and gradient-activation read the clean prompt alone. */
  readonly patch_prefix: string | null;
  readonly clean_answer: string;
  readonly patch_answer: string;
  /** What kind of pair this is, e.g. `nounpp_singular`; results are also given by case. */
  readonly case: string;
  readonly split: Split;
}

/**
 * A pair as token ids: the prompts as the tokenizer's post-processor makes them (BOS included where the model has one), of equal length T, and
 * the one token that each answer adds. Where the pair has no patch prompt, `patch` is the clean prompt, so that nothing changes between the two.
 */
export interface TokenPair {
  readonly pair: PromptPair;
  readonly clean: readonly number[];
  readonly patch: readonly number[];
  readonly cleanAnswer: number;
  readonly patchAnswer: number;
}
