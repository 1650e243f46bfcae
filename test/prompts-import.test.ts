import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { excerpt } from "../src/prompts/excerpt.ts";
import { halves } from "../src/prompts/halves.ts";
import { decodePairs } from "../src/prompts/pair-text.ts";
import { importPairs, readPairs } from "../src/prompts/read-pairs.ts";

const pair = (clean: string, patch: string | undefined, more: object = {}) => ({
  clean_prefix: clean,
  patch_prefix: patch,
  clean_answer: " sing",
  patch_answer: " sings",
  case: "birds",
  ...more,
});
const finches = [pair("The finches", "The finch"), pair("The larks", "The lark", { case: "more" })];
const lines = (list: readonly object[], end = "\n") => list.map((one) => JSON.stringify(one)).join(end);
const fields = (text: string) => readPairs(text, "birds.jsonl").map(({ split: _, ...rest }) => rest);

describe("a file's encoding", () => {
  const utf16 = (text: string, swapped: boolean) => {
    const bytes = Buffer.from(`\ufeff${text}`, "utf16le");
    return swapped ? bytes.swap16() : bytes;
  };

  test.each([
    ["UTF-16, little end first", utf16(lines(finches, "\r\n"), false)],
    ["UTF-16, big end first", utf16(lines(finches, "\r\n"), true)],
    ["UTF-8 with a mark", Buffer.from(`\ufeff${lines(finches)}`)],
    ["UTF-8", Buffer.from(lines(finches))],
  ])("%s is read", (_, bytes) => {
    expect(fields(decodePairs(bytes, "birds.jsonl"))).toEqual(finches);
  });

  test.each([
    [Buffer.from(lines(finches), "utf16le"), "UTF-16 without a byte order mark"],
    [Buffer.from([0xff, 0xfe, 0x7b]), "UTF-16 that is cut off"],
    [Buffer.from(`${lines(finches)}\n{"clean_prefix": "Les p\xe9lerins"}`, "latin1"), "birds.jsonl, line 3"],
    [Buffer.from(`a\nb\0`), "birds.jsonl, line 2"],
    [Buffer.from([0x1f, 0x8b, 8, 0]), "a gzip file"],
    [Buffer.from("PAR1....PAR1"), "a Parquet file"],
  ])("what is no UTF-8 is named: %#", (bytes, part) => {
    expect(() => decodePairs(bytes, "birds.jsonl")).toThrow(part);
  });
});

describe("a file's form", () => {
  test.each([
    ["ends of lines of the old Macintosh", lines(finches, "\r")],
    ["a JSON array", JSON.stringify(finches, null, 2)],
    ["a JSON array in one line", JSON.stringify(finches)],
    [
      "tabs under names of columns",
      `case\tclean_prefix\tpatch_prefix\tclean_answer\tpatch_answer\n${finches.map((f) => `${f.case}\t${f.clean_prefix}\t${f.patch_prefix}\t sing\t sings`).join("\n")}`,
    ],
  ])("%s", (_, text) => expect(fields(text)).toEqual(finches));

  test("one object over several lines is one pair, all train", () => {
    const { pairs, notes } = importPairs(JSON.stringify(finches[0], null, 4), "birds.json");
    expect(pairs).toEqual([{ ...finches[0], split: "train" }]);
    expect(notes).toEqual(["One pair alone: there is no test split."]);
  });

  const deep = "[".repeat(200_000) + "]".repeat(200_000);
  test.each([
    [`${lines(finches, ",\n")},`, 'got one with a comma after it ({"clean_prefix"', "line 1. Remove the commas"],
    [`[\n${lines(finches, ",\n")},\n]`, "a JSON array of objects", "line 4."],
    [`[${JSON.stringify(finches[0])},\n\n["x"]]`, "got a list as element 2", "line 3."],
    ["[]", "got an empty list"],
    ["clean_prefix,patch_prefix\nThe finches,The finch", "got comma-separated values (clean_prefix,patch_prefix)"],
    [
      `${JSON.stringify(finches[0], null, 1)}\n${JSON.stringify(finches[1], null, 1)}`,
      "does not end on its line",
      "line 1.",
    ],
    [`{"clean_prefix": ${deep}, "patch_prefix": "x"}`, 'expected text in "clean_prefix", got a list', "line 1."],
    [lines([{ ...finches[0], case: ["x"] }]), 'expected text in "case", got a list'],
    [lines([{ ...finches[0], case: "a\u0000b" }]), 'in "case", got "a\\u0000b"'],
    [lines([{ ...finches[0], case: "\u001b[2Jlarks" }]), 'got "\\u001b[2Jlarks"'],
    [lines([{ ...finches[0], case: "x".repeat(5000) }]), "at most 200 characters"],
    [
      `{"clean_prefix": "\\ud83d", "patch_prefix": "x", "clean_answer": "a", "patch_answer": "b"}`,
      "half of a character",
    ],
  ])("what cannot be read is refused with the reason, in one short line: %#", (text, ...parts) => {
    let message = "";
    try {
      readPairs(text, "birds.jsonl");
    } catch (error) {
      message = (error as Error).message;
    }
    for (const part of parts) expect(message).toContain(part);
    expect(message).toMatch(/in birds\.jsonl/);
    expect(message.length).toBeLessThan(400);
    expect(message).not.toMatch(/\p{Cc}/u);
  });

  test("all broken lines are counted, whatever is wrong with them, and the first is told", () => {
    const text = `${lines(finches)}\n{"clean_prefix": "The wren"}\n${"warble\n".repeat(20_000)}{"clean_prefix": warble}\n`;
    expect(() => readPairs(text, "birds.jsonl")).toThrow(
      /^pairs: expected text in "patch_prefix", got no such field in birds\.jsonl, line 3\. .*\(20001 more lines are broken\.\)$/,
    );
  });
});

