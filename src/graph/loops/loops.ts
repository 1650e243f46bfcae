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
}

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
  const { memory, takeOut, above } = instance.exports as unknown as Loops & { readonly memory: WebAssembly.Memory };
  return {
    memory,
    takeOut,
    above,
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
  };
}

const page = 65_536;
let module: WebAssembly.Module | undefined;

function compiled(): WebAssembly.Module {
  module ??= new WebAssembly.Module(Uint8Array.from(wasm()));
  return module;
}

// WebAssembly's binary format (webassembly.github.io/spec/core/binary): instructions as bytes, operands first.

type Code = readonly number[];
type Type = "i32" | "f32" | "f64" | "v128";

const typeByte = { i32: 0x7f, f32: 0x7d, f64: 0x7c, v128: 0x7b } as const;

/** An unsigned number, seven bits to a byte. */
function unsigned(n: number): number[] {
  return n < 128 ? [n] : [(n & 127) | 128, ...unsigned(n >>> 7)];
}
const vector = (items: readonly Code[]): number[] => [...unsigned(items.length), ...items.flat()];
const sized = (bytes: Code): number[] => [...unsigned(bytes.length), ...bytes];
const text = (name: string): number[] => sized([...new TextEncoder().encode(name)]);

const plain =
  (...opcode: number[]) =>
  (...operands: Code[]): number[] => [...operands.flat(), ...opcode];
const simd = (opcode: number) => plain(0xfd, ...unsigned(opcode));
/** An access at the place given by an operand, plus an offset; the alignment promised is that of bytes. */
const access =
  (...opcode: number[]) =>
  (offset: number, ...operands: Code[]): number[] => [...operands.flat(), ...opcode, 0, ...unsigned(offset)];

const i32 = {
  const: (n: number): number[] => [0x41, ...(n < 64 ? [n] : [(n & 127) | 128, n >>> 7])],
  add: plain(0x6a),
  sub: plain(0x6b),
  lessThan: plain(0x49),
  /** n·2^bits and n/2^bits. */
  up: (bits: number, n: Code): number[] => plain(0x74)(n, i32.const(bits)),
  down: (bits: number, n: Code): number[] => plain(0x76)(n, i32.const(bits)),
  load: access(0x28),
  store: access(0x36),
};
const f32 = { load: access(0x2a), store: access(0x38), greater: plain(0x5e) };
const f64 = { zero: [0x44, 0, 0, 0, 0, 0, 0, 0, 0], load: access(0x2b), store: access(0x39), add: plain(0xa0) };
const v128 = { load: access(0xfd, 0), store: access(0xfd, 11), or: simd(80), anyTrue: simd(83) };
const f32x4 = { greater: simd(68) };
const f64x2 = {
  /** Two float32 numbers as float64. */
  loadFloats: (offset: number, at: Code): number[] => simd(95)(access(0xfd, 93)(offset, at)),
  splat: simd(20),
  lane: (n: number, x: Code): number[] => [...x, 0xfd, 33, n],
  add: simd(240),
  sub: simd(241),
  mul: simd(242),
};
const get = (local: number): number[] => [0x20, local];
const set = (local: number, value: Code): number[] => [...value, 0x21, local];
const advance = (local: number, by: number) => set(local, i32.add(get(local), i32.const(by)));
/** Runs `body` again as long as the condition after it holds. */
const repeat = (body: Code, condition: Code): number[] => [0x03, 0x40, ...body, ...condition, 0x0d, 0, 0x0b];
const when = (condition: Code, body: Code): number[] => [...condition, 0x04, 0x40, ...body, 0x0b];

/** A function; its locals beyond the parameters follow them in number, and its code leaves the result. */
interface Loop {
  readonly name: string;
  readonly parameters: readonly Type[];
  readonly locals: readonly Type[];
  readonly result?: Type;
  readonly code: Code;
}

