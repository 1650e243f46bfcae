import { type Normalizer, strip } from "./normalizers.ts";
import { type Part, quoted } from "./part.ts";
import type { Piece } from "./pre-tokenizers.ts";

/** A token that is found in a text before it is split. */
export interface AddedToken {
  readonly id: number;
  readonly content: string;
  /** Found only where no word goes on. */
  readonly single_word: boolean;
  /** Takes white space before it along. */
  readonly lstrip: boolean;
  /** Takes white space behind it along. */
  readonly rstrip: boolean;
  /** Looked for in the normalized text, in its normalized form. */
  readonly normalized: boolean;
  readonly special: boolean;
}

/**
 * The added tokens of a tokenizer.json. Their ids are those of the vocabulary, or follow it in the order of the list.
 *
 * @param vocabulary the model's tokens
 * @throws UserError if one is damaged, or its id is another than that: then the file contradicts itself
 */
export function addedTokensOf(file: Part, vocabulary: ReadonlyMap<string, number>): AddedToken[] {
  if (!file.has("added_tokens")) return [];
  const tokens = new Map<string, AddedToken>();
  let next = vocabulary.size;
  for (const part of file.parts("added_tokens")) {
    const content = part.text("content");
    if (content === "") continue;
    const id = tokens.get(content)?.id ?? vocabulary.get(content) ?? next++;
    if (part.get("id") !== id) {
      const known =
        vocabulary.has(content) || tokens.has(content) ? "its id elsewhere in the file" : "the next free id";
      part.fail(`${id}, ${known}, for ${quoted(content)}`, "id");
    }
    const special = part.flag("special", false);
    tokens.set(content, {
      id,
      content,
      single_word: part.flag("single_word", false),
      lstrip: part.flag("lstrip", false),
      rstrip: part.flag("rstrip", false),
      normalized: part.flag("normalized", !special),
      special,
    });
  }
  return [...tokens.values()];
}

/** A stretch of a text that is an added token, or text for the model. */
export type Section = AddedToken | Piece;

/**
 * What finds added tokens in a text: those that are not normalized first, then, in what lies between, normalized, the others.
 *
 * @throws UserError if two of them come to the same text
 */
export function sectionsOf(
  tokens: readonly AddedToken[],
  normalize: Normalizer | undefined,
  file: Part,
): (text: string) => Section[] {
  const plain = finder(tokens.filter(({ normalized }) => !normalized).map((token) => [token.content, token]));
  const rewritten = tokens.filter(({ normalized }) => normalized);
  const patterns = rewritten.map((token) => [normalize?.(token.content) ?? token.content, token] as const);
  if (
    patterns.some(([content]) => content === "") ||
    new Set(patterns.map(([content]) => content)).size < patterns.length
  ) {
    file.fail("tokens that stay apart when they are normalized", "added_tokens", "some that become one, or nothing");
  }
  const inNormalized = finder(patterns);
  return (text) =>
    plain({ text, first: true }).flatMap((section) => {
      if ("id" in section) return [section];
      if (normalize === undefined) return inNormalized(section);
      // Of a text whose first character is taken away, nothing stands at the beginning.
      const first = section.first && normalize(String.fromCodePoint(section.text.codePointAt(0)!)) !== "";
      return inNormalized({ text: normalize(section.text), first });
    });
}

/** Cuts a piece at tokens: from left to right, at each place the longest. */
function finder(tokens: readonly (readonly [content: string, token: AddedToken])[]): (piece: Piece) => Section[] {
  const root: Trie = { next: new Map() };
  for (const [content, token] of tokens) {
    let node = root;
    for (const unit of content.split("")) {
      const child: Trie = node.next.get(unit) ?? { next: new Map() };
      node.next.set(unit, child);
      node = child;
    }
    node.found = { token, length: content.length };
  }
  return ({ text, first }) => {
    const sections: Section[] = [];
    let done = 0;
    const push = (to: number) => {
      if (done < to) sections.push({ text: text.slice(done, to), first: first && done === 0 });
    };
    for (let at = 0; at < text.length; ) {
      const found = longest(root, text, at);
      if (!found) {
        at++;
        continue;
      }
      const [start, end] = [at, at + found.length];
      at = end;
      const { token } = found;
      const [before, after] = [text.slice(Math.max(0, start - 2), start), text.slice(end, end + 2)];
      if (token.single_word && (endsWithWord.test(before) || beginsWithWord.test(after))) continue;
      // The one before it took it along with the white space behind; one that begins with what is before it is then empty.
      if (token.lstrip && end <= done) continue;
      push(token.lstrip ? strip(text.slice(0, start), false, true).length : start);
      sections.push(token);
      done = token.rstrip ? text.length - strip(text.slice(end), true, false).length : end;
    }
    push(text.length);
    return sections;
  };
}

interface Trie {
  readonly next: Map<string, Trie>;
  found?: { readonly token: AddedToken; readonly length: number };
}

function longest(root: Trie, text: string, start: number): Trie["found"] {
  let found: Trie["found"];
  let node = root.next.get(text[start]!);
  for (let at = start + 1; node; at++) {
    found = node.found ?? found;
    node = node.next.get(text[at]!);
  }
  return found;
}

const word = "[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\p{Join_Control}]";
const beginsWithWord = new RegExp(`^${word}`, "u");
const endsWithWord = new RegExp(`${word}$`, "u");
