import { readsInPlace } from "#session";
import { UserError } from "../errors.ts";
import { fusedGroup, type Loops } from "../graph/loops/loops.ts";
import { compile, float32, int64, type Session, type SessionOptions, type Value } from "../graph/session.ts";
import { byteZero, input, matmulInteger } from "../graph/tensor.ts";
import { steps, type Watch } from "../progress.ts";
import { Random } from "../random.ts";
import type { Activation, Dictionary, EncoderPart } from "./dictionary.ts";
import { productError, type QuantisedRow, quantiseRow, type RowPlace, roundUp, rowPlace } from "./quantise.ts";

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

/** Features that are worked on at a time have about so many weights, zeros that rows are filled up with included, and are no more than that. */
const blockWeights = 2 ** 25;
const mostAtOnce = 2 ** 14;
/** Rows that are multiplied at once. */
const atOnce = 512;
/** Features whose products are looked at while they are near the processor: large products are slower, by a third. */
const slice = 1024;
/** Features whose rows stay near the processor while those that may be active are multiplied. */
const tile = 128;
/** The same of the fused product, which sees a feature in few of the rows. */
const fusedTile = 64;
/** Directions in which rows differ most are multiplied apart: so many of them, found in so many rows, each with more than this share of what is left. */
const mostDirections = 16;
const sampleRows = 256;
const leastShare = 0.02;
/** Pairs of a row and a feature that a fused product is given at once, if no row alone has more. */
const pairsAtOnce = 2 ** 17;

/** The rule by which about as large a share of some features is active as of all, of which they are this share. */
function sampled(activation: Activation, share: number): Activation {
  return activation.kind === "topk" ? { kind: "topk", k: Math.ceil(activation.k * share) } : activation;
}

/** What `find` does besides finding codes. */
export interface FindOptions extends Watch {
  /** Gives up where a larger share of all codes has to be computed: the dense product would be faster. */
  readonly mostCandidates?: number;
}

/**
 * Finds the codes of wide dictionaries without the dense product, and yet the same numbers: a product of whole numbers of one byte, several times
 * faster, bounds every pre-activation from above (LOG, "Wide dictionaries"), and where the bound reaches the threshold, the pre-activation is computed
 * with the roundings of the dense product: in a loop where sums come out alike (`sumsAlike`), else by the runtime, after a product in float32 has
 * told, with a bound of its own, that it is worth it.
 *
 * With x = m + Σ c_k v_k + s q + r and e_j = s_j q_j + r_j, where m is the mean of all rows and v_k are the directions in which they differ most:
 * |⟨x, e_j⟩ − ⟨m, e_j⟩ − Σ c_k ⟨v_k, e_j⟩ − s s_j ⟨q, q_j⟩| = |⟨s q, r_j⟩ + ⟨r, e_j⟩| ≤ ‖s q‖·‖r_j‖ + ‖r‖·‖e_j‖. Activations of language models differ
 * in few directions far more than in others, so that what is rounded is small.
 */
export class WideEncoder {
  readonly #loops: Loops;
  readonly #sessions: WideSessions;
  readonly #block: number | undefined;
  readonly #most: number | undefined;
  readonly #directions: number | undefined;
  /** The share of candidates that the last sieve of this part left. */
  #sieved = 0;
  /** int8 weights of a part, whose memory serves the next one too. */
  #turned = new Int8Array(0);

  /**
   * @param block features at a time; default as many as have `blockWeights` weights
   * @param most largest whole number of a weight; default as large as byte products of this machine allow
   * @param directions most directions that are multiplied apart
   */
  constructor(loops: Loops, sessions: WideSessions, block?: number, most?: number, directions?: number) {
    this.#loops = loops;
    this.#sessions = sessions;
    this.#block = block;
    this.#most = most;
    this.#directions = directions;
  }

