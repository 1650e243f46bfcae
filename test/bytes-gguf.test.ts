import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { blockFormatOf } from "../src/bytes/blocks.ts";
import { openFile } from "../src/bytes/file.node.ts";
import { openGguf } from "../src/bytes/gguf.ts";
import { memorySource } from "../src/bytes/memory.ts";
import { openSafetensors } from "../src/bytes/safetensors.ts";
import type { ByteSource } from "../src/bytes/source.ts";
import { UserError } from "../src/errors.ts";
import { type Gguf, join, makeGguf, type Tensor, text, uint32, uint64 } from "./make-gguf.ts";

const folder = "test/fixtures/gguf";
const formats = ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K"] as const;
const source = (gguf: Gguf) => memorySource("model.gguf", makeGguf(gguf));
const tensor = (name: string, ne: Tensor["ne"], offset: number | bigint, type = 0): Tensor => ({
  name,
  ne,
  type,
  offset,
});
const floats = (...values: number[]) => new Uint8Array(Float32Array.from(values).buffer);

describe("a file that gguf-py wrote", () => {
  test.each(formats)("gives %s as gguf-py dequantises it, bit by bit", async (format) => {
    const file = await openGguf(await openFile(`${folder}/blocks.gguf`));
    const expected = await openSafetensors(await openFile(`${folder}/blocks.safetensors`));
    const info = file.tensors.get(format)!;
    expect(info).toMatchObject({ dtype: format, shape: [2, 256] });
    expect(info.length).toBe((512 / blockFormatOf(format).numbers) * blockFormatOf(format).bytes);
    const values = await expected.read(format);
    expect(await file.read(format)).toEqual(values);
    expect(await file.rows(format, [1, 0, 1])).toEqual(Float32Array.of(...values.subarray(256), ...values));
    const turned = await file.read(format, { transposed: true });
    expect(turned).toEqual(Float32Array.from(values, (_, i) => values[(i % 2) * 256 + (i >> 1)]!));
    await file.source.close();
    await expected.source.close();
  });

  test("has its metadata", async () => {
    const { values, source } = await openGguf(await openFile(`${folder}/llama-gqa.gguf`));
    expect(values.get("general.architecture")).toBe("llama");
    expect(values.get("llama.rope.freq_base")).toBe(500_000);
    expect(values.get("tokenizer.ggml.tokens")).toHaveLength(94);
    expect((values.get("tokenizer.ggml.token_type") as Int32Array).subarray(0, 4)).toEqual(Int32Array.of(2, 3, 3, 1));
    await source.close();
  });
});

test("rows of blocks are read by offset, and a tensor larger than a piece is whole", async () => {
  const [rows, columns] = [4000, 7 * 256];
  const block = join([uint32(0x3c00), new Uint8Array(206).fill(0x21), Uint8Array.of(0, 0x3c)]);
  const row = join(Array(7).fill(block.subarray(2)));
  expect(row.length).toBe(7 * 210);
  const data = new Uint8Array(rows * row.length);
  for (let r = 0; r < rows; r++) {
    data.set(row, r * row.length);
    // The sign of the last block's scale says which row it is.
    if (r % 3 === 0) data[(r + 1) * row.length - 1] = 0xbc;
  }
  const whole = source({ tensors: [tensor("m", [columns, rows], 0, 14)], data });
  const reads: number[] = [];
  const file = await openGguf({
    ...whole,
    read: (offset, length) => {
      reads.push(length);
      return whole.read(offset, length);
    },
  });
  reads.length = 0;
  const some = await file.rows("m", [3999, 1, 2]);
  expect(reads).toEqual([2 * row.length, row.length]);
  const all = await file.read("m");
  expect(all).toHaveLength(rows * columns);
  expect(all.subarray(3999 * columns)).toEqual(some.subarray(0, columns));
  expect(all.subarray(columns, 3 * columns)).toEqual(some.subarray(columns));
  const signs = Array.from({ length: rows }, (_, r) => Math.sign(all[(r + 1) * columns - 1]!));
  expect(signs.every((sign, r) => sign === (r % 3 === 0 ? -signs[1]! : signs[1]))).toBe(true);
});

