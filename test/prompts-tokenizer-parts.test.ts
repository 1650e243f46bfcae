import { readFileSync } from "node:fs";
import { describe, expect, it, test } from "vitest";
import { loadTokenizer } from "../src/prompts/tokenizer.ts";

type Json = Readonly<Record<string, unknown>>;

/** What the Rust library makes of texts, part by part (test/oracles/make_tokenizers.py). */
const made = JSON.parse(readFileSync(new URL("fixtures/tokenizers.json", import.meta.url), "utf8")) as {
  readonly texts: readonly string[];
  readonly alphabet: string;
  readonly splits: Readonly<Record<string, { part: Json; pieces: string[][] }>>;
  readonly normalized: Readonly<Record<string, { part: Json; texts: string[] }>>;
  readonly added: Readonly<Record<string, Json & { ids: number[][] }>>;
  readonly frames: Readonly<Record<string, Json & { ids: number[] }>>;
  readonly models: Readonly<Record<string, { file: Json; ids: (number[] | null)[]; decoded: string[] | null }>>;
};

const characters = Array.from(made.alphabet);
const idOf = new Map(characters.map((character, i) => [character, 2 * i]));
/** A tokenizer whose tokens tell where a piece begins: its first character is one token, each that follows another. */
const base = {
  added_tokens: [],
  normalizer: null,
  pre_tokenizer: null,
  post_processor: null,
  decoder: null,
  model: {
    type: "BPE",
    continuing_subword_prefix: "##",
    vocab: Object.fromEntries(characters.flatMap((c, i) => [[c, 2 * i] as const, [`##${c}`, 2 * i + 1] as const])),
    merges: [],
  },
};
const idsOf = (pieces: readonly string[]) =>
  pieces.flatMap((piece) => Array.from(piece, (character, i) => idOf.get(character)! + Math.min(i, 1)));

describe("ids are those of the Rust library", () => {
  test.each(Object.entries(made.splits))("split: %s", (_, { part, pieces }) => {
    const tokenizer = loadTokenizer({ ...base, pre_tokenizer: part });
    for (const [i, text] of made.texts.entries()) {
      expect(tokenizer.encode(text), JSON.stringify(text)).toEqual(idsOf(pieces[i]!));
    }
  });

  test.each(Object.entries(made.normalized))("normalized: %s", (_, { part, texts }) => {
    const tokenizer = loadTokenizer({ ...base, normalizer: part });
    for (const [i, text] of made.texts.entries()) {
      expect(tokenizer.encode(text), JSON.stringify(text)).toEqual(idsOf([texts[i]!]));
    }
  });

  test.each(Object.entries(made.added))("added tokens: %s", (_, { ids, ...parts }) => {
    const tokenizer = loadTokenizer({ ...base, ...parts });
    for (const [i, text] of made.texts.entries()) {
      expect(tokenizer.encode(text), JSON.stringify(text)).toEqual(ids[i]);
    }
  });

  test.each(Object.entries(made.models))("model: %s", (_, { file, ids, decoded }) => {
    const tokenizer = loadTokenizer(file);
    for (const [i, text] of made.texts.entries()) {
      const wanted = ids[i];
      if (wanted) expect(tokenizer.encode(text), JSON.stringify(text)).toEqual(wanted);
      else expect(() => tokenizer.encode(text), JSON.stringify(text)).toThrow(/^tokenizer model\.[^\n]*$/);
      if (decoded) expect(tokenizer.decode(wanted!), JSON.stringify(text)).toBe(decoded[i]);
    }
  });

  test.each(Object.entries(made.frames))("in front of a text: %s", (_, { ids, ...parts }) => {
    const tokenizer = loadTokenizer({ ...base, ...parts });
    expect(tokenizer.encode("a cat")).toEqual(ids);
    expect(tokenizer.bos).toBe(ids[0]);
  });
});

