import { UserError } from "../errors.ts";
import type { Loops } from "../graph/loops/loops.ts";
import { compile, float32, int64, type Session, type SessionOptions, type Value } from "../graph/session.ts";
import { byteZero, input, matmulInteger } from "../graph/tensor.ts";
import { steps, type Watch } from "../progress.ts";
import type { Activation, Dictionary, EncoderPart } from "./dictionary.ts";
import { productError, type QuantisedRow, quantiseRow, roundUp } from "./quantise.ts";

/** What the product takes for activations x[rows,D]: normalised and without the input bias, [rows,D]. */
export type EncoderInputs = (part: EncoderPart) => Promise<Float32Array>;

/** z[N,U] = x[N,D] · (rows indices[U] of e[F,D])ᵀ + bias[indices], rounded as the dense codes are. */
export interface ExactProduct {
  readonly x: Float32Array;
  readonly e: Float32Array;
  readonly bias: Float32Array;
  readonly indices: ArrayLike<number>;
}

/** Pre-activations that may become codes: of each row its features in ascending order, all whose code is not 0 among them. */
export interface Found {
  readonly features: number[];
  readonly values: number[];
}

/** What the weights of a part take in memory at the peak, in bytes: as they are read twice over, in the memory of the loops, and as whole numbers. */
export const partBytes = 4 * 4 * 2 ** 25;

/** Features that are worked on at a time have about so many weights. */
const blockWeights = 2 ** 25;
/** Rows that are multiplied at once. */
const atOnce = 256;
/** Features whose products are looked at while they are near the processor: large products are slower, by a third. */
const slice = 1024;
/** Features whose rows stay near the processor while those that may be active are multiplied. */
const tile = 128;

/**
 * Finds the codes of wide dictionaries without the dense product, and yet the same numbers: a product of whole numbers of one byte, several times
 * faster, bounds every pre-activation from above (LOG, "Wide dictionaries"); where the bound reaches the threshold, a product in float32 is taken, with
 * a bound of its own; and what still may be active is computed by the product that dense codes are computed by.
 *
 * With x = m + s q + r, e_j = s_j q_j + r_j, m the mean of all rows: |⟨x, e_j⟩ − ⟨m, e_j⟩ − s s_j ⟨q, q_j⟩| = |⟨s q, r_j⟩ + ⟨r, e_j⟩| ≤ ‖s q‖·‖r_j‖ + ‖r‖·‖e_j‖.
 */
export class WideEncoder {
  readonly #loops: Loops;
  readonly #sessions: WideSessions;
  readonly #block: number | undefined;
  readonly #most: number | undefined;
  /** The share of candidates that the last sieve of this part left. */
  #sieved = 0;
  /** int8 weights of a part, whose memory serves the next one too. */
  #turned = new Int8Array(0);

  /**
   * @param block features at a time; default as many as have `blockWeights` weights
   * @param most largest whole number of a weight; default as large as byte products of this machine allow
   */
  constructor(loops: Loops, sessions: WideSessions, block?: number, most?: number) {
    this.#loops = loops;
    this.#sessions = sessions;
    this.#block = block;
    this.#most = most;
  }