describe("a header", () => {
  test("may have values of every type, text that is no UTF-8, and gaps between tensors", async () => {
    const raw = (type: number, ...bytes: number[]): Uint8Array => join([uint32(type), Uint8Array.from(bytes)]);
    const values: [string, Uint8Array | boolean | string][] = [
      ["u8", raw(0, 200)],
      ["i8", raw(1, 200)],
      ["u16", raw(2, 0, 200)],
      ["i16", raw(3, 0, 200)],
      ["u32", raw(4, 0, 0, 0, 200)],
      ["i32", raw(5, 0, 0, 0, 200)],
      ["u64", raw(10, 1, 0, 0, 0, 1, 0, 0, 0)],
      ["i64", raw(11, ...Array(8).fill(255))],
      ["f64", join([uint32(12), new Uint8Array(Float64Array.of(0.1).buffer)])],
      ["truth", true],
      ["mark", "\ufeffa"],
      ["broken", join([uint32(8), uint64(1), Uint8Array.of(0xff)])],
      ["bools", join([uint32(9), uint32(7), uint64(2), Uint8Array.of(0, 1)])],
      ["none", join([uint32(9), uint32(8), uint64(0)])],
    ];
    const tensors = [tensor("b", [2], 32), tensor("a", [1, 1, 1, 1], 0), tensor("empty", [3, 0], 0)];
    const file = await openGguf(source({ version: 2, values, tensors, data: new Uint8Array(64) }));
    expect(Object.fromEntries(file.values)).toEqual({
      ...{ u8: 200, i8: -56, u16: 51_200, i16: -14_336, u32: 3_355_443_200, i32: -939_524_096 },
      ...{ u64: 2 ** 32 + 1, i64: -1, f64: 0.1, truth: true, mark: "\ufeffa", broken: "\ufffd" },
      ...{ bools: Int32Array.of(0, 1), none: [] },
    });
    expect(await file.read("b")).toEqual(new Float32Array(2));
    expect(file.tensors.get("empty")).toMatchObject({ shape: [0, 3], length: 0 });
  });

  test("may be larger than what is read at once", async () => {
    const tokens = Array.from({ length: 200_000 }, (_, i) => `token ${i}`);
    const scores = Float32Array.from(tokens, (_, i) => -i);
    const values = { tokens, long: "x".repeat(3_000_000), scores, last: "end" };
    const file = await openGguf(source({ values, tensors: [tensor("a", [2], 0)], data: floats(1, 2) }));
    expect(file.values.get("tokens")).toEqual(tokens);
    expect(file.values.get("scores")).toEqual(scores);
    expect(file.values.get("long")).toHaveLength(3_000_000);
    expect(file.values.get("last")).toBe("end");
    expect(await file.read("a")).toEqual(Float32Array.of(1, 2));
  });

  test("says how tensors are aligned", async () => {
    const values = { "general.alignment": 64 };
    const bytes = makeGguf({ values, tensors: [tensor("a", [1], 0)] });
    const data = join([bytes, new Uint8Array((64 - (bytes.length % 64)) % 64), floats(7)]);
    expect(await (await openGguf(memorySource("x", data))).read("a")).toEqual(Float32Array.of(7));
  });
});

