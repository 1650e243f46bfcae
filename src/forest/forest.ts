import type { Split, TokenPair } from "../prompts/pairs.ts";

/**
 * The prefix forest of a set of pairs (METHOD: "The prefix forest"): the unit of work instead of the padded batch.
 *
 * *Forward nodes*: one per distinct token prefix of all clean and patch prompts. *Backward nodes*: one per (split, case, clean prefix, patch prefix);
 * each points to the forward nodes of its two prefixes. Parents come before children in both.
 */
export interface PrefixForest {
  readonly pairs: readonly TokenPair[];
  readonly forward: ForwardNodes;
  readonly backward: BackwardNodes;
  /** For each pair, the backward node of its whole prompts. */
  readonly endNodeOfPair: Int32Array;
  /** Where the metric sits: each backward node and pair of answers once, weighted with the number of pairs that have them. */
  readonly ends: readonly End[];
  /** For each pair, its entry in `ends`. */
  readonly endIndexOfPair: Int32Array;
}

/** A tree of tokens; a node stands for the prefix that leads to it. */
export interface Tree {
  readonly size: number;
  /** The node of the prefix without its last token; −1 at a root. */
  readonly parent: Int32Array;
  /** Position of the prefix's last token, 0 at a root. */
  readonly position: Int32Array;
}

export interface ForwardNodes extends Tree {
  readonly token: Int32Array;
}

export interface BackwardNodes extends Tree {
  readonly token: Int32Array;
  readonly patchToken: Int32Array;
  /** Forward nodes of the clean and of the patch prefix; equal exactly where the prefixes are, and there Δ ≡ 0. */
  readonly clean: Int32Array;
  readonly patch: Int32Array;
  /** Index into `groups`. */
  readonly group: Int32Array;
  /** The number of pairs that pass through. */
  readonly weight: Float64Array;
  /** The splits and cases. */
  readonly groups: readonly { readonly split: Split; readonly case: string }[];
}

/** Where the metric of some pairs is read: a node and the two answers. */
export interface End {
  readonly node: number;
  readonly cleanAnswer: number;
  readonly patchAnswer: number;
  /** The number of pairs. */
  readonly weight: number;
}

/**
 * What is merged: everything; only forward nodes, with a backward path for each pair, which gives effects per example; or nothing across pairs,
 * which is what example by example does.
 */
export type Merge = "all" | "forward" | "none";

/** Builds the forest of some pairs. */
export function prefixForest(pairs: readonly TokenPair[], { merge = "all" }: { merge?: Merge } = {}): PrefixForest {
  const forward = new Trie();
  const backward = new Trie();
  const clean: number[] = [];
  const patch: number[] = [];
  const group: number[] = [];
  const weight: number[] = [];
  const groups: { split: Split; case: string }[] = [];
  const groupIndex = new Map<string, number>();
  const ends: { node: number; cleanAnswer: number; patchAnswer: number; weight: number }[] = [];
  const endIndex = new Map<string, number>();
  const endNodeOfPair = new Int32Array(pairs.length);
  const endIndexOfPair = new Int32Array(pairs.length);

  pairs.forEach(({ pair, clean: cleanTokens, patch: patchTokens, cleanAnswer, patchAnswer }, p) => {
    if (cleanTokens.length !== patchTokens.length || cleanTokens.length === 0) {
      throw new Error("internal: prompts of a pair differ in length or are empty");
    }
    const groupKey = JSON.stringify([pair.split, pair.case]);
    const g = groupIndex.get(groupKey) ?? groups.push({ split: pair.split, case: pair.case }) - 1;
    groupIndex.set(groupKey, g);
    let [cleanAt, patchAt, at] = [-1, -1, -1];
    cleanTokens.forEach((token, t) => {
      const own = t === 0 && merge === "none" ? `${p}/` : "";
      cleanAt = forward.child(cleanAt, `${own}${token}`, token, token);
      patchAt = forward.child(patchAt, `${own}${patchTokens[t]}`, patchTokens[t]!, patchTokens[t]!);
      const root = t === 0 ? `${g}/${merge === "all" ? "" : p}/` : "";
      at = backward.child(at, `${root}${token}/${patchTokens[t]}`, token, patchTokens[t]!);
      clean[at] = cleanAt;
      patch[at] = patchAt;
      group[at] = g;
      weight[at] = (weight[at] ?? 0) + 1;
    });
    const endKey = `${at}/${cleanAnswer}/${patchAnswer}`;
    const e = endIndex.get(endKey) ?? ends.push({ node: at, cleanAnswer, patchAnswer, weight: 0 }) - 1;
    endIndex.set(endKey, e);
    ends[e]!.weight++;
    endNodeOfPair[p] = at;
    endIndexOfPair[p] = e;
  });

  return {
    pairs,
    forward: forward.tree(),
    backward: {
      ...backward.tree(),
      clean: Int32Array.from(clean),
      patch: Int32Array.from(patch),
      group: Int32Array.from(group),
      weight: Float64Array.from(weight),
      groups,
    },
    endNodeOfPair,
    ends,
    endIndexOfPair,
  };
}

