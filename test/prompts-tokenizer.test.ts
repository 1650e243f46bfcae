import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { describeDoubled, describeDropped, tokenizePairs } from "../src/prompts/check.ts";
import { agreementPairs } from "../src/prompts/english/agreement.ts";
import { generateSentence } from "../src/prompts/english/english.ts";
import { wordForms } from "../src/prompts/english/lexicon.ts";
import { commonLexicon } from "../src/prompts/english/lexicon-common.ts";
import { demoLexicon } from "../src/prompts/english/lexicon-demo.ts";
import { makeTokenizer } from "../src/prompts/make-tokenizer.ts";
import type { PromptPair } from "../src/prompts/pairs.ts";
import { loadTokenizer } from "../src/prompts/tokenizer.ts";
import { Random } from "../src/random.ts";

const read = (path: string) => readFileSync(new URL(`../${path}`, import.meta.url), "utf8");
const json = JSON.parse(read("models/demo/tokenizer.json"));
const tokenizer = loadTokenizer(json, JSON.parse(read("models/demo/tokenizer_config.json")));

test("the committed tokenizer is what the maker makes", () => {
  for (const [name, text] of Object.entries(makeTokenizer(demoLexicon)))
    expect(read(`models/demo/${name}`) === text, name).toBe(true);
});

test("ids are those of the Rust library", () => {
  const { rows } = JSON.parse(read("test/fixtures/demo-tokens.json")) as { rows: { text: string; ids: number[] }[] };
  expect(rows.length).toBeGreaterThan(200);
  for (const { text, ids } of rows) expect(tokenizer.encode(text), text).toEqual(ids);
});

test("every form of every word is one token, and any text comes back", () => {
  for (const word of wordForms(demoLexicon)) expect(tokenizer.encode(` ${word}`), word).toHaveLength(2);
  const random = new Random("sentences");
  for (let i = 0; i < 2000; i++) {
    const text = ` ${generateSentence(random, demoLexicon)}`;
    expect(tokenizer.encode(text)).toHaveLength(1 + text.replace(/[.,?]/g, " $&").trim().split(" ").length);
  }
  for (const text of ["Zebulon's 42 naïve 猫 😀\n\tok", " The dogs, an old cat?"]) {
    expect(tokenizer.decode(tokenizer.encode(text).slice(1))).toBe(text);
  }
});

test("BOS stands first and tokens are readable", () => {
  const ids = tokenizer.encode("The dogs run.");
  expect(tokenizer.bos).toBe(ids[0]);
  expect([...tokenizer.special]).toContain(tokenizer.bos);
  expect([...tokenizer.outside.first]).toEqual([tokenizer.bos]);
  expect(ids.map((id) => tokenizer.token(id))).toEqual(["<|begin_of_text|>", "The", " dogs", " run", "."]);
  expect(tokenizer.token(tokenizer.encode("é")[1]!)).toBe("<0xC3>");
  expect(tokenizer.vocabularySize).toBe(Object.keys(json.model.vocab).length);
});

test("an answer is the one token by which the prompt grows", () => {
  expect(tokenizer.token(tokenizer.answerToken("The dogs", " run") as number)).toBe(" run");
  expect(tokenizer.answerToken("The dogs", " photosynthesise")).toBe("several tokens");
  expect(tokenizer.answerToken("The", "dogs")).toBe("not an extension");
});

test("a tokenizer that ends texts with EOS is refused, and so is a file that is none", () => {
  const [eos] = [...tokenizer.special].slice(1);
  const single = [...json.post_processor.single, { SpecialToken: { id: "<|end_of_text|>", type_id: 0 } }];
  const special_tokens = {
    ...json.post_processor.special_tokens,
    "<|end_of_text|>": { id: "<|end_of_text|>", ids: [eos], tokens: ["<|end_of_text|>"] },
  };
  const trailing = { ...json, post_processor: { ...json.post_processor, single, special_tokens } };
  expect(() => loadTokenizer(trailing, {}, "m/tokenizer.json")).toThrow(
    "tokenizer: expected prompts that end with their last word, got a special token at the end of every text in m/tokenizer.json. " +
      "Take the end-of-text token out of its post-processor.",
  );
  expect(() => loadTokenizer([], {}, "m/tokenizer.json")).toThrow(
    /^tokenizer: expected an object with a model, got a list in m/,
  );
  expect(() => loadTokenizer({ model: { type: "Nonsense" } }, {}, "m/t.json")).toThrow(
    /^tokenizer model\.type: expected .*, got "Nonsense" in m\/t\.json\. This/,
  );
});

