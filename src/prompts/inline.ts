import { UsageError } from "../errors.ts";
import { excerpt } from "./excerpt.ts";
import type { PromptPair } from "./pairs.ts";
import { unnamedCase } from "./read-pairs.ts";
import type { Tokenizer } from "./tokenizer.ts";

/** One pair as it is typed. */
export interface InlinePair {
  readonly clean: string;
  /** Null where there is no patch prompt. */
  readonly patch: string | null;
  /** The clean and the patch answer with a comma between them. */
  readonly answers: string;
}

/**
 * The pair that was typed. An answer keeps its leading space; where it has none and the prompt ends within a line, a space is put before it if both
 * are words, or if it is one token only with the space.
 *
 * @returns the pair, and a sentence about the spaces that were added
 * @throws UserError if the answers are not two
 */
export function inlinePair(
  { clean, patch, answers }: InlinePair,
  tokenizer: Tokenizer,
): { readonly pair: PromptPair; readonly notes: readonly string[] } {
  const typed = answers.split(",");
  if (typed.length !== 2 || typed.some((answer) => answer.trim() === "")) {
    throw new UsageError(
      `--answers: expected the clean and the patch answer with a comma between them, as " is, are", got "${excerpt(answers, 60)}". Write both; answers with a comma of their own need a file (--pairs).`,
    );
  }
  return spacedPair(clean, patch, typed as [string, string], tokenizer);
}

/**
 * A pair whose answers are typed each by itself; spaces are put as `inlinePair` puts them.
 *
 * @param tokenizer null where none is at hand: spaces are then put between words alone
 */
export function spacedPair(
  clean: string,
  patch: string | null,
  typed: readonly [clean: string, patch: string],
  tokenizer: Tokenizer | null,
): { readonly pair: PromptPair; readonly notes: readonly string[] } {
  const [cleanAnswer, patchAnswer] = typed.map((answer) => withSpace(clean, answer, tokenizer)) as [string, string];
  const spaced = [cleanAnswer, patchAnswer].filter((answer, i) => answer !== typed[i]);
  const notes =
    spaced.length === 0
      ? []
      : [`A space was put before ${spaced.map((answer) => `"${excerpt(answer.trim(), 60)}"`).join(" and ")}.`];
  return {
    pair: {
      clean_prefix: clean,
      patch_prefix: patch,
      clean_answer: cleanAnswer,
      patch_answer: patchAnswer,
      case: unnamedCase,
      split: "train",
    },
    notes,
  };
}

/** Scripts that write their words without spaces. */
const unspaced =
  /[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Thai}\p{Script=Lao}\p{Script=Khmer}\p{Script=Myanmar}]/u;

function withSpace(prompt: string, answer: string, tokenizer: Tokenizer | null): string {
  if (/^\s/.test(answer) || /\s$/.test(prompt)) return answer;
  const words = /\p{L}$/u.test(prompt) && /^\p{L}/u.test(answer);
  if (words && !unspaced.test(prompt.slice(-1)) && !unspaced.test(answer[0]!)) return ` ${answer}`;
  const isToken = (text: string) => typeof tokenizer?.answerToken(prompt, text) === "number";
  return !isToken(answer) && isToken(` ${answer}`) ? ` ${answer}` : answer;
}
