import { Random } from "../../random.ts";
import type { Auxiliary } from "./grammar-words.ts";

/**
 * What stands between a subject and the verb that agrees with it; the same names in the generated English and in the agreement pairs.
 *
 * - `simple`: nothing. "The dog runs"
 * - `nounpp`: a prepositional phrase. "The dog near the cars runs"
 * - `subject_rc`: a relative clause whose subject is the noun. "The dog that chased the cats runs"
 * - `object_rc`: a relative clause whose object is the noun. "The dog that the cats chase runs"
 * - `within_subject_rc`: "that", the verb being inside the relative clause. "The dog that runs"
 * - `within_object_rc`: nothing, subject and verb being inside a relative clause. "The house that the dog sees"
 * - `coordination`: a preposition and two coordinated nouns. "The dog near the cats and the birds runs"
 * - `long`: two phrases. "The dog near the tables behind the house runs"
 */
export const constructions = [
  "simple",
  "nounpp",
  "subject_rc",
  "object_rc",
  "within_subject_rc",
  "within_object_rc",
  "coordination",
  "long",
] as const;

/** One of `constructions`. */
export type Construction = (typeof constructions)[number];

/**
 * Whether a combination of noun and agreeing verb is held out of a construction in the generated English (about 15 % of them are): a model
 * that agrees there has learned more than the combinations it has read. Combinations are held out, not nouns, and the same combination is
 * free in other constructions; a noun that never stood in a construction would itself be something to learn.
 *
 * @param noun its singular
 * @param verb its base form, or the name of an auxiliary
 */
export function heldOut(construction: Construction, noun: string, verb: Auxiliary | string): boolean {
  return new Random(`held out/${construction}/${noun}/${verb}`).uniform() < 0.15;
}

/** The share of held-out draws that the generator lets through, lest it teach the gaps themselves. */
export const leak = 0.03;
