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

/** Whether a normalizer may take away a text's beginning, so that what is left does not begin where the text does. */
export function shortensBeginnings(part: Part): boolean {
  const type = part.get("type");
  if (type === "Sequence") return part.parts("normalizers").some(shortensBeginnings);
  if (type === "Replace") return part.text("content") === "";
  return ["BertNormalizer", "Nmt", "Strip", "StripAccents"].includes(type as string);
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
  Prepend: (part) => {
    const prefix = part.text("prepend");
    return (text) => (text === "" ? "" : prefix + text);
  },
  Replace: (part) => {
    const pattern = patternOf(part);
    const content = part.text("content");
    return (text) =>
      spansOf(text, pattern)
        .map(({ start, end, matched }) => (matched ? content : text.slice(start, end)))
        .join("");
  },
  Sequence: (part) => {
    const each = part.parts("normalizers").map(normalizerOf);
    return (text) => each.reduce((made, normalize) => normalize(made), text);
  },
  Strip: (part) => {
    const [left, right] = [part.flag("strip_left"), part.flag("strip_right")];
    return (text) => strip(text, left, right);
  },
  StripAccents: () => (text) => text.replace(/\p{M}/gu, ""),
};

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

const characters = byteCharacters();
const encoder = new TextEncoder();

/** A text's bytes, each as byte-level BPE writes it. */
export function toBytes(text: string): string {
  let made = "";
  for (const byte of encoder.encode(text)) made += characters[byte]!;
  return made;
}
