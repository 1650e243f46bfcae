import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { openFile } from "../src/bytes/file.node.ts";
import { memorySource } from "../src/bytes/memory.ts";
import { openSafetensors, writeSafetensors } from "../src/bytes/safetensors.ts";
import type { ByteSource } from "../src/bytes/source.ts";
import { checkFinite } from "../src/bytes/tensor-file.ts";
import { UserError } from "../src/errors.ts";
import { Random } from "../src/random.ts";

const fixture = () => openFile("test/fixtures/safetensors/dtypes.safetensors");

/** A file with this header (text, or an object to be written as JSON) and so many bytes of data. */
function fileWith(header: string | object, dataBytes: number, headerLength?: number): ByteSource {
  const text = new TextEncoder().encode(typeof header === "string" ? header : JSON.stringify(header));
  const bytes = new Uint8Array(8 + text.length + dataBytes);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(headerLength ?? text.length), true);
  bytes.set(text, 8);
  return memorySource("model.safetensors", bytes);
}

const f32 = (shape: unknown, begin: number, end: number) => ({ dtype: "F32", shape, data_offsets: [begin, end] });

describe("a file that torch wrote", () => {
  test("has its metadata, shapes and number formats", async () => {
    const file = await openSafetensors(await fixture());
    expect(file.metadata.made_by).toBe("make_safetensors.py");
    expect(file.tensors.get("i32")).toMatchObject({ dtype: "I32", shape: [3, 4], length: 48 });
    expect(file.tensors.get("scalar")).toMatchObject({ shape: [], length: 4 });
    await file.source.close();
  });

  test("gives float16 and bfloat16 as torch does, and writing them rounds as torch does", async () => {
    const file = await openSafetensors(await fixture());
    const values = await file.read("values");
    for (const [dtype, name] of [
      ["F16", "f16"],
      ["BF16", "bf16"],
    ] as const) {
      const expected = await file.read(`back_${name}`);
      expect(await file.read(`values_${name}`)).toEqual(expected);
      // Numbers that the format cannot hold are refused, so leave them out.
      const kept = values.filter((_, i) => Number.isFinite(expected[i]));
      const written = writeSafetensors(new Map([["x", { shape: [kept.length], data: kept }]]), { dtype });
      const read = await (await openSafetensors(memorySource("written", written))).read("x");
      expect(read).toEqual(expected.filter((x) => Number.isFinite(x)));
    }
    await file.source.close();
  });

  test("gives whole numbers, float64 and truth values", async () => {
    const file = await openSafetensors(await fixture());
    const small = Float32Array.from({ length: 12 }, (_, i) => i - 5);
    for (const name of ["i64", "i32", "i16", "i8"]) expect(await file.read(name), name).toEqual(small);
    expect(await file.read("u8")).toEqual(small.map((x) => x + 5));
    expect(await file.read("f64")).toEqual(small.map((x) => x / 8));
    expect(await file.read("bool")).toEqual(small.map((x) => (x > 0 ? 1 : 0)));
    expect(await file.read("scalar")).toEqual(Float32Array.of(2.5));
    expect(await file.read("empty")).toEqual(new Float32Array(0));
    await file.source.close();
  });
});

