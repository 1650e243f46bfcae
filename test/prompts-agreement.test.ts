import { expect, test } from "vitest";
import { type AgreementCase, agreementCases, agreementPairs } from "../src/prompts/english/agreement.ts";
import { type Construction, heldOut } from "../src/prompts/english/constructions.ts";
import type { Lexicon } from "../src/prompts/english/lexicon.ts";
import { commonLexicon } from "../src/prompts/english/lexicon-common.ts";
import { demoLexicon } from "../src/prompts/english/lexicon-demo.ts";

const both: readonly (readonly [Lexicon, number])[] = [
  [demoLexicon, 100],
  [commonLexicon, 60],
];

function nounIn(lexicon: Lexicon, word: string) {
  const noun = lexicon.nouns.find((n) => n.singular === word || n.plural === word);
  if (noun === undefined) throw new Error(`no noun ${word}`);
  return { noun, number: noun.singular === word ? "singular" : "plural" } as const;
}

function difference(clean: string, patch: string) {
  const [a, b] = [clean.split(" "), patch.split(" ")];
  return a.flatMap((word, i) => (word === b[i] ? [] : [{ clean: word, patch: b[i] ?? "", place: i }]));
}

test.each(both)("all sixteen cases, each as large as asked, without duplicates", (lexicon, perCase) => {
  const pairs = agreementPairs({ lexicon, seed: 1, perCase, split: "train" });
  expect(agreementCases).toHaveLength(16);
  for (const name of agreementCases) expect(pairs.filter((pair) => pair.case === name)).toHaveLength(perCase);
  expect(new Set(pairs.map((pair) => JSON.stringify(pair))).size).toBe(pairs.length);
});

test.each(both)("clean and patch differ in one noun's number, and the answers agree with it", (lexicon, perCase) => {
  const forms = new Map(lexicon.verbs.map((verb) => [verb.third, verb.base]));
  for (const [third, base] of ["is are", "was were", "has have", "does do"].map((s) => s.split(" ")))
    forms.set(third!, base!);
  for (const pair of agreementPairs({ lexicon, seed: 2, perCase, split: "test" })) {
    const changed = difference(pair.clean_prefix, pair.patch_prefix!);
    expect(changed).toHaveLength(1);
    const [clean, patch] = [nounIn(lexicon, changed[0]!.clean), nounIn(lexicon, changed[0]!.patch)];
    expect(clean.noun).toBe(patch.noun);
    expect(clean.number).not.toBe(patch.number);
    expect(pair.case.endsWith(clean.number)).toBe(true);
    const [third, base] =
      clean.number === "singular" ? [pair.clean_answer, pair.patch_answer] : [pair.patch_answer, pair.clean_answer];
    expect(forms.get(third.trim())).toBe(base.trim());
    // The subject is the first noun, or within an object relative clause the second.
    expect(changed[0]!.place).toBe(pair.case.startsWith("within_object_rc") ? 4 : 1);
  }
});

test.each(both)("train and test have no noun in common", (lexicon, perCase) => {
  const nounsOf = (split: "train" | "test") =>
    new Set(
      agreementPairs({ lexicon, seed: 3, perCase, split }).flatMap((pair) =>
        difference(pair.clean_prefix, pair.patch_prefix!).map((d) => nounIn(lexicon, d.clean).noun),
      ),
    );
  const [train, test] = [nounsOf("train"), nounsOf("test")];
  expect([...train].filter((noun) => test.has(noun))).toEqual([]);
});

test("attractors are singular and plural equally often", () => {
  for (const name of ["nounpp", "object_rc", "subject_rc", "coordination", "long"] as const) {
    const pairs = agreementPairs({
      lexicon: demoLexicon,
      seed: 4,
      perCase: 80,
      split: "train",
      cases: [`${name}_singular`],
    });
    const numbers = new Map<string, number>();
    for (const prompt of new Set(pairs.map((pair) => pair.clean_prefix))) {
      const words = prompt.split(" ").slice(2);
      const attractors = words.filter((word) =>
        demoLexicon.nouns.some((n) => n.singular === word || n.plural === word),
      );
      const key = attractors.map((word) => nounIn(demoLexicon, word).number).join(" ");
      numbers.set(key, (numbers.get(key) ?? 0) + 1);
    }
    const counts = [...numbers.values()];
    expect(counts).toHaveLength(name === "coordination" || name === "long" ? 4 : 2);
    expect(Math.max(...counts) - Math.min(...counts)).toBeLessThanOrEqual(0.1 * pairs.length);
  }
});

test("held-out pairs are combinations that the generator keeps out of the construction", () => {
  const pairs = agreementPairs({
    lexicon: demoLexicon,
    seed: 5,
    perCase: 100,
    split: "test",
    combinations: "held-out",
  });
  expect(pairs).toHaveLength(1600);
  const auxiliaries: Record<string, string> = { is: "be", was: "was", has: "have", does: "do" };
  for (const pair of pairs) {
    const construction = pair.case.replace(/_(singular|plural)$/, "") as Construction;
    const { noun } = nounIn(demoLexicon, difference(pair.clean_prefix, pair.patch_prefix!)[0]!.clean);
    const third = (pair.case.endsWith("singular") ? pair.clean_answer : pair.patch_answer).trim();
    const verb = auxiliaries[third] ?? demoLexicon.verbs.find((v) => v.third === third)!.base;
    expect(heldOut(construction, noun.singular, verb)).toBe(true);
  }
});

test("the seed decides, and asking for too much is an error that says so", () => {
  const make = (seed: number, perCase = 10, cases: AgreementCase[] = ["simple_plural"]) =>
    agreementPairs({ lexicon: commonLexicon, seed, perCase, split: "test", cases });
  expect(make(1)).toEqual(make(1));
  expect(make(1)).not.toEqual(make(2));
  expect(() => make(1, 2000)).toThrow(
    /^pairs: expected 2000 of case simple_plural, got at most \d+ different ones for test in the common lexicon\. Ask for fewer pairs\.$/,
  );
});
