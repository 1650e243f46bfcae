import { expect, it } from "vitest";
import { isOutside, outsideText } from "../src/prompts/outside.ts";

const vocabulary = new Map(["<s>", "</s>", "<pad>", "<|im_start|>", "<|im_end|>", "a"].map((text, id) => [text, id]));
const idOf = (text: string) => vocabulary.get(text);
const [s, eos, pad, imStart, imEnd] = [0, 1, 2, 3, 4];

it("BOS is what the tokenizer puts first and what its config calls so, at the first position alone", () => {
  const outside = outsideText({ bos_token: { content: "<|im_start|>" } }, s, idOf);
  for (const bos of [s, imStart]) {
    expect(isOutside(outside, bos, 0)).toBe(true);
    expect(isOutside(outside, bos, 3)).toBe(false);
  }
  expect(isOutside(outside, eos, 0)).toBe(false);
});

it("padding is left out everywhere, unless its token also ends texts or turns", () => {
  const own = outsideText({ bos_token: "<s>", eos_token: "</s>", pad_token: "<pad>" }, undefined, idOf);
  expect(isOutside(own, pad, 7)).toBe(true);
  // SmolLM2's chat models: the turn mark that ends a text is their padding too.
  const shared = outsideText({ eos_token: "<|im_end|>", pad_token: "<|im_end|>" }, undefined, idOf);
  expect(isOutside(shared, imEnd, 7)).toBe(false);
  // Llama 2: the unknown token.
  expect(isOutside(outsideText({ unk_token: "a", pad_token: "a" }, s, idOf), 5, 7)).toBe(false);
});

it("nothing is left out where neither file names anything, or names what is no token", () => {
  for (const config of [undefined, null, {}, { bos_token: null, pad_token: 3 }, { bos_token: "<none>" }]) {
    const { first, padding } = outsideText(config, undefined, idOf);
    expect([...first, ...padding]).toEqual([]);
  }
});
