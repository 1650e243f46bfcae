import type { PromptPair, TokenPair } from "./pairs.ts";
import type { Tokenizer } from "./tokenizer.ts";

/** Why a pair cannot be used with a tokenizer. */
export const dropReasons = [
  "prompts are equal",
  "prompts have different numbers of tokens",
  "prompt is too long",
  "answer is several tokens",
  "answer changes the tokens before it",
  "answers are equal",
  "a token that the model does not have",
] as const;

export type DropReason = (typeof dropReasons)[number];

/** How many pairs were dropped for one reason, and the first of them. */
export interface Dropped {
  readonly reason: DropReason;
  readonly count: number;
  readonly example: PromptPair;
}

export interface CheckedPairs {
  readonly kept: readonly TokenPair[];
  /** In the order of `dropReasons`; each pair counts once, under the first reason that holds. */
  readonly dropped: readonly Dropped[];
}

/**
 * Pairs as token ids, without those that the method cannot use: prompts of unequal length or equal ones, answers that are not the one token by
 * which tokens(prompt + answer) extends tokens(prompt), or that are the same token.
 *
 * @param maxTokens longest prompt, special tokens included; no limit if left out
 * @param vocabulary how many tokens the model has: a tokenizer may have more, added to it later; no limit if left out
 */
export function tokenizePairs(
  pairs: readonly PromptPair[],
  tokenizer: Tokenizer,
  maxTokens = Infinity,
  vocabulary = Infinity,
): CheckedPairs {
  const kept: TokenPair[] = [];
  const dropped = new Map<DropReason, { count: number; example: PromptPair }>();
  for (const pair of pairs) {
    const result = tokenize(pair, tokenizer, maxTokens, vocabulary);
    if (typeof result !== "string") {
      kept.push(result);
      continue;
    }
    const known = dropped.get(result);
    if (known === undefined) dropped.set(result, { count: 1, example: pair });
    else known.count++;
  }
  return {
    kept,
    dropped: dropReasons.flatMap((reason) => (dropped.has(reason) ? [{ reason, ...dropped.get(reason)! }] : [])),
  };
}

function tokenize(
  pair: PromptPair,
  tokenizer: Tokenizer,
  maxTokens: number,
  vocabulary: number,
): TokenPair | DropReason {
  const clean = tokenizer.encode(pair.clean_prefix);
  const patch = tokenizer.encode(pair.patch_prefix);
  if (clean.length !== patch.length) return "prompts have different numbers of tokens";
  if (clean.every((id, i) => id === patch[i])) return "prompts are equal";
  if (clean.length > maxTokens) return "prompt is too long";
  // Both answers are read after the clean prompt, where the metric is; after the patch prompt they must be the same tokens.
  const answers = [pair.clean_answer, pair.patch_answer].map((answer) => {
    const token = tokenizer.answerToken(pair.clean_prefix, answer);
    return token === tokenizer.answerToken(pair.patch_prefix, answer) ? token : "not an extension";
  });
  const [cleanAnswer, patchAnswer] = answers;
  if (answers.includes("several tokens")) return "answer is several tokens";
  if (typeof cleanAnswer !== "number" || typeof patchAnswer !== "number") return "answer changes the tokens before it";
  if (cleanAnswer === patchAnswer) return "answers are equal";
  if ([...clean, ...patch, cleanAnswer, patchAnswer].some((id) => id >= vocabulary)) {
    return "a token that the model does not have";
  }
  return { pair, clean, patch, cleanAnswer, patchAnswer };
}

/** What was dropped and why, one line per reason: `12 pairs: answer is several tokens, e.g. "The dog" → " goes", " go"`. */
export function describeDropped(dropped: readonly Dropped[]): string[] {
  return dropped.map(({ reason, count, example }) => {
    const { clean_prefix, patch_prefix, clean_answer, patch_answer } = example;
    const prompts = `"${clean_prefix}" and "${patch_prefix}"`;
    const answers = `"${clean_answer}", "${patch_answer}"`;
    const quoted = reason.startsWith("answer")
      ? `"${clean_prefix}" → ${answers}`
      : reason.startsWith("prompt")
        ? prompts
        : `${prompts} → ${answers}`;
    return `${count} ${count === 1 ? "pair" : "pairs"}: ${reason}, e.g. ${quoted}`;
  });
}
