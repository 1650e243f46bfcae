import { type Floats, newFloats } from "../capture/hooks.ts";
import { strideOf } from "../effects/directions.ts";
import type { Tree } from "../forest/forest.ts";
import { type Loops, openLoops } from "../graph/loops/loops.ts";
import type { Heads } from "./row-parts.ts";

/** Rows at which attention gets cotangents, and those at which it gives some. */
export interface AttentionRows {
  readonly node: Int32Array;
  /** The row of the same target at the node's parent; −1 where there is none, and none above. */
  readonly above: Int32Array;
  /** The rows that have a cotangent, by their nodes. */
  readonly used: Int32Array;
}

/** Cotangents of queries, keys and values, side by side. */
export interface HeadCotangents {
  /** At each point [R·K,(H + 2·keyHeads)·E], a row's side by side; of scaled heads Σ_points r·cotangent [R,·]. */
  readonly t: Floats;
  /** Of scaled heads: ⟨cotangent, y′⟩ at each point [R·K]. */
  readonly s: Floats;
}

/**
 * The way back through attention itself, from what heads give to their queries, keys and values. Of a node, whose patterns P = softmax s over itself and
 * its ancestors m are the same for all rows, with s_m = scale·⟨q, k_m⟩ or its soft-cap, and the cotangent dz of a row:
 *
 *     dv_m += P_m dz;   ds_m = P_m (⟨dz, v_m⟩ − Σ P⟨dz, v⟩) · s′;   dq += ds_m k_m;   dk_m += ds_m q
 *
 * A bias of the values leaves no trace in ds.
 *
 * @param heads of all nodes at K points
 * @param dz [used·K,H·E], a row's points side by side
 */
export function attentionBack(heads: Heads, tree: Tree, rows: AttentionRows, dz: Floats, K: number): HeadCotangents {
  const { node, used } = rows;
  const dtype = dz instanceof Float64Array ? "float64" : "float32";
  const width = widthOf(heads);
  const t = newFloats(dtype, node.length * (heads.scaled ? 1 : K) * width);
  const s = newFloats(dtype, node.length * K);
  // What points have in common is added up over all of them at once.
  const together = heads.scaled ? K : 1;
  const loops = openLoops();
  for (let begin = 0, end = 0; begin < used.length; begin = end) {
    const own = node[used[begin]!]!;
    while (end < used.length && node[used[end]!] === own) end++;
    const chain = chainOf(tree, own, heads);
    for (let first = 0; first < K; first += together) {
      const at = placeNode(loops, heads, chain, K, first, together);
      for (let u = begin; u < end; u++) {
        const row = used[u]!;
        at.clear();
        at.addRow(dz, u * K, rows.above, row, s);
        for (let i = 0, to = row; i < chain.length && to >= 0; to = rows.above[to]!, i++) {
          at.take(i, t, (heads.scaled ? to : to * K + first) * width);
        }
      }
    }
  }
  return { t, s };
}