describe("a damaged file is a one-line error that names it:", () => {
  const good: Gguf = {
    values: { a: 1 },
    tensors: [tensor("a", [2], 0), tensor("b", [2], 32)],
    data: new Uint8Array(40),
  };
  const list = (type: number, count: number | bigint, ...rest: Uint8Array[]) =>
    join([uint32(9), uint32(type), uint64(count), ...rest]);
  const cases: [string, ByteSource, string][] = [
    ["empty", memorySource("model.gguf", new Uint8Array(3)), "file: expected at most 3 bytes, got 4"],
    ["another magic", source({ ...good, magic: "GGML" }), 'file: expected GGUF\'s first bytes "GGUF", got others'],
    ["version 1", source({ ...good, version: 1 }), "version of GGUF: expected 2 or 3, got 1"],
    [
      "big-endian",
      source({ ...good, version: 0x03000000 }),
      "byte order: expected little-endian numbers, got big-endian",
    ],
    [
      "count of values of 2^60",
      source({ ...good, counts: { values: 2n ** 60n } }),
      "count of metadata values: expected at most ",
    ],
    [
      "count of tensors of 2^64 − 1",
      source({ ...good, counts: { tensors: 2n ** 64n - 1n } }),
      "count of tensors: expected",
    ],
    [
      "more values than there are",
      source({ values: { a: "x".repeat(40) }, counts: { values: 3n } }),
      "expected at most",
    ],
    [
      "key longer than the file",
      memorySource(
        "model.gguf",
        join([makeGguf({ counts: { values: 1n } }).subarray(0, 24), uint64(2n ** 40n), text("x")]),
      ),
      "key of the metadata: expected at most",
    ],
    [
      "text longer than the file",
      source({ values: [["a", join([uint32(8), uint64(2n ** 63n)])]] }),
      "metadata a: expected at most",
    ],
    [
      "value of an unknown type",
      source({ values: [["a", uint32(13)]] }),
      "type of metadata a: expected a type from 0 to 12, got 13",
    ],
    [
      "two values of a key",
      source({
        values: [
          ["a", 1],
          ["a", 2],
        ],
      }),
      "metadata a: expected one value, got two",
    ],
    [
      "list of lists",
      source({ values: [["a", list(9, 1, uint32(5), uint64(1), uint32(7))]] }),
      "metadata a: expected a list of numbers or texts, got a list of lists",
    ],
    [
      "list of 2^61 numbers",
      source({ values: [["a", list(12, 2n ** 61n)]] }),
      "count of numbers of metadata a: expected at most",
    ],
    [
      "list of 2^40 texts",
      source({ values: [["a", list(8, 2n ** 40n)]] }),
      "count of texts of metadata a: expected at most",
    ],
    [
      "list whose texts end behind the file",
      source({ values: [["a", list(8, 2, text("x"), uint64(2n ** 32n))]] }),
      "metadata a: expected at most",
    ],
    [
      "alignment of 24",
      source({ ...good, values: { "general.alignment": 24 } }),
      "general.alignment: expected a power of two, got 24",
    ],
    [
      "alignment of 0",
      source({ ...good, values: { "general.alignment": 0 } }),
      "general.alignment: expected a power of two, got 0",
    ],
    [
      "five dimensions",
      source({ tensors: [tensor("a", [1, 1, 1, 1, 1], 0)] }),
      "tensor a: expected at most 4 dimensions, got 5",
    ],
    [
      "dimensions whose product is huge",
      source({ tensors: [tensor("a", [2n ** 40n, 2n ** 40n], 0)] }),
      "shape of tensor a: expected a size that a file can have",
    ],
    [
      "rows of half a block",
      source({ tensors: [tensor("a", [48, 2], 0, 8)] }),
      "shape of tensor a: expected rows of whole blocks of 32 numbers (Q8_0), got [2,48]",
    ],
    [
      "a format that cannot be read",
      source({ tensors: [tensor("a", [256], 0, 10)] }),
      "number format of tensor a: expected one of F32, F16, Q4_0",
    ],
    [
      "a format that does not exist",
      source({ tensors: [tensor("a", [256], 0, 99)] }),
      "number format of tensor a: expected one of ggml's, got type 99",
    ],
    ["data cut short", source({ ...good, data: new Uint8Array(39) }), "tensor b: expected 8 bytes from"],
    ["offset of 2^63", source({ ...good, tensors: [tensor("a", [2], 2n ** 63n)] }), "tensor a: expected 8 bytes from"],
    [
      "overlap",
      source({ ...good, tensors: [tensor("a", [2], 0), tensor("b", [2], 4)] }),
      "offset of tensor b: expected at least",
    ],
    [
      "two tensors of one name",
      source({ ...good, tensors: [tensor("a", [2], 0), tensor("a", [2], 32)] }),
      "tensor a: expected one entry, got two",
    ],
    ["a name on two lines", source({ tensors: [tensor("a\nb", [2], 99)] }), "tensor a b: expected 8 bytes from"],
  ];
  test.each(cases)("%s", async (_, damaged, message) => {
    const error = await openGguf(damaged).then(
      () => undefined,
      (e: unknown) => e as Error,
    );
    expect(error).toBeInstanceOf(UserError);
    expect(error?.message).toContain(message);
    expect(error?.message).toContain("in model.gguf");
    expect(error?.message).not.toContain("\n");
  });

  test("a format that cannot be read is named", async () => {
    await expect(openGguf(source({ tensors: [tensor("a", [256], 0, 23)] }))).rejects.toThrow(
      "got IQ4_XS in model.gguf",
    );
  });
});