describe("rows of a matrix", () => {
  const [rows, columns] = [3000, 17];
  const random = new Random("rows");
  const data = Float32Array.from({ length: rows * columns }, () => Math.fround(random.normal()));
  const bytes = writeSafetensors(
    new Map([
      ["a", { shape: [3], data: Float32Array.of(1, 2, 3) }],
      ["m", { shape: [rows, columns], data }],
    ]),
  );

  test("come in the order asked for, repeated ones too", async () => {
    const file = await openSafetensors(memorySource("m.safetensors", bytes));
    const indices = Int32Array.from({ length: 200 }, () => random.below(rows));
    indices[7] = indices[3]!;
    const expected = Array.from(indices).flatMap((i) => [...data.subarray(i * columns, (i + 1) * columns)]);
    expect(await file.rows("m", indices)).toEqual(Float32Array.from(expected));
    expect(await file.rows("m", [])).toEqual(new Float32Array(0));
  });

  test("are read by offset, neighbours at once", async () => {
    const source = memorySource("m.safetensors", bytes);
    const reads: number[] = [];
    const file = await openSafetensors({
      ...source,
      read: (offset, length) => {
        reads.push(length);
        return source.read(offset, length);
      },
    });
    reads.length = 0;
    await file.rows("m", [2999, 5, 4, 6]);
    expect(reads).toEqual([3 * columns * 4, columns * 4]);
  });

  test("of an index out of range, or of a vector, are refused", async () => {
    const file = await openSafetensors(memorySource("m.safetensors", bytes));
    await expect(file.rows("m", [0, 3000])).rejects.toThrow("row: expected 0 to 2999, got 3000 of tensor m");
    await expect(file.rows("a", [0])).rejects.toThrow("tensor a: expected a matrix, got shape [3]");
    await expect(file.read("b")).rejects.toThrow('tensor: expected "b", got none of that name in m.safetensors');
  });
});

describe("writing", () => {
  test("gives the same bytes whatever the order of the tensors, data aligned to 8", () => {
    const a = { shape: [1], data: Float32Array.of(1) };
    const b = { shape: [2], data: Float32Array.of(2, 3) };
    const metadata = { note: "x" };
    const one = writeSafetensors(new Map(Object.entries({ a, b })), { metadata });
    expect(writeSafetensors(new Map(Object.entries({ b, a })), { metadata })).toEqual(one);
    expect(Number(new DataView(one.buffer).getBigUint64(0, true)) % 8).toBe(0);
  });

  test("refuses what a format cannot hold", () => {
    const tensors = (x: number) => new Map([["w", { shape: [2], data: Float32Array.of(0, x) }]]);
    expect(() => writeSafetensors(tensors(65520), { dtype: "F16" })).toThrow("tensor w: expected numbers below 65520");
    expect(() => writeSafetensors(tensors(65519), { dtype: "F16" })).not.toThrow();
    expect(() => writeSafetensors(tensors(Number.NaN))).toThrow("tensor w: expected finite numbers, got NaN at 1");
  });
});

describe("a damaged file is a one-line error that names it:", () => {
  const header = { a: f32([2, 3], 0, 24), b: f32([2], 24, 32) };
  const cases: [string, ByteSource, RegExp][] = [
    ["empty", memorySource("model.safetensors", new Uint8Array(3)), /expected at least 8 bytes, got 3/],
    [
      "header length beyond the file",
      fileWith(header, 32, 5000),
      /header: expected at most 1\d\d bytes, got a length of 5000/,
    ],
    ["header length of 2^63", fileWith(header, 32, 2 ** 63), /header: expected at most/],
    ["header that is no JSON", fileWith("{a:", 0), /header: expected JSON, got other bytes/],
    [
      "header that is no UTF-8",
      memorySource("model.safetensors", Uint8Array.of(2, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xfe)),
      /expected JSON/,
    ],
    ["header that is a list", fileWith("[]", 0), /expected a JSON object/],
    ["tensor that is a number", fileWith({ a: 1 }, 0), /tensor a: expected an object with dtype/],
    ["metadata of numbers", fileWith({ __metadata__: { n: 1 } }, 0), /metadata: expected an object of texts/],
    ["data cut short", fileWith(header, 20), /file: expected 1\d\d bytes, got 1\d\d/],
    ["bytes behind the end", fileWith(header, 40), /file: expected 1\d\d bytes, got 1\d\d/],
    [
      "overlap",
      fileWith({ a: f32([2], 0, 8), b: f32([2], 4, 12) }, 12),
      /tensor b: expected a begin of 8, got 4, an overlap/,
    ],
    ["gap", fileWith({ a: f32([2], 0, 8), b: f32([2], 12, 20) }, 20), /tensor b: expected a begin of 8, got 12, a gap/],
    [
      "length that is not the shape's",
      fileWith({ a: f32([3], 0, 8) }, 8),
      /tensor a: expected 12 bytes for F32 \[3\], got 8/,
    ],
    ["end before begin", fileWith({ a: f32([2], 8, 0) }, 8), /tensor a: expected 8 bytes for F32 \[2\], got -8/],
    ["negative dimension", fileWith({ a: f32([-2, -1], 0, 8) }, 8), /shape of tensor a: expected .* got \[-2,-1\]/],
    ["dimension of 1.5", fileWith({ a: f32([1.5], 0, 6) }, 6), /shape of tensor a/],
    ["dimensions whose product is huge", fileWith({ a: f32([2 ** 40, 2 ** 40], 0, 8) }, 8), /length of tensor a/],
    [
      "unknown dtype",
      fileWith({ a: { ...f32([2], 0, 2), dtype: "F8_E4M3" } }, 2),
      /dtype of tensor a: expected one of F64, F32.* got "F8_E4M3"/,
    ],
    [
      "two tensors of one name",
      fileWith(`{"a": ${JSON.stringify(f32([1], 0, 4))}, "\\u0061" : ${JSON.stringify(f32([1], 0, 4))}}`, 4),
      /tensor a: expected one entry, got two/,
    ],
  ];
  test.each(cases)("%s", async (_, source, message) => {
    const error = await openSafetensors(source).then(
      () => undefined,
      (e: unknown) => e as Error,
    );
    expect(error).toBeInstanceOf(UserError);
    expect(error?.message).toMatch(message);
    expect(error?.message).toContain("in model.safetensors");
    expect(error?.message).not.toContain("\n");
  });

  test("a number that is not finite", () => {
    expect(() =>
      checkFinite(Float32Array.of(1, Number.POSITIVE_INFINITY), "lm_head.weight", "model.safetensors"),
    ).toThrow("tensor lm_head.weight: expected finite numbers, got Infinity at 1 in model.safetensors.");
  });
});