/** Everything at a node that is the same for all cotangents there, in the memory of loops. */
function placeNode(loops: Loops, heads: Heads, chain: readonly number[], K: number, first: number, points: number) {
  const { values, heads: H, keyHeads, headWidth: E, scaled } = heads;
  const T = chain.length;
  const W = H + 2 * keyHeads;
  const [D, G] = [strideOf(E), H / keyHeads];
  const bytes = 8 * D;
  const entries = points * Math.max(T, G) + 4;
  // A vector of zeros, dz of the points, the list, tables of the node and its ancestors, and what is found for each of them.
  const z = bytes;
  const list = z + points * H * bytes;
  const tables = list + 16 * entries;
  const sums = tables + points * T * W * bytes;
  const length = sums + T * W * bytes;
  loops.reserve(length);
  const doubles = new Float64Array(loops.memory.buffer, 0, length / 8);
  const ints = new Int32Array(loops.memory.buffer, 0, length / 4);
  const table = (k: number, i: number, head: number) => tables + ((k * T + i) * W + head) * bytes;
  const sum = (i: number, head: number) => sums + (i * W + head) * bytes;
  const copy = (from: Floats, at: number, to: number) => {
    for (let e = 0; e < E; e++) doubles[to / 8 + e] = from[at + e]!;
  };
  doubles.fill(0);
  for (let k = 0; k < points; k++) {
    for (let i = 0; i < T; i++) {
      for (let head = i === 0 ? 0 : H; head < W; head++) {
        const of = head >= H + keyHeads ? (scaled?.slope ?? values) : values;
        copy(of, ((chain[i]! * K + first + k) * W + head) * E, table(k, i, head));
      }
    }
  }
  const parts = Array.from({ length: H * points }, (_, at) =>
    headAt(heads, chain, first + (at % points), K, Math.floor(at / points)),
  );
  /** Factors of dk and dv of a row, by head, point and ancestor. */
  const [ofKeys, ofValues] = [new Float64Array(H * points * T), new Float64Array(H * points * T)];
  const setPlace = (entry: number, place: number) => {
    ints[list / 4 + 4 * entry + 2] = place;
  };
  /** Fills the list up with zeros to a multiple of four. */
  const padded = (count: number) => {
    const n = Math.ceil(count / 4) * 4;
    for (let entry = count; entry < n; entry++) {
      setPlace(entry, 0);
      doubles[list / 8 + 2 * entry] = 0;
    }
    return n;
  };

  return {
    clear() {
      doubles.fill(0, sums / 8);
    },
    /** Finds what a row's dz gives; its points begin at row `from` of dz. */
    addRow(dz: Floats, from: number, above: Int32Array, row: number, s: Floats) {
      for (let k = 0; k < points; k++) {
        for (let h = 0; h < H; h++) copy(dz, ((from + first + k) * H + h) * E, z + (k * H + h) * bytes);
      }
      for (let h = 0; h < H; h++) {
        const g = Math.floor(h / G);
        for (let k = 0; k < points; k++) {
          for (let i = 0; i < T; i++) setPlace(i, table(k, i, H + keyHeads + g));
          loops.dots(z + (k * H + h) * bytes, D, list, padded(T));
          const { weight, slope, scale, ofQuery, ofKey } = parts[h * points + k]!;
          let mean = 0;
          for (let i = 0; i < T; i++) mean += weight[i]! * scale[i]! * doubles[list / 8 + 2 * i]!;
          let ofOwn = 0;
          const at = (h * points + k) * T;
          for (let i = 0, to = row; i < T; i++) {
            const [p, r, found] = [weight[i]!, scale[i]!, doubles[list / 8 + 2 * i]!];
            const ds = p * (r * found - mean) * slope[i]!;
            ofOwn += ds * ofQuery[i]!;
            ofKeys[at + i] = ds;
            ofValues[at + i] = p * r;
            if (to < 0) continue;
            s[to * K + first + k]! += ds * ofKey[i]! + p * found;
            to = above[to]!;
          }
          s[row * K + first + k]! += ofOwn;
        }
        let count = 0;
        for (let k = 0; k < points; k++) {
          const own = parts[h * points + k]!.scale[0]!;
          for (let i = 0; i < T; i++, count++) {
            setPlace(count, table(k, i, H + g));
            doubles[list / 8 + 2 * count] = ofKeys[(h * points + k) * T + i]! * own;
          }
        }
        loops.addUp(sum(0, h), D, list, padded(count));
      }
      for (let i = 0, to = row; i < T && to >= 0; to = above[to]!, i++) {
        for (let g = 0; g < keyHeads; g++) {
          let count = 0;
          for (let h = g * G; h < (g + 1) * G; h++) {
            for (let k = 0; k < points; k++, count++) {
              setPlace(count, table(k, 0, h));
              const one = parts[h * points + k]!;
              doubles[list / 8 + 2 * count] = ofKeys[(h * points + k) * T + i]! * one.scale[i]!;
            }
          }
          const n = padded(count);
          loops.addUp(sum(i, H + g), D, list, n);
          for (let entry = 0; entry < count; entry++) {
            const [h, k] = [g * G + Math.floor(entry / points), entry % points];
            setPlace(entry, z + (k * H + h) * bytes);
            doubles[list / 8 + 2 * entry] = ofValues[(h * points + k) * T + i]!;
          }
          loops.addUp(sum(i, H + keyHeads + g), D, list, n);
        }
      }
    },
    /** Adds what was found for an ancestor, or for the node itself. */
    take(i: number, t: Floats, to: number) {
      for (let head = i === 0 ? 0 : H; head < W; head++) {
        const [from, at] = [sum(i, head) / 8, to + head * E];
        for (let e = 0; e < E; e++) t[at + e]! += doubles[from + e]!;
      }
    },
  };
}

