import { generate } from "oniguruma-parser/generator";
import {
  type AlternativeElementNode,
  type AlternativeNode,
  type Node,
  type OnigurumaAst,
  parse,
  type QuantifierNode,
} from "oniguruma-parser/parser";
import { toRegExp } from "oniguruma-to-es";
import { messageOf } from "../../errors.ts";
import { excerpt } from "../excerpt.ts";
import { type Part, quoted } from "./part.ts";

/** A stretch of a text, and whether a pattern matches it. */
export interface Span {
  readonly start: number;
  readonly end: number;
  readonly matched: boolean;
}

/**
 * The pattern of a part as a regular expression of JavaScript: `{"String": …}` is looked for as it stands, `{"Regex": …}` is of Oniguruma's kind.
 *
 * @throws UserError if it is neither, cannot be translated, or could take time that grows without bound
 */
export function patternOf(part: Part): RegExp {
  const pattern = part.part("pattern") ?? part.fail("a String or a Regex", "pattern");
  if (pattern.has("String")) return new RegExp(pattern.text("String").replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&"), "gu");
  const source = pattern.text("Regex");
  const advice = "Such patterns match otherwise in JavaScript.";
  if (/(?<!\\)(?:\\\\)*\\X/.test(source)) {
    pattern.fail("a pattern without \\X", "Regex", quoted(source), advice);
  }
  // Oniguruma takes such a letter for the letters that it stands for: (?i)ß matches ss, (?i)fi matches ﬁ.
  if (
    /\(\?[a-z]*i/.test(source) &&
    (/ss|ff|fi|fl|st/i.test(named(source)) || Array.from(source).some(isSeveralLetters))
  ) {
    pattern.fail("a pattern with (?i) whose letters stand for themselves", "Regex", quoted(source), advice);
  }
  try {
    const made = rewritten(parse(source)) as OnigurumaAst;
    if (Math.max(...made.body.map(waysOfAll)) <= mostWays) return toRegExp(generate(made).pattern, { global: true });
  } catch (error) {
    const got = `${quoted(source)} (${excerpt(messageOf(error), 80)})`;
    return pattern.fail("a pattern that can be translated to JavaScript", "Regex", got);
  }
  return pattern.fail(
    "a pattern that takes bounded time",
    "Regex",
    `${quoted(source)}, which can match one text in too many ways`,
    "Write it without repetitions of what itself repeats, is optional or has alternatives.",
  );
}

/** A pattern without the names of its properties and classes, whose letters are none of the text. */
const named = (source: string) => source.replace(/\\[pPx]\{[^}]*\}|\[:\^?\w+:\]/g, "");
/** Whether a letter has several as its other case. */
const isSeveralLetters = (letter: string) =>
  letter.codePointAt(0)! > 0x7f && Array.from(letter.toUpperCase()).length > 1;

const wordInClass = "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}";
const word = `${wordInClass}²³¹¼½¾`;
const nodeOf = (source: string): Node => parse(source).body[0]!.body[0]!;
const boundary = (negate: boolean) =>
  negate
    ? nodeOf(`(?:(?<=[${word}])(?=[${word}])|(?<![${word}])(?![${word}]))`)
    : nodeOf(`(?:(?<=[${word}])(?![${word}])|(?<![${word}])(?=[${word}]))`);

/**
 * A pattern with characters of words spelled out, for Oniguruma has others than the translation: no numbers but decimal ones, six of Latin 1 excepted,
 * and these not in classes. Repetitions of a repeated character, as in `\\d{1,3}+`, which is not possessive in Oniguruma, become one.
 */
function rewritten(node: Node, isInClass = false): Node {
  if (node.type === "CharacterSet" && (node.kind === "word" || (node.kind === "posix" && node.value === "word"))) {
    return nodeOf(`[${node.negate ? "^" : ""}${isInClass ? wordInClass : word}]`);
  }
  if (node.type === "Assertion" && node.kind === "word_boundary") return boundary(node.negate === true);
  if (!("body" in node)) return node;
  const inside = isInClass || node.type === "CharacterClass";
  const body: unknown = Array.isArray(node.body)
    ? node.body.map((part) => rewritten(part, inside))
    : rewritten(node.body, inside);
  const made = { ...node, body } as Node;
  return made.type === "Quantifier" ? joined(made) : made;
}

/** A repetition without end of what is itself one character, repeated, as one repetition: both match any number of it from some on, most first. */
function joined(outer: QuantifierNode): QuantifierNode {
  let inner: Node = outer.body;
  while ((inner.type === "Group" && !inner.atomic && !inner.flags) || inner.type === "CapturingGroup") {
    const alternatives: readonly AlternativeNode[] = inner.body;
    if (alternatives.length !== 1 || alternatives[0]!.body.length !== 1) return outer;
    inner = alternatives[0]!.body[0]!;
  }
  if (inner.type !== "Quantifier" || inner.kind !== "greedy" || outer.kind !== "greedy") return outer;
  const isCharacter =
    inner.body.type === "Character" ||
    inner.body.type === "CharacterClass" ||
    (inner.body.type === "CharacterSet" && !inner.body.variableLength);
  return isCharacter && inner.min <= 1 && outer.max === Infinity
    ? { ...inner, min: inner.min * outer.min, max: Infinity }
    : outer;
}

/** A pattern may match one stretch of text in so many ways: those of published tokenizers have two repetitions one after another. */
const mostWays = 3e5;
/** Stands for the many lengths that a repetition without end can have. */
const manyLengths = 100;

/**
 * In how many ways one stretch of text can be matched, at most: what a backtracking engine may try before it gives up. Infinite where ways multiply
 * with the length of the text: repetitions of what can itself match in several ways.
 */
function waysOfAll({ body }: AlternativeNode): number {
  return body.reduce((product, node) => product * waysOf(node), 1);
}

function waysOf(node: AlternativeElementNode): number {
  switch (node.type) {
    case "Quantifier":
      return waysOfRepetition(node);
    case "CapturingGroup":
    case "Group":
    case "LookaroundAssertion": {
      const ways = node.body.reduce((sum, alternative) => sum + waysOfAll(alternative), 0);
      // What stands in them is tried once and never again, but all of its ways may be tried then.
      const isTriedOnce = node.type === "LookaroundAssertion" || (node.type === "Group" && node.atomic === true);
      return isTriedOnce && ways <= mostWays ? 1 : ways;
    }
    case "Backreference":
    case "Subroutine":
    case "AbsenceFunction":
    case "NamedCallout":
      return Infinity;
    default:
      return 1;
  }
}

function waysOfRepetition({ kind, min, max, body }: QuantifierNode): number {
  const each = waysOf(body);
  if (each > 1 && max === Infinity) return Infinity;
  let ways = max === Infinity ? manyLengths : 0;
  if (max !== Infinity) {
    if (each === 1) ways = max - min + 1;
    else for (let count = min; count <= max && ways <= mostWays; count++) ways += each ** count;
  }
  return kind === "possessive" && ways <= mostWays ? 1 : ways;
}

/**
 * A text cut into what a pattern matches and what lies between, in order and without gaps. As in Oniguruma, an empty match counts unless it follows a
 * match at once.
 */
export function spansOf(text: string, pattern: RegExp): Span[] {
  const spans: Span[] = [];
  let previous = 0;
  pattern.lastIndex = 0;
  for (let match = pattern.exec(text); match !== null; match = pattern.exec(text)) {
    const start = match.index;
    const end = start + match[0].length;
    if (start === end) {
      pattern.lastIndex = end + ((text.codePointAt(end) ?? 0) > 0xffff ? 2 : 1);
      if (end === previous && spans.at(-1)?.matched) continue;
    }
    if (previous < start) spans.push({ start: previous, end: start, matched: false });
    spans.push({ start, end, matched: true });
    previous = end;
  }
  if (previous < text.length) spans.push({ start: previous, end: text.length, matched: false });
  return spans;
}
