import { describe, expect, it } from "vitest";
import { slowWidener, widen } from "../src/bytes/widen.ts";

const bitsOf = (numbers: Float32Array) => [...new Uint32Array(numbers.buffer, numbers.byteOffset, numbers.length)];
const floatOf = (bits: number) => new Float32Array(Uint32Array.of(bits).buffer)[0]!;

/** The value of a number's bits, worked out from what the formats say of them. */
const values = {
  BF16: (bits: number) => floatOf(bits * 2 ** 16),
  F16(bits: number) {
    const [sign, exponent, fraction] = [bits >> 15 ? -1 : 1, (bits >> 10) & 31, bits & 1023];
    if (exponent === 31) return fraction > 0 ? Number.NaN : sign * Number.POSITIVE_INFINITY;
    return sign * (exponent === 0 ? fraction / 2 ** 24 : (1 + fraction / 1024) * 2 ** (exponent - 15));
  },
};
const known = {
  BF16: { 16256: 1, 49216: -3, 1: 2 ** -133, 32640: Number.POSITIVE_INFINITY, 32768: -0 },
  F16: { 15360: 1, 49664: -3, 1: 2 ** -24, 1023: 1023 * 2 ** -24, 1024: 2 ** -14, 31743: 65504, 32768: -0 },
};

describe.each(["BF16", "F16"] as const)("%s", (dtype) => {
  const all = Uint16Array.from({ length: 65_536 }, (_, i) => i);
  const expected = Float64Array.from(all, values[dtype]);

  it("every number is widened to its own value, infinite ones and zeros with their sign", () => {
    const out = new Float32Array(all.length);
    widen(dtype, all, out);
    const wrong = out.findIndex((value, i) => !Object.is(value, expected[i]));
    expect(wrong).toBe(-1);
    for (const [bits, value] of Object.entries(known[dtype])) expect(out[Number(bits)]).toBe(value);
  });

  it("numbers go to their places alone, however many there are", () => {
    const some = Uint16Array.from({ length: 20_000 }, (_, i) => (i * 7919) & 0x7b7f);
    for (const length of [0, 1, 7, 8, 9, 15, 16, 17, 8191, 8192, 8193, 16_384, 16_385]) {
      const [bits, out] = [some.subarray(3, 3 + length), new Float32Array(length + 5).fill(7)];
      widen(dtype, bits, out, 2);
      expect([...out.subarray(0, 2), ...out.subarray(length + 2)]).toEqual([7, 7, 7, 7, 7]);
      expect(bitsOf(out.slice(2, length + 2))).toEqual(bitsOf(Float32Array.from(bits, values[dtype])));
    }
    expect(() => widen(dtype, some, new Float32Array(some.length - 1))).toThrow(RangeError);
  });

  it("JavaScript widens the same", () => {
    const { narrow, wide, loops } = slowWidener();
    for (let first = 0; first < all.length; first += narrow.length) {
      narrow.set(all.subarray(first, first + narrow.length));
      loops[dtype](2 * narrow.length);
      expect(wide.findIndex((value, i) => !Object.is(value, expected[first + i]))).toBe(-1);
    }
  });
});
