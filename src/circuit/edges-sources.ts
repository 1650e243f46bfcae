import type { Capture } from "../capture/capture.ts";
import type { Floats } from "../capture/hooks.ts";
import type { Dictionary } from "../dictionaries/dictionary.ts";
import { dot, placeDirections, strideOf } from "../effects/directions.ts";
import { isChanged } from "../forest/forest.ts";
import { type Loops, openLoops } from "../graph/loops/loops.ts";
import type { SiteName } from "../site.ts";
import { changesAt, type NodeCodes } from "./edges-codes.ts";
import type { CotangentRows } from "./edges-pullback.ts";
import type { Column } from "./edges-targets.ts";

/** What of a site edges come from: features and their error, or the tokens. */
export interface Source {
  readonly site: SiteName;
  /** D */
  readonly width: number;
  /** For each backward node its place in the changes; −1 where nothing changes. */
  readonly placeOf: Int32Array;
  /** Δx[nodes,D] */
  readonly changes: Float64Array;
  /** Of a site with a dictionary. */
  readonly features?: {
    readonly codes: NodeCodes;
    /** Δε[nodes,D] */
    readonly errors: Float64Array;
    readonly directions: PlacedDirections;
  };
}

/** The directions d_i of a source in the memory of loops, which serves one source at a time. */
class PlacedDirections {
  readonly #loops: Loops;
  readonly #D: number;
  /** The byte at which the direction of each live feature begins. */
  readonly #start: Int32Array;
  readonly #room: Room;
  readonly #g: Float64Array;
  readonly #products: Float64Array;
  readonly #places: Int32Array;

  constructor(loops: Loops, D: number, room: Room, start: Int32Array) {
    const { buffer } = loops.memory;
    this.#loops = loops;
    this.#D = D;
    this.#start = start;
    this.#room = room;
    this.#g = new Float64Array(buffer, room.g, strideOf(D));
    this.#products = new Float64Array(buffer, room.list, 2 * room.entries);
    this.#places = new Int32Array(buffer, room.list, 4 * room.entries);
    new Float64Array(buffer, 0, room.list / 8).fill(0);
  }

