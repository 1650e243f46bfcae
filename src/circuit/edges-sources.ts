import type { Capture } from "../capture/capture.ts";
import type { Floats } from "../capture/hooks.ts";
import type { Dictionary } from "../dictionaries/dictionary.ts";
import { dot, placeDirections, strideOf } from "../effects/directions.ts";
import { isChanged } from "../forest/forest.ts";
import type { Loops } from "../graph/loops/loops.ts";
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
    /** Δf of each entry of the codes. */
    readonly differences: Float64Array;
    /** Δε[nodes,D] */
    readonly errors: Float64Array;
    readonly directions: PlacedDirections;
  };
}

/** The directions d_i of a source in the memory of loops, which serves one source at a time. */
class PlacedDirections {
  readonly #loops: Loops;
  readonly #D: number;
  readonly #room: Room;
  /** The byte at which the direction of each live feature begins. */
  readonly #start: Int32Array;

  constructor(loops: Loops, D: number, room: Room, start: Int32Array) {
    this.#loops = loops;
    this.#D = D;
    this.#room = room;
    this.#start = start;
  }

  /** All numbers in the memory, and where among them each live feature's direction begins; until memory is reserved again. */
  view(): { readonly numbers: Float32Array; readonly start: Int32Array } {
    return { numbers: new Float32Array(this.#loops.memory.buffer), start: this.#start.map((byte) => byte / 4) };
  }

  /** ⟨v[row], d_i⟩ of some live features, by their places in `lives`. */
  products(v: Floats, row: number, lives: Int32Array, count: number): (i: number) => number {
    const { memory, takeOut } = this.#loops;
    const { g, error, list, zeros } = this.#room;
    const stride = strideOf(this.#D);
    const to = new Float64Array(memory.buffer, g, stride);
    for (let d = 0, at = row * this.#D; d < this.#D; d++) to[d] = v[at + d]!;
    const padded = Math.ceil(count / 4) * 4;
    const [products, places] = [
      new Float64Array(memory.buffer, list, 2 * padded),
      new Int32Array(memory.buffer, list, 4 * padded),
    ];
    for (let i = 0; i < padded; i++) {
      // Nothing is taken out: the products alone are wanted.
      products[2 * i] = 0;
      places[4 * i + 2] = i < count ? this.#start[lives[i]!]! : zeros;
    }
    if (count > 0) takeOut(error, g, stride, list, padded);
    return (i) => products[2 * i]!;
  }
}

/** Where vectors lie in the memory of loops, in bytes; the directions come behind them. */
interface Room {
  readonly g: number;
  readonly error: number;
  readonly zeros: number;
  readonly list: number;
  readonly bytes: number;
}

function roomFor(D: number, entries: number): Room {
  const vector = 8 * strideOf(D);
  return { g: 0, error: vector, zeros: 2 * vector, list: 3 * vector, bytes: 3 * vector + 16 * (entries + 4) };
}

/** The features and the error of a site. Replaces what the loops held of another source. */
export async function featureSource(
  captured: Capture,
  dictionary: Dictionary,
  codes: NodeCodes,
  loops: Loops,
): Promise<Source> {
  const { writes: site, outputWidth: D } = dictionary;
  const changes = await changesAt(captured, site, codes.nodes);
  const room = roomFor(D, codes.live.length);
  const start = await placeDirections(dictionary, codes.live, loops, room.bytes);
  new Float32Array(loops.memory.buffer, 0, room.list / 4).fill(0);
  const directions = new PlacedDirections(
    loops,
    D,
    room,
    codes.live.map((feature) => start[feature]!),
  );
  const differences = codes.fPatch.map((patch, at) => patch - codes.fClean[at]!);
  const errors = changes.slice();
  const { numbers, start: first } = directions.view();
  codes.nodes.forEach((_, place) => {
    for (let at = codes.offsets[place]!; at < codes.offsets[place + 1]!; at++) {
      const difference = differences[at]!;
      if (difference === 0) continue;
      const from = first[codes.liveAt[at]!]!;
      for (let d = 0; d < D; d++) errors[place * D + d]! -= difference * numbers[from + d]!;
    }
  });
  return { site, width: D, placeOf: codes.placeOf, changes, features: { codes, differences, errors, directions } };
}

/** A site's whole change, where it has no dictionary: the tokens. */
export async function tokenSource(captured: Capture, site: SiteName): Promise<Source> {
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
  /** Σ_nodes Δf_i⟨d_i, v⟩ of the features in `codes.live`; written over by the next column. */
  readonly values: Float64Array;
  /** Σ ⟨Δε, v⟩; of the tokens 0. */
  readonly error: number;
  /** Σ ⟨Δx, v⟩, which features and error add up to. */
  readonly total: number;
  /** Σ of the features and the error; of the tokens `total`. */
  readonly sum: number;
}

type Visit = (column: number, found: Contraction) => void;

/** Contracts a source with the cotangents v[R,D] at it, column by column. */
export function contract(
  { width: D, placeOf, changes, features }: Source,
  { column, node }: CotangentRows,
  v: Floats,
  visit: Visit,
): void {
  const values = new Float64Array(features?.codes.live.length ?? 0);
  const [lives, moved] = [new Int32Array(values.length), new Float64Array(values.length)];
  for (let row = 0; row < node.length; ) {
    const c = column[row]!;
    values.fill(0);
    let [error, total] = [0, 0];
    for (; row < node.length && column[row] === c; row++) {
      const place = placeOf[node[row]!]!;
      if (place < 0) continue;
      total += dot(v, row * D, changes, place * D, D);
      if (!features) continue;
      const { codes, differences, errors, directions } = features;
      error += dot(v, row * D, errors, place * D, D);
      let count = 0;
      for (let at = codes.offsets[place]!; at < codes.offsets[place + 1]!; at++) {
        if (differences[at] === 0) continue;
        moved[count] = differences[at]!;
        lives[count++] = codes.liveAt[at]!;
      }
      const product = directions.products(v, row, lives, count);
      for (let i = 0; i < count; i++) values[lives[i]!]! += moved[i]! * product(i);
    }
    const sum = features ? values.reduce((a, b) => a + b, error) : total;
    visit(c, { values, error, total, sum });
  }
}

/**
 * The same where the cotangents are the target's own, factor·e at each of its nodes (J̃ is the identity): E_i = ⟨d_i, e⟩ Σ_nodes factor·Δf_i, so that
 * each pair of features takes one product.
 *
 * @param columns of features
 */
export function contractIdentity(
  { width: D, placeOf, changes, features }: Source,
  columns: readonly Column[],
  visit: Visit,
): void {
  const values = new Float64Array(features?.codes.live.length ?? 0);
  const lives = new Int32Array(values.length);
  const [movedError, moved] = [new Float64Array(D), new Float64Array(D)];
  for (const [c, { nodes, factors, direction }] of columns.entries()) {
    for (const sums of [values, moved, movedError]) sums.fill(0);
    nodes.forEach((node, i) => {
      const place = placeOf[node]!;
      if (place < 0) return;
      const factor = factors[i]!;
      for (let d = 0; d < D; d++) moved[d]! += factor * changes[place * D + d]!;
      if (!features) return;
      const { codes, differences, errors } = features;
      for (let d = 0; d < D; d++) movedError[d]! += factor * errors[place * D + d]!;
      for (let at = codes.offsets[place]!; at < codes.offsets[place + 1]!; at++) {
        values[codes.liveAt[at]!]! += factor * differences[at]!;
      }
    });
    let count = 0;
    values.forEach((value, live) => {
      if (value !== 0) lives[count++] = live;
    });
    const product = features?.directions.products(direction!, 0, lives, count);
    for (let i = 0; i < count; i++) values[lives[i]!]! *= product!(i);
    const [error, total] = [dot(movedError, 0, direction!, 0, D), dot(moved, 0, direction!, 0, D)];
    const sum = features ? values.reduce((a, b) => a + b, error) : total;
    visit(c, { values, error, total, sum });
  }
}