test("all agreement pairs of the embedded lexicon fit the embedded tokenizer", () => {
  const pairs = agreementPairs({ lexicon: demoLexicon, seed: 1, perCase: 50, split: "train" });
  const { kept, dropped } = tokenizePairs(pairs, tokenizer);
  expect(dropped).toEqual([]);
  expect(kept.map(({ pair }) => pair)).toEqual(pairs);
  for (const { clean, patch } of kept) expect(clean.filter((id, i) => id !== patch[i])).toHaveLength(1);
});

test("pairs that do not fit are counted by reason", () => {
  const pair = (
    clean_prefix: string,
    patch_prefix: string,
    clean_answer = " is",
    patch_answer = " are",
  ): PromptPair => {
    return { clean_prefix, patch_prefix, clean_answer, patch_answer, case: "c", split: "test" };
  };
  const { kept, dropped } = tokenizePairs(
    [
      pair("The dog", "The dogs"),
      pair("The dog", "The dog"),
      pair("The dog", "The old dogs"),
      pair("The photon", "The photons"),
      pair("The dog", "The dogs", " is", " photosynthesise"),
      pair("The dog", "The dogs", " is", " is"),
      pair("The", "This", "dog", "dogs"),
      pair("The dog near the house", "The dogs near the house"),
    ],
    tokenizer,
    5,
  );
  expect(kept).toHaveLength(1);
  expect(describeDropped(dropped)).toEqual([
    '1 pair: prompts are equal, e.g. "The dog" and "The dog"',
    '2 pairs: prompts have different numbers of tokens, e.g. "The dog" and "The old dogs"',
    '1 pair: prompt is too long, e.g. "The dog near the house" and "The dogs near the house"',
    '1 pair: answer is several tokens, e.g. "The dog" → " is", " photosynthesise"',
    '1 pair: answer changes the tokens before it, e.g. "The" → "dog", "dogs"',
    '1 pair: answers are equal, e.g. "The dog" → " is", " is"',
  ]);
});

test("BOS twice is told of, whether the prompts bring one or the tokenizer puts two", () => {
  const pair = (begin: string, subject: string): PromptPair => {
    const answers = { clean_answer: " is", patch_answer: " are", case: "c", split: "test" as const };
    return { clean_prefix: `${begin}The ${subject}`, patch_prefix: `${begin}The ${subject}s`, ...answers };
  };
  const told = (pairs: readonly PromptPair[], used = tokenizer) =>
    describeDoubled(tokenizePairs(pairs, used).kept, used);
  expect(told([pair("", "dog"), pair("", "cat")])).toEqual([]);
  expect(told([pair("", "dog"), pair("<|begin_of_text|>", "cat")])).toEqual([
    '1 of 2 pairs begin with "<|begin_of_text|>" twice, since the tokenizer puts one in front: models are trained with one. Take it out of the prompts.',
  ]);
  const [bos, text] = json.post_processor.single;
  const doubled = loadTokenizer({ ...json, post_processor: { ...json.post_processor, single: [bos, bos, text] } });
  expect(told([pair("", "dog")], doubled)).toEqual([
    'Every prompt begins with "<|begin_of_text|>" twice, since the tokenizer puts two in front: models are trained with one.',
  ]);
  const without = loadTokenizer({ ...json, post_processor: null });
  expect(told([pair("<|begin_of_text|>", "cat")], without)).toEqual([]);
  expect(
    describeDropped(tokenizePairs([{ ...pair("", "dog"), clean_prefix: "", patch_prefix: null }], without).dropped),
  ).toEqual(['1 pair: prompt has no tokens, e.g. ""']);
});

test("pairs of the common lexicon whose words the tokenizer lacks are dropped, not broken", () => {
  const pairs = agreementPairs({ lexicon: commonLexicon, seed: 1, perCase: 50, split: "train" });
  const { kept, dropped } = tokenizePairs(pairs, tokenizer);
  expect(kept.length + dropped.reduce((sum, { count }) => sum + count, 0)).toBe(pairs.length);
  expect(kept.length).toBeGreaterThan(pairs.length / 2);
});
