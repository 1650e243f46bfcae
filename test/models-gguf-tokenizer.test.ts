import { readFileSync } from "node:fs";
import { describe, expect, it, test } from "vitest";
import { openGguf } from "../src/bytes/gguf.ts";
import { memorySource } from "../src/bytes/memory.ts";
import { tokenizerFromMetadata } from "../src/models/gguf/tokenizer.ts";
import { loadTokenizer } from "../src/prompts/tokenizer.ts";
import { makeGguf, type Value } from "./make-gguf.ts";

interface Vocabulary {
  readonly tokens: readonly string[];
  readonly types: readonly number[];
}

/** Small vocabularies, and the tokens that their own libraries make of the texts (test/oracles/make_gguf.py). */
const made = JSON.parse(readFileSync(new URL("fixtures/gguf/tokenizers.json", import.meta.url), "utf8")) as {
  readonly texts: readonly string[];
  readonly bytes: Vocabulary & { readonly merges: string[]; readonly ids: Readonly<Record<string, number[][]>> };
  readonly space: Vocabulary & { readonly scores: number[]; readonly ids: number[][] };
  readonly plain: Vocabulary & { readonly scores: number[]; readonly ids: number[][] };
};

type Values = Readonly<Record<string, Value>>;

async function tokenizerOf(values: Values, architecture = "llama") {
  const prefixed = Object.entries(values).map(([key, value]) => [`tokenizer.ggml.${key}`, value] as const);
  const bytes = makeGguf({ values: { "general.architecture": architecture, ...Object.fromEntries(prefixed) } });
  return tokenizerFromMetadata(await openGguf(memorySource("model.gguf", bytes)));
}

const vocabulary = ({ tokens, types }: Vocabulary) => ({ tokens, token_type: Int32Array.from(types) });
const bytes: Values = { model: "gpt2", pre: "gpt-2", ...vocabulary(made.bytes), merges: made.bytes.merges };
const pieces = ({ scores, ...rest }: (typeof made)["space"]): Values => {
  return { model: "llama", ...vocabulary(rest), scores: Float32Array.from(scores) };
};

describe("byte-level BPE", () => {
  test.each(Object.keys(made.bytes.ids))("splits texts as models of the kind %s do", async (pre) => {
    const tokenizer = loadTokenizer(await tokenizerOf({ ...bytes, pre, add_bos_token: false }));
    for (const [i, text] of made.texts.entries()) {
      expect(tokenizer.encode(text), JSON.stringify(text)).toEqual(made.bytes.ids[pre]![i]);
      // Qwen's and GPT-NeoX's compose accents.
      if (text !== "" && pre !== "qwen2" && pre !== "olmo") expect(tokenizer.decode(tokenizer.encode(text))).toBe(text);
    }
    expect([...tokenizer.special]).toEqual([0]);
    expect(tokenizer.bos).toBeUndefined();
  });

  test.each([
    ["llama-v3", "llama-bpe"],
    ["llama3", "llama-bpe"],
    ["falcon3", "llama-bpe"],
    ["refact", "smollm"],
    ["minerva-7b", "smollm"],
    ["mellum", "gpt-2"],
    ["mpt", "olmo"],
    ["deepseek-r1-qwen", "qwen2"],
  ])("%s is another name of %s", async (name, known) => {
    expect(await tokenizerOf({ ...bytes, pre: name })).toEqual(await tokenizerOf({ ...bytes, pre: known }));
  });

  it("puts BOS first if the file or the kind says so, and never EOS last", async () => {
    const bosOf = async (more: Values) => loadTokenizer(await tokenizerOf({ ...bytes, bos_token_id: 0, ...more })).bos;
    expect(await bosOf({ pre: "llama-bpe" })).toBe(0);
    expect(await bosOf({ pre: "llama-v3" })).toBe(0);
    expect(await bosOf({ pre: "smaug-bpe" })).toBeUndefined();
    expect(await bosOf({ pre: "llama-bpe", add_bos_token: false })).toBeUndefined();
    expect(await bosOf({ pre: "gpt-2" })).toBeUndefined();
    expect(await bosOf({ pre: "gpt-2", add_bos_token: true, add_eos_token: true, eos_token_id: 5 })).toBe(0);
  });

  it("of an unknown kind is refused by name", async () => {
    await expect(tokenizerOf({ ...bytes, pre: "falcon" })).rejects.toThrow(
      /^tokenizer\.ggml\.pre: expected one of gpt-2, [^"]*, llama-bpe, [^"]*, deepseek-r1-qwen, got "falcon" in model\.gguf\. Put the model's tokenizer\.json beside the file\.$/,
    );
  });

  // llama.cpp has a split of its own for these, with which no model was trained.
  it.each<[string, Values]>([
    ["nothing", {}],
    ['"default"', { pre: "default" }],
  ])("that says %s of its kind is refused, and of GPT-2 itself split as GPT-2's", async (got, said) => {
    const { pre: _, ...rest } = bytes;
    await expect(tokenizerOf({ ...rest, ...said })).rejects.toThrow(
      `tokenizer.ggml.pre: expected how a text is split into words, got ${got} in model.gguf. Put the model's tokenizer.json beside the file.`,
    );
    const tokenizer = loadTokenizer(await tokenizerOf({ ...rest, ...said }, "gpt2"));
    expect(made.texts.map((text) => tokenizer.encode(text))).toEqual(made.bytes.ids["gpt-2"]);
  });
});

