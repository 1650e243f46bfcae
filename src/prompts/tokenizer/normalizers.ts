import { byteCharacters } from "../byte-level.ts";
import { byType, type Part } from "./part.ts";
import { patternOf, spansOf } from "./patterns.ts";

/** Rewrites a text before it is split. Gets and gives any text but never an empty one. */
export type Normalizer = (text: string) => string;

/**
 * The normalizer of a tokenizer.json.
 *
 * @throws UserError naming a kind or field that is not understood
 */
export function normalizerOf(part: Part): Normalizer {
  return byType(part, kinds);
}

/** Whether a normalizer may take away a text's beginning in other ways than character by character. */
export function cutsBeginnings(part: Part): boolean {
  if (part.get("type") === "Sequence") return part.parts("normalizers").some(cutsBeginnings);
  return part.get("type") === "Replace" && part.text("content") === "";
}

const kinds: Readonly<Record<string, (part: Part) => Normalizer>> = {
  BertNormalizer: bert,
  ByteLevel: () => (text) => toBytes(text),
  Lowercase: () => lowercase,
  NFC: () => (text) => text.normalize("NFC"),
  NFD: () => (text) => text.normalize("NFD"),
  NFKC: () => (text) => text.normalize("NFKC"),
  NFKD: () => (text) => text.normalize("NFKD"),
  Nmt: () => nmt,
  Precompiled: precompiled,
  Prepend: (part) => {
    const prefix = part.text("prepend");
    return (text) => (text === "" ? "" : prefix + text);
  },
  Replace: (part) => {
    const pattern = patternOf(part);
    const content = part.text("content");
    return (text) => {
      const spans = spansOf(text, pattern);
      checkGrowth(part, text, spans.length * content.length);
      return spans.map(({ start, end, matched }) => (matched ? content : text.slice(start, end))).join("");
    };
  },
  Sequence: (part) => {
    const each = part.parts("normalizers").map(normalizerOf);
    return (text) =>
      each.reduce((made, normalize) => {
        checkGrowth(part, text, made.length);
        return normalize(made);
      }, text);
  },
  Strip: (part) => {
    const [left, right] = [part.flag("strip_left"), part.flag("strip_right")];
    return (text) => strip(text, left, right);
  },
  StripAccents: () => (text) => text.replace(/\p{M}/gu, ""),
};

/** A text may become so many times as long. */
const mostGrowth = 64;

function checkGrowth(part: Part, text: string, length: number): void {
  if (length > mostGrowth * (text.length + 1)) {
    part.fail(
      `texts that become at most ${mostGrowth} times as long`,
      undefined,
      `${length} characters of ${text.length}`,
    );
  }
}

const codes = (...ranges: readonly (readonly [first: number, last: number])[]) =>
  new Set(ranges.flatMap(([first, last]) => Array.from({ length: last - first + 1 }, (_, i) => first + i)));
const nmtDropped = codes([1, 8], [11, 11], [14, 31], [0x7f, 0x7f], [0x8f, 0x8f], [0x9f, 0x9f]);
const nmtSpaces = new Set([9, 10, 12, 13, 0x1680, 0x2028, 0x2029, 0x2581, 0xfeff, 0xfffd, ...codes([0x200b, 0x200f])]);

/** As SentencePiece's rules for translation: control characters go, and what counts as a space becomes one. */
function nmt(text: string): string {
  return Array.from(text, (character) => {
    const code = character.codePointAt(0)!;
    if (nmtDropped.has(code)) return "";
    return nmtSpaces.has(code) ? " " : character;
  }).join("");
}

/** Character by character: a sigma at the end of a word stays as it is elsewhere. */
function lowercase(text: string): string {
  return Array.from(text, (character) => character.toLowerCase()).join("");
}

const space = /\p{White_Space}/u;

/** A text without white space at its ends. */
export function strip(text: string, left: boolean, right: boolean): string {
  let [start, end] = [0, text.length];
  while (left && start < end && space.test(text[start]!)) start++;
  while (right && start < end && space.test(text[end - 1]!)) end--;
  return text.slice(start, end);
}

const chinese =
  /[\u{4e00}-\u{9fff}\u{3400}-\u{4dbf}\u{20000}-\u{2a6df}\u{2a700}-\u{2b73f}\u{2b740}-\u{2b81f}\u{2b920}-\u{2ceaf}\u{f900}-\u{faff}\u{2f800}-\u{2fa1f}]/gu;

function bert(part: Part): Normalizer {
  const lower = part.flag("lowercase");
  const accents = part.flag("strip_accents", lower);
  const steps: Normalizer[] = [];
  if (part.flag("clean_text")) {
    steps.push((text) => text.replace(/\ufffd|(?![\t\n\r])[\p{Cc}\p{Cf}\p{Co}]/gu, ""));
    steps.push((text) => text.replace(/\p{White_Space}/gu, " "));
  }
  if (part.flag("handle_chinese_chars")) steps.push((text) => text.replace(chinese, " $& "));
  if (accents) steps.push((text) => text.normalize("NFD").replace(/\p{Mn}/gu, ""));
  if (lower) steps.push(lowercase);
  return (text) => steps.reduce((made, step) => step(made), text);
}

/**
 * SentencePiece's compiled rules: the size of a double-array trie in bytes, the trie, and the texts that its values point to, each up to a zero. A
 * character is looked up together with its marks if these are few bytes, and as the Rust library does it, what a rule replaces is then all of it,
 * though the rule may fit only its beginning.
 */
function precompiled(part: Part): Normalizer {
  const fail = (got: string) => part.fail("rules as SentencePiece compiles them", "precompiled_charsmap", got);
  let bytes: Uint8Array;
  try {
    bytes = Uint8Array.from(atob(part.text("precompiled_charsmap")), (character) => character.charCodeAt(0));
  } catch {
    return fail("no base 64");
  }
  const size = bytes.length < 4 ? 0 : new DataView(bytes.buffer).getUint32(0, true);
  if (size === 0 || size % 4 !== 0 || 4 + size > bytes.length) return fail("a trie that does not fit");
  const trie = new Uint32Array(bytes.slice(4, 4 + size).buffer);
  const texts = bytes.subarray(4 + size);
  const offset = (unit: number) => (unit >>> 10) << ((unit & 0x200) >>> 6);

  const rule = (text: string): string | undefined => {
    let at = offset(trie[0]!);
    for (const byte of encoder.encode(text)) {
      at ^= byte;
      const unit = trie[at] ?? 0;
      if (byte === 0 || (unit & 0x800000ff) >>> 0 !== byte) return undefined;
      at ^= offset(unit);
      if ((unit & 0x100) === 0) continue;
      const start = (trie[at] ?? 0) & 0x7fffffff;
      const end = texts.indexOf(0, start);
      return decoder.decode(texts.subarray(start, end < 0 ? texts.length : end));
    }
    return undefined;
  };
  return (text) =>
    Array.from(graphemes.segment(text), ({ segment }) => {
      const whole = encoder.encode(segment).length < 6 ? rule(segment) : undefined;
      return whole ?? Array.from(segment, (character) => rule(character) ?? character).join("");
    }).join("");
}

const graphemes = new Intl.Segmenter("en", { granularity: "grapheme" });
const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
const characters = byteCharacters();
const encoder = new TextEncoder();

/** A text's bytes, each as byte-level BPE writes it. */
export function toBytes(text: string): string {
  let made = "";
  for (const byte of encoder.encode(text)) made += characters[byte]!;
  return made;
}
