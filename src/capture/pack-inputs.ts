import type { Pack } from "../forest/packs.ts";
import { int64, type Value } from "../graph/session.ts";
import { numbers } from "../graph/tensor.ts";
import { longestDense } from "../models/model.ts";
import type { Floats } from "./hooks.ts";

/** Nodes per tile of a pack. */
export const tileSizeOf = ({ tokens, tiles }: Pack) => tokens.length / tiles;

/** [B,n,n]: 0 where the row's node sees the column's, itself and its ancestors; −∞ elsewhere. Padding sees itself. */
function ancestorMask({ parent }: Pack, n: number): Float32Array {
  const mask = new Float32Array(parent.length * n).fill(Number.NEGATIVE_INFINITY);
  for (let row = 0; row < parent.length; row++) {
    for (let seen = row; seen >= 0; seen = parent[seen]!) mask[row * n + (seen % n)] = 0;
  }
  return mask;
}

/** Each row's place in depth-first order and the place of the last row below it, [N]. Parents come before children. */
function depthFirstPlaces({ parent }: Pack): { first: Int32Array; last: Int32Array } {
  const N = parent.length;
  const [size, first, next] = [new Int32Array(N).fill(1), new Int32Array(N), new Int32Array(N)];
  for (let row = N - 1; row >= 0; row--) if (parent[row]! >= 0) size[parent[row]!]! += size[row]!;
  let nextRoot = 0;
  for (let row = 0; row < N; row++) {
    const up = parent[row]!;
    first[row] = up < 0 ? nextRoot : next[up]!;
    if (up < 0) nextRoot += size[row]!;
    else next[up]! += size[row]!;
    next[row] = first[row]! + 1;
  }
  return { first, last: first.map((place, row) => place + size[row]! - 1) };
}

/** A pack's values for `contextInputs`. */
export function packContext(pack: Pack, n: number, dtype: "float32" | "float64"): Record<string, Value> {
  const N = pack.tokens.length;
  const about = { tokens: int64(pack.tokens, N), positions: int64(pack.positions, N) };
  if (n <= longestDense) return { ...about, mask: floatsOf(ancestorMask(pack, n), dtype, pack.tiles, n, n) };
  const { first, last } = depthFirstPlaces(pack);
  return { ...about, first: int64(first, N), last: int64(last, N) };
}

/** The inputs of a session for a pack of tiles of n nodes. One row of weight 0 stands in where a pack asks for no metric. */
export function packInputs(pack: Pack, n: number, dtype: "float32" | "float64"): Record<string, Value> {
  const { row, cleanAnswer, patchAnswer, weight, target } = pack.metric;
  const P = Math.max(1, row.length);
  const padded = <T extends Int32Array | Floats>(data: T, empty: T): T => (row.length === 0 ? empty : data);
  const nothing = new Int32Array(1);
  return {
    ...packContext(pack, n, dtype),
    row: int64(padded(row, nothing), P),
    clean_answer: int64(padded(cleanAnswer, nothing), P),
    patch_answer: int64(padded(patchAnswer, nothing), P),
    weight: floatsOf(padded(weight, new Float32Array(1)), dtype, P),
    ...(target && { target: floatsOf(padded(target, new Float32Array(1)), dtype, P) }),
  };
}

/** Numbers as a value of the type that a session computes in. */
export function floatsOf(data: Floats, dtype: "float32" | "float64", ...shape: number[]): Value {
  const isOther = dtype !== (data instanceof Float64Array ? "float64" : "float32");
  return { dtype, data: isOther ? numbers(data, dtype) : data, shape };
}
