import { UserError } from "../errors.ts";
import { byteCharacters } from "./byte-level.ts";
import { namedToken, type OutsideText, outsideText } from "./outside.ts";
import { addedTokensOf, sectionsOf } from "./tokenizer/added-tokens.ts";
import { decoderOf } from "./tokenizer/decoders.ts";
import { tokenModelOf } from "./tokenizer/models.ts";
import { cutsBeginnings, normalizerOf } from "./tokenizer/normalizers.ts";
import { Part } from "./tokenizer/part.ts";
import { frameOf } from "./tokenizer/post-processors.ts";
import { looksAtBeginnings, preTokenizerOf } from "./tokenizer/pre-tokenizers.ts";

/** Text to token ids and back, exactly as a model's tokenizer.json says. */
export interface Tokenizer {
  /** How many ids there are, the largest id plus one. */
  readonly vocabularySize: number;
  /** The token that the tokenizer puts first, if it puts one. */
  readonly bos: number | undefined;
  /** BOS by its name in tokenizer_config.json, or else `bos`: also where the tokenizer does not put it. */
  readonly bosToken: number | undefined;
  /** Ids of special tokens: BOS, EOS, padding and the like. */
  readonly special: ReadonlySet<number>;
  /** BOS and padding, which stand for no text. */
  readonly outside: OutsideText;
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
 * A tokenizer from the parsed tokenizer.json and tokenizer_config.json of a model. It gives the ids of the Rust library `tokenizers`, which made the
 * file; truncation and padding, which transformers sets anew for every call, are left aside.
 *
 * @param where names the files in errors
 * @throws UserError if the file is not a tokenizer or has a part that is not understood, and if it puts a token (EOS) behind every text: then the
 *   prompt's last position would not be the one that predicts the answer
 */
export function loadTokenizer(tokenizerJson: unknown, config: unknown = {}, where = "tokenizer.json"): Tokenizer {
  const file = new Part(tokenizerJson, "", where);
  const model = tokenModelOf(file.part("model") ?? file.fail("an object with a model", undefined, "none"));
  const added = addedTokensOf(file, model.vocabulary);
  const texts = new Map<number, string>();
  // Never the number of tokens: ids may leave gaps.
  let vocabularySize = 0;
  const note = (text: string, id: number): void => {
    if (texts.has(id)) return;
    texts.set(id, text);
    vocabularySize = Math.max(vocabularySize, id + 1);
  };
  for (const [text, id] of model.vocabulary) note(text, id);
  for (const { content, id } of added) note(content, id);

  const postProcessor = file.part("post_processor");
  const frame = postProcessor ? frameOf(postProcessor, vocabularySize) : { before: [], behind: [] };
  if (frame.behind.length > 0) {
    throw new UserError(
      `tokenizer: expected prompts that end with their last word, got a special token at the end of every text in ${where}. ` +
        "Take the end-of-text token out of its post-processor.",
    );
  }
  const bos = frame.before[0];
  const special = new Set([...added.filter((token) => token.special).map(({ id }) => id), ...frame.before]);

  const normalizer = file.part("normalizer");
  const preTokenizer = file.part("pre_tokenizer");
  if (normalizer && preTokenizer && cutsBeginnings(normalizer) && looksAtBeginnings(preTokenizer)) {
    preTokenizer.fail("no prepend_scheme first behind a normalizer that may take away a text's beginning");
  }
  const normalize = normalizer && normalizerOf(normalizer);
  const split = preTokenizer && preTokenizerOf(preTokenizer);
  const sections = sectionsOf(added, normalize, file);
  const encode = (text: string): number[] => {
    const made = [...frame.before];
    for (const section of sections(text)) {
      if ("id" in section) made.push(section.id);
      else
        for (const piece of split ? split([section]) : [section])
          for (const id of model.encode(piece.text)) made.push(id);
    }
    return made;
  };
  const cache = new Map<string, number[]>();
  const cached = (text: string): number[] => {
    const known = cache.get(text);
    if (known !== undefined) return known;
    // Prefixes come again with every answer; a bound keeps long runs small.
    if (cache.size > 4096) cache.clear();
    const made = encode(text);
    cache.set(text, made);
    return made;
  };

  const decoder = file.part("decoder");
  const join = decoder ? decoderOf(decoder) : (tokens: readonly string[]) => [tokens.join(" ")];
  const forms = new Map(texts);
  if (normalize) for (const { id, content, normalized } of added) if (normalized) forms.set(id, normalize(content));
  const idOf = (text: string): number | undefined =>
    added.find(({ content }) => content === text)?.id ?? model.vocabulary.get(text);
  const bytes = new Map(byteCharacters().map((character, byte) => [character, byte]));
  return {
    vocabularySize,
    bos,
    bosToken: idOf(namedToken(config, "bos_token") ?? "") ?? bos,
    special,
    outside: outsideText(config, bos, idOf),
    encode,
    decode: (list) => join(list.flatMap((id) => forms.get(id) ?? [])).join(""),
    token: (id) => readable(texts.get(id), id, special, bytes),
    answerToken(prefix, answer) {
      const before = cached(prefix);
      const whole = encode(prefix + answer);
      if (before.some((id, i) => whole[i] !== id)) return "not an extension";
      const token = whole[before.length];
      return whole.length === before.length + 1 && token !== undefined ? token : "several tokens";
    },
  };
}

/** One token as text. A leading space is dropped by some decoders (Llama 2), so the marks for spaces are read from the token itself. */
function readable(
  token: string | undefined,
  id: number,
  special: ReadonlySet<number>,
  bytes: ReadonlyMap<string, number>,
): string {
  if (token === undefined) return `<${id}>`;
  if (special.has(id) || /^<0x[0-9A-F]{2}>$/.test(token)) return token;
  if (token.includes("▁")) return token.replaceAll("▁", " ");
  const raw = [...token].map((character) => bytes.get(character));
  if (raw.some((byte) => byte === undefined)) return token;
  const text = new TextDecoder().decode(Uint8Array.from(raw as number[]));
  if (!text.includes("\ufffd")) return text;
  return (raw as number[]).map((byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`).join("");
}
