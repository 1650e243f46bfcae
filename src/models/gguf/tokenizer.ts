import { isWhole } from "../../amounts.ts";
import type { GgufFile, GgufNumbers, GgufValue } from "../../bytes/gguf.ts";
import { UserError } from "../../errors.ts";

type Json = Readonly<Record<string, unknown>>;

/** llama.cpp's types of tokens (`llama_token_type`): those that the text of a prompt should not bring about, and those that are kept whole. */
const [unknownToken, controlToken, userDefinedToken] = [2, 3, 4];

/** The number that `tokenizer.ggml.<name>_token_id` gives, or what llama.cpp takes for it. */
type IdOf = (name: string) => number | undefined;

/** What both kinds of tokenizers are made from. */
interface Vocabulary {
  readonly tokens: readonly string[];
  /** A score for each token; none in byte-level vocabularies. */
  readonly scores: GgufNumbers | undefined;
  readonly merges: readonly string[] | undefined;
  readonly architecture: string;
  /** `tokenizer.ggml.pre`; some files lack it. */
  readonly pre: string | undefined;
  readonly addSpace: boolean | undefined;
  readonly idOf: IdOf;
}

/** The parts of a tokenizer.json in which the kinds differ, and whether BOS stands first where the file does not say so. */
interface Kind {
  /** The tokens as they stand in a text, for those that are looked for in it. */
  readonly written: readonly string[];
  readonly normalizer: Json | null;
  readonly pre_tokenizer: Json | null;
  readonly decoder: Json;
  readonly model: Json;
  readonly addsBos: boolean;
}

/** The kinds of tokenizers, by `tokenizer.ggml.model`. */
const kinds: Readonly<Record<string, (v: Vocabulary, fail: Fail) => Kind>> = {
  gpt2: byteLevel,
  llama: sentencePiece,
};

type Fail = (key: string, expected: string, got: string, advice?: string) => never;

/**
 * The tokenizer in a GGUF file's metadata, as a tokenizer.json. BOS stands first as `add_bos_token` says; EOS is never appended, for a prompt ends
 * with its last word.
 *
 * @throws UserError if there is none, it is damaged, or of a kind that is not understood
 */
export function tokenizerFromMetadata({ values, source }: GgufFile): Record<string, unknown> {
  const fail: Fail = (key, expected, got, advice = "Put the model's tokenizer.json beside the file.") => {
    throw new UserError(`tokenizer.ggml.${key}: expected ${expected}, got ${got} in ${source.name}. ${advice}`);
  };
  const value = (key: string) => values.get(`tokenizer.ggml.${key}`);
  const tokens = textsOf(value("tokens")) ?? fail("tokens", "a list of texts", "none");
  const seen = new Map<string, number>();
  for (const [id, token] of tokens.entries()) {
    // Rows that pad the vocabulary may all be empty.
    if (token === "") continue;
    if (seen.has(token))
      fail("tokens", "different texts", `${JSON.stringify(token.slice(0, 40))} at ${seen.get(token)} and ${id}`);
    seen.set(token, id);
  }
  const idOf: IdOf = (name) => {
    const id = value(`${name}_token_id`) ?? (value("model") === "llama" ? sentencePieceIds[name] : undefined);
    if (id === undefined) return undefined;
    return isWhole(id) && id < tokens.length
      ? id
      : fail(`${name}_token_id`, `a token from 0 to ${tokens.length - 1}`, `${id}`);
  };
  const numbers = (key: string): GgufNumbers | undefined => {
    const list = value(key);
    if (list === undefined) return undefined;
    const fits = typeof list === "object" && !Array.isArray(list) && list.length === tokens.length;
    if (!fits) return fail(key, `a list of ${tokens.length} numbers`, "another value");
    const found = list as GgufNumbers;
    return found.some((number) => Number.isNaN(Number(number))) ? fail(key, "numbers", "NaN") : found;
  };
  const name = value("model");
  const make = typeof name === "string" && Object.hasOwn(kinds, name) ? kinds[name]! : undefined;
  if (!make) return fail("model", `one of ${Object.keys(kinds).join(", ")}`, JSON.stringify(name) ?? "nothing");
  const kind = make(
    {
      tokens,
      scores: numbers("scores"),
      merges: textsOf(value("merges")),
      architecture: String(values.get("general.architecture")),
      pre: value("pre") === undefined ? undefined : String(value("pre")),
      addSpace: value("add_space_prefix") as boolean | undefined,
      idOf,
    },
    fail,
  );
  const { addsBos, written, model, ...parts } = kind;
  const added = addedTokens(written, numbers("token_type"), idOf);
  // Those of SentencePiece have spaces in a text, and marks where they are joined from others.
  const spellings = Object.fromEntries(added.map(({ content, id }) => [content, id]));
  const bos = (value("add_bos_token") ?? addsBos) ? idOf("bos") : undefined;
  return {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: added,
    ...parts,
    model: { ...model, vocab: { ...(model.vocab as Json), ...spellings } },
    post_processor: bos === undefined ? null : withFirst(written[bos]!, bos),
  };
}

