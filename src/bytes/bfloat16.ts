/**
 * Widens bfloat16 numbers to float32: their bits, and 16 zeros behind them. Eight numbers at a time where there is WebAssembly with vectors, since this
 * passes over all of a model that is streamed, for each way through it.
 *
 * @param bits little-endian
 * @param out receives the numbers from `at` on
 */
export function widenBfloat16(bits: Uint16Array, out: Float32Array, at = 0): void {
  widener ??= openWidener();
  const { narrow, wide, widen } = widener;
  for (let first = 0; first < bits.length; first += pieceNumbers) {
    const n = Math.min(pieceNumbers, bits.length - first);
    narrow.set(n === bits.length ? bits : bits.subarray(first, first + n));
    widen(2 * n);
    out.set(n === pieceNumbers ? wide : wide.subarray(0, n), at + first);
  }
}

/** Numbers at a time: they stay in the processor's cache. */
const pieceNumbers = 8192;
/** Where wide numbers lie, behind the narrow ones. */
const wideAt = 2 * pieceNumbers;

interface Widener {
  /** Numbers are copied here and from here: WebAssembly sees no other memory. */
  readonly narrow: Uint16Array;
  readonly wide: Float32Array;
  /** Widens the numbers before byte `end`, and perhaps some behind it. */
  widen(end: number): void;
}

let widener: Widener | undefined;

function openWidener(): Widener {
  try {
    const instance = new WebAssembly.Instance(new WebAssembly.Module(Uint8Array.from(widenModule)));
    const { memory, widen } = instance.exports as unknown as Pick<Widener, "widen"> & {
      readonly memory: WebAssembly.Memory;
    };
    return { ...viewsOf(memory.buffer), widen };
  } catch {
    // The system grants no memory, or the engine has no vectors.
    return slowWidener();
  }
}

const viewsOf = (buffer: ArrayBuffer) => ({
  narrow: new Uint16Array(buffer, 0, pieceNumbers),
  wide: new Float32Array(buffer, wideAt, pieceNumbers),
});

/** The widener in JavaScript. */
export function slowWidener(): Widener {
  const buffer = new ArrayBuffer(wideAt + 4 * pieceNumbers);
  const { narrow, wide } = viewsOf(buffer);
  const words = new Int32Array(buffer, wideAt);
  return {
    narrow,
    wide,
    widen(end) {
      for (let i = 0; 2 * i < end; i++) words[i] = narrow[i]! << 16;
    },
  };
}

/**
 * The loop as a WebAssembly module, with a memory of one page. Written out since nothing here may depend on src/graph, whose assembler makes the same
 * bytes (test/bytes-bfloat16.test.ts).
 */
// biome-ignore format: a line for an instruction or two
export const widenModule: readonly number[] = [
  0x00, 0x61, 0x73, 0x6d, 1, 0, 0, 0, // a module, version 1
  1, 5, 1, 0x60, 1, 0x7f, 0, // type: i32 → nothing
  3, 2, 1, 0, // one function of it
  5, 3, 1, 0, 1, // a memory of one page
  7, 18, 2, 6, 0x6d, 0x65, 0x6d, 0x6f, 0x72, 0x79, 2, 0, // exports: "memory"
  5, 0x77, 0x69, 0x64, 0x65, 0x6e, 0, 0, // "widen"
  10, 122, 1, 120, 3, 1, 0x7f, 1, 0x7f, 1, 0x7b, // code: locals 1 i32 (at), 2 i32 (to), 3 v128 (eight)
  0x03, 0x40, // loop
  0x20, 1, 0x41, 1, 0x74, 0x21, 2, // to = at << 1
  0x20, 1, 0xfd, 0, 0, 0, 0x21, 3, // eight = v128.load(at)
  0x20, 2, 0x20, 3, 0xfd, 128 + 41, 1, 0x41, 16, 0xfd, 128 + 43, 1, 0xfd, 11, 0, 0x80, 0x80, 1, // v128.store(to + 16384, i32x4.shl(i32x4.extend_low_i16x8_u(eight), 16))
  0x20, 2, 0x20, 3, 0xfd, 128 + 42, 1, 0x41, 16, 0xfd, 128 + 43, 1, 0xfd, 11, 0, 0x90, 0x80, 1, // the same of its upper four, extend_high
  0x20, 1, 0xfd, 0, 0, 16, 0x21, 3, // eight = v128.load(at + 16)
  0x20, 2, 0x20, 3, 0xfd, 128 + 41, 1, 0x41, 16, 0xfd, 128 + 43, 1, 0xfd, 11, 0, 0xa0, 0x80, 1,
  0x20, 2, 0x20, 3, 0xfd, 128 + 42, 1, 0x41, 16, 0xfd, 128 + 43, 1, 0xfd, 11, 0, 0xb0, 0x80, 1,
  0x20, 1, 0x41, 32, 0x6a, 0x21, 1, // at = at + 32
  0x20, 1, 0x20, 0, 0x49, 0x0d, 0, 0x0b, // again while at < end
  0x0b,
];
