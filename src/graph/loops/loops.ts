import { allowRelaxedSimd } from "#session";
import { loopsModule } from "./kernels.ts";

/**
 * Loops over sparse rows, which graphs cannot express and which JavaScript runs one number at a time: the same in WebAssembly, with instructions that
 * take two or four numbers at once.
 */
export interface Loops {
  /** Numbers that the loops work on lie here; a place is a byte offset. `reserve` replaces the buffer. */
  readonly memory: { readonly buffer: ArrayBuffer };
  /** Makes room for so many bytes in all. Views of the memory made before may be cut off from it. */
  reserve(bytes: number): void;
  /**
   * Takes Σ delta·w out of `error` and finds every ⟨g, w⟩, in one pass over each w: float64[D] at `error` and `g`, float32[D] at the w. Works in
   * float64. `list` has n entries of 16 bytes: delta as float64, where ⟨g, w⟩ is afterwards, and the place of w as int32. n and D have to be multiples
   * of 4 and at least that; places of float64 numbers are multiples of 8.
   */
  takeOut(error: number, g: number, D: number, list: number, n: number): void;
  /**
   * Finds the numbers among float32[n] at `from` that are larger than the one in their place of float32[n] at `thresholds`: their indices go to
   * `indices` as int32, they themselves to `values` as float32. n has to be a multiple of 16, and there is room for n of each.
   *
   * @returns how many there are
   */
  above(from: number, n: number, thresholds: number, indices: number, values: number): number;
  /**
   * Finds every ⟨g, w⟩ of float64[D] at g and at each w. `list` has n entries of 16 bytes: where ⟨g, w⟩ is afterwards as float64, and the place of w as
   * int32. n has to be a multiple of 4, D of 2, and at least that.
   */
  dots(g: number, D: number, list: number, n: number): void;
  /** The same as `dots` of float32[D] at each w. */
  singleDots(g: number, D: number, list: number, n: number): void;
  /** Adds Σ factor·w to float64[D] at `to`; `list` as in `dots`, with the factors in place of the products. */
  addUp(to: number, D: number, list: number, n: number): void;
  /**
   * Finds where p·scale·columns[0,i] + b + columns[1,i] + rest·columns[2,i] + norm·columns[3,i] > limit, for the whole numbers p, int32[count] at
   * `from`, b, float32[count] at `base`, i from `first` on, and float32[4,n] at `columns`. These i go to `into` as int32, ascending. count has to be a multiple of 16.
   *
   * @returns how many there are
   */
  possible(
    from: number,
    base: number,
    count: number,
    columns: number,
    n: number,
    first: number,
    into: number,
    scale: number,
    rest: number,
    norm: number,
    limit: number,
  ): number;
  /**
   * Of `count` indices at `list`, keeps those i with ⟨x, row i⟩ + columns[1,i] + norm·columns[0,i] > limit: they go to `into`, which may be `list` or
   * before it. float32[D] at `x`, float32[n,D] at `rows`, float32[2,n] at `columns`. Sums in float32; D has to be a multiple of 16.
   *
   * @returns how many there are
   */
  near(
    x: number,
    D: number,
    rows: number,
    n: number,
    columns: number,
    list: number,
    count: number,
    into: number,
    norm: number,
    limit: number,
  ): number;
  /** The largest |v_d| of float32[D] at v; D has to be a multiple of 16. */
  largest(v: number, D: number): number;
  /**
   * Rounds v·inverse to whole numbers n, for float32[D] at v: n + zero goes to `q` as bytes. `sums` gets Σ(v − scale·n)², Σv² and ⟨g, v⟩ as float64, g
   * being float32[D]. Works in float64. D has to be a multiple of 4.
   */
  round(v: number, D: number, g: number, scale: number, inverse: number, zero: number, q: number, sums: number): void;
  /** Lays v, float32[512·groups], out as `fused` takes it: float32[groups,128,4], a block of each group's four beside the others. */
  inBlocks(v: number, groups: number, to: number): void;
  /**
   * Products of vectors in blocks of 128 numbers, laid out by `inBlocks`: z = (b_0 + b_1) + … with b_k = Σ x_d e_d over a block, begun at 0 and added up
   * one d after another. Rounded once for a product and its addition on machines that have an instruction for it. `list` has n entries of 12 bytes,
   * n a multiple of 4 and not 0: places of x, of e and of z, which is float32. Missing where the engine does not take it.
   */
  readonly fused?: (list: number, n: number, groups: number) => void;
}

/** Numbers in a block, and in the four blocks that `fused` takes at a time. */
export const [fusedBlock, fusedGroup] = [128, 512];

/**
 * Loops with a memory of their own. Each takes 10 GB of addresses, not of memory; where a system grants no such amount, the same is done in
 * JavaScript.
 */
export function openLoops(): Loops {
  let instance: WebAssembly.Instance;
  try {
    instance = new WebAssembly.Instance(compiled());
  } catch {
    return slowLoops();
  }
  const { memory, ...loops } = instance.exports as unknown as Loops & { readonly memory: WebAssembly.Memory };
  return {
    memory,
    ...loops,
    reserve(bytes) {
      const missing = bytes - memory.buffer.byteLength;
      if (missing > 0) memory.grow(Math.ceil(missing / page));
    },
  };
}