describe("what is not understood is refused by name", () => {
  const split = (Regex: string) => ({ type: "Split", pattern: { Regex }, behavior: "Isolated", invert: false });
  const bpe = (more: Json) => ({ model: { type: "BPE", vocab: { x: 0, y: 1, xy: 2 }, merges: [], ...more } });
  const words = (vocab: Json) => ({ model: { type: "WordLevel", unk_token: "x", vocab } });
  const token = (id: unknown, content: unknown) => ({ added_tokens: [{ id, content, special: true }] });
  const template = (ids: unknown) => ({
    type: "TemplateProcessing",
    single: [{ SpecialToken: { id: "B", type_id: 0 } }, { Sequence: { id: "A", type_id: 0 } }],
    special_tokens: { B: { id: "B", ids, tokens: ["B"] } },
  });

  it.each<[string, Json, string]>([
    ["an id below 0", words({ x: 0, y: -2 }), 'model.vocab: expected whole numbers from 0 to 16777215, got -2 for "y"'],
    ["half an id", words({ x: 0.5 }), 'model.vocab: expected whole numbers from 0 to 16777215, got 0.5 for "x"'],
    ["an id as text", words({ x: "0" }), 'model.vocab: expected whole numbers from 0 to 16777215, got string for "x"'],
    [
      "an enormous id",
      words({ x: 4e9 }),
      'model.vocab: expected whole numbers from 0 to 16777215, got 4000000000 for "x"',
    ],
    ["an id twice", words({ x: 3, y: 3 }), 'model.vocab: expected one token for each id, got 3 for "x" and "y"'],
    [
      "an added token with another's id",
      { ...bpe({}), ...token(1, "x") },
      'added_tokens[0].id: expected 0, its id elsewhere in the file, for "x", got 1',
    ],
    [
      "an added token that leaves a gap",
      { ...bpe({}), ...token(7, "z") },
      'added_tokens[0].id: expected 3, the next free id, for "z", got 7',
    ],
    ["an added token with half an id", { ...bpe({}), ...token(1.5, "z") }, "added_tokens[0].id: expected 3"],
    ["an added token that is no text", { ...bpe({}), ...token(3, 5) }, "added_tokens[0].content: expected text, got 5"],
    [
      "a first token that does not exist",
      { ...bpe({}), post_processor: template([3]) },
      "post_processor.special_tokens.B.ids: expected ids from 0 to 2, got 3",
    ],
    [
      "a merge that makes no token",
      bpe({ merges: ["y x"] }),
      'model.merges[0]: expected tokens of the vocabulary, got "yx"',
    ],
    ["a merge of three", bpe({ merges: [["x", "y", "x"]] }), "model.merges[0]: expected two tokens, got"],
    ["merges left out at random", bpe({ dropout: 0.1 }), "model.dropout: expected none, got 0.1"],
    [
      "a score that is no number",
      { model: { type: "Unigram", unk_id: 0, vocab: [["x", "1"]] } },
      "model.vocab[0]: expected a token and its score, got",
    ],
    [
      "an unknown token that does not exist",
      { model: { type: "Unigram", unk_id: 4, vocab: [["x", -1]] } },
      "model.unk_id: expected an id below 1, got 4",
    ],
    [
      "another model",
      { model: { type: "Nonsense" } },
      "model.type: expected one of BPE, Unigram, WordLevel, WordPiece",
    ],
    [
      "a splitter by scripts",
      { ...bpe({}), pre_tokenizer: { type: "Sequence", pretokenizers: [{ type: "UnicodeScripts" }] } },
      "pre_tokenizer.pretokenizers[0].type: expected one of BertPreTokenizer, ",
    ],
    [
      "compiled rules cut short",
      { ...bpe({}), normalizer: { type: "Precompiled", precompiled_charsmap: "ABCD" } },
      "normalizer.precompiled_charsmap: expected rules as SentencePiece compiles them, got a trie that does not fit",
    ],
    [
      "a behaviour of its own",
      { ...bpe({}), pre_tokenizer: { ...split("a"), behavior: "Doubled" } },
      "pre_tokenizer.behavior: expected one of Removed, ",
    ],
    [
      "a pattern of another kind",
      { ...bpe({}), pre_tokenizer: split("(a") },
      "pre_tokenizer.pattern.Regex: expected a pattern that can be translated to JavaScript",
    ],
    ["a decoder of speech", { ...bpe({}), decoder: { type: "CTC" } }, "decoder.type: expected one of BPEDecoder, "],
    [
      "another post-processor",
      { ...bpe({}), post_processor: { type: "Doubling" } },
      "post_processor.type: expected one of BertProcessing, ",
    ],
  ])("%s", (_, file, message) => {
    const load = () => loadTokenizer(file, {}, "m/tokenizer.json");
    expect(load).toThrow(`tokenizer ${message}`);
    expect(load).toThrow(/^[^\n]* in m\/tokenizer\.json\. [^\n]*\.$/);
  });

  it.each([
    "(a+b?)+$",
    "(?:x|xy)*z",
    "(\\s?\\w)+!",
    "(?:(?:a{0,9}){0,9}){0,9}b",
    "\\w*\\w*\\w*-",
    "(?>(b*|x)*c)",
    "(?=(a|aa)+b)",
  ])("a pattern that can take for ever: %s", (pattern) => {
    expect(() => loadTokenizer({ ...bpe({}), pre_tokenizer: split(pattern) })).toThrow(
      /^tokenizer pre_tokenizer\.pattern\.Regex: expected a pattern that takes bounded time, got [^\n]*$/,
    );
  });
});

