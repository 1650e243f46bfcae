import { bytesOf, type DType, decodeFloat32 } from "./dtype.ts";
import { float16Values } from "./widen.ts";

/** A number format that stores numbers in blocks with common scales (ggml's quants). */
interface BlockFormat {
  /** Numbers in a block. */
  readonly numbers: number;
  /** Bytes of a block. */
  readonly bytes: number;
  /** Writes the block that begins at byte `at` of `b` as float32 numbers to `out`, from `to` on; `half` has all values of float16. */
  readonly decode: (b: Uint8Array, at: number, half: Float32Array, out: Float32Array, to: number) => void;
}

/**
 * ggml's block formats, as its C structs lay them out (ggml-common.h) and its `dequantize_row_*` read them (ggml-quants.c). Products of a scale
 * and a quant are exact in float64, so each number is rounded once, as in ggml.
 */
const blockFormats = {
  Q4_0: {
    numbers: 32,
    bytes: 18,
    decode(b, at, half, out, to) {
      const d = half[b[at]! | (b[at + 1]! << 8)]!;
      for (let i = 0; i < 16; i++) {
        const q = b[at + 2 + i]!;
        out[to + i] = d * ((q & 15) - 8);
        out[to + 16 + i] = d * ((q >> 4) - 8);
      }
    },
  },
  Q4_1: {
    numbers: 32,
    bytes: 20,
    decode(b, at, half, out, to) {
      const d = half[b[at]! | (b[at + 1]! << 8)]!;
      const m = half[b[at + 2]! | (b[at + 3]! << 8)]!;
      for (let i = 0; i < 16; i++) {
        const q = b[at + 4 + i]!;
        out[to + i] = d * (q & 15) + m;
        out[to + 16 + i] = d * (q >> 4) + m;
      }
    },
  },
  Q5_0: {
    numbers: 32,
    bytes: 22,
    decode(b, at, half, out, to) {
      const d = half[b[at]! | (b[at + 1]! << 8)]!;
      const high = b[at + 2]! | (b[at + 3]! << 8) | (b[at + 4]! << 16) | (b[at + 5]! << 24);
      for (let i = 0; i < 16; i++) {
        const q = b[at + 6 + i]!;
        out[to + i] = d * (((q & 15) | (((high >>> i) & 1) << 4)) - 16);
        out[to + 16 + i] = d * (((q >> 4) | (((high >>> (i + 16)) & 1) << 4)) - 16);
      }
    },
  },
  Q5_1: {
    numbers: 32,
    bytes: 24,
    decode(b, at, half, out, to) {
      const d = half[b[at]! | (b[at + 1]! << 8)]!;
      const m = half[b[at + 2]! | (b[at + 3]! << 8)]!;
      const high = b[at + 4]! | (b[at + 5]! << 8) | (b[at + 6]! << 16) | (b[at + 7]! << 24);
      for (let i = 0; i < 16; i++) {
        const q = b[at + 8 + i]!;
        out[to + i] = d * ((q & 15) | (((high >>> i) & 1) << 4)) + m;
        out[to + 16 + i] = d * ((q >> 4) | (((high >>> (i + 16)) & 1) << 4)) + m;
      }
    },
  },
  Q8_0: {
    numbers: 32,
    bytes: 34,
    decode(b, at, half, out, to) {
      const d = half[b[at]! | (b[at + 1]! << 8)]!;
      for (let i = 0; i < 32; i++) out[to + i] = d * ((b[at + 2 + i]! << 24) >> 24);
    },
  },
  Q4_K: {
    numbers: 256,
    bytes: 144,
    decode(b, at, half, out, to) {
      const d = half[b[at]! | (b[at + 1]! << 8)]!;
      const m = half[b[at + 2]! | (b[at + 3]! << 8)]!;
      for (let j = 0; j < 4; j++) {
        const [low, high] = [2 * j, 2 * j + 1];
        const [d0, m0] = [d * scaleOf(b, at + 4, low), m * minimumOf(b, at + 4, low)];
        const [d1, m1] = [d * scaleOf(b, at + 4, high), m * minimumOf(b, at + 4, high)];
        for (let i = 0; i < 32; i++) {
          const q = b[at + 16 + 32 * j + i]!;
          out[to + 64 * j + i] = d0 * (q & 15) - m0;
          out[to + 64 * j + 32 + i] = d1 * (q >> 4) - m1;
        }
      }
    },
  },
  Q5_K: {
    numbers: 256,
    bytes: 176,
    decode(b, at, half, out, to) {
      const d = half[b[at]! | (b[at + 1]! << 8)]!;
      const m = half[b[at + 2]! | (b[at + 3]! << 8)]!;
      for (let j = 0; j < 4; j++) {
        const [low, high] = [2 * j, 2 * j + 1];
        const [d0, m0] = [d * scaleOf(b, at + 4, low), m * minimumOf(b, at + 4, low)];
        const [d1, m1] = [d * scaleOf(b, at + 4, high), m * minimumOf(b, at + 4, high)];
        for (let i = 0; i < 32; i++) {
          const q = b[at + 48 + 32 * j + i]!;
          const fifth = b[at + 16 + i]!;
          out[to + 64 * j + i] = d0 * ((q & 15) | (((fifth >> low) & 1) << 4)) - m0;
          out[to + 64 * j + 32 + i] = d1 * ((q >> 4) | (((fifth >> high) & 1) << 4)) - m1;
        }
      }
    },
  },
  Q6_K: {
    numbers: 256,
    bytes: 210,
    decode(b, at, half, out, to) {
      const d = half[b[at + 208]! | (b[at + 209]! << 8)]!;
      for (let j = 0; j < 2; j++) {
        const first = to + 128 * j;
        for (let i = 0; i < 32; i++) {
          const q0 = b[at + 64 * j + i]!;
          const q1 = b[at + 64 * j + 32 + i]!;
          const high = b[at + 128 + 32 * j + i]!;
          const s = at + 192 + 8 * j + (i >> 4);
          out[first + i] = d * signed(b[s]!) * (((q0 & 15) | ((high & 3) << 4)) - 32);
          out[first + 32 + i] = d * signed(b[s + 2]!) * (((q1 & 15) | (((high >> 2) & 3) << 4)) - 32);
          out[first + 64 + i] = d * signed(b[s + 4]!) * (((q0 >> 4) | (((high >> 4) & 3) << 4)) - 32);
          out[first + 96 + i] = d * signed(b[s + 6]!) * (((q1 >> 4) | ((high >> 6) << 4)) - 32);
        }
      }
    },
  },
} as const satisfies Record<string, BlockFormat>;

