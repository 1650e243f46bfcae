import { steps, type Watch } from "../progress.ts";
import { groupKey, type Split, type TokenPair } from "../prompts/pairs.ts";

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

/** How a forest is built. */
export interface ForestOptions extends Watch {
  /** `all` by default. */
  readonly merge?: Merge;
}

/** Builds the forest of some pairs. @throws StoppedError if asked to stop */
export function prefixForest(
  pairs: readonly TokenPair[],
  { merge = "all", ...watch }: ForestOptions = {},
): PrefixForest {
  // A node is known by its parent and its last tokens; a root by a number below 0 in the parent's place.
  const [forward, backward, endings] = [new Triples(), new Triples(), new Triples()];
  const clean: number[] = [];
  const patch: number[] = [];
  const group: number[] = [];
  const weight: number[] = [];
  const groups: { split: Split; case: string }[] = [];
  const groupIndex = new Map<string, number>();
  const ends: { node: number; cleanAnswer: number; patchAnswer: number; weight: number }[] = [];
  const endNodeOfPair = new Int32Array(pairs.length);
  const endIndexOfPair = new Int32Array(pairs.length);
  const step = steps(watch, pairs.length);

  pairs.forEach(({ pair, clean: cleanTokens, patch: patchTokens, cleanAnswer, patchAnswer }, p) => {
    step(p);
    if (cleanTokens.length !== patchTokens.length || cleanTokens.length === 0) {
      throw new Error("internal: prompts of a pair differ in length or are empty");
    }
    const key = groupKey(pair.split, pair.case);
    const g = groupIndex.get(key) ?? groups.push({ split: pair.split, case: pair.case }) - 1;
    groupIndex.set(key, g);
    const own = -1 - p;
    let [cleanAt, patchAt] = merge === "none" ? [own, own] : [-1, -1];
    let at = merge === "all" ? -1 - g : own;
    cleanTokens.forEach((token, t) => {
      cleanAt = forward.number(cleanAt, token, 0);
      patchAt = forward.number(patchAt, patchTokens[t]!, 0);
      at = backward.number(at, token, patchTokens[t]!);
      clean[at] = cleanAt;
      patch[at] = patchAt;
      group[at] = g;
      weight[at] = (weight[at] ?? 0) + 1;
    });
    const e = endings.number(at, cleanAnswer, patchAnswer);
    if (e === ends.length) ends.push({ node: at, cleanAnswer, patchAnswer, weight: 0 });
    ends[e]!.weight++;
    endNodeOfPair[p] = at;
    endIndexOfPair[p] = e;
  });

  const { patchToken: _, ...forwardTree } = treeOf(forward);
  return {
    pairs,
    forward: forwardTree,
    backward: {
      ...treeOf(backward),
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

/** Numbers distinct triples of whole numbers from 0 up, in the order in which they first come. Typed columns hold them: a forest has millions. */
class Triples {
  size = 0;
  #columns = [new Int32Array(1024), new Int32Array(1024), new Int32Array(1024)] as const;
  /** Numbers by the hash of their triples, −1 where there is none; at least half of the places are free. */
  #slots = new Int32Array(2048).fill(-1);

  /** The number of a triple, a new one if it has not come before. */
  number(a: number, b: number, c: number): number {
    const [first, second, third] = this.#columns;
    const mask = this.#slots.length - 1;
    let slot = hashOf(a, b, c) & mask;
    for (let known = this.#slots[slot]!; known >= 0; known = this.#slots[slot]!) {
      if (first[known] === a && second[known] === b && third[known] === c) return known;
      slot = (slot + 1) & mask;
    }
    const next = this.size++;
    this.#slots[slot] = next;
    first[next] = a;
    second[next] = b;
    third[next] = c;
    if (this.size === first.length) this.#grow();
    return next;
  }

  /** The first, second and third numbers of all triples. */
  columns(): [first: Int32Array, second: Int32Array, third: Int32Array] {
    const [first, second, third] = this.#columns;
    return [first.slice(0, this.size), second.slice(0, this.size), third.slice(0, this.size)];
  }

  #grow(): void {
    const twice = (column: Int32Array) => {
      const longer = new Int32Array(2 * column.length);
      longer.set(column);
      return longer;
    };
    const [first, second, third] = this.#columns;
    this.#columns = [twice(first), twice(second), twice(third)];
    this.#slots = new Int32Array(2 * this.#slots.length).fill(-1);
    const mask = this.#slots.length - 1;
    for (let n = 0; n < this.size; n++) {
      let slot = hashOf(first[n]!, second[n]!, third[n]!) & mask;
      while (this.#slots[slot]! >= 0) slot = (slot + 1) & mask;
      this.#slots[slot] = n;
    }
  }
}

/** Spreads triples over 32 bits. */
function hashOf(a: number, b: number, c: number): number {
  let hash = Math.imul(a, 0x9e3779b1) ^ Math.imul(b, 0x85ebca6b) ^ Math.imul(c, 0xc2b2ae35);
  hash = Math.imul(hash ^ (hash >>> 15), 0x2c1b3c6d);
  return hash ^ (hash >>> 13);
}

/** The tree of nodes that are numbered by their parents and last tokens. */
function treeOf(nodes: Triples): Tree & { readonly token: Int32Array; readonly patchToken: Int32Array } {
  const [above, token, patchToken] = nodes.columns();
  const parent = above.map((node) => Math.max(-1, node));
  const position = new Int32Array(nodes.size);
  for (let node = 0; node < nodes.size; node++) {
    if (parent[node]! >= 0) position[node] = position[parent[node]!]! + 1;
  }
  return { size: nodes.size, parent, position, token, patchToken };
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
 * @throws StoppedError if asked to stop
 */
export function cutForest(
  tree: Tree,
  budget: number,
  {
    wanted = () => true,
    load = () => 0,
    maxLoad = Number.POSITIVE_INFINITY,
    stopped,
  }: { wanted?: (node: number) => boolean; load?: (node: number) => number; maxLoad?: number } & Pick<
    Watch,
    "stopped"
  > = {},
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
  const step = steps({ stopped }, tree.size);
  for (const node of depthFirst(tree)) {
    step(node);
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
