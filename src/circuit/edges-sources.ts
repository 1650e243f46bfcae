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
    readonly placed: PlacedFeatures;
  };
}

/** What cotangents meet at a source, in the memory of loops, which serves one source at a time: directions d_i, changes Δx and errors Δε. */
class PlacedFeatures {
  readonly #loops: Loops;
  readonly #D: number;
  readonly #stride: number;
  readonly #codes: NodeCodes;
  /** The byte at which the direction of each live feature begins. */
  readonly #start: Int32Array;
  readonly #room: Room;
  readonly #doubles: Float64Array;
  readonly #ints: Int32Array;
  /** Where Δx and Δε of the first place begin, in bytes, of how many places they lie there, and those of all. */
  readonly #changes: number;
  readonly #errors: number;
  readonly #held: number;
  #rows: readonly [Float64Array, Float64Array] = [new Float64Array(0), new Float64Array(0)];

  /**
   * @param room where vectors lie; directions begin behind it
   * @param most numbers of Δx and Δε that lie in the memory of loops
   */
  constructor(loops: Loops, codes: NodeCodes, D: number, room: Room, start: Int32Array, most: number) {
    this.#loops = loops;
    this.#D = D;
    this.#stride = strideOf(D);
    this.#codes = codes;
    this.#start = start;
    this.#room = room;
    this.#held = Math.min(codes.nodes.length, Math.floor(most / (2 * this.#stride)));
    const table = 8 * this.#stride * this.#held;
    this.#changes = Math.ceil((room.bytes + 4 * this.#stride * start.length) / 16) * 16;
    this.#errors = this.#changes + table;
    loops.reserve(this.#errors + table);
    this.#doubles = new Float64Array(loops.memory.buffer, 0, (this.#errors + table) / 8);
    this.#ints = new Int32Array(loops.memory.buffer, 0, 2 * this.#doubles.length);
    this.#doubles.fill(0, 0, room.list / 8);
    // Behind vectors whose length is no multiple of four there have to be zeros, whatever lay there before.
    if (this.#stride !== D) this.#doubles.fill(0, this.#changes / 8);
  }

  /** Takes Δx[nodes,D], and finds Δε = Δx − Σ Δf_i d_i unless it is known. @returns Δε [nodes,D] */
  place(changes: Float64Array, known?: Float64Array): Float64Array {
    const { offsets, difference, liveAt, nodes } = this.#codes;
    const [doubles, D, { error, g, list }] = [this.#doubles, this.#D, this.#room];
    const errors = known ?? new Float64Array(changes.length);
    for (let place = 0; place < nodes.length; place++) {
      const own = changes.subarray(place * D, (place + 1) * D);
      if (place < this.#held) doubles.set(own, (this.#changes + 8 * place * this.#stride) / 8);
      if (!known) {
        doubles.set(own, error / 8);
        let count = 0;
        for (let at = offsets[place]!; at < offsets[place + 1]!; at++) {
          if (difference[at] !== 0) this.#enter(count++, this.#start[liveAt[at]!]!, difference[at]!);
        }
        if (count > 0) this.#loops.takeOut(error, g, this.#stride, list, this.#pad(count));
        errors.set(doubles.subarray(error / 8, error / 8 + D), place * D);
      }
      if (place >= this.#held) continue;
      doubles.set(errors.subarray(place * D, (place + 1) * D), (this.#errors + 8 * place * this.#stride) / 8);
    }
    doubles.fill(0, error / 8, error / 8 + this.#stride);
    this.#rows = [changes, errors];
    return errors;
  }

  /**
   * Adds Δf_i⟨v[row], d_i⟩ of a place to the features' values.
   *
   * @returns ⟨v, Δx⟩ and ⟨v, Δε⟩ there
   */
  contract(values: Float64Array, v: Floats, row: number, place: number): readonly [number, number] {
    const { offsets, difference, liveAt } = this.#codes;
    const { list, g } = this.#room;
    this.#take(v, row);
    const sums = this.#ofPlace(place);
    let count = 0;
    for (let at = offsets[place]!; at < offsets[place + 1]!; at++) {
      if (difference[at] !== 0) this.#enter(count++, this.#start[liveAt[at]!]!, 0);
    }
    if (count === 0) return sums;
    this.#loops.singleDots(g, this.#stride, list, this.#pad(count));
    for (let at = offsets[place]!, i = list / 8; at < offsets[place + 1]!; at++) {
      if (difference[at] === 0) continue;
      values[liveAt[at]!]! += difference[at]! * this.#doubles[i]!;
      i += 2;
    }
    return sums;
  }

  /**
   * Σ_places factor·⟨e, Δx⟩, likewise of Δε and, in values, of each feature: factors are of the places, and v[row] is e.
   *
   * @param values Σ factor·Δf_i before, times ⟨d_i, e⟩ afterwards
   */
  contractSums(
    values: Float64Array,
    v: Floats,
    places: readonly number[],
    factors: readonly number[],
  ): readonly [number, number] {
    const { list, g } = this.#room;
    this.#take(v, 0);
    const sums = [this.#changes, this.#errors].map((table, of) => {
      let held = 0;
      for (const place of places) if (place < this.#held) this.#enter(held++, table + 8 * place * this.#stride, 0);
      if (held > 0) this.#loops.dots(g, this.#stride, list, this.#pad(held));
      let [sum, at] = [0, list / 8];
      for (const [i, place] of places.entries()) {
        const isHeld = place < this.#held;
        sum += factors[i]! * (isHeld ? this.#doubles[at]! : this.#beyond(of, place));
        if (isHeld) at += 2;
      }
      return sum;
    }) as [number, number];
    let count = 0;
    for (let live = 0; live < values.length; live++) {
      if (values[live] !== 0) this.#enter(count++, this.#start[live]!, 0);
    }
    if (count === 0) return sums;
    this.#loops.singleDots(g, this.#stride, list, this.#pad(count));
    for (let live = 0, i = list / 8; live < values.length; live++) {
      if (values[live] === 0) continue;
      values[live]! *= this.#doubles[i]!;
      i += 2;
    }
    return sums;
  }

  #take(v: Floats, row: number): void {
    const [doubles, g, D] = [this.#doubles, this.#room.g / 8, this.#D];
    for (let d = 0, at = row * D; d < D; d++) doubles[g + d] = v[at + d]!;
  }

  /** ⟨g, Δx⟩ and ⟨g, Δε⟩ of a place. */
  #ofPlace(place: number): readonly [number, number] {
    if (place >= this.#held) return [this.#beyond(0, place), this.#beyond(1, place)];
    const { g, list } = this.#room;
    this.#enter(0, this.#changes + 8 * place * this.#stride, 0);
    this.#enter(1, this.#errors + 8 * place * this.#stride, 0);
    this.#loops.dots(g, this.#stride, list, this.#pad(2));
    return [this.#doubles[list / 8]!, this.#doubles[list / 8 + 2]!];
  }

  /** ⟨g, Δx⟩ or ⟨g, Δε⟩ of a place for which there is no room in the memory of loops. */
  #beyond(of: number, place: number): number {
    return dot(this.#doubles, this.#room.g / 8, this.#rows[of]!, place * this.#D, this.#D);
  }

  #enter(entry: number, place: number, factor: number): void {
    this.#ints[this.#room.list / 4 + 4 * entry + 2] = place;
    this.#doubles[this.#room.list / 8 + 2 * entry] = factor;
  }

  /** Fills the list up with zeros to a multiple of four. */
  #pad(count: number): number {
    const padded = Math.ceil(count / 4) * 4;
    for (let entry = count; entry < padded; entry++) this.#enter(entry, this.#room.zeros, 0);
    return padded;
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

function roomFor(D: number, { live, nodes }: NodeCodes): Room {
  const vector = 8 * strideOf(D);
  const entries = Math.max(live.length, nodes.length) + 4;
  return { g: 0, error: vector, zeros: 2 * vector, list: 3 * vector, bytes: 3 * vector + 16 * entries };
}

/** Sources whose changes are kept: those that the targets of one layer have. */
export const keptSources = 4;

/** Numbers of changes and errors that lie in the memory of loops, which is 4 GB at most. */
const placedNumbers = 2 ** 27;

/** Gives the sources of edges, one at a time: each replaces what the loops held of the one before. */
export function sourceReader(
  captured: Capture,
  dictionaries: ReadonlyMap<SiteName, Dictionary>,
  codesOf: (dictionary: Dictionary) => Promise<NodeCodes>,
  most = placedNumbers,
): (site: SiteName) => Promise<Source> {
  const loops = openLoops();
  const kept = new Map<SiteName, { readonly changes: Float64Array; readonly errors: Float64Array }>();
  return async (site) => {
    const dictionary = dictionaries.get(site);
    if (!dictionary) return tokenSource(captured, site);
    const D = dictionary.outputWidth;
    const codes = await codesOf(dictionary);
    const room = roomFor(D, codes);
    const start = await placeDirections(dictionary, codes.live, loops, room.bytes);
    const own = codes.live.map((feature) => start[feature]!);
    const placed = new PlacedFeatures(loops, codes, D, room, own, most);
    const known = kept.get(site);
    const changes = known?.changes ?? (await changesAt(captured, codes.site, codes.nodes));
    const errors = placed.place(changes, known?.errors);
    kept.delete(site);
    kept.set(site, { changes, errors });
    if (kept.size > keptSources) kept.delete([...kept.keys()][0]!);
    return { site, width: D, placeOf: codes.placeOf, changes, features: { codes, errors, placed } };
  };
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
  for (let row = 0; row < node.length; ) {
    const c = column[row]!;
    values.fill(0);
    let [error, total] = [0, 0];
    for (const first = row; row < node.length && column[row] === c && !(byNode && row > first); row++) {
      const place = placeOf[node[row]!]!;
      if (place < 0) continue;
      if (!features) {
        total += dot(v, row * D, changes, place * D, D);
        continue;
      }
      const [ofChange, ofError] = features.placed.contract(values, v, row, place);
      total += ofChange;
      error += ofError;
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
  const contractNodes = (c: number, begin: number, end: number) => {
    const { nodes, factors, direction } = columns[c]!;
    values.fill(0);
    const [places, own]: [number[], number[]] = [[], []];
    for (let i = begin; i < end; i++) {
      const place = placeOf[nodes[i]!]!;
      if (place < 0) continue;
      places.push(place);
      own.push(factors[i]!);
      if (!features) continue;
      const { offsets, liveAt, difference } = features.codes;
      for (let at = offsets[place]!; at < offsets[place + 1]!; at++) {
        values[liveAt[at]!]! += factors[i]! * difference[at]!;
      }
    }
    let [error, total] = [0, 0];
    if (features) [total, error] = features.placed.contractSums(values, direction!, places, own);
    else
      places.forEach((place, i) => {
        total += own[i]! * dot(changes, place * D, direction!, 0, D);
      });
    const sum = features ? sumFrom(error, values) : total;
    visit(c, { values, error, total, sum, ...(byNode && end > begin && { node: nodes[begin]! }) });
  };
  for (const [c, { nodes }] of columns.entries()) {
    if (!byNode || nodes.length === 0) contractNodes(c, 0, nodes.length);
    else for (let i = 0; i < nodes.length; i++) contractNodes(c, i, i + 1);
  }
}