class Trie {
  readonly #children = new Map<string, number>();
  readonly #parent: number[] = [];
  readonly #position: number[] = [];
  readonly #token: number[] = [];
  readonly #patchToken: number[] = [];

  /** The child of a node (−1: a root) with this key, made if there is none. */
  child(parent: number, key: string, token: number, patchToken: number): number {
    const path = `${parent}:${key}`;
    const known = this.#children.get(path);
    if (known !== undefined) return known;
    const node = this.#parent.push(parent) - 1;
    this.#children.set(path, node);
    this.#position.push(parent < 0 ? 0 : this.#position[parent]! + 1);
    this.#token.push(token);
    this.#patchToken.push(patchToken);
    return node;
  }

  tree(): Tree & { token: Int32Array; patchToken: Int32Array } {
    return {
      size: this.#parent.length,
      parent: Int32Array.from(this.#parent),
      position: Int32Array.from(this.#position),
      token: Int32Array.from(this.#token),
      patchToken: Int32Array.from(this.#patchToken),
    };
  }
}

/** A part of a forest small enough to be computed at once: some nodes with all their ancestors. */
export interface Tile {
  /** Nodes of the forest, parents before children. */
  readonly nodes: Int32Array;
  /** For each of them, the place of its parent in the tile; −1 at a root. */
  readonly parent: Int32Array;
  /** 1 where the node belongs to this tile, 0 where it is repeated as an ancestor only. Every wanted node belongs to exactly one tile. */
  readonly owned: Uint8Array;
}

/**
 * Cuts a forest into tiles of at most `budget` nodes that together own the wanted nodes, in depth-first order, so that few ancestors are repeated
 * (at most the depth of the tree at each cut).
 *
 * @param wanted nodes to own; all by default
 * @param load what a node adds to its tile besides itself (the pairs that end there), kept at or below `maxLoad` where one node alone allows
 */
export function cutForest(
  tree: Tree,
  budget: number,
  {
    wanted = () => true,
    load = () => 0,
    maxLoad = Number.POSITIVE_INFINITY,
  }: { wanted?: (node: number) => boolean; load?: (node: number) => number; maxLoad?: number } = {},
): Tile[] {
  const tiles: Tile[] = [];
  let place = new Map<number, number>();
  let owned: number[] = [];
  let loaded = 0;
  const close = () => {
    if (place.size === 0) return;
    const nodes = Int32Array.from(place.keys());
    tiles.push({
      nodes,
      parent: nodes.map((node) => (tree.parent[node]! < 0 ? -1 : place.get(tree.parent[node]!)!)),
      owned: Uint8Array.from(nodes, (_, i) => owned[i] ?? 0),
    });
    place = new Map();
    owned = [];
    loaded = 0;
  };
  for (const node of depthFirst(tree)) {
    if (!wanted(node)) continue;
    let missing = chain(tree, node, place);
    if (place.size > 0 && (place.size + missing.length > budget || loaded + load(node) > maxLoad)) {
      close();
      missing = chain(tree, node, place);
    }
    if (missing.length > budget) {
      throw new Error(`internal: a prompt of ${missing.length} tokens does not fit into a tile of ${budget}`);
    }
    for (const ancestor of missing) place.set(ancestor, place.size);
    owned[place.get(node)!] = 1;
    loaded += load(node);
  }
  close();
  return tiles;
}

/** The node and those of its ancestors that are not in the tile yet, the highest first. */
function chain(tree: Tree, node: number, place: ReadonlyMap<number, number>): number[] {
  const missing: number[] = [];
  for (let at = node; at >= 0 && !place.has(at); at = tree.parent[at]!) missing.push(at);
  return missing.reverse();
}

/** Nodes with each subtree in one piece, children in the order in which they were made. */
export function depthFirst(tree: Tree): Int32Array {
  const firstChild = new Int32Array(tree.size).fill(-1);
  const next = new Int32Array(tree.size).fill(-1);
  let root = -1;
  for (let node = tree.size - 1; node >= 0; node--) {
    const parent = tree.parent[node]!;
    if (parent < 0) {
      next[node] = root;
      root = node;
    } else {
      next[node] = firstChild[parent]!;
      firstChild[parent] = node;
    }
  }
  const order = new Int32Array(tree.size);
  const stack: number[] = [];
  let at = root;
  for (let i = 0; i < tree.size; i++) {
    while (at < 0) at = stack.pop()!;
    order[i] = at;
    stack.push(next[at]!);
    at = firstChild[at]!;
  }
  return order;
}

/** Δ ≡ 0 where clean and patch prefix are equal: told by the key, not by values. */
export function isChanged(backward: BackwardNodes, node: number): boolean {
  return backward.clean[node] !== backward.patch[node];
}
