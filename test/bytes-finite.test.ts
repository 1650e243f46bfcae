import { describe, expect, it } from "vitest";
import { areFinite, slowChecker } from "../src/bytes/finite.ts";
import { checkFinite, checkFiniteBits } from "../src/bytes/tensor-file.ts";

/** Of each type: ones, the largest number, −0, the smallest above 0; then infinities and NaNs. */
const kinds = {
  BF16: { good: [0x3f80, 0x7f7f, 0xff7f, 0x8000, 0x0001], bad: [0x7f80, 0xff80, 0x7fc0, 0xffff, 0x7f81] },
  F16: { good: [0x3c00, 0x7bff, 0xfbff, 0x8000, 0x0001], bad: [0x7c00, 0xfc00, 0x7e00, 0xffff, 0x7c01] },
} as const;

describe.each(Object.entries(kinds))("numbers in %s", (dtype, { good, bad }) => {
  const check = (bits: readonly number[], at = 0) => {
    // `at` numbers in front, so that two neighbours do not always lie in one word of four bytes.
    const all = Uint16Array.of(...bad.slice(0, at), ...bits);
    return () => checkFiniteBits(all.subarray(at), dtype as "BF16" | "F16", "w", "model.safetensors");
  };

  it.each([1, 2, 3, 4, 5, 8, 9])("are refused where one of %i is not finite, wherever it is", (length) => {
    const fine = Array.from({ length }, (_, i): number => good[i % good.length]!);
    for (const offset of [0, 1]) {
      expect(check(fine, offset)).not.toThrow();
      for (let at = 0; at < length; at++) {
        for (const value of bad) {
          expect(check(fine.with(at, value), offset)).toThrow(
            new RegExp(`^tensor w: expected finite numbers, got (NaN|-?Infinity) at ${at} in model.safetensors\\.`),
          );
        }
      }
    }
  });
});

it("numbers in float32 are refused where one of them is not finite, wherever it is", () => {
  const largest = 3.4028234663852886e38;
  for (let at = 0; at < 5; at++) {
    for (const value of [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY]) {
      const values = Float32Array.of(0, -0, largest, -largest, 1e-45).fill(value, at, at + 1);
      expect(() => checkFinite(values, "w", "f")).toThrow(`got ${value} at ${at} in f`);
    }
  }
  expect(() => checkFinite(Float32Array.of(0, -0, largest, -largest, 1e-45), "w", "f")).not.toThrow();
});

it("one number is found anywhere in an array of several pages", () => {
  const values = new Float32Array(3 * 16_384 + 5).fill(1);
  expect(areFinite(values, "F32")).toBe(true);
  for (const at of [0, 15, 16, 16_383, 16_384, 40_000, values.length - 6, values.length - 1]) {
    expect(areFinite(values.with(at, Number.NaN), "F32")).toBe(false);
    // What was in the memory before does not count.
    expect(areFinite(values.subarray(0, 7), "F32")).toBe(true);
  }
  expect(areFinite(new Float32Array(0), "F32")).toBe(true);
});

it("JavaScript finds the same", () => {
  const slow = slowChecker();
  new Float32Array(slow.memory.buffer).set([1, 3.4e38, -1e-45], 5);
  expect(slow.broken(64, 0x7f800000, 0x00800000)).toBe(0);
  new Float32Array(slow.memory.buffer).set([Number.NEGATIVE_INFINITY], 9);
  expect(slow.broken(64, 0x7f800000, 0x00800000)).not.toBe(0);
});
