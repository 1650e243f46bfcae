import { toBytes } from "./normalizers.ts";
import { byType, type Part } from "./part.ts";
import { patternOf, type Span, spansOf } from "./patterns.ts";

/** A stretch of a text that the model turns into tokens by itself; never empty. */
export interface Piece {
  readonly text: string;
  /** Whether it begins where the whole text does. */
  readonly first: boolean;
}

/** Splits pieces further. */
export type PreTokenizer = (pieces: readonly Piece[]) => readonly Piece[];

/**
 * The pre-tokenizer of a tokenizer.json.
 *
 * @throws UserError naming a kind or field that is not understood
 */
export function preTokenizerOf(part: Part): PreTokenizer {
  return byType(part, kinds);
}

/** Whether a pre-tokenizer treats the beginning of the text otherwise than that of other pieces. */
export function looksAtBeginnings(part: Part): boolean {
  if (part.get("type") === "Sequence") return part.parts("pretokenizers").some(looksAtBeginnings);
  return part.get("type") === "Metaspace" && part.get("prepend_scheme") === "first";
}

const behaviors = ["Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"] as const;
type Behavior = (typeof behaviors)[number];

const spaces = /\p{White_Space}/gu;
const punctuation = /[!-/:-@[-`{-~\p{P}]/gu;
const numbers = /\p{N}/gu;
/** What Rust's regular expressions take for a character of a word. */
const word = "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\p{Join_Control}";
const words = new RegExp(`[${word}]+|[^${word}\\p{White_Space}]+`, "gu");
const gpt2 =
  /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\p{White_Space}\p{L}\p{N}]+|\p{White_Space}+(?!\P{White_Space})|\p{White_Space}+/gu;

const kinds: Readonly<Record<string, (part: Part) => PreTokenizer>> = {
  BertPreTokenizer: () => {
    const [blanks, marks] = [splitting(spaces, "Removed"), splitting(punctuation, "Isolated")];
    return (pieces) => marks(blanks(pieces));
  },
  ByteLevel: (part) => {
    const prefixed = part.flag("add_prefix_space");
    const split = part.flag("use_regex", true) ? splitting(gpt2, "Isolated") : undefined;
    return (pieces) => {
      const begun = prefixed
        ? pieces.map((piece) => (piece.text.startsWith(" ") ? piece : { ...piece, text: ` ${piece.text}` }))
        : pieces;
      return (split ? split(begun) : begun).map(({ text, first }) => ({ text: toBytes(text), first }));
    };
  },
  CharDelimiterSplit: (part) => {
    const delimiter = part.character("delimiter").codePointAt(0)!.toString(16);
    return splitting(new RegExp(`\\u{${delimiter}}`, "gu"), "Removed");
  },
  Digits: (part) => splitting(numbers, part.flag("individual_digits") ? "Isolated" : "Contiguous"),
  FixedLength: (part) => splitting(new RegExp(`[^]{1,${part.count("length", 1, 5)}}`, "gu"), "Isolated"),
  Metaspace: metaspace,
  Punctuation: (part) => splitting(punctuation, part.oneOf("behavior", behaviors, "Isolated")),
  Sequence: (part) => {
    const each = part.parts("pretokenizers").map(preTokenizerOf);
    return (pieces) => each.reduce((made, split) => split(made), pieces);
  },
  Split: (part) => splitting(patternOf(part), part.oneOf("behavior", behaviors), part.flag("invert")),
  Whitespace: () => splitting(words, "Removed", true),
  WhitespaceSplit: () => splitting(spaces, "Removed"),
};

function metaspace(part: Part): PreTokenizer {
  const mark = part.character("replacement");
  const scheme = part.oneOf("prepend_scheme", ["always", "first", "never"], "always");
  if (!part.flag("add_prefix_space", true) && scheme !== "never") {
    return part.fail('"never", as add_prefix_space is false', "prepend_scheme");
  }
  const code = mark.codePointAt(0)!.toString(16);
  const split = part.flag("split", true) ? splitting(new RegExp(`\\u{${code}}`, "gu"), "MergedWithNext") : undefined;
  return (pieces) => {
    const marked = pieces.map(({ text: spaced, first }) => {
      const text = spaced.replaceAll(" ", mark);
      const begins = scheme === "always" || (scheme === "first" && first);
      return { text: begins && !text.startsWith(mark) ? mark + text : text, first };
    });
    return split ? split(marked) : marked;
  };
}

/**
 * Splits at a pattern.
 *
 * @param invert what lies between matches counts as matched, and the other way round
 */
function splitting(pattern: RegExp, behavior: Behavior, invert = false): PreTokenizer {
  const join = joining[behavior];
  return (pieces) => {
    const made: Piece[] = [];
    for (const { text, first } of pieces) {
      const spans = spansOf(text, pattern);
      const wanted = invert ? spans.map((span) => ({ ...span, matched: !span.matched })) : spans;
      for (const { start, end } of join(wanted)) {
        if (start < end) made.push({ text: text.slice(start, end), first: first && start === 0 });
      }
    }
    return made;
  };
}

/** What becomes of matches, and of what lies between. */
const joining: Readonly<Record<Behavior, (spans: readonly Span[]) => readonly Span[]>> = {
  Removed: (spans) => spans.filter(({ matched }) => !matched),
  Isolated: (spans) => spans,
  Contiguous: (spans) => joined(spans, (matched, previous) => matched === previous),
  MergedWithPrevious: (spans) => joined(spans, (matched, previous) => matched && !previous),
  MergedWithNext: (spans) => joined([...spans].reverse(), (matched, previous) => matched && !previous).reverse(),
};

/** Spans joined to the one before them where `joins` says so; the first is taken to follow something unmatched. */
function joined(spans: readonly Span[], joins: (matched: boolean, previous: boolean) => boolean): Span[] {
  const made: Span[] = [];
  let previous = false;
  for (const span of spans) {
    const last = made.at(-1);
    if (last && joins(span.matched, previous)) {
      made[made.length - 1] = {
        start: Math.min(last.start, span.start),
        end: Math.max(last.end, span.end),
        matched: false,
      };
    } else {
      made.push(span);
    }
    previous = span.matched;
  }
  return made;
}
