import type { Pack } from "../forest/packs.ts";
import { int64, type Value } from "../graph/session.ts";
import { numbers } from "../graph/tensor.ts";
import { longestDense } from "../models/model.ts";
import type { Floats } from "./hooks.ts";

/** Nodes per tile of a pack. */
export const tileSizeOf = ({ tokens, tiles }: Pack) => tokens.length / tiles;

/** m: nodes beside each tile of a pack. */
export const besideSizeOf = ({ beside }: Pack) => (beside ? tileSizeOf(beside) : 0);

/** A pack with the nodes beside its tiles as further rows of these, behind their own; for going forward alone. */
export function wholePack(pack: Pack): Pack {
  const { beside, tiles } = pack;
  if (!beside) return pack;
  const [n, m] = [tileSizeOf(pack), tileSizeOf(beside)];
  const c = n + m;
  /** A row's place among all. */
  const own = (row: number) => Math.floor(row / n) * c + (row % n);
  const other = (row: number) => Math.floor(row / m) * c + n + (row % m);
  const both = (key: "tokens" | "positions") => {
    const to = new Int32Array(tiles * c);
    pack[key].forEach((value, row) => {
      to[own(row)] = value;
    });
    beside[key].forEach((value, row) => {
      to[other(row)] = value;
    });
    return to;
  };
  const parent = new Int32Array(tiles * c).fill(-1);
  pack.parent.forEach((up, row) => {
    if (up >= 0) parent[own(row)] = own(up);
  });
  beside.parent.forEach((up, row) => {
    if (up >= 0) parent[other(row)] = Math.floor(row / m) * c + up;
  });
  const ints = (key: "cleanAnswer" | "patchAnswer" | "end") =>
    Int32Array.from([...pack.metric[key], ...beside.metric[key]]);
  return {
    kind: "forward",
    tiles,
    tokens: both("tokens"),
    positions: both("positions"),
    parent,
    node: new Int32Array(tiles * c).fill(-1),
    keep: new Int32Array(0),
    metric: {
      row: Int32Array.from([...Array.from(pack.metric.row, own), ...Array.from(beside.metric.row, other)]),
      cleanAnswer: ints("cleanAnswer"),
      patchAnswer: ints("patchAnswer"),
      weight: Float32Array.from([...pack.metric.weight, ...beside.metric.weight]),
      end: ints("end"),
      prompt: [...pack.metric.prompt, ...beside.metric.prompt],
      ...(pack.metric.target && { target: pack.metric.target }),
    },
  };
}

/** The pack's own rows of a whole pack's. */
export const ownRows = (pack: Pack, whole: Floats): Floats => part(pack, whole, 0, tileSizeOf(pack));

/** The rows beside a pack's of a whole pack's. */
export const besideRows = (pack: Pack, whole: Floats): Floats =>
  part(pack, whole, tileSizeOf(pack), besideSizeOf(pack));

/** Of each tile of a whole pack some rows, from one on. */
function part(pack: Pack, whole: Floats, from: number, rows: number): Floats {
  if (!pack.beside) return whole;
  const c = tileSizeOf(pack) + besideSizeOf(pack);
  const D = whole.length / (pack.tiles * c);
  const out = whole.slice(0, pack.tiles * rows * D);
  for (let b = 0; b < pack.tiles; b++) {
    const first = (b * c + from) * D;
    out.set(whole.subarray(first, first + rows * D), b * rows * D);
  }
  return out;
}

/** [B,n,n]: 0 where the row's node sees the column's, itself and its ancestors; −∞ elsewhere. Padding sees itself. */
function ancestorMask({ parent }: Pack, n: number): Float32Array {
  const mask = new Float32Array(parent.length * n).fill(Number.NEGATIVE_INFINITY);
  for (let row = 0; row < parent.length; row++) {
    for (let seen = row; seen >= 0; seen = parent[seen]!) mask[row * n + (seen % n)] = 0;
  }
  return mask;
}

/** [B,m,n + m]: the same for the nodes beside tiles of n, whose columns come behind the tile's. */
function besideMask({ parent }: Pack, { parent: own }: Pack, n: number, m: number): Float32Array {
  const c = n + m;
  const mask = new Float32Array(own.length * c).fill(Number.NEGATIVE_INFINITY);
  for (let row = 0; row < own.length; row++) {
    const tile = Math.floor(row / m);
    let seen = n + (row % m);
    for (; seen >= n; seen = own[tile * m + seen - n]!) mask[row * c + seen] = 0;
    for (; seen >= 0; seen = parent[tile * n + seen]! < 0 ? -1 : parent[tile * n + seen]! % n) mask[row * c + seen] = 0;
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
    ...(pack.beside && besideInputs(pack, pack.beside, n, dtype)),
  };
}

function besideInputs(pack: Pack, beside: Pack, n: number, dtype: "float32" | "float64"): Record<string, Value> {
  const m = tileSizeOf(beside);
  const { row, cleanAnswer, patchAnswer } = beside.metric;
  const rows = (of: Int32Array) => int64(of.length === 0 ? new Int32Array(1) : of, Math.max(1, of.length));
  return {
    "beside/tokens": int64(beside.tokens, beside.tokens.length),
    "beside/positions": int64(beside.positions, beside.positions.length),
    "beside/mask": floatsOf(besideMask(pack, beside, n, m), dtype, beside.tiles, m, n + m),
    "beside/row": rows(row),
    "beside/clean_answer": rows(cleanAnswer),
    "beside/patch_answer": rows(patchAnswer),
  };
}

/** Numbers as a value of the type that a session computes in. */
export function floatsOf(data: Floats, dtype: "float32" | "float64", ...shape: number[]): Value {
  const isOther = dtype !== (data instanceof Float64Array ? "float64" : "float32");
  return { dtype, data: isOther ? numbers(data, dtype) : data, shape };
}