describe("SentencePiece", () => {
  it("gives SentencePiece's own tokens, with a space put first", async () => {
    const tokenizer = loadTokenizer(await tokenizerOf(pieces(made.space)));
    for (const [i, text] of made.texts.entries()) {
      // As in Llama's own tokenizer.json, a space is put behind a token that is looked for in the text too, which SentencePiece does not.
      if (/<tag>| {4}/.test(text)) continue;
      expect(tokenizer.encode(text), JSON.stringify(text)).toEqual(made.space.ids[i]);
      if (text !== "") expect(tokenizer.decode(tokenizer.encode(text).slice(1))).toBe(text);
    }
    expect(tokenizer.bos).toBe(1);
    expect([...tokenizer.special]).toEqual([0, 1, 2]);
  });

  it("joins what scores best first, of equal scores and of one token what is longer on the left", async () => {
    const tokens = ["<unk>", "a", "b", "😀", "ab", "ba", "aba", "abab", "b😀", "baba"];
    const scores = Float32Array.of(0, -1, -1, -1, -3, -2, -4, -4, -5, -6);
    const { model } = await tokenizerOf({ model: "llama", tokens, scores });
    const joins = ["b a", "a b", "aba b", "ab ab", "ab a", "a ba", "b 😀", "ba ba", "b aba"];
    expect((model as { merges: string[][] }).merges.map((pair) => pair.join(" "))).toEqual(joins);
  });

  it("and without", async () => {
    const tokenizer = loadTokenizer(await tokenizerOf({ ...pieces(made.plain), add_space_prefix: false }));
    for (const [i, text] of made.texts.entries()) {
      expect(tokenizer.encode(text), JSON.stringify(text)).toEqual(made.plain.ids[i]);
    }
  });

  it("reads runs of spaces as the converter writes them, and leaves BOS out if the file says so", async () => {
    const tokens = made.plain.tokens.map((token) => (/^▁{2,}$/.test(token) ? " ".repeat(token.length) : token));
    const values = { ...pieces(made.plain), tokens, add_space_prefix: false, add_bos_token: false };
    const tokenizer = loadTokenizer(await tokenizerOf(values));
    for (const [i, text] of made.texts.entries()) {
      expect(tokenizer.encode(text), JSON.stringify(text)).toEqual(made.plain.ids[i]!.slice(1));
    }
  });
});

it.each<[string, Values, string]>([
  ["no model", { tokens: ["a"] }, "model: expected one of gpt2, llama, got nothing"],
  ["another model", { ...bytes, model: "bert" }, 'model: expected one of gpt2, llama, got "bert"'],
  ["no tokens", { model: "gpt2" }, "tokens: expected a list of texts, got none"],
  ["tokens that are numbers", { ...bytes, tokens: Int32Array.of(1) }, "tokens: expected a list of texts, got none"],
  ["no merges", { model: "gpt2", pre: "gpt-2", tokens: ["a"] }, "merges: expected a list of texts, got none"],
  ["no scores", { model: "llama", tokens: ["a"] }, "scores: expected a list of numbers, got none"],
  ["too few scores", { ...pieces(made.space), scores: Float32Array.of(1) }, "scores: expected a list of 420 numbers"],
  ["types that are texts", { ...bytes, token_type: ["x"] }, "token_type: expected a list of 352 numbers, got another"],
  [
    "two tokens of one text",
    { ...bytes, tokens: ["x", "", "", "x"] },
    'tokens: expected different texts, got "x" at 0',
  ],
  [
    "NaN as a score",
    { ...pieces(made.space), scores: Float32Array.from(made.space.scores, () => NaN) },
    "scores: expected numbers",
  ],
  ["BOS that is no token", { ...bytes, bos_token_id: 400 }, "bos_token_id: expected a token from 0 to 351, got 400"],
])("%s is refused by name", async (_, values, message) => {
  await expect(tokenizerOf(values)).rejects.toThrow(`tokenizer.ggml.${message}`);
  await expect(tokenizerOf(values)).rejects.toThrow(/^[^\n]* in model\.gguf\. Put [^\n]*$/);
});