  /**
   * Pre-activations z with z > θ, of `topk` the k largest and those equal to the k-th; all of them positive.
   *
   * @throws StoppedError if asked to stop
   */
  async find(dictionary: Dictionary, rows: number, inputsOf: EncoderInputs, watch: Watch = {}): Promise<Found[]> {
    const { inputWidth: D, featureCount: F } = dictionary;
    const partOf = await partsOf(dictionary);
    const most = this.#most ?? (await largestWeight(this.#sessions));
    const width = this.#block ?? Math.max(16, Math.floor(blockWeights / D / 16) * 16);
    const stride = Math.ceil(D / 16) * 16;
    const found: Found[] = Array.from({ length: rows }, () => ({ features: [], values: [] }));
    let inputs: { readonly x: Float32Array; readonly quantised: Quantised } | undefined;
    const limits = new Float64Array(rows);
    const step = steps(watch, F);
    for (let first = 0; first < F; first += width) {
      step(first);
      const part = await partOf(first, Math.min(F, first + width));
      if (!inputs) {
        const x = await inputsOf(part);
        inputs = { x, quantised: quantiseInputs(x, rows, D) };
      }
      const { x, quantised } = inputs;
      const room = roomFor(this.#loops, part.bias.length, stride, Math.min(rows, atOnce));
      const weights = await this.#takeIn(part, quantised, room, most);
      this.#sieved = 0;
      for (let from = 0; from < rows; from += atOnce) {
        const count = Math.min(atOnce, rows - from);
        const chunk = { x: x.subarray(from * D, (from + count) * D), from, count, D };
        const lists = await this.#reachable(chunk, part.activation, weights, quantised, room, limits);
        await this.#compute(chunk, lists, part, first, room, found, limits);
      }
    }
    return found;
  }

  /** Puts a part's rows and columns of the bound into the memory of the loops. @returns int8 weights [D,m] of `slice` features after the others */
  async #takeIn(
    { rows, bias, activation }: EncoderPart,
    { mean, meanLength }: Quantised,
    room: Room,
    most: number,
  ): Promise<Value[]> {
    const { n, stride } = room;
    const D = mean.length;
    const memory = this.#loops.memory.buffer;
    const held = new Float32Array(memory, room.rows, n * stride);
    const [scale, least, rest, norm, ownLeast] = columnsOf(memory, room);
    const rounded = new Int8Array(Math.min(n, slice) * D);
    if (this.#turned.length < n * D) this.#turned = new Int8Array(n * D);
    const slices: Value[] = [];
    const slack = productError(D);
    scale.fill(0);
    rest.fill(0);
    norm.fill(0);
    least.fill(-Infinity);
    for (let from = 0; from < n; from += slice) {
      const m = Math.min(slice, n - from);
      rounded.fill(0, (bias.length - from) * D);
      for (let i = from; i < Math.min(from + m, bias.length); i++) {
        const row = rows.subarray(i * D, (i + 1) * D);
        const lengths = quantiseRow(row, most, rounded.subarray((i - from) * D, (i - from + 1) * D));
        scale[i] = lengths.scale;
        rest[i] = lengths.rest;
        norm[i] = lengths.norm;
        const threshold = activation.kind === "jumprelu" ? activation.threshold[i]! : 0;
        const b = bias[i]!;
        let ofMean = 0;
        for (let d = 0; d < D; d++) ofMean += mean[d]! * row[d]!;
        const error = slack * (Math.abs(b) + Math.abs(threshold));
        ownLeast[i] = roundUp(b - threshold + error);
        // The sum of float64 numbers has an error of its own, far below 1e-9.
        const errorOfMean = slack * Math.abs(ofMean) + 1e-9 * meanLength * lengths.norm;
        least[i] = roundUp(b - threshold + ofMean + error + errorOfMean);
        held.set(row, i * stride);
        held.fill(0, i * stride + D, (i + 1) * stride);
      }
      const w = int8(this.#turned.subarray(from * D, (from + m) * D), D, m);
      await this.#sessions.turn.run({ w: int8(rounded.subarray(0, m * D), m, D) }, { turned: w });
      slices.push(w);
    }
    return slices;
  }

  /** Of each row of a chunk, the features that may be active, and where they are listed. */
  async #reachable(
    { x, from, count, D }: Chunk,
    activation: Activation,
    weights: readonly Value[],
    quantised: Quantised,
    room: Room,
    limits: Float64Array,
  ): Promise<Lists> {
    const { n, stride } = room;
    const loops = this.#loops;
    const memory = loops.memory.buffer;
    const held = new Float32Array(memory, room.x, (count + 1) * stride).fill(0);
    for (let r = 0; r < count; r++) held.set(x.subarray(r * D, (r + 1) * D), r * stride);
    const slack = productError(D);
    const bounds = quantised.rows.slice(from, from + count).map(({ scale, rest, norm, length }) => ({
      scale,
      rest: roundUp(norm + rest),
      norm: roundUp(rest + slack * (length + norm + rest)),
    }));
    const largest = bounds.map((_, r) =>
      activation.kind === "topk" && limits[from + r] === 0 ? new Largest(activation.k) : undefined,
    );
    const lists = { counts: new Int32Array(count), at: Int32Array.from(bounds, (_, r) => room.lists + 4 * n * r) };
    const q: Value = { dtype: "uint8", data: quantised.q.subarray(from * D, (from + count) * D), shape: [count, D] };
    for (const [k, w] of weights.entries()) {
      const [first, m] = [k * slice, w.shape[1]!];
      const products = new Int32Array(memory, room.products, count * m);
      await this.#sessions.product.run({ q, w }, { p: { dtype: "int32", data: products, shape: [count, m] } });
      for (const [r, bound] of bounds.entries()) {
        const heap = largest[r];
        if (heap) {
          addLowerBounds(heap, products.subarray(r * m, (r + 1) * m), columnsOf(memory, room, first), bound, slack);
          limits[from + r] = Math.max(0, heap.least());
        }
        const into = lists.at[r]! + 4 * lists.counts[r]!;
        const limit = below(limits[from + r]!);
        const [at, { scale, rest, norm }] = [room.products + 4 * m * r, bound];
        lists.counts[r]! += loops.possible(at, m, room.columns, n, first, into, scale, rest, norm, limit);
      }
    }
    const candidates = lists.counts.reduce((sum, found) => sum + found, 0);
    if (this.#sieved < worthSieving && candidates <= mostNear * count * n) {
      this.#sieve({ from, count }, lists, quantised, room, limits);
      if (candidates > 0) this.#sieved = lists.counts.reduce((sum, found) => sum + found, 0) / candidates;
    }
    return lists;
  }

  /** Keeps the features in the lists that may be active by their product in float32. A tile of features after another: their rows are read once. */
  #sieve(
    { from, count }: Pick<Chunk, "from" | "count">,
    lists: Lists,
    quantised: Quantised,
    room: Room,
    limits: Float64Array,
  ): void {
    const { n, stride } = room;
    const { memory, near } = this.#loops;
    const all = new Int32Array(memory.buffer, room.lists, count * n);
    const slack = productError(stride);
    const [next, kept] = [new Int32Array(count), new Int32Array(count)];
    for (let end = tile; end < n + tile; end += tile) {
      for (let r = 0; r < count; r++) {
        const start = next[r]!;
        let stop = start;
        while (stop < lists.counts[r]! && all[r * n + stop]! < end) stop++;
        if (stop === start) continue;
        next[r] = stop;
        const [list, into] = [lists.at[r]! + 4 * start, lists.at[r]! + 4 * kept[r]!];
        const norm = roundUp(2 * slack * quantised.rows[from + r]!.length);
        const limit = below(limits[from + r]!);
        const x = room.x + 4 * stride * r;
        kept[r]! += near(x, stride, room.rows, n, room.columns + 12 * n, list, stop - start, into, norm, limit);
      }
    }
    lists.counts.set(kept);
  }