test("parts within parts and texts that grow and grow are refused, long words take no longer than long texts", () => {
  const replace = { type: "Replace", pattern: { String: "a" }, content: "aaa" };
  const grows = loadTokenizer({ ...base, normalizer: { type: "Sequence", normalizers: Array(40).fill(replace) } });
  expect(() => grows.encode("a")).toThrow(
    /^tokenizer normalizer: expected texts that become at most 64 times as long, got 243 characters of 1 in [^\n]*$/,
  );
  const long = loadTokenizer({ ...base, normalizer: { ...replace, content: "b".repeat(1e6) } });
  expect(() => long.encode("a".repeat(1e5))).toThrow(/^tokenizer normalizer: expected texts that become at most 64/);
  let deep: Json = { type: "NFC" };
  for (let i = 0; i < 1e4; i++) deep = { type: "Sequence", normalizers: [deep] };
  expect(() => loadTokenizer({ ...base, normalizer: deep })).toThrow(
    /^tokenizer normalizer\.[^\n]*: expected parts within a few others, got more in [^\n]*$/,
  );
  const pieces = {
    type: "WordPiece",
    unk_token: "?",
    continuing_subword_prefix: "",
    max_input_chars_per_word: 1e9,
    vocab: { "?": 0, a: 1, aa: 2 },
  };
  expect(loadTokenizer({ ...base, model: pieces }).encode("a".repeat(1e5))).toHaveLength(5e4);
});

test("the first token is told from the file, not from what becomes of a word", () => {
  const file = {
    added_tokens: [{ id: 0, content: "[U]", special: true }],
    model: { type: "WordLevel", unk_token: "[U]", vocab: { "[U]": 0, "1": 1, "2": 2 } },
    pre_tokenizer: { type: "Digits", individual_digits: true },
  };
  const tokenizer = loadTokenizer(file);
  expect(tokenizer.bos).toBeUndefined();
  expect(tokenizer.encode("21ab")).toEqual([2, 1, 0]);
  expect(tokenizer.encode("")).toEqual([]);
  expect(loadTokenizer(file, { bos_token: { content: "2" } }).bosToken).toBe(2);
});

// Ids of tokenizers 0.23.3 (Tokenizer.from_str of the same file).
describe("where nothing but the Rust library's own way explains the ids", () => {
  const none = { added_tokens: [], normalizer: null, pre_tokenizer: null, post_processor: null, decoder: null };

  test("Unigram without an unknown token reads characters that only longer tokens hold", () => {
    const scores = Object.entries({ a: -1, d: -2, do: -1.5, doe: -9 });
    const tokenizer = loadTokenizer({ ...none, model: { type: "Unigram", unk_id: null, vocab: scores } });
    expect(["do", "ado", "doe"].map((text) => tokenizer.encode(text))).toEqual([[2], [0, 2], [3]]);
    for (const text of ["oad", "doo"]) expect(() => tokenizer.encode(text)).toThrow(/^tokenizer model\.unk_id/);
  });

  test.each([
    [
      true,
      true,
      [
        [1, 4, 2],
        [1, 4, 2],
        [1, 4],
      ],
    ],
    [
      false,
      true,
      [
        [1, 4, 4, 2],
        [1, 4, 2],
        [1, 4, 4],
      ],
    ],
    [
      true,
      false,
      [
        [1, 4, 4, 2],
        [1, 4, 3, 2],
        [1, 4, 4, 3],
      ],
    ],
  ])("two spaces as a token that takes along those before (%s) and behind (%s)", (lstrip, rstrip, ids) => {
    const token = { id: 4, content: "  ", single_word: false, lstrip, rstrip, normalized: false, special: false };
    const model = { type: "BPE", vocab: { "<unk>": 0, a: 1, b: 2, " ": 3 }, merges: [] };
    const tokenizer = loadTokenizer({ ...none, added_tokens: [token], model });
    expect(["a    b", "a   b", "a     "].map((text) => tokenizer.encode(text))).toEqual(ids);
  });

  test.each(["\\X", "a|\\X+", "(?i)ß", "(?i:fi)x", "(?i)stop"])(
    "a pattern %s, which JavaScript reads otherwise, is refused",
    (Regex) => {
      const part = { type: "Split", pattern: { Regex }, behavior: "Isolated", invert: false };
      expect(() => loadTokenizer({ ...base, pre_tokenizer: part })).toThrow(/match otherwise in JavaScript/);
    },
  );

  test.each(["(?i:'s|'t|'re|'ve|'m|'ll|'d)|\\p{L}+", "\\\\X", "(?i)\\p{Latin}[[:digit:]]"])("%s is read", (Regex) => {
    const part = { type: "Split", pattern: { Regex }, behavior: "Isolated", invert: false };
    expect(() => loadTokenizer({ ...base, pre_tokenizer: part })).not.toThrow();
  });
});