describe("halves without a split", () => {
  const sides = (pairs: ReturnType<typeof pair>[], seed: number) =>
    halves(
      pairs.map((one) => ({ ...one, patch_prefix: one.patch_prefix ?? null })),
      seed,
    );

  test.each([1, 2, 3, 4, 5])(
    "every case of several groups is in both halves, as evenly as can be (seed %i)",
    (seed) => {
      // Cases of very different sizes, two of them in the same groups.
      const pairs = [40, 7, 2, 3].flatMap((size, c) =>
        Array.from({ length: size }, (_, i) => [
          pair(`c${c} n${i}`, `c${c} m${i}`, { case: `c${c}` }),
          pair(`c${c} m${i}`, `c${c} n${i}`, { case: c === 0 ? "twin" : `c${c}` }),
        ]).flat(),
      );
      const split = sides(pairs, seed);
      const prompts = (which: string) =>
        pairs.filter((_, i) => split[i] === which).flatMap((p) => [p.clean_prefix, p.patch_prefix]);
      const train = new Set(prompts("train"));
      expect(prompts("test").filter((prompt) => train.has(prompt))).toEqual([]);
      for (const name of ["c0", "twin", "c1", "c2", "c3"]) {
        const own = split.filter((_, i) => pairs[i]!.case === name);
        const difference = own.filter((s) => s === "train").length - own.length / 2;
        expect([name, Math.abs(difference) <= 1]).toEqual([name, true]);
      }
    },
  );

  test("the seed decides, the same one the same way", () => {
    const pairs = Array.from({ length: 30 }, (_, i) => pair(`a${i}`, `b${i}`));
    expect(sides(pairs, 1)).toEqual(sides(pairs, 1));
    expect(sides(pairs, 1)).not.toEqual(sides(pairs, 2));
  });

  test("pairs that all share prompts through others are one split, and that is told", () => {
    const chain = Array.from({ length: 300_000 }, (_, i) => pair(`a${i}`, `a${i + 1}`));
    const { pairs, notes } = importPairs(lines(chain), "chain.jsonl");
    expect(new Set(pairs.map(({ split }) => split))).toEqual(new Set(["train"]));
    expect(notes).toEqual([expect.stringContaining("All 300000 pairs share prompts")]);
  });

  test("a case that cannot be halved is told", () => {
    const { notes } = importPairs(lines([...finches, pair("The wrens", "The wren")]), "birds.jsonl");
    expect(notes).toEqual(["1 case of 2 is in one split alone (e.g. more): their prompts cannot be halved."]);
  });
});