function textsOf(value: GgufValue | undefined): readonly string[] | undefined {
  return Array.isArray(value) && value.every((text) => typeof text === "string") ? value : undefined;
}

/** Tokens that are found in a text before it is split, in the order of their ids. */
function addedTokens(tokens: readonly string[], types: GgufNumbers | undefined, idOf: IdOf): readonly Json[] {
  const named = new Set(["bos", "eos", "unknown", "padding"].map(idOf));
  return tokens.flatMap((content, id) => {
    const type = types?.[id];
    const special = named.has(id) || type === controlToken || type === unknownToken;
    if ((!special && type !== userDefinedToken) || content === "") return [];
    return [{ id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special }];
  });
}

/** A post-processor that puts one token first. */
function withFirst(token: string, id: number): Json {
  const first = { SpecialToken: { id: token, type_id: 0 } };
  const text = { Sequence: { id: "A", type_id: 0 } };
  return {
    type: "TemplateProcessing",
    single: [first, text],
    pair: [first, text, { Sequence: { id: "B", type_id: 1 } }],
    special_tokens: { [token]: { id: token, ids: [id], tokens: [token] } },
  };
}

function vocabularyOf(tokens: readonly string[]): Readonly<Record<string, number>> {
  return Object.fromEntries(tokens.map((token, id) => [token, id]));
}

const bpe = {
  type: "BPE",
  dropout: null,
  unk_token: null,
  continuing_subword_prefix: null,
  end_of_word_suffix: null,
  fuse_unk: false,
  byte_fallback: false,
  ignore_merges: false,
};

/** How a text is split before byte-level BPE. */
interface Split {
  readonly pre_tokenizer: Json;
  readonly normalizer: Json | null;
  /** Whether a word that is a token stays whole. */
  readonly whole: boolean;
  /** Whether BOS is added by default. */
  readonly addsBos: boolean;
}

/** Splits a text before byte-level BPE. */
const bytes = (useRegex: boolean) => ({
  type: "ByteLevel",
  add_prefix_space: false,
  trim_offsets: true,
  use_regex: useRegex,
});
const splitAt = (regex: string, useRegex: boolean) => ({
  type: "Sequence",
  pretokenizers: [{ type: "Split", pattern: { Regex: regex }, behavior: "Isolated", invert: false }, bytes(useRegex)],
});
const words = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+";
const rest = " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
const gpt2Split: Split = { pre_tokenizer: bytes(true), normalizer: null, whole: false, addsBos: false };
const llama3Split: Split = {
  pre_tokenizer: splitAt(`${words}|\\p{N}{1,3}|${rest}`, false),
  normalizer: null,
  whole: true,
  addsBos: true,
};

/**
 * Splits by `tokenizer.ggml.pre`, as llama.cpp has them: of its names, those of tokenizers that models of our architectures have. Qwen's and GPT-NeoX's own tokenizers compose accents, which no file says.
 */
const splits: Readonly<Record<string, Split>> = {
  ...named(gpt2Split, "gpt-2", "mellum", "a.x-4.0", "trillion"),
  ...named({ ...gpt2Split, normalizer: { type: "NFC" } }, "olmo", "mpt"),
  ...named({ ...gpt2Split, pre_tokenizer: splitAt("\\p{N}", true) }, "smollm", "starcoder", "refact", "minerva-7b"),
  ...named(llama3Split, "llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral", "midm-2.0"),
  ...named({ ...llama3Split, whole: false, addsBos: false }, "smaug-bpe"),
  ...named(
    { ...gpt2Split, pre_tokenizer: splitAt(`${words}|\\p{N}|${rest}`, false), normalizer: { type: "NFC" } },
    ...["qwen2", "deepseek-r1-qwen"],
  ),
};

function named(split: Split, ...names: readonly string[]): Readonly<Record<string, Split>> {
  return Object.fromEntries(names.map((name) => [name, split]));
}

/**
 * The split of a file that names none, or `default`, as converters write that do not know it: llama.cpp then splits in a way that no model was trained
 * with, and warns. Models of GPT-2's architecture have GPT-2's.
 */
