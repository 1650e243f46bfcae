import { steps, type Watch } from "../progress.ts";
import { excerpt } from "./excerpt.ts";
import type { PromptPair, TokenPair } from "./pairs.ts";
import type { Tokenizer } from "./tokenizer.ts";

/** Why a pair cannot be used with a tokenizer. */
export const dropReasons = [
  "prompts are equal",
  "prompts have different numbers of tokens",
  "prompt is too long",
  "prompt has no tokens",
  "answer is several tokens",
  "answer changes the tokens before it",
  "answer is the beginning of the other answer",
  "answers are equal",
  "a token that the model does not have",
] as const;

/** One of `dropReasons`. */
export type DropReason = (typeof dropReasons)[number];

/** How many pairs were dropped for one reason, and the first of them. */
export interface Dropped {
  readonly reason: DropReason;
  readonly count: number;
  readonly example: PromptPair;
}

/** Pairs as tokens, and those that cannot be used. */
export interface CheckedPairs {
  readonly kept: readonly TokenPair[];
  /** In the order of `dropReasons`; each pair counts once, under the first reason that holds. */
  readonly dropped: readonly Dropped[];
  /** Each pair that was dropped, by its index. */
  readonly rejected: readonly { readonly index: number; readonly reason: DropReason }[];
  /** How many of those kept have an answer of several tokens. */
  readonly several: number;
}

/**
 * How many tokens an answer may have. `one`: one. `first`: any number; the metric is read at the first token in which the two answers differ, and
 * those before it, which they share, are added to both prompts.
 */
export type AnswerTokens = "one" | "first";

export const answerTokens: readonly AnswerTokens[] = ["one", "first"];

/** How pairs are checked. */
export interface CheckOptions extends Watch {
  readonly answers?: AnswerTokens;
}

/**
 * Pairs as token ids, without those that the method cannot use: prompts of unequal length or equal ones, answers that are not the one token by
 * which tokens(prompt + answer) extends tokens(prompt), or that are the same token. Of pairs without a patch prompt the clean prompt alone counts.
 *
 * @param maxTokens longest prompt, special tokens included; no limit if left out
 * @param vocabulary how many tokens the model has: a tokenizer may have more, added to it later; no limit if left out
 * @throws StoppedError if asked to stop
 */
export function tokenizePairs(
  pairs: readonly PromptPair[],
  tokenizer: Tokenizer,
  maxTokens = Infinity,
  vocabulary = Infinity,
  { answers = "one", ...watch }: CheckOptions = {},
): CheckedPairs {
  const kept: TokenPair[] = [];
  const rejected: { index: number; reason: DropReason }[] = [];
  const dropped = new Map<DropReason, { count: number; example: PromptPair }>();
  let several = 0;
  const read = answers === "one" ? oneToken : firstTokens;
  const step = steps(watch, pairs.length);
  for (const [index, pair] of pairs.entries()) {
    step(index);
    const result = tokenize(pair, tokenizer, maxTokens, vocabulary, read);
    if (typeof result !== "string") {
      kept.push(result.tokens);
      if (result.several) several++;
      continue;
    }
    rejected.push({ index, reason: result });
    const known = dropped.get(result);
    if (known === undefined) dropped.set(result, { count: 1, example: pair });
    else known.count++;
  }
  return {
    kept,
    dropped: dropReasons.flatMap((reason) => (dropped.has(reason) ? [{ reason, ...dropped.get(reason)! }] : [])),
    rejected,
    several,
  };
}

function tokenize(
  pair: PromptPair,
  tokenizer: Tokenizer,
  maxTokens: number,
  vocabulary: number,
  read: ReadAnswers,
): { readonly tokens: TokenPair; readonly several: boolean } | DropReason {
  const cleanPrompt = tokenizer.encode(pair.clean_prefix);
  const patchPrompt = pair.patch_prefix === null ? cleanPrompt : tokenizer.encode(pair.patch_prefix);
  if (cleanPrompt.length !== patchPrompt.length) return "prompts have different numbers of tokens";
  if (pair.patch_prefix !== null && cleanPrompt.every((id, i) => id === patchPrompt[i])) return "prompts are equal";
  if (cleanPrompt.length > maxTokens) return "prompt is too long";
  if (cleanPrompt.length === 0) return "prompt has no tokens";
  // Both answers are read after the clean prompt, where the metric is; after the patch prompt they must be the same tokens.
  const prompts = pair.patch_prefix === null ? [pair.clean_prefix] : [pair.clean_prefix, pair.patch_prefix];
  const answers = read(tokenizer, prompts, [pair.clean_answer, pair.patch_answer]);
  if (typeof answers === "string") return answers;
  const { shared, cleanAnswer, patchAnswer, several } = answers;
  const [clean, patch] = [cleanPrompt, patchPrompt].map((prompt) => [...prompt, ...shared]) as [number[], number[]];
  if (clean.length > maxTokens) return "prompt is too long";
  if ([...clean, ...patch, cleanAnswer, patchAnswer].some((id) => id >= vocabulary)) {
    return "a token that the model does not have";
  }
  return { tokens: { pair, clean, patch, cleanAnswer, patchAnswer }, several };
}

