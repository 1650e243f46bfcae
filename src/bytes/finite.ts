import type { DType } from "./dtype.ts";

/** Of a number's bits, or those of two neighbours: its exponent, and what adds to one of all ones so that it carries into the sign's place. */
const exponents = {
  F32: [0x7f800000, 0x00800000],
  BF16: [0x7f807f80, 0x00800080],
  F16: [0x7c007c00, 0x04000400],
} as const satisfies Partial<Record<DType, readonly [number, number]>>;

/** The places of signs of two 16-bit numbers, and of one of 32, whose other half cannot carry. */
const signs = 0x80008000;

/**
 * Whether all numbers are finite. Four words at a time where there is WebAssembly with vectors, a quarter of a nanosecond each, since this passes over
 * all of a model and its SAEs.
 *
 * @param bits little-endian; of 16-bit numbers as Uint16Array
 */
export function areFinite(bits: Float32Array | Uint16Array, dtype: keyof typeof exponents): boolean {
  const [mask, one] = exponents[dtype];
  const bytes = new Uint8Array(bits.buffer, bits.byteOffset, bits.byteLength);
  checker ??= openChecker();
  const { memory, broken } = checker;
  for (let at = 0; at < bytes.length; at += pageBytes) {
    const piece = bytes.subarray(at, at + pageBytes);
    memory.set(piece);
    const end = Math.ceil(piece.length / stepBytes) * stepBytes;
    // Zeros are finite.
    memory.fill(0, piece.length, end);
    if (broken(end, mask, one)) return false;
  }
  return true;
}

const pageBytes = 65_536;
const stepBytes = 64;

interface Checker {
  /** Bytes are copied here: WebAssembly sees no other memory, and what was copied just now is in the processor's cache. */
  readonly memory: Uint8Array;
  /** Not 0 if `(word & mask) + one` of one of the words before byte `end`, a multiple of 64, has a bit of `signs`. */
  broken(end: number, mask: number, one: number): number;
}

let checker: Checker | undefined;

function openChecker(): Checker {
  try {
    const instance = new WebAssembly.Instance(new WebAssembly.Module(Uint8Array.from(finiteModule)));
    const { memory, broken } = instance.exports as unknown as Checker & { readonly memory: WebAssembly.Memory };
    return { memory: new Uint8Array(memory.buffer), broken };
  } catch {
    // The system grants no memory, or the engine has no vectors.
    return slowChecker();
  }
}

/** The checker in JavaScript. */
export function slowChecker(): Checker {
  const words = new Int32Array(pageBytes / 4);
  return {
    memory: new Uint8Array(words.buffer),
    broken(end, mask, one) {
      let carried = 0;
      for (let i = 0; i < end / 4; i++) carried |= (words[i]! & mask) + one;
      return carried & signs;
    },
  };
}

/**
 * The loop as a WebAssembly module, with a memory of one page. Written out since nothing here may depend on src/graph, whose assembler makes the same
 * bytes (test/bytes-finite.test.ts).
 */
// biome-ignore format: a line for an instruction or two
export const finiteModule: readonly number[] = [
  0x00, 0x61, 0x73, 0x6d, 1, 0, 0, 0, // a module, version 1
  1, 8, 1, 0x60, 3, 0x7f, 0x7f, 0x7f, 1, 0x7f, // type: three i32 → i32
  3, 2, 1, 0, // one function of it
  5, 3, 1, 0, 1, // a memory of one page
  7, 19, 2, 6, 0x6d, 0x65, 0x6d, 0x6f, 0x72, 0x79, 2, 0, // exports: "memory"
  6, 0x62, 0x72, 0x6f, 0x6b, 0x65, 0x6e, 0, 0, // "broken"
  10, 128, 1, 1, 126, 4, 1, 0x7f, 1, 0x7b, 1, 0x7b, 1, 0x7b, // code: locals 3 i32 (at), 4 to 6 v128 (masks, ones, found)
  0x20, 1, 0xfd, 17, 0x21, 4, // masks = i32x4.splat(mask)
  0x20, 2, 0xfd, 17, 0x21, 5, // ones = i32x4.splat(one)
  0x03, 0x40, // loop
  0x20, 6, // found
  0x20, 3, 0xfd, 0, 0, 0, 0x20, 4, 0xfd, 78, 0x20, 5, 0xfd, 128 + 46, 1, // i32x4.add(v128.and(v128.load(at), masks), ones)
  0x20, 3, 0xfd, 0, 0, 16, 0x20, 4, 0xfd, 78, 0x20, 5, 0xfd, 128 + 46, 1, // the same of the next 16 bytes
  0xfd, 80, // v128.or
  0x20, 3, 0xfd, 0, 0, 32, 0x20, 4, 0xfd, 78, 0x20, 5, 0xfd, 128 + 46, 1,
  0x20, 3, 0xfd, 0, 0, 48, 0x20, 4, 0xfd, 78, 0x20, 5, 0xfd, 128 + 46, 1,
  0xfd, 80, 0xfd, 80, 0xfd, 80, 0x21, 6, // found = v128.or of all
  0x20, 3, 0x41, 128 + 64, 0, 0x6a, 0x21, 3, // at = at + 64
  0x20, 3, 0x20, 0, 0x49, 0x0d, 0, 0x0b, // again while at < end
  0x20, 6, 0x41, 0x80, 0x80, 0x82, 0x80, 0x78, 0xfd, 17, 0xfd, 78, 0xfd, 83, // v128.any_true(v128.and(found, i32x4.splat(signs)))
  0x0b,
];
