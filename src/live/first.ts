import type { TypedPair } from "./questions.ts";

/** The pair that a page begins with, on which a device is also tried: the page's first question then finds its sessions open. */
export const firstPair: TypedPair = {
  clean: "The dogs near the house",
  patch: "The dog near the house",
  clean_answer: "are",
  patch_answer: "is",
};

/** The method that a page begins with. */
export const firstMethod = "secant";
