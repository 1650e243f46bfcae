import { isChanged, type PrefixForest } from "../forest/forest.ts";
import { isOutside, type OutsideText } from "../prompts/outside.ts";
import type { Split } from "../prompts/pairs.ts";
import { clusterNodes } from "./clusters.ts";

/** More words than these are drawn in so many groups of words: the width of intervals is a little less certain then (9 %), and no run waits for it. */
export const mostGroups = 64;

/** What the effects of one split are summed over to tell how much they would change with other words, and with other pairs. */
export interface SplitUnits {
  readonly split: Split;
  readonly pairs: number;
  /** Words that pairs share. */
  readonly words: number;
  /** Pairs of each group of words [groups]: a word by itself, unless there are more than 64. */
  readonly pairsOfGroup: Float64Array;
  /** The nodes of the split, parents before children: each one's number in the forest, parent's place (−1: none) and pairs [nodes]. */
  readonly nodes: Int32Array;
  readonly parent: Int32Array;
  readonly weight: Float64Array;
  /** The place of each pair's end [pairs]. */
  readonly ends: Int32Array;
}

/** The splits of a run, and what each node of its forest belongs to. */
export interface Units {
  readonly splits: readonly SplitUnits[];
  /** Words that train and test have in common; 0 where there is one split. */
  readonly shared: number;
  /** Per node: its split in `splits`, its group there, its place there; group −1 where it counts for none: BOS, padding, and where prefixes are equal. */
  readonly split: Uint8Array;
  readonly group: Int32Array;
  readonly place: Int32Array;
}

/**
 * What the nodes of a forest belong to. Pairs of a word have the same first token in which their prompts differ, see `clusterPairs`: all nodes at which
 * anything changes lie below it, so sums over them are the word's own although nodes are merged.
 *
 * @param outside nodes at these tokens count nowhere, as in rankings
 */
export function unitsOf(forest: PrefixForest, outside: OutsideText): Units {
  const { backward, pairs, endNodeOfPair } = forest;
  const { token, patchToken, position } = backward;
  const { of: cluster } = clusterNodes(forest);
  const names = (["train", "test"] as const).filter((split) => backward.groups.some((of) => of.split === split));
  const split = Uint8Array.from(backward.group, (of) => names.indexOf(backward.groups[of]!.split));
  const place = new Int32Array(backward.size);
  const group = new Int32Array(backward.size).fill(-1);
  const left = (node: number) =>
    !isChanged(backward, node) ||
    isOutside(outside, token[node]!, position[node]!) ||
    isOutside(outside, patchToken[node]!, position[node]!);
  const wordsOf = new Map<Split, ReadonlySet<number>>();
  const splits = names.map((name, s): SplitUnits => {
    const nodes = Int32Array.from(backward.parent.keys()).filter((node) => split[node] === s);
    nodes.forEach((node, i) => {
      place[node] = i;
    });
    const members = endNodeOfPair.filter((_, p) => pairs[p]!.pair.split === name);
    const found = [...new Set(Array.from(members, (end) => cluster[end]!))];
    wordsOf.set(name, new Set(found));
    const groupOf = new Map(found.map((of, i) => [of, i % mostGroups]));
    for (const node of nodes) if (!left(node)) group[node] = groupOf.get(cluster[node]!)!;
    const pairsOfGroup = new Float64Array(Math.min(mostGroups, found.length));
    for (const end of members) pairsOfGroup[groupOf.get(cluster[end]!)!]!++;
    return {
      split: name,
      pairs: members.length,
      words: found.length,
      pairsOfGroup,
      nodes,
      parent: nodes.map((node) => (backward.parent[node]! < 0 ? -1 : place[backward.parent[node]!]!)),
      weight: Float64Array.from(nodes, (node) => backward.weight[node]!),
      ends: members.map((end) => place[end]!),
    };
  });
  const tested = wordsOf.get("test");
  const shared = [...(wordsOf.get("train") ?? [])].filter((word) => tested?.has(word)).length;
  return { splits, shared, split, group, place };
}

/** Effects of some features of a site: columns of equal length, sorted by node. */
export interface FeatureRows {
  readonly node: ArrayLike<number>;
  readonly feature: ArrayLike<number>;
  readonly effect: ArrayLike<number>;
}

/** The features of one split that are looked at, the strongest first; of the first `listed` what single pairs add is kept as well. */
export interface Candidates {
  readonly feature: Int32Array;
  readonly listed: number;
}

/** Sums of the effects of one split's candidates: by group of words, and at each node of the listed ones. */
export interface EffectSums extends Candidates {
  readonly units: SplitUnits;
  /** [features, groups]. */
  readonly byGroup: Float64Array;
  /** Mean per pair that passes through [listed, nodes]. */
  readonly byNode: Float64Array;
}

/** Sums the rows of a site's candidates, which may come in parts. */
export class EffectSummer {
  readonly #units: Units;
  readonly #sums: readonly EffectSums[];
  /** Per split, the place of each feature among its candidates; −1: none. */
  readonly #places: readonly Int32Array[];

  /** @param candidates for each of the units' splits */
  constructor(units: Units, candidates: readonly Candidates[]) {
    this.#units = units;
    this.#places = candidates.map(({ feature }) => {
      const places = new Int32Array(feature.reduce((most, f) => Math.max(most, f + 1), 0)).fill(-1);
      feature.forEach((f, i) => {
        places[f] = i;
      });
      return places;
    });
    this.#sums = candidates.map((own, s) => ({
      ...own,
      units: units.splits[s]!,
      byGroup: new Float64Array(own.feature.length * units.splits[s]!.pairsOfGroup.length),
      byNode: new Float64Array(own.listed * units.splits[s]!.nodes.length),
    }));
  }

  add({ node, feature, effect }: FeatureRows): void {
    const { split, group, place } = this.#units;
    for (let i = 0; i < node.length; i++) {
      const at = node[i]!;
      const candidate = feature[i]! < 0 || group[at]! < 0 ? -1 : (this.#places[split[at]!]![feature[i]!] ?? -1);
      if (candidate < 0) continue;
      const { units, byGroup, byNode, listed } = this.#sums[split[at]!]!;
      byGroup[candidate * units.pairsOfGroup.length + group[at]!]! += effect[i]!;
      if (candidate < listed) {
        byNode[candidate * units.nodes.length + place[at]!]! += effect[i]! / units.weight[place[at]!]!;
      }
    }
  }

  /** The sums of each split. */
  finish(): readonly EffectSums[] {
    return this.#sums;
  }
}