const splitOfArchitecture: Readonly<Record<string, string>> = { gpt2: "gpt-2" };

function byteLevel({ tokens, merges, pre, architecture }: Vocabulary, fail: Fail): Kind {
  const isNamed = pre !== undefined && pre !== "default";
  const name = isNamed ? pre : splitOfArchitecture[architecture];
  if (name === undefined) return fail("pre", "how a text is split into words", pre ? `"${pre}"` : "nothing");
  const split = Object.hasOwn(splits, name) ? splits[name]! : undefined;
  if (!split) return fail("pre", `one of ${Object.keys(splits).join(", ")}`, JSON.stringify(name.slice(0, 40)));
  if (!merges) return fail("merges", "a list of texts", "none");
  const { whole, ...parts } = split;
  const model = { ...bpe, ignore_merges: whole, vocab: vocabularyOf(tokens), merges };
  return { ...parts, written: tokens, decoder: bytes(true), model };
}

/** Tokens that a SentencePiece vocabulary has where the file does not say. */
const sentencePieceIds: Readonly<Record<string, number>> = { unknown: 0, bos: 1, eos: 2 };
/** SentencePiece's mark of a space. */
const mark = "▁";
const gemmas = ["gemma", "gemma2", "gemma3"];

/** SentencePiece's BPE: the best pair of neighbours that is a token is joined first; characters without a token fall into their bytes. */
function sentencePiece(
  { tokens: spelled, scores, merges, architecture, addSpace = true, idOf }: Vocabulary,
  fail: Fail,
): Kind {
  const isGemma = gemmas.includes(architecture);
  // The converter writes runs of spaces as such. Gemma joins them from shorter ones, others look for them in the text.
  const tokens = isGemma
    ? spelled.map((token) => (/^ {2,}$/.test(token) ? mark.repeat(token.length) : token))
    : spelled;
  if (!scores && !merges) return fail("scores", "a list of numbers", "none");
  // Gemma's scores do not rank all of its tokens; their order does.
  const joins =
    merges?.map((merge) => merge.split(" ")) ?? joinsOf(tokens, isGemma ? tokens.map((_, id) => -id) : scores!);
  const replace = { type: "Replace", pattern: { String: " " }, content: mark };
  const back = [
    { type: "Replace", pattern: { String: mark }, content: " " },
    { type: "ByteFallback" },
    { type: "Fuse" },
  ];
  return {
    written: isGemma ? tokens : tokens.map((token) => token.replaceAll(mark, " ")),
    normalizer: addSpace ? { type: "Sequence", normalizers: [{ type: "Prepend", prepend: mark }, replace] } : replace,
    pre_tokenizer: null,
    decoder: {
      type: "Sequence",
      decoders: addSpace ? [...back, { type: "Strip", content: " ", start: 1, stop: 0 }] : back,
    },
    model: {
      ...bpe,
      unk_token: tokens[idOf("unknown") ?? 0] ?? null,
      byte_fallback: true,
      fuse_unk: true,
      vocab: vocabularyOf(tokens),
      merges: joins,
    },
    addsBos: true,
  };
}

/**
 * The joins of neighbours that make tokens, the best first: those of a token with a higher score before those of a lower one; where scores are
 * equal, those with a longer left part first, then with a longer right one.
 */
function joinsOf(tokens: readonly string[], scores: ArrayLike<number>): [string, string][] {
  const known = new Map(tokens.map((token, id) => [token, id]));
  const ranked = [...known.values()].sort((a, b) => scores[b]! - scores[a]!);
  const joins: [string, string][] = [];
  for (let first = 0, end = 0; first < ranked.length; first = end) {
    while (end < ranked.length && scores[ranked[end]!] === scores[ranked[first]!]) end++;
    end = Math.max(end, first + 1);
    const equal = ranked.slice(first, end).flatMap((id) => joinsTo(tokens[id]!, known));
    if (end - first > 1) equal.sort(([a, b], [c, d]) => lengthOf(c) - lengthOf(a) || lengthOf(d) - lengthOf(b));
    for (const join of equal) joins.push(join);
  }
  return joins;
}

/** The pairs of tokens that make up a token, those with a longer left part first. */
function joinsTo(token: string, known: ReadonlyMap<string, number>): [string, string][] {
  const joins: [string, string][] = [];
  for (let at = token.length - 1; at > 0; at--) {
    const left = token.slice(0, at);
    if (!known.has(left)) continue;
    const right = token.slice(at);
    if (known.has(right)) joins.push([left, right]);
  }
  return joins;
}

/** Length in characters. */
function lengthOf(text: string): number {
  return [...text].length;
}
