import { expect, test } from "vitest";
import { constructions, heldOut } from "../src/prompts/english/constructions.ts";
import { closedWords } from "../src/prompts/english/grammar-words.ts";
import { type Lexicon, nouns, verbForms, verbs } from "../src/prompts/english/lexicon.ts";
import { commonLexicon } from "../src/prompts/english/lexicon-common.ts";
import { demoLexicon } from "../src/prompts/english/lexicon-demo.ts";

test("no form of a word makes agreement ambiguous", () => {
  expect(lexiconFaults(demoLexicon, closedWords)).toEqual([]);
  expect(lexiconFaults(commonLexicon, closedWords)).toEqual([]);
});

test("a lexicon that is ambiguous is found out", () => {
  const bad: Lexicon = {
    ...commonLexicon,
    nouns: [...nouns("animal", "sheep/sheep"), ...nouns("thing", "leaf/leaves")],
    verbs: [...verbs("transitive", ["person"], "leave/left put+/put", ["thing"])],
  };
  expect(lexiconFaults(bad, closedWords)).toEqual([
    "noun sheep does not show its number",
    '"leaves" is a form of verb leave and of noun leaf',
    "verb put has a past like its present",
  ]);
});

test("the embedded lexicon is as wide as promised", () => {
  expect(demoLexicon.nouns.length).toBeGreaterThanOrEqual(420);
  expect(demoLexicon.verbs.length).toBeGreaterThanOrEqual(160);
  expect(demoLexicon.names.length).toBeGreaterThanOrEqual(60);
  expect(demoLexicon.adjectives.length).toBeGreaterThanOrEqual(80);
});

test("inflected forms are those of a dictionary", () => {
  const plural = new Map(demoLexicon.nouns.map((noun) => [noun.singular, noun.plural]));
  const expected = {
    ...{ child: "children", man: "men", woman: "women", mouse: "mice", foot: "feet", tooth: "teeth", goose: "geese" },
    ...{ wolf: "wolves", knife: "knives", leaf: "leaves", city: "cities", box: "boxes", boy: "boys", witch: "witches" },
  };
  for (const [singular, form] of Object.entries(expected)) expect(plural.get(singular)).toBe(form);
  const forms = new Map(demoLexicon.verbs.map((v) => [v.base, [v.third, v.past, v.participle, v.ing].join(" ")]));
  expect(forms.get("run")).toBe("runs ran run running");
  expect(forms.get("die")).toBe("dies died died dying");
  expect(forms.get("go")).toBe("goes went gone going");
  expect(forms.get("envy")).toBe("envies envied envied envying");
  expect(forms.get("stay")).toBe("stays stayed stayed staying");
  expect(forms.get("chase")).toBe("chases chased chased chasing");
  expect(forms.get("drop")).toBe("drops dropped dropped dropping");
  expect(forms.get("catch")).toBe("catches caught caught catching");
});

test("about 15 % of the combinations are held out of each construction, and other ones of each", () => {
  const rows = constructions.map((construction) =>
    demoLexicon.nouns.flatMap((noun) =>
      demoLexicon.verbs.map((verb) => heldOut(construction, noun.singular, verb.base)),
    ),
  );
  for (const row of rows) expect(row.filter(Boolean).length / row.length).toBeCloseTo(0.15, 2);
  const everywhere = rows[0]!.filter((_, i) => rows.every((row) => row[i])).length;
  expect(everywhere).toBeLessThan(5);
});

/**
 * What would make agreement ambiguous in a lexicon, one line per fault (none in a good one): a word that is noun and verb, a noun that does not
 * show its number, a verb whose past looks like its present, a form that two words share.
 */
function lexiconFaults(lexicon: Lexicon, closed: readonly string[]): string[] {
  const faults: string[] = [];
  const owner = new Map<string, string>(closed.map((word) => [word, `closed-class word ${word}`]));
  const claim = (by: string, forms: readonly string[]) => {
    for (const form of new Set(forms)) {
      const other = owner.get(form);
      if (other !== undefined) faults.push(`"${form}" is a form of ${by} and of ${other}`);
      owner.set(form, by);
    }
  };
  for (const noun of lexicon.nouns) {
    if (noun.singular === noun.plural) faults.push(`noun ${noun.singular} does not show its number`);
    claim(`noun ${noun.singular}`, [noun.singular, noun.plural]);
  }
  for (const verb of lexicon.verbs) {
    if (verb.past === verb.base) faults.push(`verb ${verb.base} has a past like its present`);
    claim(`verb ${verb.base}`, verbForms(verb));
  }
  for (const { word } of lexicon.adjectives) claim(`adjective ${word}`, [word]);
  for (const { word } of lexicon.prepositions) claim(`preposition ${word}`, [word]);
  for (const word of [...lexicon.frequencyAdverbs, ...lexicon.mannerAdverbs]) claim(`adverb ${word}`, [word]);
  for (const { name } of lexicon.names) claim(`name ${name}`, [name, name.toLowerCase()]);
  return faults;
}