  /** Computes what is listed exactly, and adds what is active to `found`. */
  async #compute(
    { from, count, D }: Chunk,
    lists: Lists,
    { bias, activation }: EncoderPart,
    first: number,
    { n, stride, rows, x: inputs }: Room,
    found: Found[],
    limits: Float64Array,
  ): Promise<void> {
    const memory = this.#loops.memory.buffer;
    const e = new Float32Array(memory, rows, n * stride);
    const listed = Array.from({ length: count }, (_, r) => new Int32Array(memory, lists.at[r]!, lists.counts[r]!));
    for (const group of groupsOf(listed, n, D)) {
      // One row alone would be multiplied in another order of sums: the next one, or zeros, goes along.
      const N = Math.max(2, group.end - group.from);
      const x = new Float32Array(memory, inputs + 4 * stride * group.from, N * stride);
      for (let at = 0; at < group.features.length; at += mostColumns) {
        const features = group.features.subarray(at, at + mostColumns);
        const U = Math.max(leastColumns, features.length);
        const indices = new Int32Array(U);
        indices.set(features);
        const place = new Map<number, number>();
        for (let k = 0; k < features.length; k++) place.set(features[k]!, k);
        const z = await this.#exact({ x, e, bias, indices }, stride);
        for (let r = group.from; r < group.end; r++) {
          const { features: own, values } = found[from + r]!;
          for (const i of listed[r]!) {
            const k = place.get(i);
            if (k === undefined) continue;
            const value = z[(r - group.from) * U + k]!;
            const threshold = activation.kind === "jumprelu" ? activation.threshold[i]! : 0;
            if (!(value > threshold)) continue;
            own.push(first + i);
            values.push(value);
          }
        }
      }
    }
    if (activation.kind === "topk") for (let r = 0; r < count; r++) keepLargest(found, limits, from + r, activation.k);
  }

  async #exact({ x, e, bias, indices }: ExactProduct, D: number): Promise<Float32Array> {
    const { z } = await this.#sessions.exact.run({
      x: float32(x, x.length / D, D),
      e: float32(e, e.length / D, D),
      bias: float32(bias, bias.length),
      indices: int64(indices, indices.length),
    });
    return z.data as Float32Array;
  }
}