describe("any bytes", () => {
  /** Opens and reads all; whatever is refused is refused with a message, and nothing larger than the file is allocated for it. */
  const opens = async (bytes: Uint8Array) => {
    try {
      const file = await openGguf(memorySource("x", bytes));
      for (const [name, info] of file.tensors) {
        expect((await file.read(name)).length).toBe(info.shape.reduce((a, b) => a * b, 1));
      }
    } catch (error) {
      if (!(error instanceof UserError)) throw error;
      expect(error.message).not.toContain("\n");
    }
  };
  const good = makeGguf({
    values: {
      ...{ "general.architecture": "llama", count: 3, share: 0.5, yes: true },
      ...{ tokens: ["a", "bc", ""], scores: Float32Array.of(1, 2), types: Int32Array.of(1, 2, 3) },
    },
    tensors: [tensor("a", [32, 2], 0, 8), tensor("b", [3], 96), tensor("c", [256], 128, 12)],
    data: new Uint8Array(272).fill(7),
  });

  test("open or are refused with a message: random ones, a good file with some bytes changed, or cut short", async () => {
    await opens(good);
    const change = fc.tuple(fc.nat(good.length - 1), fc.oneof(fc.nat(255), fc.constantFrom(0, 127, 128, 255)));
    const changed = fc.array(change, { minLength: 1, maxLength: 4 }).map((changes) => {
      const bytes = good.slice();
      for (const [at, value] of changes) bytes[at] = value;
      return bytes;
    });
    const cut = fc.nat(good.length).map((length) => good.slice(0, length));
    const started = fc.uint8Array({ maxLength: 80 }).map((rest) => join([good.subarray(0, 8), rest]));
    await fc.assert(fc.asyncProperty(fc.oneof(fc.uint8Array({ maxLength: 80 }), started, changed, cut), opens), {
      numRuns: 1500,
      seed: 1,
    });
  });

  test("with random headers open or are refused with a message", async () => {
    const count = fc.oneof(fc.nat(40), fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }));
    const value = fc.oneof(
      fc.string(),
      fc.integer(),
      fc.boolean(),
      fc.array(fc.string(), { maxLength: 3 }),
      fc.tuple(fc.nat(14), count, fc.uint8Array({ maxLength: 20 })).map(([type, n, rest]) => {
        return join([uint32(9), uint32(type), uint64(n), rest]);
      }),
    );
    const key = fc.oneof(fc.constantFrom("general.alignment", "__proto__", "a"), fc.string());
    const info = fc.record({
      name: fc.oneof(fc.constantFrom("a", "b", "__proto__"), fc.string()),
      ne: fc.array(fc.oneof(fc.constantFrom(0, 1, 2, 32, 256), count), { maxLength: 5 }),
      type: fc.nat(41),
      offset: fc.oneof(fc.constantFrom(0, 32, 64, 128), count),
    });
    const header = fc.record({
      values: fc.array(fc.tuple(key, value), { maxLength: 4 }),
      tensors: fc.array(info, { maxLength: 4 }),
      data: fc.uint8Array({ maxLength: 300 }),
    });
    await fc.assert(
      fc.asyncProperty(header, (gguf) => opens(makeGguf(gguf))),
      { numRuns: 1500, seed: 2 },
    );
  });
});
