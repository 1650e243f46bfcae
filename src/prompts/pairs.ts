/** Features are chosen on train pairs and measured on test pairs. */
export type Split = "train" | "test";

/** A pair of prompts that differ in one respect, in the field's public format, with the split it belongs to. */
export interface PromptPair {
  readonly clean_prefix: string;
  /** Null where there is none: the scores gradient and gradient-activation read the clean prompt alone. */
  readonly patch_prefix: string | null;
  readonly clean_answer: string;
  readonly patch_answer: string;
  /** What kind of pair this is, e.g. `nounpp_singular`; results are also given by case. */
  readonly case: string;
  readonly split: Split;
}

/** The pairs of one split and case, by their places in a list. */
export interface PairGroup {
  readonly split: Split;
  readonly case: string;
  readonly members: readonly number[];
}

/** Pairs by split and case, in the order in which these first come. */
export function groupPairs(pairs: readonly Pick<PromptPair, "split" | "case">[]): PairGroup[] {
  const groups = new Map<string, PairGroup & { readonly members: number[] }>();
  for (const [i, pair] of pairs.entries()) {
    const key = groupKey(pair.split, pair.case);
    const group = groups.get(key) ?? { split: pair.split, case: pair.case, members: [] };
    groups.set(key, group);
    group.members.push(i);
  }
  return [...groups.values()];
}

/** Names a split and case. */
export const groupKey = (split: Split, name: string) => `${split}/${name}`;

/**
 * A pair as token ids: the prompts as the tokenizer's post-processor makes them (BOS included where the model has one), of equal length T, and
 * the one token that each answer adds. Where the pair has no patch prompt, `patch` is the clean prompt, so that nothing changes between the two.
 */
export interface TokenPair {
  readonly pair: PromptPair;
  readonly clean: readonly number[];
  readonly patch: readonly number[];
  readonly cleanAnswer: number;
  readonly patchAnswer: number;
}
