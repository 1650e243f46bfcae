import { type Part, quoted } from "./part.ts";

/** Turns pieces of text into token ids. */
export interface TokenModel {
  /** Ids by token. */
  readonly vocabulary: ReadonlyMap<string, number>;
  /** Token ids of a piece that is not empty. @throws UserError if it is unknown and there is no token for that */
  encode(piece: string): readonly number[];
}

/** What two neighbours become, and how early. */
interface Merge {
  readonly rank: number;
  readonly id: number;
}

/** Pairs of tokens by left, then by right one. */
type Merges = ReadonlyMap<number, ReadonlyMap<number, Merge>>;

/**
 * Byte-pair encoding.
 *
 * @throws UserError if a merge is damaged or makes no token, or merges are left out at random
 */
export function bpe(part: Part, vocabulary: ReadonlyMap<string, number>): TokenModel {
  if (part.has("dropout") && part.get("dropout") !== 0) {
    part.fail("none", "dropout", undefined, "With it a text has other tokens each time: set it to null.");
  }
  const prefix = part.text("continuing_subword_prefix", "");
  const suffix = part.text("end_of_word_suffix", "");
  const [fuseUnknown, byteFallback, ignoreMerges] = ["fuse_unk", "byte_fallback", "ignore_merges"].map((key) =>
    part.flag(key, false),
  );
  const unknown = part.has("unk_token") ? part.text("unk_token") : undefined;
  const merges = mergesOf(part, vocabulary, prefix);
  const bytes = byteFallback ? byteTokens(vocabulary) : undefined;

  /**
   * The tokens of single characters. One that is none becomes its bytes, or the unknown token, or nothing if there is no such token. As in the Rust
   * library, an unknown token waits for the next known character, behind bytes that come before that.
   */
  const begin = (piece: string): number[] => {
    const ids: number[] = [];
    const characters = Array.from(piece);
    let isWaiting = false;
    const flush = () => {
      if (isWaiting) ids.push(vocabulary.get(unknown!) ?? part.fail("a token of the vocabulary", "unk_token"));
      isWaiting = false;
    };
    for (const [i, character] of characters.entries()) {
      const text = `${i > 0 ? prefix : ""}${character}${i === characters.length - 1 ? suffix : ""}`;
      const known = vocabulary.get(text);
      const fallen = known === undefined ? bytes?.(text) : undefined;
      if (fallen) {
        ids.push(...fallen);
      } else if (known !== undefined) {
        flush();
        ids.push(known);
      } else if (unknown !== undefined) {
        if (!fuseUnknown) flush();
        isWaiting = true;
      }
    }
    flush();
    return ids;
  };

  const cache = new Map<string, readonly number[]>();
  return {
    vocabulary,
    encode(piece) {
      const whole = ignoreMerges ? vocabulary.get(piece) : undefined;
      if (whole !== undefined) return [whole];
      const known = cache.get(piece);
      if (known) return known;
      const ids = mergeAll(begin(piece), merges);
      if (piece.length < longestCached) {
        if (cache.size >= mostCached) cache.clear();
        cache.set(piece, ids);
      }
      return ids;
    },
  };
}

const mostCached = 20_000;
const longestCached = 256;

function mergesOf(part: Part, vocabulary: ReadonlyMap<string, number>, prefix: string): Merges {
  const merges = new Map<number, Map<number, Merge>>();
  let rank = 0;
  for (const [i, value] of part.list("merges").entries()) {
    if (typeof value === "string" && value.startsWith("#version")) continue;
    const pair: unknown = typeof value === "string" ? value.split(" ") : value;
    const [left, right] = Array.isArray(pair) && pair.length === 2 ? (pair as unknown[]) : [];
    if (typeof left !== "string" || typeof right !== "string" || !right.startsWith(prefix)) {
      part.fail("two tokens", `merges[${i}]`, quoted(JSON.stringify(value)));
    }
    const idOf = (token: string): number =>
      vocabulary.get(token) ?? part.fail("tokens of the vocabulary", `merges[${i}]`, quoted(token));
    const [leftId, rightId, id] = [idOf(left), idOf(right), idOf(left + right.slice(prefix.length))];
    let byRight = merges.get(leftId);
    if (!byRight) {
      byRight = new Map();
      merges.set(leftId, byRight);
    }
    byRight.set(rightId, { rank: rank++, id });
  }
  return merges;
}

/** A text's bytes as tokens `<0xNN>`; undefined if one of them is none. */
export function byteTokens(vocabulary: ReadonlyMap<string, number>): (text: string) => number[] | undefined {
  const encoder = new TextEncoder();
  const tokens = Array.from({ length: 256 }, (_, byte) =>
    vocabulary.get(`<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`),
  );
  return (text) => {
    const ids = Array.from(encoder.encode(text), (byte) => tokens[byte]);
    return ids.every((id) => id !== undefined) ? ids : undefined;
  };
}

/** A merge to be made: of the token at `at` with the next. */
interface Candidate extends Merge {
  readonly at: number;
}

/** Merges neighbours until none can be merged: those of the lowest rank first, of these the leftmost. */
function mergeAll(ids: number[], merges: Merges): readonly number[] {
  const end = ids.length;
  const next = Array.from(ids, (_, i) => i + 1);
  const previous = Array.from(ids, (_, i) => i - 1);
  const queue: Candidate[] = [];
  const offer = (at: number): void => {
    const merge = merges.get(ids[at]!)?.get(ids[next[at]!]!);
    if (merge) push(queue, { ...merge, at });
  };
  for (let at = 0; at + 1 < end; at++) offer(at);
  for (let best = pop(queue); best; best = pop(queue)) {
    const { at, id } = best;
    const right = next[at]!;
    // Either may be gone or another by now. As in the Rust library, what would become the same token still counts.
    if (ids[at] === gone || right >= end || merges.get(ids[at]!)?.get(ids[right]!)?.id !== id) continue;
    ids[at] = id;
    ids[right] = gone;
    const after = next[right]!;
    next[at] = after;
    if (after < end) previous[after] = at;
    if (previous[at]! >= 0) offer(previous[at]!);
    if (after < end) offer(at);
  }
  return ids.filter((id) => id !== gone);
}

const gone = -1;

function isBefore(a: Candidate, b: Candidate): boolean {
  return a.rank === b.rank ? a.at < b.at : a.rank < b.rank;
}

/** Puts a candidate into a binary heap. */
function push(heap: Candidate[], candidate: Candidate): void {
  let at = heap.length;
  heap.push(candidate);
  while (at > 0) {
    const parent = (at - 1) >> 1;
    if (!isBefore(candidate, heap[parent]!)) break;
    heap[at] = heap[parent]!;
    at = parent;
  }
  heap[at] = candidate;
}

/** Takes the best candidate out of a binary heap. */
function pop(heap: Candidate[]): Candidate | undefined {
  const best = heap[0];
  const last = heap.pop();
  if (last === undefined || heap.length === 0) return best;
  let at = 0;
  for (;;) {
    let child = 2 * at + 1;
    if (child + 1 < heap.length && isBefore(heap[child + 1]!, heap[child]!)) child++;
    if (child >= heap.length || !isBefore(heap[child]!, last)) break;
    heap[at] = heap[child]!;
    at = child;
  }
  heap[at] = last;
  return best;
}
