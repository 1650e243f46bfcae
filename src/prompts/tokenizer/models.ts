import { isWhole } from "../../amounts.ts";
import { bpe, byteTokens, type TokenModel } from "./bpe.ts";
import { byType, type Part, quoted } from "./part.ts";

/**
 * The model of a tokenizer.json.
 *
 * @throws UserError naming a kind, field or id that is not understood
 */
export function tokenModelOf(part: Part): TokenModel {
  const kinds = {
    BPE: (model: Part) => bpe(model, vocabularyOf(model)),
    Unigram: unigram,
    WordLevel: wordLevel,
    WordPiece: wordPiece,
  };
  return byType(part, kinds, part.has("type") ? undefined : typeOf(part));
}

/** The kind of a model that does not say it, as old files. */
function typeOf(part: Part): string {
  if (part.has("merges")) return "BPE";
  if (Array.isArray(part.get("vocab"))) return "Unigram";
  return part.has("continuing_subword_prefix") ? "WordPiece" : "WordLevel";
}

/** Larger ids are taken for damage: no model has so many rows. */
const mostTokens = 2 ** 24;

/** Ids by token of a vocabulary that is an object. */
function vocabularyOf(part: Part): ReadonlyMap<string, number> {
  const vocabulary = new Map<string, number>();
  const tokens = new Map<number, string>();
  const vocab = part.part("vocab") ?? part.fail("ids by token", "vocab");
  for (const token of vocab.keys()) {
    const id = vocab.get(token);
    if (!isWhole(id) || id >= mostTokens) {
      const got = `${typeof id === "number" ? id : typeof id} for ${quoted(token)}`;
      return part.fail(`whole numbers from 0 to ${mostTokens - 1}`, "vocab", got);
    }
    const other = tokens.get(id);
    if (other !== undefined && spaced(other) !== spaced(token)) {
      return part.fail("one token for each id", "vocab", `${id} for ${quoted(other)} and ${quoted(token)}`);
    }
    tokens.set(id, token);
    vocabulary.set(token, id);
  }
  return vocabulary;
}

/** One token may be spelled with SentencePiece's marks and with spaces. */
const spaced = (token: string): string => token.replaceAll("▁", " ");

/** A piece is a token, or unknown. */
function wordLevel(part: Part): TokenModel {
  const vocabulary = vocabularyOf(part);
  const unknown = unknownOf(part, vocabulary);
  return { vocabulary, encode: (piece) => [vocabulary.get(piece) ?? unknown(piece)] };
}

/** The id that stands for unknown pieces. */
function unknownOf(part: Part, vocabulary: ReadonlyMap<string, number>): (piece: string) => number {
  const token = part.text("unk_token");
  return (piece) =>
    vocabulary.get(token) ??
    part.fail(
      "a token of the vocabulary, for unknown words",
      "unk_token",
      `${quoted(token)} and the word ${quoted(piece)}`,
    );
}

/** From left to right the longest token; if one is lacking, the whole piece is unknown. */
function wordPiece(part: Part): TokenModel {
  const vocabulary = vocabularyOf(part);
  const unknown = unknownOf(part, vocabulary);
  const prefix = part.text("continuing_subword_prefix");
  const most = part.count("max_input_chars_per_word", 0);
  let longest = 0;
  for (const token of vocabulary.keys()) longest = Math.max(longest, token.length);
  return {
    vocabulary,
    encode(piece) {
      const characters = Array.from(piece);
      if (characters.length > most) return [unknown(piece)];
      const ids: number[] = [];
      for (let start = 0; start < characters.length; ) {
        let id: number | undefined;
        let end = Math.min(characters.length, start + longest);
        for (; end > start; end--) {
          id = vocabulary.get((start > 0 ? prefix : "") + characters.slice(start, end).join(""));
          if (id !== undefined) break;
        }
        if (id === undefined) return [unknown(piece)];
        ids.push(id);
        start = end;
      }
      return ids;
    },
  };
}

/** What an unknown character scores below the lowest score of a token. */
const unknownPenalty = 10;

/** The tokens whose scores have the largest sum. */
function unigram(part: Part): TokenModel {
  const vocabulary = new Map<string, number>();
  const scores: number[] = [];
  let longest = 0;
  for (const [i, value] of part.list("vocab").entries()) {
    const [token, score] = Array.isArray(value) && value.length === 2 ? (value as unknown[]) : [];
    if (typeof token !== "string" || typeof score !== "number") {
      return part.fail("a token and its score", `vocab[${i}]`, quoted(JSON.stringify(value)));
    }
    if (vocabulary.has(token)) return part.fail("different tokens", "vocab", `${quoted(token)} twice`);
    vocabulary.set(token, scores.length);
    scores.push(score);
    longest = Math.max(longest, token.length);
  }
  const unknown = part.has("unk_id") ? part.count("unk_id", 0) : undefined;
  if (unknown !== undefined && unknown >= scores.length) return part.fail(`an id below ${scores.length}`, "unk_id");
  const unknownScore = scores.reduce((least, score) => Math.min(least, score), Infinity) - unknownPenalty;
  const bytes = part.flag("byte_fallback", false) ? byteTokens(vocabulary) : undefined;
  return {
    vocabulary,
    encode(piece) {
      const size = piece.length;
      const best = new Float64Array(size + 1);
      const from = new Int32Array(size + 1).fill(-1);
      const ids = new Int32Array(size + 1);
      const offer = (start: number, end: number, id: number, score: number): void => {
        const sum = score + best[start]!;
        if (from[end] !== -1 && sum <= best[end]!) return;
        [best[end], from[end], ids[end]] = [sum, start, id];
      };
      for (let start = 0; start < size; ) {
        const width = piece.codePointAt(start)! > 0xffff ? 2 : 1;
        let isSingle = false;
        for (let length = 1; length <= longest && start + length <= size; length++) {
          const id = vocabulary.get(piece.slice(start, start + length));
          if (id === undefined) continue;
          offer(start, start + length, id, scores[id]!);
          isSingle ||= length === width;
        }
        if (!isSingle) {
          const isBetter = from[start + width] === -1 || unknownScore + best[start]! > best[start + width]!;
          if (unknown !== undefined) offer(start, start + width, unknown, unknownScore);
          // A longer token may hold the character, and then none of its own is needed.
          else if (isBetter) part.fail("an id, for unknown characters", "unk_id");
        }
        start += width;
      }
      const path: { start: number; end: number; id: number }[] = [];
      for (let end = size; end > 0; end = from[end]!) path.push({ start: from[end]!, end, id: ids[end]! });
      return joinUnknown(path.reverse(), unknown).flatMap(({ start, end, id }) => {
        const text = piece.slice(start, end);
        return vocabulary.get(text) ?? bytes?.(text) ?? id;
      });
    },
  };
}

interface Step {
  readonly start: number;
  readonly end: number;
  readonly id: number;
}

/** Unknown characters one after another become one. */
function joinUnknown(path: readonly Step[], unknown: number | undefined): Step[] {
  const joined: Step[] = [];
  for (const step of path) {
    const last = joined.at(-1);
    if (last && last.id === unknown && step.id === unknown) joined[joined.length - 1] = { ...last, end: step.end };
    else joined.push(step);
  }
  return joined;
}
