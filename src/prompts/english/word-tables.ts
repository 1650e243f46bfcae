import type { Frame, Lexicon, Noun, NounKind, Preposition, Verb } from "./lexicon.ts";

/** A lexicon's words by what they are looked up by. */
export interface Tables {
  nouns(kind: NounKind): readonly Noun[];
  verbs(subject: NounKind, frame: Frame): readonly Verb[];
  transitive(subject: NounKind, object: NounKind): readonly Verb[];
  transitiveOn(object: NounKind): readonly Verb[];
  adjectives(kind: NounKind): readonly string[];
  readonly gendered: readonly Noun[];
  readonly genderless: readonly Noun[];
  readonly locatives: readonly Preposition[];
}

const tables = new WeakMap<Lexicon, Tables>();

/** The tables of a lexicon, made once. */
export function tablesOf(lexicon: Lexicon): Tables {
  const known = tables.get(lexicon);
  if (known !== undefined) return known;
  const cached = <T>(make: (key: string) => T): ((...keys: string[]) => T) => {
    const made = new Map<string, T>();
    return (...keys) => {
      const key = keys.join("/");
      const value = made.get(key) ?? make(key);
      made.set(key, value);
      return value;
    };
  };
  const transitives = lexicon.verbs.filter((verb) => verb.frame === "transitive");
  const people = lexicon.nouns.filter((noun) => noun.kind === "person");
  const includes = (kinds: readonly NounKind[], kind: string) => (kinds as readonly string[]).includes(kind);
  const made: Tables = {
    nouns: cached((kind) => lexicon.nouns.filter((noun) => noun.kind === kind)),
    verbs: cached((key) => {
      const [subject = "", frame] = key.split("/");
      return lexicon.verbs.filter((verb) => verb.frame === frame && includes(verb.subjects, subject));
    }),
    transitive: cached((key) => {
      const [subject = "", object = ""] = key.split("/");
      return transitives.filter((verb) => includes(verb.subjects, subject) && includes(verb.objects, object));
    }),
    transitiveOn: cached((object) => transitives.filter((verb) => includes(verb.objects, object))),
    adjectives: cached((kind) => lexicon.adjectives.filter((a) => includes(a.kinds, kind)).map((a) => a.word)),
    gendered: people.filter((noun) => noun.gender !== undefined),
    genderless: people.filter((noun) => noun.gender === undefined),
    locatives: lexicon.prepositions.filter((preposition) => preposition.locative),
  };
  tables.set(lexicon, made);
  return made;
}
