import { expect, test } from "vitest";
import { tokenizePairs } from "../src/prompts/check.ts";
import { inlinePair } from "../src/prompts/inline.ts";
import type { PromptPair } from "../src/prompts/pairs.ts";
import type { Tokenizer } from "../src/prompts/tokenizer.ts";

/** Pieces of words, the longest that fits first, none of them over another: what each text becomes can be read off. */
const pieces = [
  "The",
  "Two",
  " owl",
  " owls",
  " has",
  " have",
  " n",
  "n't",
  " not",
  " never",
  " is",
  " are",
  "is",
  "are",
  "s",
  "13",
  "52",
  "猫",
  "は",
  " ",
  "t",
];
const encode = (text: string): number[] => {
  const ids: number[] = [];
  for (let at = 0; at < text.length; ) {
    const fits = pieces.filter((piece) => text.startsWith(piece, at)).sort((a, b) => b.length - a.length);
    if (fits[0] === undefined) throw new Error(`no piece at "${text.slice(at)}"`);
    ids.push(pieces.indexOf(fits[0]));
    at += fits[0].length;
  }
  return ids;
};
const tokenizer: Tokenizer = {
  vocabularySize: pieces.length,
  bos: undefined,
  bosToken: undefined,
  special: new Set(),
  outside: { first: new Set(), padding: new Set() },
  encode,
  decode: (ids) => ids.map((id) => pieces[id]).join(""),
  token: (id) => pieces[id]!,
  answerToken(prefix, answer) {
    const [before, whole] = [encode(prefix), encode(prefix + answer)];
    if (before.some((id, i) => whole[i] !== id)) return "not an extension";
    return whole.length === before.length + 1 ? whole.at(-1)! : "several tokens";
  },
};
const id = (piece: string) => pieces.indexOf(piece);
const pair = (clean_answer: string, patch_answer: string, patch: string | null = "Two owl"): PromptPair => ({
  clean_prefix: "The owl",
  patch_prefix: patch,
  clean_answer,
  patch_answer,
  case: "c",
  split: "train",
});
const check = (one: PromptPair, answers: "one" | "first") => tokenizePairs([one], tokenizer, 100, 100, { answers });

test("answers of several tokens are scored at their first, if asked", () => {
  const negated = pair(" hasn't", " haven't");
  expect(check(negated, "one").dropped).toMatchObject([{ reason: "answer is several tokens", count: 1 }]);
  const { kept, several } = check(negated, "first");
  expect(kept).toEqual([
    {
      pair: negated,
      clean: [id("The"), id(" owl")],
      patch: [id("Two"), id(" owl")],
      cleanAnswer: id(" has"),
      patchAnswer: id(" have"),
    },
  ]);
  expect(several).toBe(1);
});

test("tokens that both answers begin with go to both prompts", () => {
  expect(check(pair(" has not", " has never"), "first").kept).toMatchObject([
    {
      clean: [id("The"), id(" owl"), id(" has")],
      patch: [id("Two"), id(" owl"), id(" has")],
      cleanAnswer: id(" not"),
      patchAnswer: id(" never"),
    },
  ]);
  expect(
    tokenizePairs([pair(" has not", " has never")], tokenizer, 2, 100, { answers: "first" }).dropped,
  ).toMatchObject([{ reason: "prompt is too long" }]);
});

test("answers that differ nowhere, or only in their length, cannot be scored", () => {
  expect(check(pair(" has not", " has not"), "first").dropped).toMatchObject([{ reason: "answers are equal" }]);
  expect(check(pair(" has", " has not"), "first").dropped).toMatchObject([
    { reason: "answer is the beginning of the other answer" },
  ]);
  // " owl" + "s" is another token after one of the prompts.
  expect(check(pair("s", " has"), "first").dropped).toMatchObject([{ reason: "answer changes the tokens before it" }]);
});

test("of answers of one token both ways make the same", () => {
  for (const one of [pair(" is", " are"), pair(" is", " are", null)]) {
    expect(check(one, "first")).toEqual(check(one, "one"));
    expect(check(one, "first").kept).toHaveLength(1);
  }
});

test("without a patch prompt, nothing changes between the two", () => {
  const { kept } = check(pair(" is", " are", null), "one");
  expect(kept[0]!.patch).toEqual(kept[0]!.clean);
});

test.each([
  ["The owl", "is, are", " is", " are", 1],
  ["The owl", " is, are", " is", " are", 0],
  ["The owl ", "is,are", "is", "are", 0],
  ["13", "52,13", "52", "13", 0],
  ["猫", "は,猫", "は", "猫", 0],
])("a typed answer gets a space where one is needed: %j, %j", (clean, answers, first, second, notes) => {
  const made = inlinePair({ clean, patch: null, answers }, tokenizer);
  expect([made.pair.clean_answer, made.pair.patch_answer, made.notes.length]).toEqual([first, second, notes]);
});

test.each(["is", "is,", "is,are,has", ", "])("typed answers that are not two are refused: %j", (answers) => {
  expect(() => inlinePair({ clean: "The owl", patch: "Two owl", answers }, tokenizer)).toThrow("--answers: expected");
});