/** The tokens of the two answers after these prompts: those that they share, and the first in which they differ. */
type ReadAnswers = (
  tokenizer: Tokenizer,
  prompts: readonly string[],
  answers: readonly [clean: string, patch: string],
) =>
  | {
      readonly shared: readonly number[];
      readonly cleanAnswer: number;
      readonly patchAnswer: number;
      readonly several: boolean;
    }
  | DropReason;

const oneToken: ReadAnswers = (tokenizer, prompts, answers) => {
  const tokens = answers.map((answer) => {
    const [token, ...others] = prompts.map((prompt) => tokenizer.answerToken(prompt, answer));
    return others.every((other) => other === token) ? token! : "not an extension";
  });
  const [cleanAnswer, patchAnswer] = tokens;
  if (tokens.includes("several tokens")) return "answer is several tokens";
  if (typeof cleanAnswer !== "number" || typeof patchAnswer !== "number") return "answer changes the tokens before it";
  return cleanAnswer === patchAnswer ? "answers are equal" : { shared: [], cleanAnswer, patchAnswer, several: false };
};

const firstTokens: ReadAnswers = (tokenizer, prompts, answers) => {
  let found: ReturnType<ReadAnswers> | undefined;
  for (const prompt of prompts) {
    const [clean, patch] = answers.map((answer) => addedTokens(tokenizer, prompt, answer));
    if (clean === undefined || patch === undefined) return "answer changes the tokens before it";
    let at = 0;
    while (at < clean.length && clean[at] === patch[at]) at++;
    const [cleanAnswer, patchAnswer] = [clean[at], patch[at]];
    if (cleanAnswer === undefined && patchAnswer === undefined) return "answers are equal";
    if (cleanAnswer === undefined || patchAnswer === undefined) return "answer is the beginning of the other answer";
    const several = Math.max(clean.length, patch.length) > 1;
    const here = { shared: clean.slice(0, at), cleanAnswer, patchAnswer, several };
    if (found !== undefined && JSON.stringify(found) !== JSON.stringify(here))
      return "answer changes the tokens before it";
    found = here;
  }
  return found!;
};

/** The tokens by which those of `prompt + answer` extend those of `prompt`; undefined if they do not. */
function addedTokens(tokenizer: Tokenizer, prompt: string, answer: string): number[] | undefined {
  const before = tokenizer.encode(prompt);
  const whole = tokenizer.encode(prompt + answer);
  return before.every((id, i) => whole[i] === id) ? whole.slice(before.length) : undefined;
}

/**
 * What to tell of pairs whose prompts begin with BOS twice, a sentence: models are trained with one. Either the tokenizer puts two, or it puts one and
 * the prompts' own text begins with another, as that of chat templates.
 */
export function describeDoubled(kept: readonly TokenPair[], tokenizer: Tokenizer): string[] {
  const bos = tokenizer.bosToken;
  const begins = (ids: readonly number[]) => bos !== undefined && ids[0] === bos && ids[1] === bos;
  const count = kept.filter(({ clean, patch }) => begins(clean) || begins(patch)).length;
  if (bos === undefined || count === 0) return [];
  const name = `"${excerpt(tokenizer.token(bos), 40)}"`;
  return begins(tokenizer.encode(""))
    ? [`Every prompt begins with ${name} twice, since the tokenizer puts two in front: models are trained with one.`]
    : [
        `${count} of ${kept.length} pairs begin with ${name} twice, since the tokenizer puts one in front: models are trained with one. Take it out of the prompts.`,
      ];
}

/** What was dropped and why, one line per reason: `12 pairs: answer is several tokens, e.g. "The dog" → " goes", " go"`. */
export function describeDropped(dropped: readonly Dropped[]): string[] {
  return dropped.map(({ reason, count, example }) => {
    const quote = (text: string) => `"${excerpt(text, 60)}"`;
    const { clean_prefix, patch_prefix, clean_answer, patch_answer } = example;
    const prompts = patch_prefix === null ? quote(clean_prefix) : `${quote(clean_prefix)} and ${quote(patch_prefix)}`;
    const answers = `${quote(clean_answer)}, ${quote(patch_answer)}`;
    const quoted = reason.startsWith("answer")
      ? `${quote(clean_prefix)} → ${answers}`
      : reason.startsWith("prompt")
        ? prompts
        : `${prompts} → ${answers}`;
    return `${count} ${count === 1 ? "pair" : "pairs"}: ${reason}, e.g. ${quoted}`;
  });
}
