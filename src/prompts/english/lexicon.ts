/** Number: of one, or of more. */
export type Grammatical = "singular" | "plural";

/** What a noun names; verbs and prepositions choose by it, so that sentences make sense. */
export const nounKinds = ["person", "animal", "thing", "place"] as const;

/** One of `nounKinds`. */
export type NounKind = (typeof nounKinds)[number];

/** `m` and `f` as in he and she. */
export type Gender = "m" | "f";

/** A noun in both numbers. */
export interface Noun {
  readonly singular: string;
  readonly plural: string;
  readonly kind: NounKind;
  readonly gender?: Gender;
}

/**
 * What a verb takes after it: nothing, an object, a clause ("says that …"), or a person and a thing.
 */
export type Frame = "intransitive" | "transitive" | "complement" | "ditransitive";

/** A verb with its forms, and what may be its subject and objects. */
export interface Verb {
  readonly base: string;
  /** Third person singular, present. */
  readonly third: string;
  readonly past: string;
  readonly participle: string;
  readonly ing: string;
  readonly frame: Frame;
  readonly subjects: readonly NounKind[];
  /** A state rather than an action, so without a progressive: not "is needing". */
  readonly stative: boolean;
  /** Empty unless the verb is transitive. */
  readonly objects: readonly NounKind[];
}

/** A first name. */
export interface Name {
  readonly name: string;
  readonly gender: Gender;
}

/** An adjective, and the kinds of nouns that it goes with. */
export interface Adjective {
  readonly word: string;
  readonly kinds: readonly NounKind[];
}

/** A preposition, and the kinds of nouns that may follow it. */
export interface Preposition {
  readonly word: string;
  /** Nouns that may follow it. */
  readonly kinds: readonly NounKind[];
  /** It says where something is, so it can open a sentence or follow a verb. */
  readonly locative: boolean;
}

/** The open-class words of a vocabulary; the closed classes are in grammar-words.ts and are the same for every lexicon. */
export interface Lexicon {
  readonly name: string;
  readonly nouns: readonly Noun[];
  readonly verbs: readonly Verb[];
  readonly names: readonly Name[];
  readonly adjectives: readonly Adjective[];
  readonly prepositions: readonly Preposition[];
  /** Adverbs that stand before a verb: often, never. */
  readonly frequencyAdverbs: readonly string[];
  /** Adverbs that end a clause: slowly. */
  readonly mannerAdverbs: readonly string[];
}

/** The present-tense form of a verb after a third-person subject. */
export function present(verb: Verb, number: Grammatical): string {
  return number === "singular" ? verb.third : verb.base;
}

/**
 * Nouns from a list of words separated by spaces. `man/men` gives an irregular plural, a word alone the regular one; `:m` or `:f` after it gives
 * its gender.
 */
export function nouns(kind: NounKind, words: string): Noun[] {
  return split(words).map((entry) => {
    const [forms = "", gender] = entry.split(":");
    const [singular = "", plural = addS(singular)] = forms.split("/");
    return gender === "m" || gender === "f" ? { singular, plural, kind, gender } : { singular, plural, kind };
  });
}

/**
 * Verbs of one frame from a list of words separated by spaces. `sing/sang/sung` gives past and participle, `sit/sat` a participle equal to the
 * past; `drop+` and `sit+/sat` double the last consonant before a vowel; `want*` is stative; a word alone is regular.
 */
export function verbs(
  frame: Frame,
  subjects: readonly NounKind[],
  words: string,
  objects: readonly NounKind[] = [],
): Verb[] {
  return split(words).map((entry) => {
    const [first = "", givenPast, givenParticiple] = entry.split("/");
    const base = first.replace(/[+*]/g, "");
    const stem = first.includes("+") ? base + base.at(-1) : base;
    const past = givenPast ?? addEd(stem);
    const participle = givenParticiple ?? past;
    return {
      base,
      third: addS(base),
      past,
      participle,
      ing: addIng(stem),
      stative: first.includes("*"),
      frame,
      subjects,
      objects,
    };
  });
}

/** Words separated by white space as a list. */
export function split(words: string): string[] {
  return words.split(/\s+/).filter((word) => word !== "");
}

function addS(word: string): string {
  if (word === "go" || word === "do") return `${word}es`;
  if (/[^aeiou]y$/.test(word)) return `${word.slice(0, -1)}ies`;
  return /(s|x|z|ch|sh)$/.test(word) ? `${word}es` : `${word}s`;
}

function addEd(stem: string): string {
  if (stem.endsWith("e")) return `${stem}d`;
  return /[^aeiou]y$/.test(stem) ? `${stem.slice(0, -1)}ied` : `${stem}ed`;
}

function addIng(stem: string): string {
  if (stem.endsWith("ie")) return `${stem.slice(0, -2)}ying`;
  return /[^eoy]e$/.test(stem) ? `${stem.slice(0, -1)}ing` : `${stem}ing`;
}

/** The forms of a verb that English uses, base first; a stative verb has no -ing. */
export function verbForms(verb: Verb): string[] {
  const forms = [verb.base, verb.third, verb.past, verb.participle];
  return verb.stative ? forms : [...forms, verb.ing];
}

/** Every form of every open-class word of a lexicon, each once, in the lexicon's order. */
export function wordForms(lexicon: Lexicon): string[] {
  return [
    ...new Set([
      ...lexicon.nouns.flatMap((noun) => [noun.singular, noun.plural]),
      ...lexicon.verbs.flatMap(verbForms),
      ...lexicon.names.map((name) => name.name),
      ...lexicon.adjectives.map((adjective) => adjective.word),
      ...lexicon.prepositions.map((preposition) => preposition.word),
      ...lexicon.frequencyAdverbs,
      ...lexicon.mannerAdverbs,
    ]),
  ];
}