describe("any header", () => {
  const opens = async (source: ByteSource) => {
    try {
      const file = await openSafetensors(source);
      for (const [name, info] of file.tensors) {
        expect((await file.read(name)).length).toBe(info.shape.reduce((a, b) => a * b, 1));
      }
    } catch (error) {
      if (!(error instanceof UserError)) throw error;
      expect(error.message).not.toContain("\n");
    }
  };
  const name = fc.oneof(fc.constantFrom("a", "b", "__proto__", "__metadata__", "constructor"), fc.string());
  const entry = fc.record(
    {
      dtype: fc.oneof(fc.constantFrom("F32", "F16", "I64", "U8", "F4", "toString"), fc.jsonValue()),
      shape: fc.oneof(fc.array(fc.integer({ min: -1, max: 4 }), { maxLength: 3 }), fc.jsonValue()),
      data_offsets: fc.oneof(fc.tuple(fc.nat(40), fc.nat(40)), fc.jsonValue()),
    },
    { requiredKeys: [] },
  );

  test("of random entries opens or is refused with a message", async () => {
    const header = fc.dictionary(name, fc.oneof(entry, fc.jsonValue()), { maxKeys: 4 });
    await fc.assert(
      fc.asyncProperty(header, fc.nat(64), (h, data) => opens(fileWith(h, data))),
      { numRuns: 400, seed: 1 },
    );
  });

  test("of random bytes, or with a byte changed in a good file, opens or is refused with a message", async () => {
    const good = writeSafetensors(
      new Map([
        ["a", { shape: [2, 2], data: Float32Array.of(1, 2, 3, 4) }],
        ["b", { shape: [1], data: Float32Array.of(5) }],
      ]),
    );
    const changed = fc
      .tuple(fc.nat(good.length - 1), fc.nat(255))
      .map(([at, value]) => good.slice().fill(value, at, at + 1));
    const cut = fc.nat(good.length).map((length) => good.slice(0, length));
    await fc.assert(
      fc.asyncProperty(fc.oneof(fc.uint8Array({ maxLength: 80 }), changed, cut), (b) => opens(memorySource("x", b))),
      { numRuns: 600, seed: 2 },
    );
  });
});
