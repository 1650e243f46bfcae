import { beforeAll, expect, test } from "vitest";
import { constructions, heldOut } from "../src/prompts/english/constructions.ts";
import { describeSentence, generateSentence, type Sentence, spell } from "../src/prompts/english/english.ts";
import { wordForms } from "../src/prompts/english/lexicon.ts";
import { demoLexicon } from "../src/prompts/english/lexicon-demo.ts";
import { Random } from "../src/random.ts";

const seed = "english";
let sentences: Sentence[];
const wordsOf = (text: string) => text.replace(/[.,?]/g, "").split(" ");

beforeAll(() => {
  console.log(`seed ${seed}`);
  const random = new Random(seed);
  sentences = Array.from({ length: 40_000 }, () => describeSentence(random, demoLexicon));
});

test("the same seed gives the same sentences", () => {
  const five = (s: string) => {
    const random = new Random(s);
    return Array.from({ length: 5 }, () => generateSentence(random, demoLexicon));
  };
  expect(five("a")).toEqual(five("a"));
  expect(five("a")).not.toEqual(five("b"));
});

test("spelling: articles, punctuation and capitals", () => {
  expect(spell(["a", "old", "uncle", ",", "a", "university", "and", "a", "honest", "man", "."])).toBe(
    "An old uncle, a university and an honest man.",
  );
});

test("sentences are spelled like English", () => {
  const { singular, plural } = {
    singular: new Set(demoLexicon.nouns.map((noun) => noun.singular)),
    plural: new Set(demoLexicon.nouns.map((noun) => noun.plural)),
  };
  const wrong = sentences.filter(({ text }) => {
    if (!/^[A-Z][A-Za-z]*(,? [A-Za-z]+)*[.?]$/.test(text) || /\ba (?!uni|use|one)[aeiou]/i.test(text)) return true;
    const words = wordsOf(text.toLowerCase());
    return words.some((word, i) => {
      const next = words[i + 1] ?? "";
      if (["this", "every", "a", "an", "each"].includes(word)) return plural.has(next);
      return ["these", "those", "many", "several", "two", "both"].includes(word) && singular.has(next);
    });
  });
  expect(wrong.map(({ text }) => text)).toEqual([]);
});

// Read off the text, not off the generator's own notes.
test("a verb right after a noun at the start of a sentence agrees with it", () => {
  const number = new Map(demoLexicon.nouns.flatMap((n) => [[n.singular, "singular"] as const, [n.plural, "plural"]]));
  const verb = new Map(demoLexicon.verbs.flatMap((v) => [[v.third, "singular"] as const, [v.base, "plural"]]));
  for (const [s, p] of ["is are", "was were", "has have", "does do"].map((pair) => pair.split(" "))) {
    verb.set(s!, "singular").set(p!, "plural");
  }
  for (const [pattern, least] of [
    [/^The (\w+) (?:(?:never|always|often) )?(\w+)\b/, 1000],
    [/^The (\w+) (?:near|behind|beside) the \w+ (\w+)\b/, 50],
  ] as const) {
    const checked = sentences.flatMap(({ text }) => {
      const [, noun, form] = pattern.exec(text) ?? [];
      const [expected, got] = [number.get(noun ?? ""), verb.get(form ?? "")];
      return expected === undefined || got === undefined ? [] : [{ text, right: expected === got }];
    });
    expect(checked.length).toBeGreaterThan(least);
    expect(checked.filter(({ right }) => !right)).toEqual([]);
  }
});

test("every construction is frequent in both numbers", () => {
  for (const construction of constructions) {
    const of = sentences.flatMap((s) => s.agreements).filter((a) => a.construction === construction);
    expect(of.length).toBeGreaterThan(0.04 * sentences.length);
    const singular = of.filter((a) => a.number === "singular").length;
    expect(singular / of.length).toBeCloseTo(0.5, 1);
  }
});

test("an attractor's number says nothing about the subject's", () => {
  for (const construction of [
    "nounpp",
    "subject_rc",
    "object_rc",
    "within_object_rc",
    "coordination",
    "long",
  ] as const) {
    const pairs = sentences
      .flatMap((s) => s.agreements)
      .filter((a) => a.construction === construction && a.attractors.length > 0)
      .map((a) => a.number === a.attractors[0]);
    const same = pairs.filter(Boolean).length;
    // Five standard deviations of a fair coin.
    expect(Math.abs(same - pairs.length / 2)).toBeLessThan(2.5 * Math.sqrt(pairs.length));
  }
});

test("held-out combinations come rarely, but do come", () => {
  const all = sentences.flatMap((s) => s.agreements);
  const held = all.filter((a) => heldOut(a.construction, a.noun, a.verb)).length;
  expect(held / all.length).toBeGreaterThan(0.001);
  expect(held / all.length).toBeLessThan(0.01);
});

test("every form of every word is used", () => {
  const counts = new Map<string, number>();
  for (const { text } of sentences) for (const word of wordsOf(text)) counts.set(word, (counts.get(word) ?? 0) + 1);
  const rare = wordForms(demoLexicon).filter((word) => (counts.get(word) ?? 0) < 2);
  expect(rare).toEqual([]);
  const nounForms = demoLexicon.nouns.flatMap((noun) => [noun.singular, noun.plural]);
  expect(Math.min(...nounForms.map((word) => counts.get(word) ?? 0))).toBeGreaterThan(20);
});

test("no relative clause stands inside another's subject", () => {
  // Two subjects after two relativizers: "the dog that the cat that the mice …"
  const nested = /\b(that|who) the \w+ (that|who) (the|\w+s) /;
  expect(sentences.filter(({ text }) => nested.test(text)).map(({ text }) => text)).toEqual([]);
});
