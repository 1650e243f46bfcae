import { assemble, defineFunction, i32, i32x4, repeatWhile, v128 } from "../wasm/assembler.ts";
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
    const instance = new WebAssembly.Instance(new WebAssembly.Module(assemble([brokenLoop])));
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

/** The checker's loop, over four times four words at a time. */
const brokenLoop = defineFunction("broken", { end: "i32", mask: "i32", one: "i32" }, ({ end, mask, one }, local) => {
  const at = local("i32");
  const [masks, ones, found] = [local("v128"), local("v128"), local("v128")];
  const carried = (k: number) => i32x4.add(v128.and(v128.load(at, 16 * k), masks), ones);
  return {
    body: [
      masks.set(i32x4.splat(mask)),
      ones.set(i32x4.splat(one)),
      repeatWhile(i32.ltU(at, end), [
        found.set(v128.or(found, v128.or(v128.or(carried(0), carried(1)), v128.or(carried(2), carried(3))))),
        at.set(i32.add(at, i32.const(stepBytes))),
      ]),
    ],
    result: v128.anyTrue(v128.and(found, i32x4.splat(i32.const(signs | 0)))),
  };
});
