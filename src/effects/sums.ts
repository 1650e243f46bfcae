import { newSha256 } from "#file";
import type { PrefixForest } from "../forest/forest.ts";
import { isOutside, type OutsideText } from "../prompts/outside.ts";
import { groupKey, groupPairs, type Split, type TokenPair } from "../prompts/pairs.ts";
import { type EffectRows, errorFeature } from "./rows.ts";

/** The case of rows in `features.parquet` that stand for all cases together. */
export const allCases = "";

/**
 * The backward nodes of a run, as columns of equal length N, in ascending order of `node`.
 *
 * parent: the node of the prefix one token shorter, −1 at a root; token, patch_token: the last token of the clean and the patch prefix;
 * weight: how many pairs pass through the node.
 */
export interface NodesTable {
  readonly node: Int32Array;
  readonly split: readonly Split[];
  readonly case: readonly string[];
  readonly parent: Int32Array;
  readonly position: Int32Array;
  readonly token_id: Int32Array;
  readonly token: readonly string[];
  readonly patch_token_id: Int32Array;
  readonly patch_token: readonly string[];
  readonly weight: Float64Array;
}

/** Number of pairs of a split and case. */
export interface PairCount {
  readonly split: Split;
  readonly case: string;
  readonly pairs: number;
}

/** The pairs of each split and case. */
export function countPairs(pairs: readonly TokenPair[]): PairCount[] {
  const groups = groupPairs(pairs.map(({ pair }) => pair));
  return groups.map(({ split, case: name, members }) => ({ split, case: name, pairs: members.length }));
}

/** The backward nodes of a forest as a table. */
export function nodesTable({ backward }: PrefixForest, text: (id: number) => string): NodesTable {
  const groupOf = (node: number) => backward.groups[backward.group[node]!]!;
  const each = <T>(f: (node: number) => T): T[] => Array.from({ length: backward.size }, (_, node) => f(node));
  return {
    node: Int32Array.from({ length: backward.size }, (_, node) => node),
    split: each((node) => groupOf(node).split),
    case: each((node) => groupOf(node).case),
    parent: backward.parent,
    position: backward.position,
    token_id: backward.token,
    token: each((node) => text(backward.token[node]!)),
    patch_token_id: backward.patchToken,
    patch_token: each((node) => text(backward.patchToken[node]!)),
    weight: backward.weight,
  };
}

/** What is kept of the nodes to complete and sum the rows of effects. */
export interface NodeIndex {
  /** Row of each node number, −1 where there is no such node. */
  readonly rowOf: Int32Array;
  /** Per row: index into `groups`. */
  readonly group: Uint16Array;
  readonly position: Int32Array;
  /** Per row: 1 where the node stands for no text of its prompt, which keeps it out of the sums. */
  readonly outside: Uint8Array;
  /** Each split and case, and how many of its nodes are summed. */
  readonly groups: readonly { readonly split: Split; readonly case: string; nodes: number }[];
  /** Distinguishes these nodes from those of another forest. */
  readonly digest: string;
}

/** Sums of a site's features over the nodes of each split and case: columns of equal length; group as in NodeIndex. */
export interface Sums {
  readonly group: Uint16Array;
  readonly feature: Int32Array;
  readonly total: Float64Array;
  /** Nodes with a row. */
  readonly nodes: Int32Array;
}

/**
 * Prepares the nodes for completing and summing rows.
 *
 * @param outside nodes whose clean or patch token is BOS or padding are left out of the sums
 */
export function indexNodes(nodes: NodesTable, outside: OutsideText): NodeIndex {
  const size = nodes.node.length;
  const rowOf = new Int32Array((nodes.node.at(-1) ?? -1) + 1).fill(-1);
  const group = new Uint16Array(size);
  const leftOut = new Uint8Array(size);
  const groups: { split: Split; case: string; nodes: number }[] = [];
  const indexOf = new Map<string, number>();
  for (let row = 0; row < size; row++) {
    const [node, split, name] = [nodes.node[row]!, nodes.split[row]!, nodes.case[row]!];
    if (node < 0 || (row > 0 && node <= nodes.node[row - 1]!))
      throw new Error(`internal: nodes out of order in row ${row}`);
    if (name === allCases) throw new Error("internal: a case without a name");
    const key = groupKey(split, name);
    const index = indexOf.get(key) ?? groups.push({ split, case: name, nodes: 0 }) - 1;
    indexOf.set(key, index);
    rowOf[node] = row;
    group[row] = index;
    const position = nodes.position[row]!;
    const either = [nodes.token_id[row]!, nodes.patch_token_id[row]!];
    leftOut[row] = either.some((token) => isOutside(outside, token, position)) ? 1 : 0;
    groups[index]!.nodes += 1 - leftOut[row]!;
  }
  const hash = newSha256();
  for (const column of [nodes.node, nodes.parent, nodes.position, nodes.token_id, nodes.patch_token_id, nodes.weight]) {
    hash.update(new Uint8Array(column.buffer, column.byteOffset, column.byteLength));
  }
  hash.update(
    new TextEncoder().encode(JSON.stringify([nodes.split, nodes.case, [...outside.first], [...outside.padding]])),
  );
  return { rowOf, group, position: nodes.position, outside: leftOut, groups, digest: hash.hex().slice(0, 12) };
}

/** Adds up the rows of each split, case and feature, in the order of the nodes. Their nodes must all be in the index. */
export function sumRows({ node, feature, effect }: EffectRows, nodes: NodeIndex): Sums {
  let width = 1;
  for (let i = 0; i < feature.length; i++) width = Math.max(width, feature[i]! - errorFeature + 1);
  // [groups, width]
  const totals = new Float64Array(nodes.groups.length * width);
  const counts = new Int32Array(totals.length);
  const { rowOf, outside, group } = nodes;
  for (let i = 0; i < node.length; i++) {
    const row = rowOf[node[i]!]!;
    if (outside[row]) continue;
    const at = group[row]! * width + feature[i]! - errorFeature;
    totals[at]! += effect[i]!;
    counts[at]!++;
  }
  let size = 0;
  for (let at = 0; at < counts.length; at++) if (counts[at]! > 0) size++;
  const sums = emptySums(size);
  for (let at = 0, next = 0; at < counts.length; at++) {
    if (counts[at] === 0) continue;
    sums.group[next] = Math.floor(at / width);
    sums.feature[next] = (at % width) + errorFeature;
    sums.total[next] = totals[at]!;
    sums.nodes[next++] = counts[at]!;
  }
  return sums;
}

/** Room for `size` sums. */
export const emptySums = (size: number): Sums => ({
  group: new Uint16Array(size),
  feature: new Int32Array(size),
  total: new Float64Array(size),
  nodes: new Int32Array(size),
});
