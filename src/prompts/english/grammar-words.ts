import type { Gender, Grammatical } from "./lexicon.ts";

/** The closed classes of English that the generator uses, with the number that each word asks for. */

export const determiners: Readonly<Record<Grammatical, readonly string[]>> = {
  singular: ["a", "this", "that", "every", "each", "another", "one", "no"],
  plural: ["these", "those", "some", "many", "few", "several", "both", "all", "most", "no"],
};

/** Determiners that go with either number. */
export const neutralDeterminers = ["the", "my", "your", "his", "her", "our", "their"];

export const numerals = ["two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"];

/** "one of the dogs is", "many of the dogs are": quantifiers over a plural noun and the number of the whole. */
export const partitives: readonly (readonly [string, Grammatical])[] = [
  ["one", "singular"],
  ["each", "singular"],
  ["some", "plural"],
  ["many", "plural"],
  ["all", "plural"],
  ["most", "plural"],
  ["several", "plural"],
  ["both", "plural"],
  ["few", "plural"],
];

export interface Pronoun {
  readonly subject: string;
  readonly object: string;
  readonly reflexive: string;
  readonly number: Grammatical;
  readonly gender?: Gender;
}

export const pronouns = {
  I: { subject: "I", object: "me", reflexive: "myself", number: "singular" },
  you: { subject: "you", object: "you", reflexive: "yourself", number: "plural" },
  he: { subject: "he", object: "him", reflexive: "himself", number: "singular", gender: "m" },
  she: { subject: "she", object: "her", reflexive: "herself", number: "singular", gender: "f" },
  it: { subject: "it", object: "it", reflexive: "itself", number: "singular" },
  we: { subject: "we", object: "us", reflexive: "ourselves", number: "plural" },
  they: { subject: "they", object: "them", reflexive: "themselves", number: "plural" },
} as const satisfies Record<string, Pronoun>;

export const modals = ["can", "could", "may", "might", "must", "should", "would"];

/** Subordinating conjunctions. */
export const subordinators = ["because", "when", "while", "although", "if", "before", "after"];

/** Words that open a sentence and say when it is true. */
export const openers = {
  present: ["today", "now", "sometimes", "usually", "often"],
  past: ["yesterday", "once", "recently"],
  future: ["tomorrow", "soon", "tonight"],
} as const;

export type Time = keyof typeof openers;

/** Adverbs of place and time that end a clause. */
export const places = ["today", "here", "there", "outside", "inside", "upstairs", "downstairs", "nearby", "again"];

/** The auxiliaries that agree, by the name under which a combination with them is held out. */
export const auxiliaries = {
  be: { singular: "is", plural: "are" },
  was: { singular: "was", plural: "were" },
  have: { singular: "has", plural: "have" },
  do: { singular: "does", plural: "do" },
} as const;

export type Auxiliary = keyof typeof auxiliaries;

export const auxiliaryNames = Object.keys(auxiliaries) as Auxiliary[];

const verbal = ["am", "is", "are", "was", "were", "has", "have", "had", "do", "does", "did", "will"];

/** Words that only begin sentences, in small letters. */
const onlyInitial = [
  "please",
  "what",
  "which",
  "why",
  "where",
  "how",
  ...openers.present,
  ...openers.past,
  ...openers.future,
];

/** Words that can begin a sentence, in small letters, each once; prepositions, which belong to a lexicon, can too. */
export const initialWords: readonly string[] = [
  ...new Set([
    "the",
    "an",
    "there",
    ...determiners.singular,
    ...determiners.plural,
    ...neutralDeterminers,
    ...numerals,
    ...Object.values(pronouns).map((pronoun) => pronoun.subject),
    ...verbal,
    ...modals,
    ...subordinators,
    "who",
    ...onlyInitial,
  ]),
];

/** Every closed-class word that stands within sentences, each once. */
export const closedWords: readonly string[] = [
  ...new Set([
    ...initialWords.filter((word) => !onlyInitial.includes(word)),
    "often",
    "usually",
    "sometimes",
    ...Object.values(pronouns).flatMap((pronoun) => [pronoun.object, pronoun.reflexive]),
    ...places,
    "of",
    "by",
    "not",
    "be",
    "and",
    "or",
    "but",
    "very",
  ]),
];