/** The loops in JavaScript. */
export function slowLoops(): Loops {
  const memory = { buffer: new ArrayBuffer(page) };
  const [floats, doubles, ints] = [
    (at: number, n: number) => new Float32Array(memory.buffer, at, n),
    (at: number, n: number) => new Float64Array(memory.buffer, at, n),
    (at: number, n: number) => new Int32Array(memory.buffer, at, n),
  ];
  const dots = (vector: typeof doubles | typeof floats, g: number, D: number, list: number, n: number) => {
    const [gs, found, places] = [doubles(g, D), doubles(list, 2 * n), ints(list, 4 * n)];
    for (let k = 0; k < n; k++) {
      const w = vector(places[4 * k + 2]!, D);
      let sum = 0;
      for (let d = 0; d < D; d++) sum += gs[d]! * w[d]!;
      found[2 * k] = sum;
    }
  };
  return {
    memory,
    reserve(bytes) {
      if (bytes <= memory.buffer.byteLength) return;
      const before = new Uint8Array(memory.buffer);
      memory.buffer = new ArrayBuffer(Math.ceil(bytes / page) * page);
      new Uint8Array(memory.buffer).set(before);
    },
    takeOut(error, g, D, list, n) {
      const [errors, gs, deltas, places] = [doubles(error, D), doubles(g, D), doubles(list, 2 * n), ints(list, 4 * n)];
      for (let k = 0; k < n; k++) {
        const [w, delta] = [floats(places[4 * k + 2]!, D), deltas[2 * k]!];
        let sum = 0;
        for (let d = 0; d < D; d++) {
          sum += gs[d]! * w[d]!;
          errors[d]! -= delta * w[d]!;
        }
        deltas[2 * k] = sum;
      }
    },
    dots: (g, D, list, n) => dots(doubles, g, D, list, n),
    singleDots: (g, D, list, n) => dots(floats, g, D, list, n),
    addUp(to, D, list, n) {
      const [sums, factors, places] = [doubles(to, D), doubles(list, 2 * n), ints(list, 4 * n)];
      for (let k = 0; k < n; k++) {
        const [w, factor] = [doubles(places[4 * k + 2]!, D), factors[2 * k]!];
        for (let d = 0; d < D; d++) sums[d]! += factor * w[d]!;
      }
    },
    above(from, n, thresholds, indices, values) {
      const [numbers, limits, at, found] = [
        floats(from, n),
        floats(thresholds, n),
        ints(indices, n),
        floats(values, n),
      ];
      let count = 0;
      for (let i = 0; i < n; i++) {
        if (!(numbers[i]! > limits[i]!)) continue;
        at[count] = i;
        found[count++] = numbers[i]!;
      }
      return count;
    },
    possible(from, base, count, columns, n, first, into, scale, rest, norm, limit) {
      const [products, list, bases] = [ints(from, count), ints(into, count), floats(base, count)];
      const [scales, least, rests, norms] = [0, 1, 2, 3].map((k) => floats(columns + 4 * (k * n + first), count));
      let found = 0;
      for (let i = 0; i < count; i++) {
        const upper =
          products[i]! * scales![i]! * scale + bases[i]! + (rests![i]! * rest + norms![i]! * norm + least![i]!);
        if (upper > limit) list[found++] = first + i;
      }
      return found;
    },
    largest: (v, D) => floats(v, D).reduce((most, value) => Math.max(most, Math.abs(value)), 0),
    round(v, D, g, scale, inverse, zero, q, sums) {
      const [values, gs, bytes] = [floats(v, D), floats(g, D), new Uint8Array(memory.buffer, q, D)];
      let [rest, norm, product] = [0, 0, 0];
      for (let d = 0; d < D; d++) {
        const value = values[d]!;
        const n = Math.round(value * inverse);
        bytes[d] = n + zero;
        rest += (value - scale * n) ** 2;
        norm += value * value;
        product += value * gs[d]!;
      }
      doubles(sums, 3).set([rest, norm, product]);
    },
    inBlocks(v, groups, to) {
      const [from, into] = [floats(v, fusedGroup * groups), floats(to, fusedGroup * groups)];
      for (let d = 0; d < from.length; d++) {
        const block = Math.floor(d / fusedBlock);
        into[fusedGroup * Math.floor(block / 4) + 4 * (d % fusedBlock) + (block % 4)] = from[d]!;
      }
    },
    near(x, D, rows, n, columns, list, count, into, norm, limit) {
      const [xs, candidates, kept] = [floats(x, D), ints(list, count), ints(into, count)];
      const [least, norms] = [floats(columns + 4 * n, n), floats(columns, n)];
      let found = 0;
      for (let k = 0; k < count; k++) {
        const i = candidates[k]!;
        const row = floats(rows + 4 * D * i, D);
        let sum = least[i]! + norms[i]! * norm;
        for (let d = 0; d < D; d++) sum += xs[d]! * row[d]!;
        if (sum > limit) kept[found++] = i;
      }
      return found;
    },
  };
}

const page = 65_536;
let module: WebAssembly.Module | undefined;

function compiled(): WebAssembly.Module {
  if (module) return module;
  allowRelaxedSimd();
  try {
    module = new WebAssembly.Module(loopsModule(true));
  } catch {
    module = new WebAssembly.Module(loopsModule(false));
  }
  return module;
}
