import { auxiliaries, type Time } from "./grammar-words.ts";
import type { Verb } from "./lexicon.ts";

/** How a finite verb is marked: by its own form, or by an auxiliary before it. */
export type Finite = "present" | "past" | "be" | "was" | "have" | "had" | "do" | "did" | "will" | "modal";

/** What a predicate will be: how its finite verb is marked, and its main verb. */
export interface Plan {
  readonly finite: Finite;
  readonly verb: Verb;
}

/** How often each comes, by what the sentence asks for. */
export const finiteWeights: Record<Time | "any" | "unmarked", readonly (readonly [Finite, number])[]> = {
  any: [
    ["present", 36],
    ["be", 20],
    ["have", 10],
    ["was", 10],
    ["do", 6],
    ["past", 7],
    ["modal", 5],
    ["will", 3],
    ["had", 2],
    ["did", 1],
  ],
  present: [
    ["present", 45],
    ["be", 28],
    ["have", 10],
    ["do", 8],
    ["modal", 9],
  ],
  past: [
    ["past", 50],
    ["was", 35],
    ["had", 10],
    ["did", 5],
  ],
  future: [["will", 1]],
  // Relative clauses that do not show their subject's number, so that the verb after them has to look at the head itself.
  unmarked: [
    ["past", 60],
    ["modal", 15],
    ["will", 15],
    ["had", 10],
  ],
};

export type Tense = keyof typeof finiteWeights;

/** The name under which a plan's combination with a noun is held out; undefined if its finite verb shows no number. */
export function agreeingVerb(plan: Plan): string | undefined {
  if (plan.finite === "present") return plan.verb.base;
  return plan.finite in auxiliaries ? plan.finite : undefined;
}

/** The form of a main verb after an auxiliary. */
export function nonFinite(finite: Finite, verb: Verb): string {
  if (finite === "be" || finite === "was") return verb.ing;
  return finite === "have" || finite === "had" ? verb.participle : verb.base;
}
