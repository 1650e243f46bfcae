import { UserError } from "../errors.ts";
import { describeSentence, type Sentence } from "../prompts/english/english.ts";
import type { Lexicon } from "../prompts/english/lexicon.ts";
import { excerpt } from "../prompts/excerpt.ts";
import type { Tokenizer } from "../prompts/tokenizer.ts";
import { Random } from "../random.ts";
import type { Rows } from "./loss.ts";

/** Text without end, in pieces: a piece of the same name is always the same. */
export interface TextSource {
  /** Rows of T + 1 tokens, BOS first where the tokenizer has one. */
  rows(piece: string | number, count: number, length: number): Rows;
  /** How many rows of that length there are before they come again, if pieces are numbered from 0. */
  distinct(length: number): number;
}

/**
 * A text whose tokens the model has.
 *
 * @param vocabulary how many tokens the model has; a tokenizer may have more, added to it later
 * @throws UserError naming a token of it that the model does not have, when its row is asked for
 */
export function withinVocabulary(text: TextSource, tokenizer: Tokenizer, vocabulary: number): TextSource {
  return {
    rows(piece, count, length) {
      const rows = text.rows(piece, count, length);
      const other = rows.tokens.find((id) => id >= vocabulary);
      if (other === undefined) return rows;
      throw notInVocabulary(other, tokenizer, vocabulary);
    },
    distinct: (length) => text.distinct(length),
  };
}

/** A text has a token that the model does not have. */
export function notInVocabulary(id: number, tokenizer: Tokenizer, vocabulary: number): UserError {
  return new UserError(
    `text: expected tokens that the model has, below ${vocabulary}, got ${id} ("${excerpt(tokenizer.token(id), 40)}"). Leave it out of the text.`,
  );
}

export interface GeneratedText extends TextSource {
  /** The sentences that rows were made of; the last of a row may be cut off there. */
  sentences(piece: string | number, count: number, length: number): Sentence[];
}

/**
 * Generated English in rows: each begins with BOS, where the tokenizer has one, and a sentence, further sentences follow after a space, and the
 * last one is cut where the row ends. Rows always begin with a sentence, as prompts do.
 *
 * @param seed names the text: different seeds, or names like `1/held-out`, give independent texts
 */
export function generatedText(tokenizer: Tokenizer, lexicon: Lexicon, seed: number | string): GeneratedText {
  const make = (piece: string | number, count: number, length: number) => {
    const random = new Random(`${seed}/text/${piece}`);
    return Array.from({ length: count }, () => rowOf(random, tokenizer, lexicon, length));
  };
  return {
    rows(piece, count, length) {
      const tokens = new Int32Array(count * (length + 1));
      make(piece, count, length).forEach(({ ids }, b) => {
        tokens.set(ids, b * (length + 1));
      });
      return { count, length, tokens };
    },
    distinct: () => Number.POSITIVE_INFINITY,
    sentences: (piece, count, length) => make(piece, count, length).flatMap(({ sentences }) => sentences),
  };
}

/** So many sentences for each token of a row are no longer a text that is too short, but words without tokens. */
const mostSentences = 8;

function rowOf(random: Random, tokenizer: Tokenizer, lexicon: Lexicon, length: number) {
  const sentences: Sentence[] = [];
  // A word is at least one token in almost every tokenizer, so the first text is long enough.
  for (let words = 0; sentences.length <= mostSentences * length; words = 0) {
    while (words < length) {
      const sentence = describeSentence(random, lexicon);
      sentences.push(sentence);
      words += sentence.text.split(" ").length;
    }
    const ids = tokenizer.encode(sentences.map(({ text }) => text).join(" "));
    if (ids.length > length) return { sentences, ids: ids.slice(0, length + 1) };
  }
  throw new UserError(
    `text: expected a tokenizer with tokens for English words, got fewer than ${length + 1} tokens for ${sentences.length} sentences. ` +
      "Train on text of your own with --text.",
  );
}

/** The name of a text that no model of this seed was trained on. */
export function heldOutText(seed: number): string {
  return `${seed}/held-out`;
}
