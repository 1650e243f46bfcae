import type { PairRecord } from "./pair-text.ts";
import type { Split } from "./pairs.ts";

/** A pair as a file gives it, perhaps without a split. */
export interface PairLine {
  readonly line: number;
  readonly clean_prefix: string;
  readonly patch_prefix: string | null;
  readonly clean_answer: string;
  readonly patch_answer: string;
  readonly case: string;
  readonly split: Split | undefined;
}

/** A good and a bad sentence, told apart by one word after the prompt that they share. */
export interface SentencePair {
  readonly line: number;
  readonly prefix: string;
  readonly good: string;
  readonly bad: string;
  readonly case: string;
  readonly split: Split | undefined;
  /** Whether words follow that one, so that it may be they that decide. */
  readonly goesOn: boolean;
}

/** Names of the two sentences' fields: BLiMP's first. */
const sentenceFields = [
  ["sentence_good", "sentence_bad"],
  ["good_sentence", "bad_sentence"],
  ["good", "bad"],
  ["grammatical", "ungrammatical"],
] as const;

/** The two sentences of a record that is a pair of sentences; undefined if it is none. */
export function sentencesOf(fields: PairRecord["fields"]): readonly [good: unknown, bad: unknown] | undefined {
  const names = sentenceFields.find(([good, bad]) => good in fields && bad in fields);
  return names && [fields[names[0]], fields[names[1]]];
}

/**
 * The prompt and the two words by which a good and a bad sentence differ, as BLiMP's one-prefix method has it: from its fields
 * (`one_prefix_prefix`, `one_prefix_word_good`, `one_prefix_word_bad`) or else from the sentences. A mark at the end of both words is left out.
 *
 * @returns the reason if the sentences give no prompt with two answers
 */
export function promptOf(
  fields: PairRecord["fields"],
  [good, bad]: readonly [string, string],
): Pick<SentencePair, "prefix" | "good" | "bad" | "goesOn"> | string {
  const { one_prefix_prefix: prefix, one_prefix_word_good: goodWord, one_prefix_word_bad: badWord } = fields;
  const { one_prefix_method: one, two_prefix_method: two } = fields;
  if (one !== false && isText(prefix) && isText(goodWord) && isText(badWord)) {
    return withoutMarks(prefix.trim(), goodWord.trim(), badWord.trim(), false);
  }
  if (one !== true) {
    if (two === true || isText(fields.two_prefix_word)) {
      return "two prompts with one word after them: the metric needs two answers";
    }
    if (one === false) return "whole sentences are compared here: no word where two answers compete";
  }
  const [a, b] = [words(good), words(bad)];
  const at = a.findIndex((word, i) => word !== b[i]);
  if (at < 0 && a.length === b.length) return "the sentences are equal";
  if (at < 0 || at >= b.length) return "one sentence is the beginning of the other";
  if (at === 0) return "the sentences differ in their first word: no prompt comes before it";
  const rest = a.slice(at + 1);
  if (one !== true && rest.join(" ") !== b.slice(at + 1).join(" ")) return "the sentences differ in more than one word";
  const goesOn = one !== true && rest.some((word) => /[\p{L}\p{N}]/u.test(word));
  return withoutMarks(a.slice(0, at).join(" "), a[at]!, b[at]!, goesOn);
}

function withoutMarks(prefix: string, good: string, bad: string, goesOn: boolean) {
  const mark = /[.,;:!?]+$/;
  const same = mark.exec(good)?.[0] === mark.exec(bad)?.[0];
  const cut = (word: string) => (same ? word.replace(mark, "") : word);
  return { prefix, good: cut(good), bad: cut(bad), goesOn };
}

/**
 * Pairs of prompts from pairs of sentences. Where two of them have the same two words the other way round after prompts that differ in one word
 * ("The author" laughs / laugh, "The authors" laugh / laughs), each prompt is the other's patch prompt; those without such a partner have none.
 */
export function pairSentences(sentences: readonly SentencePair[]): PairLine[] {
  const key = (answers: readonly string[], prefix: readonly string[], masked: number, split: Split | undefined) =>
    JSON.stringify([answers, prefix.map((word, i) => (i === masked ? 0 : word)), split ?? null]);
  const known = new Map<string, SentencePair[]>();
  for (const sentence of sentences) {
    const prefix = words(sentence.prefix);
    prefix.forEach((_, i) => {
      const k = key([sentence.good, sentence.bad], prefix, i, sentence.split);
      const others = known.get(k);
      if (others === undefined) known.set(k, [sentence]);
      // Two are enough: of equal ones every partner differs in the same word.
      else if (others.length < 2 && others[0]!.prefix !== sentence.prefix) others.push(sentence);
    });
  }
  return sentences.map((sentence) => {
    const prefix = words(sentence.prefix);
    let partner: SentencePair | undefined;
    for (let i = 0; i < prefix.length && partner === undefined; i++) {
      const others = known.get(key([sentence.bad, sentence.good], prefix, i, sentence.split)) ?? [];
      partner = others.find((other) => other.prefix !== sentence.prefix);
    }
    return {
      line: sentence.line,
      clean_prefix: sentence.prefix,
      patch_prefix: partner?.prefix ?? null,
      clean_answer: ` ${sentence.good}`,
      patch_answer: ` ${sentence.bad}`,
      case: sentence.case,
      split: sentence.split,
    };
  });
}

const words = (text: string) => text.trim().split(/\s+/);

const isText = (value: unknown): value is string => typeof value === "string" && value.trim() !== "";
