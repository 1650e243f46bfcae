import { type Construction, constructions } from "../prompts/english/constructions.ts";
import { type Auxiliary, auxiliaries } from "../prompts/english/grammar-words.ts";
import type { Lexicon } from "../prompts/english/lexicon.ts";
import type { PromptPair } from "../prompts/pairs.ts";
import type { LanguageModelRecipe } from "./lm.ts";
import type { GeneratedText } from "./text.ts";

/** A subject noun and a verb in a construction, as one key. */
type Combination = string;

const combination = (construction: Construction, noun: string, verb: string): Combination =>
  `${construction}/${noun}/${verb}`;

/**
 * The combinations of construction, noun and verb in the text that a recipe trains on, found by writing that text again. What was cut off at the
 * end of a row counts as read.
 */
export function combinationsRead(
  text: GeneratedText,
  { steps, shards, rows, length }: LanguageModelRecipe,
  onStep: (step: number) => void = () => {},
): ReadonlySet<Combination> {
  const read = new Set<Combination>();
  for (let step = 0; step < steps; step++) {
    for (let shard = 0; shard < shards; shard++) {
      for (const { agreements } of text.sentences(`${step}/${shard}`, rows / shards, length)) {
        for (const { construction, noun, verb } of agreements) read.add(combination(construction, noun, verb));
      }
    }
    onStep(step + 1);
  }
  return read;
}

/** Tells for an agreement pair of a lexicon which combination it asks for. */
export function combinationReader(lexicon: Lexicon): (pair: PromptPair) => Combination {
  const nouns = new Map(
    lexicon.nouns.flatMap((noun) => [noun.singular, noun.plural].map((form) => [form, noun.singular])),
  );
  const verbs = new Map<string, string>(
    lexicon.verbs.flatMap((verb) => [verb.base, verb.third].map((form) => [form, verb.base])),
  );
  for (const name of Object.keys(auxiliaries) as Auxiliary[]) {
    for (const form of Object.values(auxiliaries[name])) verbs.set(form, name);
  }
  return (pair) => {
    // The two prompts differ in the subject alone.
    const [clean, patch] = [pair.clean_prefix.split(" "), pair.patch_prefix?.split(" ")];
    const subject = clean.find((word, i) => word !== patch?.[i]) ?? "";
    const construction = constructions.find((name) => pair.case.replace(/_(singular|plural)$/, "") === name);
    const [noun, verb] = [nouns.get(subject), verbs.get(pair.clean_answer.trim())];
    if (construction === undefined || noun === undefined || verb === undefined) {
      throw new Error(`internal: no combination in "${pair.clean_prefix}${pair.clean_answer}"`);
    }
    return combination(construction, noun, verb);
  };
}
