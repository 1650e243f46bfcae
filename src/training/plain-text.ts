import { UserError } from "../errors.ts";
import type { Tokenizer } from "../prompts/tokenizer.ts";
import { Random } from "../random.ts";
import type { Rows } from "./loss.ts";
import type { TextSource } from "./text.ts";

/** The two splits of a text: no document is in both. */
export type TextSplit = "train" | "held-out";

/** One in so many documents is held out. */
const heldOutOf = 20;

/**
 * The documents of a text: what stands between blank lines. Line breaks within one become spaces, since most plain text is wrapped at some
 * width.
 */
export function documentsOf(text: string): string[] {
  return text
    .split(/\r?\n(?:[^\S\n]*\r?\n)+/)
    .map((document) => document.trim().replace(/[^\S\n]*\n\s*/g, " "))
    .filter((document) => document.length > 0);
}

/** Which split a document belongs to. Its own words alone decide, so a document that occurs twice, or in other files, stays in one split. */
export function splitOf(document: string): TextSplit {
  return new Random(`held-out/${document}`).below(heldOutOf) === 0 ? "held-out" : "train";
}

/**
 * One split of plain text in rows. Its documents, in order and with blank lines between them, are one stream of tokens, which is cut into stretches;
 * each makes a row, behind what the tokenizer puts in front (BOS), and may begin in the middle of a sentence. Numbered pieces go through all rows
 * in an order that the seed decides and then begin again; named pieces draw their rows.
 *
 * @param where names the text in errors
 * @throws UserError if there is not enough text for one row, when rows are asked for
 */
export function plainText(
  tokenizer: Tokenizer,
  documents: readonly string[],
  split: TextSplit,
  seed: number | string,
  where: string,
): TextSource {
  const stream = streamOf(
    tokenizer,
    documents.filter((document) => splitOf(document) === split),
  );
  const front = tokenizer.encode("");
  const orders = new Map<number, readonly number[]>();
  const orderOf = (length: number): readonly number[] => {
    const known = orders.get(length);
    if (known) return known;
    const width = length + 1 - front.length;
    const rows = width < 1 ? 0 : Math.floor(stream.length / width);
    if (rows === 0) {
      throw new UserError(
        `text: expected at least ${width} tokens for the split "${split}", got ${stream.length} in ${where}. Give more text, or shorter rows.`,
      );
    }
    const order = new Random(`${seed}/order`).shuffled(Array.from({ length: rows }, (_, row) => row));
    orders.set(length, order);
    return order;
  };
  return {
    rows(piece, count, length): Rows {
      const order = orderOf(length);
      const random = new Random(`${seed}/text/${piece}`);
      const tokens = new Int32Array(count * (length + 1));
      const width = length + 1 - front.length;
      for (let b = 0; b < count; b++) {
        const place = typeof piece === "number" ? piece * count + b : random.below(order.length);
        const from = order[place % order.length]! * width;
        tokens.set(front, b * (length + 1));
        tokens.set(stream.subarray(from, from + width), b * (length + 1) + front.length);
      }
      return { count, length, tokens };
    },
    distinct: (length) => orderOf(length).length,
  };
}

/** The tokens of documents one after another, two line breaks in front of each and no BOS anywhere. */
function streamOf(tokenizer: Tokenizer, documents: readonly string[]): Int32Array {
  const first = tokenizer.encode("").length;
  const pieces = documents.map((document) => Int32Array.from(tokenizer.encode(`\n\n${document}`).slice(first)));
  const stream = new Int32Array(pieces.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const piece of pieces) {
    stream.set(piece, at);
    at += piece.length;
  }
  return stream;
}

/** Two texts in one: of the rows of every piece, the share `share` (rounded) is from the second. */
export function mixedText(first: TextSource, second: TextSource, share: number): TextSource {
  const fromSecond = (count: number) => Math.round(share * count);
  return {
    rows(piece, count, length) {
      const encoded = [first, second].map((text, i) => {
        const some = fromSecond(count);
        return text.rows(piece, i === 0 ? count - some : some, length).tokens;
      });
      const tokens = new Int32Array(count * (length + 1));
      tokens.set(encoded[0]!);
      tokens.set(encoded[1]!, encoded[0]!.length);
      return { count, length, tokens };
    },
    distinct: (length) => Math.min(first.distinct(length) / (1 - share), second.distinct(length) / share),
  };
}
