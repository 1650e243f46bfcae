import { byteCharacters } from "./byte-level.ts";
import { closedWords, initialWords } from "./english/grammar-words.ts";
import { type Lexicon, wordForms } from "./english/lexicon.ts";

/** The special tokens of the embedded model, ids 0, 1 and 2. */
export const specialTokens = { bos: "<|begin_of_text|>", eos: "<|end_of_text|>", pad: "<|pad|>" } as const;

/** The files of a tokenizer in Hugging Face layout, by name, as text. */
export type TokenizerFiles = Readonly<
  Record<"tokenizer.json" | "tokenizer_config.json" | "special_tokens_map.json", string>
>;

/**
 * The tokenizer of a lexicon, in Hugging Face layout: byte-level BPE that encodes any text. Every form of every word with a space before it is
 * one token (`ignore_merges`, as in Llama 3), words that begin sentences also with a capital and without the space; all other text falls into
 * its bytes, there being no merges. BOS stands first. The same lexicon gives the same bytes.
 */
export function makeTokenizer(lexicon: Lexicon): TokenizerFiles {
  const { bos, eos, pad } = specialTokens;
  const special = [bos, eos, pad];
  const vocabulary = [...special, ...byteCharacters(), ...wordTokens(lexicon)];
  const added = special.map((content, id) => ({
    id,
    content,
    single_word: false,
    lstrip: false,
    rstrip: false,
    normalized: false,
    special: true,
  }));
  const byteLevel = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true };
  const tokenizer = {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: added,
    normalizer: null,
    pre_tokenizer: byteLevel,
    post_processor: {
      type: "TemplateProcessing",
      single: [{ SpecialToken: { id: bos, type_id: 0 } }, { Sequence: { id: "A", type_id: 0 } }],
      pair: [
        { SpecialToken: { id: bos, type_id: 0 } },
        { Sequence: { id: "A", type_id: 0 } },
        { SpecialToken: { id: bos, type_id: 1 } },
        { Sequence: { id: "B", type_id: 1 } },
      ],
      special_tokens: { [bos]: { id: bos, ids: [0], tokens: [bos] } },
    },
    decoder: byteLevel,
    model: {
      type: "BPE",
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: true,
      vocab: Object.fromEntries(vocabulary.map((token, id) => [token, id])),
      merges: [],
    },
  };
  const map = { bos_token: bos, eos_token: eos, pad_token: pad };
  const config = {
    added_tokens_decoder: Object.fromEntries(added.map(({ id, ...token }) => [id, token])),
    ...map,
    clean_up_tokenization_spaces: false,
    model_max_length: 128,
    tokenizer_class: "PreTrainedTokenizerFast",
  };
  const text = (value: unknown) => `${JSON.stringify(value, null, 1)}\n`;
  return {
    "tokenizer.json": text(tokenizer),
    "tokenizer_config.json": text(config),
    "special_tokens_map.json": text(map),
  };
}

/** Words as tokens, a leading space written as byte-level BPE writes it; each once. */
function wordTokens(lexicon: Lexicon): string[] {
  const capital = (word: string) => word.charAt(0).toUpperCase() + word.slice(1);
  const locatives = lexicon.prepositions.filter((preposition) => preposition.locative).map(({ word }) => word);
  const names = lexicon.names.map(({ name }) => name);
  const initial = [...[...initialWords, ...locatives].map(capital), ...names];
  const spaced = [...initial, ...closedWords, ...wordForms(lexicon)].map((word) => `Ġ${word}`);
  // One-letter words without a space are bytes already.
  return [...new Set([...initial.filter((word) => word.length > 1), ...spaced])];
}