  /** Takes Σ difference·d_i out of to[at…at + D), i by their places in `live`. */
  takeOut(to: Float64Array, at: number, live: number, difference: number): void {
    const direction = new Float32Array(this.#loops.memory.buffer, this.#start[live]!, this.#D);
    for (let d = 0; d < this.#D; d++) to[at + d]! -= difference * direction[d]!;
  }

  /** to[live] += factor·⟨v[row], d_live⟩ for `count` live features and their factors. */
  addProducts(to: Float64Array, v: Floats, row: number, lives: Int32Array, factors: Float64Array, count: number): void {
    if (count === 0) return;
    const { g, error, list, zeros } = this.#room;
    for (let d = 0, at = row * this.#D; d < this.#D; d++) this.#g[d] = v[at + d]!;
    const padded = Math.ceil(count / 4) * 4;
    for (let i = 0; i < padded; i++) {
      // Nothing is taken out: the products alone are wanted.
      this.#products[2 * i] = 0;
      this.#places[4 * i + 2] = i < count ? this.#start[lives[i]!]! : zeros;
    }
    this.#loops.takeOut(error, g, this.#g.length, list, padded);
    for (let i = 0; i < count; i++) to[lives[i]!]! += factors[i]! * this.#products[2 * i]!;
  }
}

/** Where vectors lie in the memory of loops, in bytes; the directions come behind them. */
interface Room {
  readonly g: number;
  readonly error: number;
  readonly zeros: number;
  readonly list: number;
  /** Entries of the list. */
  readonly entries: number;
  readonly bytes: number;
}

function roomFor(D: number, features: number): Room {
  const vector = 8 * strideOf(D);
  const entries = features + 4;
  return { g: 0, error: vector, zeros: 2 * vector, list: 3 * vector, entries, bytes: 3 * vector + 16 * entries };
}

/** Sources whose changes are kept: those that the targets of one layer have. */
const keptSources = 4;

/** Gives the sources of edges, one at a time: each replaces what the loops held of the one before. */
export function sourceReader(
  captured: Capture,
  dictionaries: ReadonlyMap<SiteName, Dictionary>,
  codesOf: (dictionary: Dictionary) => Promise<NodeCodes>,
): (site: SiteName) => Promise<Source> {
  const loops = openLoops();
  const kept = new Map<SiteName, { changes: Float64Array; errors: Float64Array }>();
  return async (site) => {
    const dictionary = dictionaries.get(site);
    if (!dictionary) return tokenSource(captured, site);
    const D = dictionary.outputWidth;
    const codes = await codesOf(dictionary);
    const room = roomFor(D, codes.live.length);
    const start = await placeDirections(dictionary, codes.live, loops, room.bytes);
    const directions = new PlacedDirections(
      loops,
      D,
      room,
      codes.live.map((feature) => start[feature]!),
    );
    const known = kept.get(site) ?? (await changesAndErrors(captured, codes, directions, D));
    kept.delete(site);
    kept.set(site, known);
    if (kept.size > keptSources) kept.delete([...kept.keys()][0]!);
    const { changes, errors } = known;
    return { site, width: D, placeOf: codes.placeOf, changes, features: { codes, errors, directions } };
  };
}

async function changesAndErrors(captured: Capture, codes: NodeCodes, directions: PlacedDirections, D: number) {
  const changes = await changesAt(captured, codes.site, codes.nodes);
  const errors = changes.slice();
  codes.nodes.forEach((_, place) => {
    for (let at = codes.offsets[place]!; at < codes.offsets[place + 1]!; at++) {
      const difference = codes.difference[at]!;
      if (difference !== 0) directions.takeOut(errors, place * D, codes.liveAt[at]!, difference);
    }
  });
  return { changes, errors };
}

/** A site's whole change, where it has no dictionary: the tokens. */
async function tokenSource(captured: Capture, site: SiteName): Promise<Source> {
  const { backward } = captured.plan.forest;
  const nodes: number[] = [];
  const placeOf = Int32Array.from({ length: backward.size }, (_, node) =>
    isChanged(backward, node) ? nodes.push(node) - 1 : -1,
  );
  const changes = await changesAt(captured, site, Int32Array.from(nodes));
  return { site, width: nodes.length === 0 ? 0 : changes.length / nodes.length, placeOf, changes };
}

/** The edges from a source into one column. */
export interface Contraction {
  /** Where sources are resolved by node: the backward node that these edges come from. */
  readonly node?: number;
  /** Σ_nodes Δf_i⟨d_i, v⟩ of the features in `codes.live`; written over by the next column. */
  readonly values: Float64Array;
  /** Σ ⟨Δε, v⟩; of the tokens 0. */
  readonly error: number;
  /** Σ ⟨Δx, v⟩, which features and error add up to. */
  readonly total: number;
  /** Σ of the features and the error; of the tokens `total`. */
  readonly sum: number;
}

/** start + Σ values */
function sumFrom(start: number, values: Float64Array): number {
  let sum = start;
  for (let i = 0; i < values.length; i++) sum += values[i]!;
  return sum;
}

type Visit = (column: number, found: Contraction) => void;

/**
 * Contracts a source with the cotangents v[R,D] at it, column by column.
 *
 * @param byNode whether each node of the source is visited by itself, once for every column that reaches it
 */
export function contract(
  { width: D, placeOf, changes, features }: Source,
  { column, node }: CotangentRows,
  v: Floats,
  visit: Visit,
  byNode = false,
): void {
  const values = new Float64Array(features?.codes.live.length ?? 0);
  const [lives, moved] = [new Int32Array(values.length), new Float64Array(values.length)];
  for (let row = 0; row < node.length; ) {
    const c = column[row]!;
    values.fill(0);
    let [error, total] = [0, 0];
    for (let first = row; row < node.length && column[row] === c && !(byNode && row > first); row++) {
      const place = placeOf[node[row]!]!;
      if (place < 0) continue;
      if (!features) {
        total += dot(v, row * D, changes, place * D, D);
        continue;
      }
      const { codes, errors, directions } = features;
      let [ofChange, ofError] = [0, 0];
      for (let d = 0, from = row * D, at = place * D; d < D; d++) {
        const one = v[from + d]!;
        ofChange += one * changes[at + d]!;
        ofError += one * errors[at + d]!;
      }
      total += ofChange;
      error += ofError;
      let count = 0;
      for (let at = codes.offsets[place]!; at < codes.offsets[place + 1]!; at++) {
        if (codes.difference[at] === 0) continue;
        moved[count] = codes.difference[at]!;
        lives[count++] = codes.liveAt[at]!;
      }
      directions.addProducts(values, v, row, lives, moved, count);
    }
    const sum = features ? sumFrom(error, values) : total;
    visit(c, { values, error, total, sum, ...(byNode && { node: node[row - 1]! }) });
  }
}

/**
 * The same where the cotangents are the target's own, factor·e at each of its nodes (J̃ is the identity): E_i = ⟨d_i, e⟩ Σ_nodes factor·Δf_i, so that
 * each pair of features takes one product.
 *
 * @param columns of features; those without a cotangent are visited, too
 */
export function contractIdentity(
  { width: D, placeOf, changes, features }: Source,
  columns: readonly Column[],
  visit: Visit,
  byNode = false,
): void {
  const values = new Float64Array(features?.codes.live.length ?? 0);
  const [lives, factored] = [new Int32Array(values.length), new Float64Array(values.length)];
  const [movedError, moved] = [new Float64Array(D), new Float64Array(D)];
  const contractNodes = (c: number, begin: number, end: number) => {
    const { nodes, factors, direction } = columns[c]!;
    for (const sums of [values, moved, movedError]) sums.fill(0);
    for (let i = begin; i < end; i++) {
      const place = placeOf[nodes[i]!]!;
      if (place < 0) continue;
      const factor = factors[i]!;
      for (let d = 0, at = place * D; d < D; d++) moved[d]! += factor * changes[at + d]!;
      if (!features) continue;
      const { codes, errors } = features;
      for (let d = 0, at = place * D; d < D; d++) movedError[d]! += factor * errors[at + d]!;
      for (let at = codes.offsets[place]!; at < codes.offsets[place + 1]!; at++) {
        values[codes.liveAt[at]!]! += factor * codes.difference[at]!;
      }
    }
    let count = 0;
    for (let live = 0; live < values.length; live++) {
      if (values[live] === 0) continue;
      factored[count] = values[live]!;
      lives[count++] = live;
    }
    values.fill(0);
    features?.directions.addProducts(values, direction!, 0, lives, factored, count);
    const [error, total] = [dot(movedError, 0, direction!, 0, D), dot(moved, 0, direction!, 0, D)];
    const sum = features ? sumFrom(error, values) : total;
    visit(c, { values, error, total, sum, ...(byNode && end > begin && { node: nodes[begin]! }) });
  };
  for (const [c, { nodes }] of columns.entries()) {
    if (!byNode || nodes.length === 0) contractNodes(c, 0, nodes.length);
    else for (let i = 0; i < nodes.length; i++) contractNodes(c, i, i + 1);
  }
}
