import { Tokenizer as HuggingFaceTokenizer } from "@huggingface/tokenizers";
import { messageOf, UserError } from "../errors.ts";
import { byteCharacters } from "./byte-level.ts";

/** Text to token ids and back, exactly as a model's tokenizer.json says. */
export interface Tokenizer {
  /** How many ids there are, the largest id plus one. */
  readonly vocabularySize: number;
  /** The token that the tokenizer puts first, if it puts one. */
  readonly bos: number | undefined;
  /** Ids of special tokens: BOS, EOS, padding and the like. */
  readonly special: ReadonlySet<number>;
  /** Token ids of a text as the post-processor makes them, BOS first where the model has one. */
  encode(text: string): number[];
  /** The text of token ids, special tokens included. */
  decode(ids: readonly number[]): string;
  /** One token as readable text, a leading space as a space; bytes that are no text of their own as `<0xNN>`. */
  token(id: number): string;
  /**
   * The one token by which the tokens of `prefix + answer` extend those of `prefix`, or why there is none: `several tokens` if it takes more
   * than one, `not an extension` if the prefix is split differently before the answer.
   */
  answerToken(prefix: string, answer: string): number | "several tokens" | "not an extension";
}

/**
 * A tokenizer from the parsed tokenizer.json and tokenizer_config.json of a model.
 *
 * @param where names the files in errors
 * @throws UserError if the file is not a tokenizer that can be used, or if it ends every text with a special token (EOS): then the prompt's
 *   last position would not be the one that predicts the answer
 */
export function loadTokenizer(tokenizerJson: unknown, config: unknown = {}, where = "tokenizer.json"): Tokenizer {
  const inner = open(tokenizerJson, config, where);
  const special = specialIds(tokenizerJson);
  // Never the length of the map: ids of added tokens may leave gaps.
  let vocabularySize = 0;
  for (const id of inner.get_vocab(true).values()) vocabularySize = Math.max(vocabularySize, id + 1);
  const ids = (text: string): number[] => Array.from(inner.encode(text).ids, Number);
  const probe = ids("a");
  const last = probe.at(-1);
  if (last === undefined || special.has(last)) {
    throw new UserError(
      `tokenizer: expected prompts that end with their last word, got a special token at the end of every text in ${where}. ` +
        "Take the end-of-text token out of its post-processor.",
    );
  }
  const first = probe[0];
  const bos = first !== undefined && special.has(first) ? first : undefined;
  const cache = new Map<string, number[]>();
  const cached = (text: string): number[] => {
    const known = cache.get(text);
    if (known !== undefined) return known;
    // Prefixes come again with every answer; a bound keeps long runs small.
    if (cache.size > 4096) cache.clear();
    const made = ids(text);
    cache.set(text, made);
    return made;
  };
  const bytes = new Map(byteCharacters().map((character, byte) => [character, byte]));
  return {
    vocabularySize,
    bos,
    special,
    encode: ids,
    decode: (list) => inner.decode([...list], { skip_special_tokens: false, clean_up_tokenization_spaces: false }),
    token: (id) => readable(inner, id, special, bytes),
    answerToken(prefix, answer) {
      const before = cached(prefix);
      const whole = ids(prefix + answer);
      if (before.some((id, i) => whole[i] !== id)) return "not an extension";
      const token = whole[before.length];
      return whole.length === before.length + 1 && token !== undefined ? token : "several tokens";
    },
  };
}

function open(tokenizerJson: unknown, config: unknown, where: string): HuggingFaceTokenizer {
  if (typeof tokenizerJson !== "object" || tokenizerJson === null || !("model" in tokenizerJson)) {
    throw new UserError(
      `tokenizer: expected an object with a model, got ${Array.isArray(tokenizerJson) ? "a list" : typeof tokenizerJson} in ${where}. ` +
        "Take tokenizer.json from the model's own folder.",
    );
  }
  try {
    return new HuggingFaceTokenizer(tokenizerJson, config ?? {});
  } catch (error) {
    throw new UserError(
      `tokenizer: expected a tokenizer.json in Hugging Face's format, got "${messageOf(error)}" in ${where}. ` +
        "Take tokenizer.json from the model's own folder.",
    );
  }
}

function specialIds(tokenizerJson: unknown): Set<number> {
  const added = (tokenizerJson as { added_tokens?: unknown }).added_tokens;
  const list = Array.isArray(added) ? (added as { id: number; special?: boolean }[]) : [];
  return new Set(list.filter((token) => token.special === true).map((token) => token.id));
}

/** One token as text. A leading space is dropped by some decoders (Llama 2), so the marks for spaces are read from the token itself. */
function readable(
  inner: HuggingFaceTokenizer,
  id: number,
  special: ReadonlySet<number>,
  bytes: ReadonlyMap<string, number>,
): string {
  const token = inner.id_to_token(id);
  if (token === undefined) return `<${id}>`;
  if (special.has(id) || /^<0x[0-9A-F]{2}>$/.test(token)) return token;
  if (token.includes("▁")) return token.replaceAll("▁", " ");
  const raw = [...token].map((character) => bytes.get(character));
  if (raw.some((byte) => byte === undefined)) return token;
  const text = new TextDecoder().decode(Uint8Array.from(raw as number[]));
  if (!text.includes("\ufffd")) return text;
  return (raw as number[]).map((byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`).join("");
}