/** What heads give at all nodes and points, z[nodes·K,H·E]. */
export function attentionForward(heads: Heads, tree: Tree, K: number): Floats {
  const { values, heads: H, headWidth: E } = heads;
  const z = newFloats(values instanceof Float64Array ? "float64" : "float32", tree.size * K * H * E);
  for (let own = 0; own < tree.size; own++) {
    const chain = chainOf(tree, own, heads);
    for (let k = 0; k < K; k++) {
      for (let h = 0; h < H; h++) {
        const { value, weight } = headAt(heads, chain, k, K, h);
        const to = ((own * K + k) * H + h) * E;
        for (let i = 0; i < chain.length; i++) {
          for (let e = 0, v = value[i]!; e < E; e++) z[to + e]! += weight[i]! * values[v + e]!;
        }
      }
    }
  }
  return z;
}

const widthOf = ({ heads, keyHeads, headWidth }: Heads) => (heads + 2 * keyHeads) * headWidth;

/** A node and the ancestors that it sees. */
function chainOf({ parent }: Tree, node: number, { window = Number.POSITIVE_INFINITY }: Heads): number[] {
  const chain: number[] = [];
  for (let at = node; at >= 0 && chain.length < window; at = parent[at]!) chain.push(at);
  return chain;
}

/** A head at a node and a point: everything that is the same for all cotangents there. Arrays go by the node and its ancestors m. */
interface HeadAt {
  /** Where the values of each m begin. */
  readonly value: Int32Array;
  /** P, and scale·s′. */
  readonly weight: Float64Array;
  readonly slope: Float64Array;
  /** Where heads are scaled r; else 1. */
  readonly scale: Float64Array;
  /** Where heads are scaled ⟨k_m, q′⟩ and ⟨q, k′_m⟩; else 0. */
  readonly ofQuery: Float64Array;
  readonly ofKey: Float64Array;
}

function headAt(heads: Heads, chain: readonly number[], k: number, K: number, h: number): HeadAt {
  const { values, heads: H, keyHeads, headWidth: E, scale: factor, cap, scaled } = heads;
  const width = widthOf(heads);
  const T = chain.length;
  const base = Int32Array.from(chain, (at) => (at * K + k) * width);
  const query = h * E;
  const key = (H + Math.floor((h * keyHeads) / H)) * E;
  const of = () => new Float64Array(T);
  const [weight, slope, scale, ofQuery, ofKey] = [of(), of(), of().fill(1), of(), of()];
  const own = base[0]! + query;
  let most = Number.NEGATIVE_INFINITY;
  for (let i = 0; i < T; i++) {
    const at = base[i]! + key;
    const score = factor * product(values, own, values, at, E);
    const capped = cap === undefined ? 0 : Math.tanh(score / cap);
    slope[i] = factor * (1 - capped * capped);
    weight[i] = cap === undefined ? score : cap * capped;
    most = Math.max(most, weight[i]!);
    if (!scaled) continue;
    scale[i] = scaled.scale[chain[i]! * K + k]!;
    ofQuery[i] = product(values, at, scaled.slope, own, E);
    ofKey[i] = product(values, own, scaled.slope, at, E);
  }
  let sum = 0;
  for (let i = 0; i < T; i++) sum += weight[i] = Math.exp(weight[i]! - most);
  for (let i = 0; i < T; i++) weight[i]! /= sum;
  return { value: base.map((at) => at + key + keyHeads * E), weight, slope, scale, ofQuery, ofKey };
}

function product(a: Floats, i: number, b: Floats, j: number, E: number): number {
  let sum = 0;
  for (let e = 0; e < E; e++) sum += a[i + e]! * b[j + e]!;
  return sum;
}
