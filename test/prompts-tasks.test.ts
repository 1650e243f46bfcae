import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { tokenizePairs } from "../src/prompts/check.ts";
import { generateSentence } from "../src/prompts/english/english.ts";
import { demoLexicon } from "../src/prompts/english/lexicon-demo.ts";
import { determinerPairs, pronounPairs } from "../src/prompts/english/tasks.ts";
import type { PromptPair } from "../src/prompts/pairs.ts";
import { loadTokenizer } from "../src/prompts/tokenizer.ts";
import { Random } from "../src/random.ts";

const read = (path: string) => readFileSync(new URL(`../${path}`, import.meta.url), "utf8");
const made = { determiner: determinerPairs, pronoun: pronounPairs };
const task = (name: keyof typeof made, perCase = 60, seed = 1) => made[name]({ lexicon: demoLexicon, seed, perCase });
const of = (pairs: readonly PromptPair[], split: string) => pairs.filter((pair) => pair.split === split);

test("as many different pairs as wanted; more begin with the same as fewer; another seed draws others", () => {
  for (const name of ["determiner", "pronoun"] as const) {
    const [few, many, others] = [task(name, 30), task(name, 300), task(name, 300, 2)];
    expect(new Set(many.map((pair) => JSON.stringify(pair))).size).toBe(2400);
    const cases = [...new Set(many.map(({ split, case: of }) => `${split} ${of}`))];
    expect(cases).toHaveLength(8);
    for (const one of cases) {
      const [a, b, c] = [few, many, others].map((list) => list.filter((p) => `${p.split} ${p.case}` === one));
      expect([a!.length, b!.length, c!.length]).toEqual([30, 300, 300]);
      expect(b!.slice(0, 30)).toEqual(a);
      expect(c).not.toEqual(b);
    }
  }
});

test("more pairs than there are is an error that says how many; it stops when asked to", () => {
  const names = demoLexicon.names.filter(({ gender }) => gender === "f").slice(0, 2);
  const lexicon = {
    ...demoLexicon,
    names: [...names, ...names.map(({ name }) => ({ name: `${name}o`, gender: "m" as const }))],
  };
  expect(() => pronounPairs({ lexicon, seed: 1, perCase: 1e6 })).toThrow(
    /^pairs: expected 1000000 of case pronoun_that_feminine, got \d+ different ones in the demo lexicon\. Ask for fewer pairs\.$/,
  );
  expect(() => pronounPairs({ lexicon: demoLexicon, seed: 1, perCase: 9, stopped: () => true })).toThrow("Stopped.");
});

test("every pair fits the embedded tokenizer", () => {
  const tokenizer = loadTokenizer(JSON.parse(read("models/demo/tokenizer.json")));
  for (const name of ["determiner", "pronoun"] as const) {
    expect(task(name)).toHaveLength(480);
    expect(tokenizePairs(task(name), tokenizer).dropped).toEqual([]);
  }
});

test("determiners: the answers of train and test are different nouns, and agree with this and these", () => {
  const pairs = task("determiner");
  const answers = (split: string) =>
    new Set(of(pairs, split).flatMap((pair) => [pair.clean_answer, pair.patch_answer]));
  expect([...answers("train")].filter((answer) => answers("test").has(answer))).toEqual([]);
  for (const pair of pairs) {
    const number = / this\b/.test(pair.clean_prefix) ? "singular" : "plural";
    expect(pair.case.endsWith(number)).toBe(true);
    expect(demoLexicon.nouns.some((noun) => noun[number] === pair.clean_answer.trim())).toBe(true);
  }
});

test("pronouns: train and test have different names, and she follows women's names", () => {
  const pairs = task("pronoun");
  const first = (text: string) => text.split(" ")[0]!;
  const names = (split: string) => new Set(of(pairs, split).map((pair) => first(pair.clean_prefix)));
  expect([...names("train")].filter((name) => names("test").has(name))).toEqual([]);
  for (const pair of pairs) {
    const { gender } = demoLexicon.names.find(({ name }) => name === first(pair.clean_prefix))!;
    expect(pair.clean_answer).toBe(gender === "f" ? " she" : " he");
  }
});

test("the generated English has such sentences, and pronouns there have the right gender", () => {
  const random = new Random("tasks");
  const gender = new Map(demoLexicon.names.map((name) => [name.name, name.gender]));
  let [right, wrong, these] = [0, 0, 0];
  for (let i = 0; i < 20_000; i++) {
    const text = generateSentence(random, demoLexicon);
    if (/\b(this|these)\b/i.test(text)) these++;
    const match = /^([A-Z]\w+) \w+ (?:that|because|when|while|although) (she|he)\b/.exec(text);
    if (match === null || !gender.has(match[1]!)) continue;
    if ((gender.get(match[1]!) === "f") === (match[2] === "she")) right++;
    else wrong++;
  }
  expect(right).toBeGreaterThan(200);
  expect(wrong).toBeLessThan(0.02 * right);
  expect(these).toBeGreaterThan(1000);
});