  /**
   * Pre-activations z with z > θ, of `topk` the k largest and those equal to the k-th; all of them positive.
   *
   * @returns undefined where it gave up
   * @throws StoppedError if asked to stop
   */
  async find(
    dictionary: Dictionary,
    rows: number,
    inputsOf: EncoderInputs,
    { mostCandidates = 1, ...watch }: FindOptions = {},
  ): Promise<Found[] | undefined> {
    const { inputWidth: D, featureCount: F } = dictionary;
    const partOf = await partsOf(dictionary);
    const most = this.#most ?? (await largestWeight(this.#sessions));
    const fused = await sumsAlike(this.#loops, this.#sessions, D);
    const place = rowPlace(D, fused ? fusedGroup : 16);
    const width = this.#block ?? Math.max(16, Math.min(mostAtOnce, Math.floor(blockWeights / place.width / 16) * 16));
    let inputs: { readonly x: Float32Array; readonly quantised: Quantised } | undefined;
    const prepare = async (first: number, end: number) => {
      const part = await partOf(first, end);
      if (!inputs) {
        const x = await inputsOf(part);
        const most = this.#directions ?? mostDirections;
        inputs = { x, quantised: await quantiseInputs(this.#loops, this.#sessions, place, x, rows, most) };
      }
      const room = roomFor(this.#loops, place, part, Math.min(rows, atOnce), fused);
      const weights = await this.#takeIn(part, inputs.quantised, room, most);
      const along = await this.#along(part, inputs.quantised, room.n);
      this.#sieved = 0;
      return { ...inputs, part, room, weights: { slices: weights, along } };
    };
    const chunkAt = (x: Float32Array, from: number): Chunk => {
      const count = Math.min(atOnce, rows - from);
      return { x: x.subarray(from * D, (from + count) * D), from, count, D };
    };
    let [candidates, seen] = [0, 0];
    const isTooMany = ({ counts }: Lists, features: number) => {
      candidates += counts.reduce((sum, listed) => sum + listed, 0);
      seen += counts.length * features;
      return candidates > mostCandidates * seen;
    };
    if (mostCandidates < 1) {
      // A first look at a few features, which costs little where it is the last.
      const { x, quantised, part, room, weights } = await prepare(0, Math.min(F, slice));
      const sample = sampled(part.activation, part.bias.length / F);
      const lists = await this.#reachable(chunkAt(x, 0), sample, weights, quantised, room, new Float64Array(rows));
      if (isTooMany(lists, part.bias.length)) return undefined;
    }
    const found: Found[] = Array.from({ length: rows }, () => ({ features: [], values: [] }));
    const limits = new Float64Array(rows);
    const step = steps(watch, F);
    for (let first = 0; first < F; first += width) {
      step(first);
      const { x, quantised, part, room, weights } = await prepare(first, Math.min(F, first + width));
      for (let from = 0; from < rows; from += atOnce) {
        const chunk = chunkAt(x, from);
        const lists = await this.#reachable(chunk, part.activation, weights, quantised, room, limits);
        if (isTooMany(lists, part.bias.length)) return undefined;
        if (fused) this.#computeFused(chunk, lists, part, first, room, found, limits);
        else await this.#compute(chunk, lists, part, first, room, found, limits);
      }
    }
    return found;
  }

  /** ⟨v_k, e_j⟩ of a part, [n,K]. */
  async #along({ rows, bias }: EncoderPart, { directions, mean }: Quantised, n: number): Promise<Float32Array> {
    const [K, D] = [directions.length / mean.length, mean.length];
    const along = new Float32Array(n * K);
    if (K === 0) return along;
    const { p } = await this.#sessions.transposed.run({
      a: float32(rows, bias.length, D),
      b: float32(directions, K, D),
    });
    along.set(p.data as Float32Array);
    return along;
  }

  /** Puts a part's rows and columns of the bound into the memory of the loops. @returns int8 weights [D,m] of `slice` features after the others */
  async #takeIn(
    { rows, bias, activation }: EncoderPart,
    { mean, meanLength }: Quantised,
    room: Room,
    most: number,
  ): Promise<Value[]> {
    const { n, place } = room;
    const D = mean.length;
    const memory = this.#loops.memory.buffer;
    const row = new Float32Array(memory, place.v, place.width).fill(0);
    new Float32Array(memory, place.g, place.width).fill(0).set(mean);
    const whole = new Int8Array(memory, place.q, D);
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
      rounded.fill(0, Math.max(0, bias.length - from) * D);
      for (let i = from; i < Math.min(from + m, bias.length); i++) {
        row.set(rows.subarray(i * D, (i + 1) * D));
        const known = quantiseRow(this.#loops, place, most, 0);
        rounded.set(whole, (i - from) * D);
        scale[i] = known.scale;
        rest[i] = known.rest;
        norm[i] = known.norm;
        const threshold = activation.kind === "jumprelu" ? activation.threshold[i]! : 0;
        const b = bias[i]!;
        const ofMean = known.product;
        const error = slack * (Math.abs(b) + Math.abs(threshold));
        ownLeast[i] = roundUp(b - threshold + error);
        // The sum of float64 numbers has an error of its own, far below 1e-9.
        const errorOfMean = slack * Math.abs(ofMean) + 1e-9 * meanLength * known.norm;
        least[i] = roundUp(b - threshold + ofMean + error + errorOfMean);
        this.#hold(room, room.rows, i);
      }
      const w = int8(this.#turned.subarray(from * D, (from + m) * D), D, m);
      await this.#sessions.turn.run({ w: int8(rounded.subarray(0, m * D), m, D) }, { turned: w });
      slices.push(w);
    }
    return slices;
  }

  /** Copies the row that lies at its place to the i-th of the rows, as the product takes them. */
  #hold({ place, fused }: Room, rows: number, i: number): void {
    const [{ memory, inBlocks }, at] = [this.#loops, rows + 4 * place.width * i];
    if (fused) inBlocks(place.v, place.width / fusedGroup, at);
    else new Uint8Array(memory.buffer).copyWithin(at, place.v, place.v + 4 * place.width);
  }

  /** Of each row of a chunk, the features that may be active, and where they are listed. */
  async #reachable(
    { x, from, count, D }: Chunk,
    activation: Activation,
    { slices, along }: Weights,
    quantised: Quantised,
    room: Room,
    limits: Float64Array,
  ): Promise<Lists> {
    const { n, place } = room;
    const loops = this.#loops;
    const memory = loops.memory.buffer;
    const row = new Float32Array(memory, place.v, place.width).fill(0);
    for (let r = 0; r < count; r++) {
      row.set(x.subarray(r * D, (r + 1) * D));
      this.#hold(room, room.x, r);
    }
    if (!room.fused) {
      row.fill(0);
      this.#hold(room, room.x, count);
    }
    const slack = productError(D);
    const bounds = quantised.rows.slice(from, from + count).map(({ scale, rest, norm, length, reach }) => ({
      scale,
      rest: roundUp(norm + rest),
      // Products along the directions have errors of their own, and so has what they leave.
      norm: roundUp(rest + slack * (length + norm + rest + 2 * reach)),
    }));
    const lists = { counts: new Int32Array(count), at: Int32Array.from(bounds, (_, r) => room.lists + 4 * n * r) };
    const q: Value = { dtype: "uint8", data: quantised.q.subarray(from * D, (from + count) * D), shape: [count, D] };
    const K = along.length / n;
    const apart = float32(quantised.along.subarray(from * K, (from + count) * K), count, K);
    if (K === 0) new Float32Array(memory, room.apart, slice).fill(0);
    /** Products of a slice, and what is multiplied apart: of a row at these places. */
    const multiply = async (k: number, offset: number) => {
      const m = slices[k]!.shape[1]!;
      const [products, base] = [room.products + offset, room.apart + offset];
      const p: Value = { dtype: "int32", data: new Int32Array(memory, products, count * m), shape: [count, m] };
      await this.#sessions.product.run({ q, w: slices[k]! }, { p });
      if (K > 0) {
        const b = float32(along.subarray(k * slice * K, (k * slice + m) * K), m, K);
        const sums = float32(new Float32Array(memory, base, count * m), count, m);
        await this.#sessions.transposed.run({ a: apart, b }, { p: sums });
      }
      return {
        m,
        first: k * slice,
        places: (r: number) => [products + 4 * m * r, K > 0 ? base + 4 * m * r : base] as const,
      };
    };
    type Slice = Awaited<ReturnType<typeof multiply>>;
    const list = ({ m, first, places }: Slice) => {
      for (const [r, { scale, rest, norm }] of bounds.entries()) {
        const into = lists.at[r]! + 4 * lists.counts[r]!;
        const limit = below(limits[from + r]!);
        const [at, base] = places(r);
        lists.counts[r]! += loops.possible(at, base, m, room.columns, n, first, into, scale, rest, norm, limit);
      }
    };
    // Of TopK the k-th largest lower bound of the part comes first: it keeps most features from being listed.
    const heaps =
      activation.kind === "topk" && limits.subarray(from, from + count).some((limit) => limit === 0)
        ? bounds.map(() => new Largest(activation.k))
        : undefined;
    const multiplied: Slice[] = [];
    for (const k of slices.keys()) {
      const one = await multiply(k, heaps ? 4 * slice * count * k : 0);
      if (!heaps) {
        list(one);
        continue;
      }
      multiplied.push(one);
      for (const [r, heap] of heaps.entries()) {
        const [at, base] = one.places(r);
        const [products, apart] = [new Int32Array(memory, at, one.m), new Float32Array(memory, base, one.m)];
        addLowerBounds(heap, products, apart, columnsOf(memory, room, one.first), bounds[r]!, slack);
      }
    }
    for (const [r, heap] of heaps?.entries() ?? []) limits[from + r] = Math.max(limits[from + r]!, heap.least());
    for (const one of multiplied) list(one);
    const candidates = lists.counts.reduce((sum, found) => sum + found, 0);
    if (!room.fused && this.#sieved < worthSieving && candidates <= mostNear * count * n) {
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
    const { n } = room;
    const stride = room.place.width;
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

  /** Computes what is listed as the dense product does, and adds what is active to `found`. */
  #computeFused(
    { from, count }: Chunk,
    lists: Lists,
    { bias, activation }: EncoderPart,
    first: number,
    room: Room,
    found: Found[],
    limits: Float64Array,
  ): void {
    const { n, place } = room;
    const { memory, fused } = this.#loops;
    const bytes = 4 * place.width;
    const all = new Int32Array(memory.buffer, room.lists, count * n);
    const pairs = new Int32Array(memory.buffer, room.pairs, 3 * (room.mostPairs + 4));
    const z = new Float32Array(memory.buffer, room.values, room.mostPairs + 1);
    for (let begin = 0, end = 0; begin < count; begin = end) {
      // Of each row, where its values begin, and which of its features comes next.
      const [starts, next] = [new Int32Array(count), new Int32Array(count)];
      let total = 0;
      for (; end < count && total + lists.counts[end]! <= room.mostPairs; end++) {
        starts[end] = total;
        total += lists.counts[end]!;
      }
      let at = 0;
      const add = (r: number, i: number, to: number) => {
        pairs[at++] = room.x + bytes * r;
        pairs[at++] = room.rows + bytes * i;
        pairs[at++] = room.values + 4 * to;
      };
      for (let tileEnd = fusedTile; at < 3 * total; tileEnd += fusedTile) {
        for (let r = begin; r < end; r++) {
          let k = next[r]!;
          for (; k < lists.counts[r]! && all[r * n + k]! < tileEnd; k++) add(r, all[r * n + k]!, starts[r]! + k);
          next[r] = k;
        }
      }
      while (at % 12 !== 0) add(begin, 0, room.mostPairs);
      if (total > 0) fused!(room.pairs, at / 3, place.width / fusedGroup);
      for (let r = begin; r < end; r++) {
        const { features, values } = found[from + r]!;
        for (let k = 0; k < lists.counts[r]!; k++) {
          const i = all[r * n + k]!;
          const value = Math.fround(z[starts[r]! + k]! + bias[i]!);
          const threshold = activation.kind === "jumprelu" ? activation.threshold[i]! : 0;
          if (!(value > threshold)) continue;
          features.push(first + i);
          values.push(value);
        }
      }
    }
    if (activation.kind === "topk") for (let r = 0; r < count; r++) keepLargest(found, limits, from + r, activation.k);
  }

  /** The same by the runtime's product of rows and features that are gathered first. */
  async #compute(
    { from, count, D }: Chunk,
    lists: Lists,
    { bias, activation }: EncoderPart,
    first: number,
    { n, place: { width: stride }, rows, x: inputs }: Room,
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

/** Weights of a part: int8 [D,m] of `slice` features after the others, and ⟨v_k, e_j⟩, [n,K]. */
interface Weights {
  readonly slices: readonly Value[];
  readonly along: Float32Array;
}

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
  /** Whether rows are laid out by `inBlocks`. */
  readonly fused: boolean;
  readonly place: RowPlace;
  /** Features, filled up to a multiple of 16. */
  readonly n: number;
  readonly atOnce: number;
  /** float32 [n,width] */
  readonly rows: number;
  /** float32 [5,n]: scale, product with the mean plus bias less threshold, length of the rest, length, bias less threshold */
  readonly columns: number;
  /** float32 [rows at once + 1, width] */
  readonly x: number;
  /** int32 [rows at once, slice]; of TopK [rows at once, n] */
  readonly products: number;
  /** float32, as many: what is multiplied apart. */
  readonly apart: number;
  /** int32 [rows at once, n], of each row the features that may be active */
  readonly lists: number;
  /** int32 [pairs, 3], what `fused` takes, and float32 [pairs], what it makes */
  readonly mostPairs: number;
  readonly pairs: number;
  readonly values: number;
}

function roomFor(
  loops: Loops,
  place: ReturnType<typeof rowPlace>,
  { bias, activation }: EncoderPart,
  atOnce: number,
  fused: boolean,
): Room {
  const n = Math.ceil(bias.length / 16) * 16;
  const rows = place.bytes;
  const columns = rows + 4 * n * place.width;
  const x = columns + 20 * n;
  const products = x + 4 * place.width * (atOnce + 1);
  const apart = products + 4 * (activation.kind === "topk" ? n : slice) * atOnce;
  const lists = 2 * apart - products;
  const pairs = lists + 4 * n * atOnce;
  const mostPairs = fused ? Math.max(n, pairsAtOnce) : 0;
  const values = pairs + 12 * (mostPairs + 4);
  loops.reserve(values + 4 * (mostPairs + 1));
  return { fused, place, n, atOnce, rows, columns, x, products, apart, lists, mostPairs, pairs, values };
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
  readonly rows: readonly (QuantisedRow & {
    /** Of x itself. */
    readonly length: number;
    /** Σ |c_k| ‖v_k‖ */
    readonly reach: number;
  })[];
  /** What all rows have in common is multiplied apart, without rounding: float32 [D], and its length. */
  readonly mean: Float32Array;
  readonly meanLength: number;
  /** float32 v[K,D] and c[rows,K] */
  readonly directions: Float32Array;
  readonly along: Float32Array;
}

async function quantiseInputs(
  loops: Loops,
  { split, transposed }: WideSessions,
  place: RowPlace & { readonly bytes: number },
  x: Float32Array,
  rows: number,
  mostDirections: number,
): Promise<Quantised> {
  const D = x.length / rows;
  loops.reserve(place.bytes);
  const sums = new Float64Array(D);
  for (let r = 0; r < rows; r++) for (let d = 0; d < D; d++) sums[d]! += x[r * D + d]!;
  const mean = Float32Array.from(sums, (sum) => sum / rows);
  const centredRows = (count: number, rowAt: (r: number) => number) => {
    const centred = new Float32Array(count * D);
    for (let r = 0; r < count; r++) {
      const from = rowAt(r) * D;
      for (let d = 0; d < D; d++) centred[r * D + d] = x[from + d]! - mean[d]!;
    }
    return centred;
  };
  const sampled = Math.min(rows, sampleRows);
  const sample = centredRows(sampled, (r) => Math.floor((r * rows) / sampled));
  const { p } = await transposed.run({ a: float32(sample, sampled, D), b: float32(sample, sampled, D) });
  const weights = directionsOf(p.data as Float32Array, sampled, Math.min(mostDirections, Math.floor(sampled / 8)));
  const K = weights.length;
  const vectors: Float64Array[] = [];
  for (const of of weights) {
    const v = new Float64Array(D);
    for (let r = 0; r < sampled; r++) for (let d = 0; d < D; d++) v[d]! += of[r]! * sample[r * D + d]!;
    vectors.push(normalise(v, vectors));
  }
  const directions = Float32Array.from(vectors.flatMap((v) => [...v]));
  const lengths = weights.map((_, k) => lengthOf(directions.subarray(k * D, (k + 1) * D)));
  const quantised = { q: new Uint8Array(rows * D), along: new Float32Array(rows * K) };
  const { buffer } = loops.memory;
  const row = new Float32Array(buffer, place.v, place.width).fill(0);
  new Float32Array(buffer, place.g, place.width).fill(0);
  const whole = new Uint8Array(buffer, place.q, D);
  const known: Quantised["rows"][number][] = [];
  for (let from = 0; from < rows; from += atOnce) {
    const count = Math.min(atOnce, rows - from);
    let left: Float32Array = centredRows(count, (r) => from + r);
    if (K > 0) {
      const out = await split.run({ x: float32(left, count, D), v: float32(directions, K, D) });
      quantised.along.set(out.c.data as Float32Array, from * K);
      left = out.left.data as Float32Array;
    }
    for (let r = 0; r < count; r++) {
      const length = lengthOf(x.subarray((from + r) * D, (from + r + 1) * D));
      row.set(left.subarray(r * D, (r + 1) * D));
      const one = quantiseRow(loops, place, 127, byteZero);
      const reach = lengths.reduce((sum, of, k) => sum + of * Math.abs(quantised.along[(from + r) * K + k]!), 0);
      if (!(length < 1e18 && one.norm < 1e18 && reach < 1e18)) {
        throw new UserError(
          "activations: expected numbers below 1e18, got others. The model overflows; check its weights.",
        );
      }
      quantised.q.set(whole, (from + r) * D);
      known.push({ ...one, length, reach });
    }
  }
  return { ...quantised, rows: known, mean, meanLength: lengthOf(mean), directions };
}

/** A float32 number that is not below ‖v‖. */
function lengthOf(v: Float32Array): number {
  let squares = 0;
  for (let d = 0; d < v.length; d++) squares += v[d]! * v[d]!;
  return roundUp(Math.sqrt(squares));
}

/**
 * Directions of length 1 in which rows are longest, one after another as long as each has `leastShare` of what is left: the largest eigenvectors of
 * their products, found by repeated multiplication. How exact they are decides how small the rest is, and no more.
 *
 * @param products [n,n] of the rows with one another
 * @returns by direction, how much of each row makes it up
 */
function directionsOf(products: Float32Array, n: number, most: number): Float64Array[] {
  let left = 0;
  for (let r = 0; r < n; r++) left += products[r * n + r]!;
  if (!(left > 0 && left < Infinity)) return [];
  const random = new Random("directions");
  const multiplied = (u: Float64Array) =>
    Float64Array.from(u, (_, r) => {
      let sum = 0;
      for (let s = 0; s < n; s++) sum += products[r * n + s]! * u[s]!;
      return sum;
    });
  let vectors = Array.from({ length: most }, () => Float64Array.from({ length: n }, () => random.uniform() - 0.5));
  for (let round = 0; round < powerRounds; round++) {
    vectors = vectors.map(multiplied);
    for (const [k, u] of vectors.entries()) normalise(u, vectors.slice(0, k));
  }
  const kept: Float64Array[] = [];
  for (const u of vectors) {
    const size = dot(u, multiplied(u));
    if (!(size > leastShare * left)) break;
    left -= size;
    kept.push(u);
  }
  return kept;
}

const powerRounds = 8;

const dot = (a: Float64Array, b: Float64Array) => a.reduce((sum, value, r) => sum + value * b[r]!, 0);

/** Gives u length 1 after what lies along `others` is taken out of it. */
function normalise(u: Float64Array, others: readonly Float64Array[]): Float64Array {
  for (const other of others) {
    const along = dot(u, other);
    for (let r = 0; r < u.length; r++) u[r]! -= along * other[r]!;
  }
  const length = Math.sqrt(dot(u, u)) || 1;
  for (let r = 0; r < u.length; r++) u[r]! /= length;
  return u;
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
  apart: Float32Array,
  [scale, least, rest, norm]: Columns,
  bound: QuantisedRow,
  slack: number,
): void {
  for (let i = 0; i < products.length; i++) {
    // Of TopK `least` is the bias, rounded up by its share of the error.
    const error = rest[i]! * bound.rest + norm[i]! * bound.norm + 4 * slack * Math.abs(least[i]!) + 1e-36;
    largest.add(products[i]! * scale[i]! * bound.scale + apart[i]! + least[i]! - error);
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
  /** float32 a[N,K], b[M,K] → p[N,M] = a·bᵀ */
  readonly transposed: Session<"a" | "b", "p">;
  /** float32 x[N,D], v[K,D] → c[N,K] = x·vᵀ, left[N,D] = x − c·v */
  readonly split: Session<"x" | "v", "c" | "left">;
  /** int8 w[F,D] → turned[D,F] */
  readonly turn: Session<"w", "turned">;
  /** `ExactProduct` → z[N,U] */
  readonly exact: Session<keyof ExactProduct, "z">;
  /** How `sumsAlike` opens the dense product. */
  readonly options: SessionOptions;
  /** By D, what `sumsAlike` found. */
  readonly alike: Map<number, boolean>;
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
  const [v, a, b] = [
    input("v", "float32", ["K", "D"]),
    input("a", "float32", ["N", "K"]),
    input("b", "float32", ["M", "K"]),
  ];
  const c = x.matmul(v, { transB: true });
  const [product, turn, exact, transposed, split] = await Promise.all([
    compile({ p: matmulInteger(q, w) }, options),
    compile({ turned: input("w", "int8", ["F", "D"]).transpose(1, 0) }, options),
    compile({ z }, { ...options, threads: 1 }),
    compile({ p: a.matmul(b, { transB: true }) }, options),
    compile({ c, left: x.sub(c.matmul(v)) }, options),
  ]);
  return {
    product,
    turn,
    exact,
    transposed,
    split,
    options,
    alike: new Map(),
    async release() {
      await Promise.all([product, turn, exact, transposed, split].map((session) => session.release()));
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

/**
 * Whether `loops.fused` makes the bits of the dense product for rows of D numbers: tried with random rows, of which one product in ten at least has other
 * bits where sums are added up in another order or products are rounded on their own. Its columns are as many as no product sums otherwise.
 */
export async function sumsAlike(loops: Loops, sessions: WideSessions, D: number): Promise<boolean> {
  const known = sessions.alike.get(D);
  if (known !== undefined) return known;
  const alike = await areSumsAlike(loops, sessions.options, D);
  sessions.alike.set(D, alike);
  return alike;
}

async function areSumsAlike(loops: Loops, options: SessionOptions, D: number): Promise<boolean> {
  const { fused } = loops;
  if (!fused) return false;
  const [N, F] = [13, 160];
  const random = new Random("sums of the dense product");
  const uniform = (n: number) => Float32Array.from({ length: n }, () => 2 * random.uniform() - 1);
  const [x, w, bias] = [uniform(N * D), uniform(D * F), uniform(F)];
  // Sizes are known, as in the graph of dense codes: the runtime might fuse operations whose sizes it knows.
  const [tensor, weights] = [input("x", "float32", ["N", D]), input("w", "float32", [D, F])];
  const dense = await compile(
    { z: tensor.matmul(weights).add(input("bias", "float32", [F])) },
    { ...options, threads: 1 },
  );
  const { z } = await dense.run({ x: float32(x, N, D), w: float32(w, D, F), bias: float32(bias, F) });
  await dense.release();
  const place = rowPlace(D, fusedGroup);
  const [rows, inputs] = [place.bytes, place.bytes + 4 * place.width * F];
  const values = inputs + 4 * place.width * N;
  const pairs = values + 4 * N * F;
  loops.reserve(pairs + 12 * N * F);
  const { buffer } = loops.memory;
  const [row, groups] = [new Float32Array(buffer, place.v, place.width).fill(0), place.width / fusedGroup];
  const bytes = 4 * place.width;
  for (let i = 0; i < F; i++) {
    for (let d = 0; d < D; d++) row[d] = w[d * F + i]!;
    loops.inBlocks(place.v, groups, rows + bytes * i);
  }
  for (let r = 0; r < N; r++) {
    row.set(x.subarray(r * D, (r + 1) * D));
    loops.inBlocks(place.v, groups, inputs + bytes * r);
  }
  const [list, sums] = [new Int32Array(buffer, pairs, 3 * N * F), new Float32Array(buffer, values, N * F)];
  for (let at = 0; at < N * F; at++)
    list.set([inputs + bytes * Math.floor(at / F), rows + bytes * (at % F), values + 4 * at], 3 * at);
  fused(pairs, N * F, groups);
  return sums.every((sum, at) => Math.fround(sum + bias[at % F]!) === z.data[at]);
}

/** Nanoseconds of one thread for a row and a feature, measured (LOG, "Wide dictionaries, faster"): what grows with D for a number of it, the rest as it is. */
const cost = {
  dense: 0.023,
  /** Product of whole numbers. */
  whole: 0.0065,
  /** Looking for what may be active, and whatever else grows with rows and features alone. */
  scan: 6,
  /** Of a code that may be active, its fused product. */
  fused: 0.35,
  /** Rounding a weight, once for all rows. */
  round: 6,
} as const;

/**
 * How many times as fast as the dense product bounds should be, if two and a half times as many codes may be active as are. Loops have one thread, so the
 * more threads products have, the less bounds gain.
 *
 * @param threads of products
 */
export function expectedGain(
  { featureCount: F, inputWidth: D, meanActive = 100 }: Pick<Dictionary, "featureCount" | "inputWidth" | "meanActive">,
  rows: number,
  threads: number,
): number {
  const share = Math.min(1, (2.5 * meanActive) / F);
  const bounds = (cost.whole * D) / threads + cost.scan + share * cost.fused * D + (cost.round * D) / rows;
  return (cost.dense * D) / threads / bounds;
}

/** The share of codes that may be active with which bounds are as fast as the dense product. */
export function mostCandidates(D: number, threads: number): number {
  return ((cost.dense - cost.whole) / threads - cost.scan / D) / cost.fused;
}

/** Whether this machine has what bounds are fast by: products of whole bytes that do not saturate, and fused ones in a loop. */
export async function boundsAreFast(loops: Loops, sessions: WideSessions, D: number): Promise<boolean> {
  return (await readsInPlace()) && (await largestWeight(sessions)) === 127 && (await sumsAlike(loops, sessions, D));
}