/** Where more than this share of candidates stays, the bound of the whole numbers is good enough alone. */
const worthSieving = 0.7;
/** Above this share of all pairs of rows and features, the sieve would cost more than it saves. */
const mostNear = 0.06;
/** Fewer columns would be summed in another order than those of a dense product. */
const leastColumns = 80;
const mostColumns = 2048;

interface Chunk {
  readonly x: Float32Array;
  /** The first of its rows, and how many there are. */
  readonly from: number;
  readonly count: number;
  readonly D: number;
}

/** Of each row of a chunk, how many features are listed, and at which byte. */
interface Lists {
  readonly counts: Int32Array;
  readonly at: Int32Array;
}

/** Where things lie in the memory of the loops, in bytes. */
interface Room {
  /** Features, filled up to a multiple of 16. */
  readonly n: number;
  readonly stride: number;
  /** float32 [n,stride] */
  readonly rows: number;
  /** float32 [5,n]: scale, product with the mean plus bias less threshold, length of the rest, length, bias less threshold */
  readonly columns: number;
  /** float32 [rows at once + 1, stride] */
  readonly x: number;
  /** int32 [rows at once, slice] */
  readonly products: number;
  /** int32 [rows at once, n], of each row the features that may be active */
  readonly lists: number;
}

function roomFor(loops: Loops, features: number, stride: number, atOnce: number): Room {
  const n = Math.ceil(features / 16) * 16;
  const columns = 4 * n * stride;
  const x = columns + 20 * n;
  const products = x + 4 * stride * (atOnce + 1);
  const lists = products + 4 * slice * atOnce;
  loops.reserve(lists + 4 * n * atOnce);
  return { n, stride, rows: 0, columns, x, products, lists };
}

type Columns = readonly [
  scale: Float32Array,
  least: Float32Array,
  rest: Float32Array,
  norm: Float32Array,
  ownLeast: Float32Array,
];

/** The columns of features from the first on. */
function columnsOf(memory: ArrayBuffer, { columns, n }: Room, first = 0): Columns {
  const column = (k: number) => new Float32Array(memory, columns + 4 * (n * k + first), n - first);
  return [column(0), column(1), column(2), column(3), column(4)];
}

interface Quantised {
  /** uint8 [rows,D], as `matmulInteger` takes them */
  readonly q: Uint8Array;
  readonly rows: readonly (QuantisedRow & { /** Of x itself. */ readonly length: number })[];
  /** What all rows have in common is multiplied apart, without rounding: float32 [D], and its length. */
  readonly mean: Float32Array;
  readonly meanLength: number;
}

function quantiseInputs(x: Float32Array, rows: number, D: number): Quantised {
  const [q, row, centred] = [new Uint8Array(rows * D), new Int8Array(D), new Float32Array(D)];
  const sums = new Float64Array(D);
  for (let r = 0; r < rows; r++) for (let d = 0; d < D; d++) sums[d]! += x[r * D + d]!;
  const mean = Float32Array.from(sums, (sum) => sum / rows);
  const lengths = Array.from({ length: rows }, (_, r) => {
    let squares = 0;
    for (let d = 0; d < D; d++) {
      const value = x[r * D + d]!;
      centred[d] = value - mean[d]!;
      squares += value * value;
    }
    const known = { ...quantiseRow(centred, 127, row), length: roundUp(Math.sqrt(squares)) };
    if (!(known.length < 1e18 && known.norm < 1e18)) {
      throw new UserError(
        "activations: expected numbers below 1e18, got others. The model overflows; check its weights.",
      );
    }
    for (let d = 0; d < D; d++) q[r * D + d] = row[d]! + byteZero;
    return known;
  });
  return { q, rows: lengths, mean, meanLength: Math.sqrt(mean.reduce((sum, value) => sum + value * value, 0)) };
}