function signed(byte: number): number {
  return (byte << 24) >> 24;
}

/** Scale j (0 to 7) of the 12 bytes at `s` in which Q4_K and Q5_K pack eight scales and eight minima of 6 bits. */
function scaleOf(b: Uint8Array, s: number, j: number): number {
  return j < 4 ? b[s + j]! & 63 : (b[s + j + 4]! & 15) | ((b[s + j - 4]! >> 6) << 4);
}

function minimumOf(b: Uint8Array, s: number, j: number): number {
  return j < 4 ? b[s + j + 4]! & 63 : (b[s + j + 4]! >> 4) | ((b[s + j]! >> 6) << 4);
}

/** How the numbers of a tensor are stored: one by one, or in blocks. */
export type Stored = DType | keyof typeof blockFormats;

/** Whether this names a format that numbers may be stored in: a plain one, or blocks of quantised numbers. */
export function isStored(name: string): name is Stored {
  return Object.hasOwn(bytesOf, name) || Object.hasOwn(blockFormats, name);
}

/** The smallest piece of a format that can be read alone: so many numbers in so many bytes. */
export function blockFormatOf(stored: Stored): { readonly numbers: number; readonly bytes: number } {
  return isBlocks(stored) ? blockFormats[stored] : { numbers: 1, bytes: bytesOf[stored] };
}

function isBlocks(stored: Stored): stored is keyof typeof blockFormats {
  return Object.hasOwn(blockFormats, stored);
}

/**
 * Numbers of any format as float32.
 *
 * @param bytes little-endian; a whole number of blocks
 * @param out receives the numbers from `at` on
 */
export function decodeStored(bytes: Uint8Array, stored: Stored, out: Float32Array, at = 0): void {
  if (!isBlocks(stored)) {
    decodeFloat32(bytes, stored, out, at);
    return;
  }
  const { numbers, bytes: size, decode } = blockFormats[stored];
  const half = float16Values();
  for (let from = 0, to = at; from < bytes.length; from += size, to += numbers) decode(bytes, from, half, out, to);
}
