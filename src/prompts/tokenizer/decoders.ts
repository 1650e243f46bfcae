import { byteCharacters } from "../byte-level.ts";
import { byType, type Part } from "./part.ts";
import { patternOf, spansOf } from "./patterns.ts";

/** Tokens to stretches of text, which together are the text. */
export type Decoder = (tokens: readonly string[]) => readonly string[];

/**
 * The decoder of a tokenizer.json.
 *
 * @throws UserError naming a kind or field that is not understood
 */
export function decoderOf(part: Part): Decoder {
  return byType(part, kinds);
}

const bytesOf = new Map(byteCharacters().map((character, byte) => [character, byte]));
const encoder = new TextEncoder();
const lossy = new TextDecoder("utf-8", { ignoreBOM: true });
const strict = new TextDecoder("utf-8", { ignoreBOM: true, fatal: true });

const kinds: Readonly<Record<string, (part: Part) => Decoder>> = {
  BPEDecoder: (part) => {
    const suffix = part.text("suffix");
    return (tokens) => tokens.map((token, i) => token.replaceAll(suffix, i === tokens.length - 1 ? "" : " "));
  },
  ByteFallback: () => byteFallback,
  ByteLevel: () => (tokens) => {
    const bytes = tokens.flatMap((token) => {
      const known = Array.from(token, (character) => bytesOf.get(character));
      return known.every((byte) => byte !== undefined) ? known : Array.from(encoder.encode(token));
    });
    return [lossy.decode(Uint8Array.from(bytes))];
  },
  Fuse: () => (tokens) => [tokens.join("")],
  Metaspace: (part) => {
    const mark = part.character("replacement");
    const scheme = part.oneOf("prepend_scheme", ["always", "first", "never"], "always");
    return (tokens) => tokens.map((token, i) => token.replaceAll(mark, i === 0 && scheme !== "never" ? "" : " "));
  },
  Replace: (part) => {
    const pattern = patternOf(part);
    const content = part.text("content");
    return (tokens) =>
      tokens.map((token) =>
        spansOf(token, pattern)
          .map(({ start, end, matched }) => (matched ? content : token.slice(start, end)))
          .join(""),
      );
  },
  Sequence: (part) => {
    const each = part.parts("decoders").map(decoderOf);
    return (tokens) => each.reduce((made, decode) => decode(made), tokens);
  },
  Strip: (part) => {
    const content = part.character("content");
    const [most, least] = [part.count("start", 0), part.count("stop", 0)];
    return (tokens) =>
      tokens.map((token) => {
        const characters = Array.from(token);
        let [start, end] = [0, characters.length];
        while (start < most && characters[start] === content) start++;
        while (characters.length - end < least && end > start && characters[end - 1] === content) end--;
        return characters.slice(start, end).join("");
      });
  },
  WordPiece: (part) => {
    const prefix = part.text("prefix");
    const tidies = part.flag("cleanup");
    return (tokens) =>
      tokens.map((token, i) => {
        const text = i === 0 ? token : token.startsWith(prefix) ? token.slice(prefix.length) : ` ${token}`;
        return tidies ? tidied(text) : text;
      });
  },
};

/** Tokens `<0xNN>` one after another as the text of their bytes, each as a mark of damage if they are no text. */
function byteFallback(tokens: readonly string[]): readonly string[] {
  const made: string[] = [];
  let bytes: number[] = [];
  const flush = () => {
    if (bytes.length === 0) return;
    try {
      made.push(strict.decode(Uint8Array.from(bytes)));
    } catch {
      for (const _ of bytes) made.push("\ufffd");
    }
    bytes = [];
  };
  for (const token of tokens) {
    const byte = /^<0x([0-9A-Fa-f]{2})>$/.exec(token)?.[1];
    if (byte !== undefined) {
      bytes.push(Number.parseInt(byte, 16));
      continue;
    }
    flush();
    made.push(token);
  }
  flush();
  return made;
}

/** Without the spaces that tokenizing put before marks and contractions. */
function tidied(text: string): string {
  return text
    .replace(/ ([.?!,])/g, "$1")
    .replaceAll(" ' ", "'")
    .replace(/ (n't|'m)/g, "$1")
    .replaceAll(" do not", " don't")
    .replace(/ ('s|'ve|'re)/g, "$1");
}