/** The parts of a dictionary's encoder; of one without parts, from its weights in memory. */
async function partsOf(dictionary: Dictionary): Promise<(first: number, end: number) => Promise<EncoderPart>> {
  if (dictionary.encoderPart) return (first, end) => dictionary.encoderPart!(first, end);
  const { weight, bias, activation, ...rest } = await dictionary.encoder();
  const F = bias.length;
  const D = weight.length / F;
  return async (first, end) => {
    const rows = new Float32Array((end - first) * D);
    for (let d = 0; d < D; d++) for (let i = first; i < end; i++) rows[(i - first) * D + d] = weight[d * F + i]!;
    const own: Activation =
      activation.kind === "jumprelu"
        ? { kind: "jumprelu", threshold: activation.threshold.subarray(first, end) }
        : activation;
    return { ...rest, rows, bias: bias.subarray(first, end), activation: own };
  };
}

/** A float32 number below a limit, so that what equals the limit is found too; 0 itself is none of the codes. */
function below(limit: number): number {
  return limit === 0 ? 0 : Math.fround(limit - 4 * 2 ** -24 * Math.abs(limit));
}

/** Adds lower bounds of a row's pre-activations. */
function addLowerBounds(
  largest: Largest,
  products: Int32Array,
  [scale, least, rest, norm]: Columns,
  bound: QuantisedRow,
  slack: number,
): void {
  for (let i = 0; i < products.length; i++) {
    // Of TopK `least` is the bias, rounded up by its share of the error.
    const error = rest[i]! * bound.rest + norm[i]! * bound.norm + 4 * slack * Math.abs(least[i]!) + 1e-36;
    largest.add(products[i]! * scale[i]! * bound.scale + least[i]! - error);
  }
}

/** The k largest of numbers that come one after another. */
class Largest {
  readonly #k: number;
  /** A heap: no number is larger than the two below it. */
  readonly #heap: Float64Array;
  #size = 0;

  constructor(k: number) {
    this.#k = k;
    this.#heap = new Float64Array(k);
  }