function takeOutLoop(): Loop {
  const [error, g, D, list, n] = [0, 1, 2, 3, 4] as const;
  const [end, errorEnd, errorAt, gAt] = [5, 6, 7, 8] as const;
  // Four directions side by side: they come from far off in memory, and waiting for four takes as long as waiting for one.
  const four = [0, 1, 2, 3] as const;
  const w = (k: number) => 9 + k;
  const delta = (k: number) => 13 + k;
  const sum = (k: number) => 17 + k;
  const [pair, gs, errors] = [21, 22, 23] as const;
  return {
    name: "takeOut",
    parameters: ["i32", "i32", "i32", "i32", "i32"],
    locals: [...new Array<Type>(8).fill("i32"), ...new Array<Type>(11).fill("v128")],
    code: [
      ...set(end, i32.add(get(list), i32.up(4, get(n)))),
      ...set(errorEnd, i32.add(get(error), i32.up(3, get(D)))),
      ...repeat(
        [
          ...four.flatMap((k) => [
            ...set(delta(k), f64x2.splat(f64.load(16 * k, get(list)))),
            ...set(w(k), i32.load(16 * k + 8, get(list))),
            ...set(sum(k), f64x2.splat(f64.zero)),
          ]),
          ...set(errorAt, get(error)),
          ...set(gAt, get(g)),
          ...repeat(
            [
              ...set(gs, v128.load(0, get(gAt))),
              ...set(errors, v128.load(0, get(errorAt))),
              ...four.flatMap((k) => [
                ...set(pair, f64x2.loadFloats(0, get(w(k)))),
                ...set(sum(k), f64x2.add(get(sum(k)), f64x2.mul(get(pair), get(gs)))),
                ...set(errors, f64x2.sub(get(errors), f64x2.mul(get(pair), get(delta(k))))),
                ...advance(w(k), 8),
              ]),
              ...v128.store(0, get(errorAt), get(errors)),
              ...advance(gAt, 16),
              ...advance(errorAt, 16),
            ],
            i32.lessThan(get(errorAt), get(errorEnd)),
          ),
          ...four.flatMap((k) =>
            f64.store(16 * k, get(list), f64.add(f64x2.lane(0, get(sum(k))), f64x2.lane(1, get(sum(k))))),
          ),
          ...advance(list, 64),
        ],
        i32.lessThan(get(list), get(end)),
      ),
    ],
  };
}

function aboveLoop(): Loop {
  const [from, n, thresholds, indices, values] = [0, 1, 2, 3, 4] as const;
  const [begin, end, first, at, limit, stop, value] = [5, 6, 7, 8, 9, 10, 11] as const;
  const four = (k: number) => f32x4.greater(v128.load(16 * k, get(from)), v128.load(16 * k, get(thresholds)));
  return {
    name: "above",
    parameters: ["i32", "i32", "i32", "i32", "i32"],
    locals: ["i32", "i32", "i32", "i32", "i32", "i32", "f32"],
    result: "i32",
    code: [
      ...set(begin, get(from)),
      ...set(end, i32.add(get(from), i32.up(2, get(n)))),
      ...set(first, get(indices)),
      ...repeat(
        [
          // In nearly all groups of sixteen there is none.
          ...when(v128.anyTrue(v128.or(v128.or(four(0), four(1)), v128.or(four(2), four(3)))), [
            ...set(at, get(from)),
            ...set(limit, get(thresholds)),
            ...set(stop, i32.add(get(from), i32.const(64))),
            ...repeat(
              [
                ...set(value, f32.load(0, get(at))),
                ...when(f32.greater(get(value), f32.load(0, get(limit))), [
                  ...i32.store(0, get(indices), i32.down(2, i32.sub(get(at), get(begin)))),
                  ...f32.store(0, get(values), get(value)),
                  ...advance(indices, 4),
                  ...advance(values, 4),
                ]),
                ...advance(at, 4),
                ...advance(limit, 4),
              ],
              i32.lessThan(get(at), get(stop)),
            ),
          ]),
          ...advance(from, 64),
          ...advance(thresholds, 64),
        ],
        i32.lessThan(get(from), get(end)),
      ),
      ...i32.down(2, i32.sub(get(indices), get(first))),
    ],
  };
}

function wasm(): number[] {
  const loops = [takeOutLoop(), aboveLoop()];
  const section = (id: number, items: readonly Code[]): number[] => [id, ...sized(vector(items))];
  const types = loops.map(({ parameters, result }) => [
    0x60,
    ...vector(parameters.map((type) => [typeByte[type]])),
    ...vector(result ? [[typeByte[result]]] : []),
  ]);
  const bodies = loops.map(({ locals, code }) =>
    sized([...vector(locals.map((type) => [1, typeByte[type]])), ...code, 0x0b]),
  );
  return [
    ...[0, 0x61, 0x73, 0x6d, 1, 0, 0, 0],
    ...section(1, types),
    ...section(
      3,
      loops.map((_, i) => [i]),
    ),
    ...section(5, [[0, 1]]),
    ...section(7, [[...text("memory"), 2, 0], ...loops.map(({ name }, i) => [...text(name), 0, i])]),
    ...section(10, bodies),
  ];
}
