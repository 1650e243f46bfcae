import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { UserError } from "../src/errors.ts";
import { readPairs, writePairs } from "../src/prompts/read-pairs.ts";

const line = (clean: string, patch: string, more: object = {}) =>
  JSON.stringify({
    clean_prefix: clean,
    patch_prefix: patch,
    clean_answer: " is",
    patch_answer: " are",
    case: "c",
    ...more,
  });
const two = `${line("The dog", "The dogs")}\n${line("The cat", "The cats")}\n`;

test("pairs without a split are halved, those that share a prompt staying together", () => {
  const text = ["dog", "cat", "cow", "pig"]
    .flatMap((n) => [line(`The ${n}`, `The ${n}s`), line(`The ${n}s`, `The ${n}`), line(`The ${n}s`, `A ${n}`)])
    .join("\n");
  const pairs = readPairs(text, "a.jsonl", 1);
  expect(pairs.filter((pair) => pair.split === "train")).toHaveLength(6);
  const prompts = (split: string) =>
    new Set(pairs.filter((p) => p.split === split).flatMap((p) => [p.clean_prefix, p.patch_prefix]));
  expect([...prompts("train")].filter((prompt) => prompts("test").has(prompt))).toEqual([]);
  expect(readPairs(text, "a.jsonl", 1)).toEqual(pairs);
});

test("a split is honoured, a case is not needed, and writing reads back", () => {
  const text = `\ufeff${line("The dog", "The dogs", { split: "test", case: undefined })}\r\n\r\n${line("The cat", "The cats", { split: "test" })}`;
  const pairs = readPairs(text, "a.jsonl");
  expect(pairs.map((pair) => [pair.split, pair.case])).toEqual([
    ["test", "default"],
    ["test", "c"],
  ]);
  expect(readPairs(writePairs(pairs), "b.jsonl")).toEqual(pairs);
});

test.each([
  ["", "pairs: expected one JSON object a line, got no lines in a.jsonl. Give a file with prompt pairs."],
  [
    `${two}{"clean_prefix": `,
    'pairs: expected one JSON object, got {"clean_prefix": (an object that does not end on its line) in a.jsonl, line 3. Correct it, and write each object on a line of its own.',
  ],
  [`[1]\n${two}`, "pairs: expected one JSON object, got a list in a.jsonl, line 1. Correct or remove the line."],
  [
    `${two}${line("The pig", "The pigs", { patch_answer: undefined })}`,
    'pairs: expected text in "patch_answer", got no such field in a.jsonl, line 3. Correct or remove the line.',
  ],
  [
    `${line("", "x")}\n${line("x", "")}\n{`,
    'pairs: expected text in "clean_prefix", got an empty text in a.jsonl, line 1. Correct or remove the line. (2 more lines are broken.)',
  ],
  [
    line("a", "b", { split: "dev" }),
    'pairs: expected "train" or "test" in "split", got "dev" in a.jsonl, line 1. Correct the field.',
  ],
  [
    `${two}${line("The pig", "The pigs", { split: "train" })}`,
    'pairs: expected a "split" on every line or on none, got 1 of 3 in a.jsonl. Give all lines one or remove them.',
  ],
])("a bad file is a one-line error: %#", (text, message) => {
  expect(() => readPairs(text, "a.jsonl")).toThrow(new UserError(message));
});

const folder = join(process.env.SFC_TEST_DATA ?? "../shared/data", "feature-circuits");

describe.skipIf(!existsSync(folder))("public sets (SFC_TEST_DATA)", () => {
  test.each([
    ["simple_train.json", 480],
    ["nounpp_train.json", 1920],
    ["within_rc_test.json", 2400],
  ])("%s is read whole, its halves share no prompt and are equal to 5 %%", (name, count) => {
    const pairs = readPairs(readFileSync(join(folder, name), "utf8"), name, 7);
    expect(pairs).toHaveLength(count);
    const train = pairs.filter((pair) => pair.split === "train");
    expect(Math.abs(train.length / count - 0.5)).toBeLessThan(0.05);
    const prompts = new Set(train.flatMap((pair) => [pair.clean_prefix, pair.patch_prefix]));
    const test = pairs.filter((pair) => pair.split === "test");
    expect(test.filter((pair) => prompts.has(pair.clean_prefix) || prompts.has(pair.patch_prefix))).toEqual([]);
    expect(pairs[0]!.clean_answer).toMatch(/^ \w+$/);
  });
});
