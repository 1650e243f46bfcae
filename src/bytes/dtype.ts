import { widen } from "./widen.ts";

/** Number formats of weight files, as safetensors spells them, and the bytes that one number takes. */
export const bytesOf = {
  F64: 8,
  F32: 4,
  F16: 2,
  BF16: 2,
  I64: 8,
  I32: 4,
  I16: 2,
  I8: 1,
  U8: 1,
  BOOL: 1,
} as const;

export type DType = keyof typeof bytesOf;

/** Whether this names a plain number format. */
export function isDType(name: unknown): name is DType {
  return typeof name === "string" && Object.hasOwn(bytesOf, name);
}

/**
 * Numbers of any format as float32, rounded to nearest where float32 cannot hold them.
 *
 * @param bytes little-endian; a whole number of elements
 * @param out receives the numbers from `at` on
 */
export function decodeFloat32(bytes: Uint8Array, dtype: DType, out: Float32Array, at = 0): void {
  const count = bytes.length / bytesOf[dtype];
  // A typed array's view must begin at a multiple of its element's size.
  const aligned = bytes.byteOffset % bytesOf[dtype] === 0 ? bytes : new Uint8Array(bytes);
  const buffer = aligned.buffer as ArrayBuffer;
  const byteOffset = aligned.byteOffset;
  if (dtype === "F16" || dtype === "BF16") widen(dtype, new Uint16Array(buffer, byteOffset, count), out, at);
  else if (dtype === "I64") decodeInt64(new BigInt64Array(buffer, byteOffset, count), out, at);
  else out.set(new views[dtype](buffer, byteOffset, count), at);
}

/** Formats that the language converts by itself. */
const views = {
  F64: Float64Array,
  F32: Float32Array,
  I32: Int32Array,
  I16: Int16Array,
  I8: Int8Array,
  U8: Uint8Array,
  BOOL: Uint8Array,
};

function decodeInt64(values: BigInt64Array, out: Float32Array, at: number): void {
  for (let i = 0; i < values.length; i++) out[at + i] = Number(values[i]);
}

/** The formats that can be written. */
export type FloatDType = "F64" | "F32" | "F16" | "BF16";

/** Float32 numbers in another format, rounded to nearest, ties to even; little-endian. Too large ones become infinite. Those of F32 are not copied. */
export function encodeFloat32(values: Float32Array, dtype: FloatDType): Uint8Array {
  switch (dtype) {
    case "F64":
      return new Uint8Array(Float64Array.from(values).buffer);
    case "F32":
      return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
    case "F16":
      return new Uint8Array(encodeFloat16(values).buffer);
    case "BF16":
      return new Uint8Array(encodeBfloat16(values).buffer);
  }
}

function encodeFloat16(values: Float32Array): Uint16Array {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  const out = new Uint16Array(values.length);
  for (let i = 0; i < out.length; i++) {
    const sign = (bits[i]! >>> 16) & 0x8000;
    const magnitude = bits[i]! & 0x7fffffff;
    if (magnitude > 0x7f800000) out[i] = sign | 0x7e00;
    else if (magnitude >= 0x47800000) out[i] = sign | 0x7c00;
    else if (magnitude >= 0x38800000) {
      // Normal: move the exponent's bias from 127 to 15 and round off 13 fraction bits; a carry may run into the exponent, up to infinity.
      out[i] = sign | ((magnitude - 0x38000000 + 0xfff + ((magnitude >>> 13) & 1)) >>> 13);
    } else {
      // Subnormal: the value in units of 2^-24, which the sum rounds to an even whole number.
      out[i] = sign | (Math.abs(values[i]!) * 2 ** 24 + 2 ** 52 - 2 ** 52);
    }
  }
  return out;
}

function encodeBfloat16(values: Float32Array): Uint16Array {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  const out = new Uint16Array(values.length);
  for (let i = 0; i < out.length; i++) {
    const word = bits[i]!;
    if ((word & 0x7fffffff) > 0x7f800000) out[i] = (word >>> 16) | 0x40;
    else out[i] = (word + 0x7fff + ((word >>> 16) & 1)) >>> 16;
  }
  return out;
}
