import { expect, it } from "vitest";
import { slowWidener, widenBfloat16, widenModule } from "../src/bytes/bfloat16.ts";
import { assemble, defineFunction, i32, repeatWhile, type Value, v128 } from "../src/graph/loops/assembler.ts";

/** The bits of a bfloat16 with 16 zeros behind them, as a number's own. */
const expected = (bits: Uint16Array) => new Float32Array(Int32Array.from(bits, (word) => word << 16).buffer);
const bitsOf = (numbers: Float32Array) => [...new Uint32Array(numbers.buffer, numbers.byteOffset, numbers.length)];

it("every bfloat16 is widened to its own value", () => {
  const all = Uint16Array.from({ length: 65_536 }, (_, i) => i);
  const out = new Float32Array(all.length);
  widenBfloat16(all, out);
  expect(bitsOf(out)).toEqual(bitsOf(expected(all)));
  expect([0x3f80, 0xc040, 0x0001, 0x7f80].map((bits) => out[bits])).toEqual([1, -3, 2 ** -133, Infinity]);
});

it("numbers go to their places alone, however many there are", () => {
  const all = Uint16Array.from({ length: 20_000 }, (_, i) => (i * 7919) & 0x7f7f);
  for (const length of [0, 1, 7, 15, 16, 17, 8191, 8192, 8193, 16_384, 16_385]) {
    const [bits, out] = [all.subarray(3, 3 + length), new Float32Array(length + 5).fill(7)];
    widenBfloat16(bits, out, 2);
    expect([...out.subarray(0, 2), ...out.subarray(length + 2)]).toEqual([7, 7, 7, 7, 7]);
    expect(bitsOf(out.slice(2, length + 2))).toEqual(bitsOf(expected(bits)));
  }
  expect(() => widenBfloat16(all, new Float32Array(all.length - 1))).toThrow(RangeError);
});

it("the module has the bytes that the assembler makes of its text, and JavaScript widens the same", () => {
  const vector = (...opcode: number[]) => ({
    of: (...of: Value<"i32" | "v128">[]): Value<"v128"> => ({
      type: "v128",
      code: [...of.flatMap(({ code }) => code), 0xfd, ...opcode],
    }),
  });
  const [low, high, shl] = [vector(0xa9, 1), vector(0xaa, 1), vector(0xab, 1)];
  const widen = defineFunction("widen", { end: "i32" }, ({ end }, local) => {
    const [at, to, eight] = [local("i32"), local("i32"), local("v128")];
    const left = (x: Value<"v128">) => shl.of(x, i32.const(16));
    return {
      body: [
        repeatWhile(i32.ltU(at, end), [
          to.set(i32.shl(at, i32.const(1))),
          ...[0, 1].flatMap((k) => [
            eight.set(v128.load(at, 16 * k)),
            v128.store(to, left(low.of(eight)), 16_384 + 32 * k),
            v128.store(to, left(high.of(eight)), 16_400 + 32 * k),
          ]),
          at.set(i32.add(at, i32.const(32))),
        ]),
      ],
    };
  });
  expect(Uint8Array.from(widenModule)).toEqual(assemble([widen]));

  const slow = slowWidener();
  slow.narrow.set([0x3f80, 0xc040, 0x7f80]);
  slow.widen(6);
  expect([...slow.wide.subarray(0, 4)]).toEqual([1, -3, Infinity, 0]);
});