describe("pairs of sentences", () => {
  const blimp = (good: string, bad: string, more: object) => ({
    sentence_good: good,
    sentence_bad: bad,
    UID: "song",
    ...more,
  });
  const one = { one_prefix_method: true, two_prefix_method: false };
  const import_ = (text: string, patchless = true) => importPairs(text, "song.jsonl", { patchless });
  const shape = ({ pairs }: ReturnType<typeof importPairs>) =>
    pairs.map((p) => [p.clean_prefix, p.patch_prefix, p.clean_answer, p.patch_answer, p.case]);

  test("BLiMP's one-prefix fields give a prompt and two answers, a mark at their end left out", () => {
    const text = lines([
      blimp("Ann sees this owl.", "Ann sees this owls.", {
        ...one,
        one_prefix_prefix: "Ann sees this",
        one_prefix_word_good: "owl.",
        one_prefix_word_bad: "owls.",
      }),
      blimp("Each swan swims away.", "Each swan swim off.", one),
    ]);
    expect(shape(import_(text))).toEqual([
      ["Ann sees this", null, " owl", " owls", "song"],
      ["Each swan", null, " swims", " swim", "song"],
    ]);
  });

  test("two with the same words the other way round, their prompts a word apart, are each other's patch prompt", () => {
    const text = [
      "agreement\tsingular\tthe owl hoots\tthe owl hoot",
      "agreement\tplural\tthe owls hoot\tthe owls hoots",
      "agreement\tplural\ttwo grey owls hoot\ttwo grey owls hoots",
      "agreement\tsingular\tthe owl flies\tthe owl fly",
    ].join("\n");
    expect(shape(import_(text))).toEqual([
      ["the owl", "the owls", " hoots", " hoot", "agreement/singular"],
      ["the owls", "the owl", " hoot", " hoots", "agreement/plural"],
      ["two grey owls", null, " hoot", " hoots", "agreement/plural"],
      ["the owl", null, " flies", " fly", "agreement/singular"],
    ]);
    // Where patch prompts are needed, the others are left out, with the reason.
    const { pairs, rejected } = import_(text, false);
    expect(pairs).toHaveLength(2);
    expect(rejected.map(({ line }) => line)).toEqual([3, 4]);
    expect(rejected[0]!.reason).toContain("the same two words the other way round");
  });

  test.each([
    [
      blimp("The owls hoot.", "The owl hoot.", {
        one_prefix_method: false,
        two_prefix_method: true,
        two_prefix_word: "hoot.",
      }),
      "two prompts with one word",
    ],
    [
      blimp("The owls hoot.", "The owl hoot.", {
        two_prefix_prefix_good: "The owls",
        two_prefix_prefix_bad: "The owl",
        two_prefix_word: "hoot",
      }),
      "two prompts with one word",
    ],
    [
      blimp("What did owls see?", "What did see owls?", { one_prefix_method: false, two_prefix_method: false }),
      "whole sentences",
    ],
    [{ good: "no owl ever sings", bad: "the owl ever sings" }, "first word"],
    [{ good: "the owl that no larks like sings", bad: "the owl that the larks likes sings" }, "more than one word"],
    [{ good: "the owl sings loudly", bad: "the owl sings" }, "the beginning of the other"],
    [{ good: "the owl sings", bad: "the owl  sings" }, "the sentences are equal"],
  ])("what gives no prompt with two answers is left out with the reason: %#", (record, reason) => {
    const { pairs, rejected } = import_(lines([record, { good: "an owl sees", bad: "an owl see" }]));
    expect(pairs).toHaveLength(1);
    expect(rejected).toEqual([{ line: 1, reason: expect.stringContaining(reason), sentences: expect.any(Array) }]);
  });

  test("sentences that go on after the word are told", () => {
    const { pairs, notes } = import_("good\tbad\nthe owl is old\tthe owl are old\nan owl is\tan owl are\n");
    expect(pairs.map((p) => p.clean_answer)).toEqual([" is", " is"]);
    expect(notes.find((note) => note.startsWith("1 pair of sentences goes on"))).toBeDefined();
  });
});

test("excerpts are short and show control characters as escapes", () => {
  expect(excerpt("a\u001b[31m\nb\u2028\u202e")).toBe("a\\u001b[31m\\nb\\u2028\\u202e");
  expect(excerpt("x".repeat(60_000), 20)).toBe(`${"x".repeat(10)}…${"x".repeat(10)}`);
});

const folder = join(process.env.SFC_TEST_DATA ?? "../shared/data", "prompts");

describe.skipIf(!existsSync(folder))("public sets of prompts (SFC_TEST_DATA)", () => {
  test.each([
    ["ioi_eap-ig.jsonl", 499],
    ["peap_ioi_ABBA.jsonl", 468],
    ["rc_sfc-errors.jsonl", 1196],
    ["relations_verb_past_tense.jsonl", 228],
  ])("%s is read whole, and no prompt is in both halves", (name, count) => {
    const { pairs, rejected } = importPairs(readFileSync(join(folder, name), "utf8"), name);
    expect([pairs.length, rejected.length]).toEqual([count, 0]);
    const train = new Set(pairs.filter((p) => p.split === "train").flatMap((p) => [p.clean_prefix, p.patch_prefix]));
    expect(pairs.filter((p) => p.split === "test" && (train.has(p.clean_prefix) || train.has(p.patch_prefix)))).toEqual(
      [],
    );
  });

  test("greater_than_data.csv is refused by name", () => {
    const text = readFileSync(join(folder, "greater_than_data.csv"), "utf8");
    expect(() => importPairs(text, "greater.csv")).toThrow("comma-separated values (clean,corrupted,label)");
  });
});
