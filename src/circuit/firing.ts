import type { Capture } from "../capture/capture.ts";
import type { Dictionary } from "../dictionaries/dictionary.ts";
import type { CodeReader } from "../dictionaries/encode.ts";
import { codesAt, type KeptCodes } from "../effects/kept-codes.ts";
import { isChanged } from "../forest/forest.ts";
import type { Watch } from "../progress.ts";
import { mean } from "../stats.ts";

/** Members that a group needs for an AUC. */
export const fewestMembers = 5;

/** Codes of a feature over the members of one group. */
export interface Firing {
  /** Members looked at. */
  readonly n: number;
  /** Share of them with a code above 0. */
  readonly share: number;
  /** Mean code, zeros included. */
  readonly mean: number;
  /**
   * How well the code tells the group from all others: the probability that a random member's code is larger than a random other's, ties counted half
   * (the area under the ROC curve). 1 tells them apart, 0.5 says nothing; NaN where the group, or all others together, have fewer than `fewestMembers`:
   * of so few, chance alone often tells one apart.
   */
  readonly auc: number;
}

/**
 * How often features of a site fire at the first token in which clean and patch prompt differ: for agreement, the subject noun.
 *
 * @param groupOf the group of a backward node, or undefined to leave it out; a member is a distinct clean prefix
 * @param options keptCodes: codes that are known already
 * @returns for each feature, its firing by group
 * @throws StoppedError if asked to stop
 */
export async function firing(
  capture: Capture,
  dictionary: Dictionary,
  codes: CodeReader,
  features: readonly number[],
  groupOf: (node: number) => string | undefined,
  { keptCodes, ...watch }: Watch & { readonly keptCodes?: KeptCodes | undefined } = {},
): Promise<ReadonlyMap<string, Firing>[]> {
  const { backward } = capture.plan.forest;
  const members = new Map<string, Set<number>>();
  for (let node = 0; node < backward.size; node++) {
    const parent = backward.parent[node]!;
    const group = groupOf(node);
    if (group === undefined || !isChanged(backward, node) || (parent >= 0 && isChanged(backward, parent))) continue;
    const set = members.get(group) ?? new Set();
    members.set(group, set.add(backward.clean[node]!));
  }
  const list = [...members].flatMap(([group, nodes]) => [...nodes].map((node) => ({ group, node })));
  const nodes = list.map(({ node }) => node);
  const sparse = await codesAt(capture, dictionary, codes, nodes, keptCodes, watch);
  return features.map((feature) => {
    const code = list.map((_, i) => {
      const [from, to] = [sparse.offsets[i]!, sparse.offsets[i + 1]!];
      const at = sparse.features.subarray(from, to).indexOf(feature);
      return at < 0 ? 0 : sparse.values[from + at]!;
    });
    const byGroup = new Map<string, Firing>();
    for (const group of members.keys()) {
      const own = code.filter((_, i) => list[i]!.group === group);
      const others = code.filter((_, i) => list[i]!.group !== group);
      byGroup.set(group, {
        n: own.length,
        share: own.filter((f) => f > 0).length / own.length,
        mean: mean(own),
        auc: areaUnderCurve(own, others),
      });
    }
    return byGroup;
  });
}

/** The probability that one of `a` is larger than one of `b`, ties counted half; NaN where there are too few of either. */
export function areaUnderCurve(a: readonly number[], b: readonly number[]): number {
  if (Math.min(a.length, b.length) < fewestMembers) return Number.NaN;
  const others = Float64Array.from(b).sort();
  let [larger, below, upTo] = [0, 0, 0];
  for (const x of Float64Array.from(a).sort()) {
    while (below < others.length && others[below]! < x) below++;
    while (upTo < others.length && others[upTo]! <= x) upTo++;
    larger += (below + upTo) / 2;
  }
  return larger / (a.length * b.length);
}
