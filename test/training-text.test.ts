import { expect, test } from "vitest";
import { agreementPairs } from "../src/prompts/english/agreement.ts";
import { type Construction, constructions, heldOut } from "../src/prompts/english/constructions.ts";
import { demoLexicon } from "../src/prompts/english/lexicon-demo.ts";
import { makeTokenizer } from "../src/prompts/make-tokenizer.ts";
import { loadTokenizer } from "../src/prompts/tokenizer.ts";
import { combinationReader, combinationsRead } from "../src/training/combinations.ts";
import { demoRecipe } from "../src/training/demo.ts";
import { rowContext, targetValues } from "../src/training/loss.ts";
import { generatedText } from "../src/training/text.ts";

const tokenizer = loadTokenizer(JSON.parse(makeTokenizer(demoLexicon)["tokenizer.json"]));
const text = generatedText(tokenizer, demoLexicon, 1);

test("rows are BOS and the beginning of their sentences, and always the same", () => {
  const { tokens } = text.rows("7/1", 3, 24);
  expect(text.rows("7/1", 3, 24).tokens).toEqual(tokens);
  expect(text.rows("7/0", 3, 24).tokens).not.toEqual(tokens);
  for (let piece = 0; piece < 20; piece++) {
    const row = [...text.rows(piece, 1, 24).tokens];
    expect(row).toHaveLength(25);
    expect(row[0]).toBe(tokenizer.bos);
    expect(row.indexOf(tokenizer.bos!, 1)).toBe(-1);
    const sentences = text.sentences(piece, 1, 24).map((sentence) => sentence.text);
    const written = tokenizer.decode(row.slice(1));
    expect(sentences.join(" ").startsWith(written), written).toBe(true);
  }
});

test("each token is to predict the next one of its row", () => {
  const rows = { count: 2, length: 3, tokens: Int32Array.of(0, 5, 6, 7, 0, 8, 9, 4) };
  const { tokens, positions, mask } = rowContext(rows);
  expect([...tokens.data]).toEqual([0n, 5n, 6n, 0n, 8n, 9n]);
  expect([...targetValues(rows).data]).toEqual([5n, 6n, 7n, 8n, 9n, 4n]);
  expect([...positions.data]).toEqual([0n, 1n, 2n, 0n, 1n, 2n]);
  const no = -Infinity;
  expect([...mask.data]).toEqual([0, no, no, 0, 0, no, 0, 0, 0]);
});

test("combinations are found in agreement pairs and in the text", () => {
  const combinationOf = combinationReader(demoLexicon);
  const held = (key: string) => {
    const [construction, noun, verb] = key.split("/") as [Construction, string, string];
    return heldOut(construction, noun, verb);
  };
  const options = { lexicon: demoLexicon, seed: "combinations", perCase: 20, split: "train" } as const;
  const pairs = agreementPairs({ ...options, combinations: "held-out" });
  expect(pairs).toHaveLength(20 * 2 * constructions.length);
  expect(pairs.map(combinationOf).filter((key) => !held(key))).toEqual([]);
  expect(agreementPairs(options).map(combinationOf).filter(held).length).toBeLessThan(0.3 * pairs.length);

  const read = combinationsRead(text, { ...demoRecipe, steps: 100 });
  expect(read.size).toBeGreaterThan(5000);
  const slipped = [...read].filter(held).length;
  expect(slipped).toBeGreaterThan(0);
  expect(slipped).toBeLessThan(0.02 * read.size);
});