  add(value: number): void {
    const heap = this.#heap;
    if (this.#size < this.#k) {
      let at = this.#size++;
      while (at > 0 && heap[(at - 1) >> 1]! > value) {
        heap[at] = heap[(at - 1) >> 1]!;
        at = (at - 1) >> 1;
      }
      heap[at] = value;
      return;
    }
    if (!(value > heap[0]!)) return;
    let at = 0;
    for (let child = 1; child < this.#k; child = 2 * at + 1) {
      if (child + 1 < this.#k && heap[child + 1]! < heap[child]!) child++;
      if (heap[child]! >= value) break;
      heap[at] = heap[child]!;
      at = child;
    }
    heap[at] = value;
  }

  /** The k-th largest. */
  least(): number {
    return this.#size < this.#k ? -Infinity : this.#heap[0]!;
  }
}

/** Of a row's numbers, keeps those that are not below its k-th largest, which becomes its limit. */
function keepLargest(found: Found[], limits: Float64Array, row: number, k: number): void {
  const { features, values } = found[row]!;
  if (values.length < k) return;
  const kth = Float64Array.from(values).sort().at(-k)!;
  limits[row] = Math.max(limits[row]!, kth);
  const kept = values.flatMap((value, at) => (value >= kth ? [at] : []));
  found[row] = { features: kept.map((at) => features[at]!), values: kept.map((at) => values[at]!) };
}

/** Rows of a chunk that are multiplied together, with the features that at least one of them lists. */
interface Group {
  readonly from: number;
  readonly end: number;
  readonly features: Int32Array;
}

/**
 * Rows in groups: a column costs its copy once for a group, and a product for each of its rows, whether the row lists it or not.
 *
 * @param n features are below it
 */
function groupsOf(listed: readonly Int32Array[], n: number, D: number): Group[] {
  const seen = new Int32Array(n);
  let stamp = 0;
  const union = (from: number, end: number): Int32Array => {
    stamp++;
    const features: number[] = [];
    for (let r = from; r < end; r++) {
      for (const i of listed[r]!) {
        if (seen[i] === stamp) continue;
        seen[i] = stamp;
        features.push(i);
      }
    }
    return Int32Array.from(features).sort();
  };
  // In products of D numbers: of rows with a column, of a column's copy, and of a call.
  const cost = (rows: number, columns: number) =>
    columns === 0 ? 0 : Math.max(columns, leastColumns) * (rows + columnCost) + callCost / D;
  const split = (from: number, end: number, features: Int32Array): Group[] => {
    const whole = cost(end - from, features.length);
    if (whole === 0) return [];
    if (end - from === 1) return [{ from, end, features }];
    const middle = (from + end) >> 1;
    const halves = [split(from, middle, union(from, middle)), split(middle, end, union(middle, end))].flat();
    const apart = halves.reduce((sum, group) => sum + cost(group.end - group.from, group.features.length), 0);
    return apart < whole ? halves : [{ from, end, features }];
  };
  return split(0, listed.length, union(0, listed.length));
}

const columnCost = 75;
const callCost = 2e6;

function int8(data: Int8Array, ...shape: number[]): Value {
  return { dtype: "int8", data, shape };
}

/** The graphs of `WideEncoder`, for all widths. */
export interface WideSessions {
  /** uint8 q[N,D], int8 w[D,F] → int32 p[N,F] */
  readonly product: Session<"q" | "w", "p">;
  /** int8 w[F,D] → turned[D,F] */
  readonly turn: Session<"w", "turned">;
  /** `ExactProduct` → z[N,U] */
  readonly exact: Session<keyof ExactProduct, "z">;
  /** The largest whole number of a weight with which `product` is exact. */
  largestWeight?: number;
  release(): Promise<void>;
}

/**
 * Opens the graphs. The exact product is the dense one of columns that are copied first, on one thread, so that no piece of it is too small for the
 * same order of sums.
 */
export async function openWide(options: SessionOptions): Promise<WideSessions> {
  const [q, w] = [input("q", "uint8", ["N", "D"]), input("w", "int8", ["D", "F"])];
  const [x, e] = [input("x", "float32", ["N", "D"]), input("e", "float32", ["F", "D"])];
  const [bias, indices] = [input("bias", "float32", ["F"]), input("indices", "int64", ["U"])];
  const z = x.matmul(e.gather(indices), { transB: true }).add(bias.gather(indices));
  const [product, turn, exact] = await Promise.all([
    compile({ p: matmulInteger(q, w) }, options),
    compile({ turned: input("w", "int8", ["F", "D"]).transpose(1, 0) }, options),
    compile({ z }, { ...options, threads: 1 }),
  ]);
  return {
    product,
    turn,
    exact,
    async release() {
      await Promise.all([product.release(), turn.release(), exact.release()]);
    },
  };
}

/**
 * The largest whole number of a weight with which byte products are exact here: some processors add two products in 16 bits, which saturate (255·127·2),
 * unless weights have 7 bits (255·63·2).
 */
async function largestWeight(sessions: WideSessions): Promise<number> {
  sessions.largestWeight ??= (await isExact(sessions)) ? 127 : 63;
  return sessions.largestWeight;
}

/** Whether the largest sums of byte products come out right. */
async function isExact({ product }: WideSessions): Promise<boolean> {
  const [N, K, F] = [8, 64, 64];
  const w = Int8Array.from({ length: K * F }, (_, at) => (at % F < F / 2 ? 127 : -127));
  const q = Uint8Array.from({ length: N * K }, (_, at) => (Math.floor(at / K) % 2 === 0 ? 255 : 1));
  const { p } = await product.run({
    q: { dtype: "uint8", data: q, shape: [N, K] },
    w: { dtype: "int8", data: w, shape: [K, F] },
  });
  return (p.data as Int32Array).every((sum, at) => {
    const sign = (at % F < F / 2 ? 1 : -1) * (Math.floor(at / F) % 2 === 0 ? 1 : -1);
    return sum === sign * 127 * 127 * K;
  });
}
