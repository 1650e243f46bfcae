import { readFileSync } from "node:fs";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { memorySource } from "../src/bytes/memory.ts";
import { openNpz } from "../src/bytes/npz.ts";
import { readPickle } from "../src/bytes/pickle.ts";
import type { TensorFile } from "../src/bytes/tensor-file.ts";
import { openTorch } from "../src/bytes/torch.ts";
import { failureIn, readZip } from "../src/bytes/zip.ts";
import { type ArchiveLies, type EntryLies, makeZip } from "./make-zip.ts";

const text = (value: string) => new TextEncoder().encode(value);
const latin = (value: string) => Uint8Array.from(value, (c) => c.charCodeAt(0));
const floats = (...values: number[]) => new Uint8Array(Float32Array.from(values).buffer);
const fixture = (path: string) => new Uint8Array(readFileSync(`test/fixtures/dictionaries/${path}`));

/** Whatever goes wrong must be said in one line that names the file. */
async function refusal(work: Promise<unknown>): Promise<string> {
  const error = await work.then(
    () => new Error("it was read"),
    (e: unknown) => e as Error,
  );
  expect(error).toMatchObject({ name: "UserError" });
  expect(error.message).toMatch(/^[^\n]*: expected [^\n]*, got [^\n]* in f[ .][^\n]*$/);
  expect(error.message.length).toBeLessThan(700);
  return error.message;
}

describe("a zip archive", () => {
  test.each([false, true])("gives the places of its entries (64-bit fields: %s)", async (wide) => {
    const bytes = makeZip(
      [
        ["a.npy", text("first")],
        ["folder/", text("")],
        ["folder/b", text("second")],
      ],
      { wide },
    );
    const entries = await readZip(memorySource("f", bytes));
    expect([...entries.keys()]).toEqual(["a.npy", "folder/b"]);
    const { offset, length } = entries.get("folder/b")!;
    expect(new TextDecoder().decode(bytes.subarray(offset, offset + length))).toBe("second");
  });

  const one = (lies: EntryLies, archive: ArchiveLies = {}) => makeZip([["a", text("12345678"), lies]], archive);
  test.each<[string, Uint8Array, RegExp]>([
    ["empty", new Uint8Array(0), /^zip archive: expected an end record, got none/],
    ["other bytes", text("x".repeat(100)), /^zip archive: expected an end record, got none/],
    ["compressed", one({ method: 8 }), /^zip entry a: expected stored bytes, got compressed ones/],
    [
      "a bomb: 8 bytes that unfold to 4 GB",
      one({ method: 8, length: 2 ** 32 - 2, storedLength: 8 }),
      /compressed ones/,
    ],
    [
      "a size that is not the stored one",
      one({ length: 10 ** 9, storedLength: 8 }),
      /expected 1000000000 stored bytes, got 8/,
    ],
    [
      "a size beyond the archive",
      one({ length: 10 ** 9 }),
      /^zip entry a: expected an end before byte 39, got 1000000000 bytes/,
    ],
    ["encrypted", one({ flags: 1 }), /^zip entry a: expected readable bytes, got encrypted ones/],
    [
      "a place beyond the archive",
      one({ offset: 10 ** 6 }),
      /^zip entry a: expected a place before byte 39, got byte 1000000/,
    ],
    ["a place in the middle of an entry", one({ offset: 3 }), /^zip entry a: expected a header in front of it/],
    ["another name in the entry's header", one({ localName: "b" }), /^zip entry a: expected a header in front of it/],
    ["more entries than the directory has", one({}, { count: 2 }), /^zip directory: expected 2 entries, got 1/],
    ["too many entries", one({}, { count: 65_000 }), /^zip directory: expected at most 10000 entries, got 65000/],
    [
      "a directory beyond the archive",
      one({}, { offset: 2 ** 31 }),
      /^zip directory: expected a place in the \d+ bytes/,
    ],
    ["a directory of 4 GB", one({}, { size: 2 ** 32 - 2 }), /^zip directory: expected a place in/],
    [
      "two entries of one name",
      makeZip([
        ["a", text("1")],
        ["a", text("2")],
      ]),
      /^zip entry a: expected one of that name, got two/,
    ],
    [
      "entries that share bytes",
      // The second entry lies inside the first, with a header of its own there.
      makeZip([
        ["a", makeZip([["b", text("inner")]]).subarray(0, 36)],
        ["b", text("inner"), { offset: 31 }],
      ]),
      /^zip entry b: expected bytes of its own, got an overlap with a/,
    ],
  ])("%s is refused", async (_, bytes, message) => {
    expect(await refusal(readZip(memorySource("f", bytes)))).toMatch(message);
  });
});

describe("an npz file", () => {
  const npy = (header: string, data: Uint8Array) => {
    const padded = text(header);
    return Uint8Array.of(0x93, ...text("NUMPY"), 1, 0, padded.length & 255, padded.length >> 8, ...padded, ...data);
  };
  const header = (shape: string, descr = "'<f4'", fortran = "False") =>
    `{'descr': ${descr}, 'fortran_order': ${fortran}, 'shape': ${shape}, }\n`;
  const open = (bytes: Uint8Array) => openNpz(memorySource("f", makeZip([["w.npy", bytes]])));

  test("gives tensors of any number of axes, by columns too", async () => {
    const file = await open(npy(header("(2, 3)"), floats(1, 2, 3, 4, 5, 6)));
    expect([...(await file.read("w"))]).toEqual([1, 2, 3, 4, 5, 6]);
    expect([...(await file.read("w", { transposed: true }))]).toEqual([1, 4, 2, 5, 3, 6]);
    expect([...(await file.rows("w", [1]))]).toEqual([4, 5, 6]);
    expect([...(await file.rows("w", [2, 0], { transposed: true }))]).toEqual([3, 6, 1, 4]);
    await expect(file.rows("w", [2])).rejects.toThrow("row: expected 0 to 1, got 2");
    await expect(file.rows("w", [3], { transposed: true })).rejects.toThrow("row: expected 0 to 2, got 3");
    expect((await open(npy(header("()"), floats(7)))).tensors.get("w")?.shape).toEqual([]);
    expect((await open(npy(header("(2,)"), floats(7, 8)))).tensors.get("w")?.shape).toEqual([2]);
  });

  test.each<[string, Uint8Array, RegExp]>([
    ["another file", text("not an array at all"), /^array w\.npy: expected numpy's header, got other bytes/],
    [
      "a header beyond the array",
      npy(header("(1,)"), floats()).subarray(0, 30),
      /^array w\.npy: expected a header within 30/,
    ],
    [
      "a negative shape",
      npy(header("(-2, -1)"), floats(1, 2)),
      /^shape of array w\.npy: expected whole .*, got \(-2, -1\)/,
    ],
    ["a huge shape", npy(header("(99999999999999999999, 1)"), floats()), /^shape of array w\.npy/],
    ["a shape whose product is huge", npy(header("(4294967296, 4294967296)"), floats()), /^array w\.npy: expected \d+/],
    ["too few numbers", npy(header("(3,)"), floats(1, 2)), /^array w\.npy: expected 12 bytes for F32 \[3\], got 8/],
    [
      "Fortran order",
      npy(header("(1, 2)", "'<f4'", "True"), floats(1, 2)),
      /expected rows that lie together .*Fortran order/,
    ],
    [
      "objects",
      npy(header("(1,)", "'|O'"), floats(1)),
      /^number format of array w\.npy: expected one of <f8.*, got '\|O'/,
    ],
    ["records", npy(header("(1,)", "[('a', '<f4')]"), floats(1)), /^number format of array w\.npy/],
    ["big-endian numbers", npy(header("(1,)", "'>f4'"), floats(1)), /^number format of array w\.npy: .*got '>f4'/],
    ["Python in the header", npy("__import__('os').system('x')\n", floats()), /^array w\.npy: expected numpy's header/],
  ])("with %s is refused", async (_, bytes, message) => {
    expect(await refusal(open(bytes))).toMatch(message);
  });
});

/** The opcodes of a small pickle, spelled as Python's disassembler would. */
const op = {
  start: "\x80\x02",
  stop: ".",
  global: (module: string, name: string) => `c${module}\n${name}\n`,
  int: (n: number) => `J${String.fromCharCode(n & 255, (n >> 8) & 255, (n >> 16) & 255, (n >>> 24) & 255)}`,
  text: (value: string) => `X${String.fromCharCode(value.length, 0, 0, 0)}${value}`,
  tuple: (...items: string[]) => `(${items.join("")}t`,
  dict: (...items: [string, string][]) => `}(${items.flatMap(([key, value]) => [op.text(key), value]).join("")}u`,
};
const storage = (count: number, { type = "FloatStorage", key = "0" } = {}) =>
  `${op.tuple(op.text("storage"), op.global("torch", type), op.text(key), op.text("cpu"), op.int(count))}Q`;
const tensor = (shape: readonly number[], strides: readonly number[], { start = 0, of = storage(6) } = {}) => {
  const tuple = (values: readonly number[]) => op.tuple(...values.map(op.int));
  const args = op.tuple(of, op.int(start), tuple(shape), tuple(strides), "\x89", "}");
  return `${op.global("torch._utils", "_rebuild_tensor_v2")}${args}R`;
};
const archive = (pickle: string, more: [string, Uint8Array][] = []) =>
  makeZip([["a/data.pkl", latin(pickle)], ["a/data/0", floats(1, 2, 3, 4, 5, 6)], ...more]);
const openPickle = (value: string, more: [string, Uint8Array][] = []) =>
  openTorch(memorySource("f", archive(`${op.start}${value}${op.stop}`, more)));

describe("a torch file", () => {
  const ordered = `${op.global("collections", "OrderedDict")})R`;
  test("gives its tensors, by rows or by columns, and the values beside them", async () => {
    const file = await openPickle(
      op.dict(
        ["rows", tensor([2, 3], [3, 1])],
        ["columns", tensor([2, 3], [1, 2])],
        ["part", tensor([2], [1], { start: 4 })],
        ["one", tensor([], [], { start: 5 })],
        ["inner", op.dict(["k", op.int(-7)], ["name", op.text("TopK")])],
        ["list", "]"],
        [
          "parameter",
          `${op.global("torch._utils", "_rebuild_parameter")}${op.tuple(tensor([6], [1]), "\x88", ordered)}R`,
        ],
      ),
    );
    expect([...file.tensors.keys()]).toEqual(["rows", "columns", "part", "one", "parameter"]);
    expect(Object.fromEntries(file.values)).toEqual({ "inner.k": -7, "inner.name": "TopK" });
    expect([...(await file.read("rows"))]).toEqual([1, 2, 3, 4, 5, 6]);
    expect([...(await file.read("columns"))]).toEqual([1, 3, 5, 2, 4, 6]);
    expect([...(await file.read("columns", { transposed: true }))]).toEqual([1, 2, 3, 4, 5, 6]);
    expect([...(await file.rows("columns", [1, 0]))]).toEqual([2, 4, 6, 1, 3, 5]);
    expect([...(await file.rows("columns", [2], { transposed: true }))]).toEqual([5, 6]);
    expect([...(await file.read("part"))]).toEqual([5, 6]);
    expect([...(await file.read("one"))]).toEqual([6]);
  });

  /** 2^n paths through n dicts: each holds the next one as a and as b. */
  const twice = (n: number): string =>
    n === 0
      ? "}q\0"
      : `}(${op.text("a")}${twice(n - 1)}${op.text("b")}h${String.fromCharCode(n - 1)}uq${String.fromCharCode(n)}`;
  test.each<[string, string, RegExp]>([
    [
      "os.system",
      `${op.global("os", "system")}${op.tuple(op.text("touch x"))}R`,
      /got os\.system, which is not allowed, in f/,
    ],
    ["posix.system", `${op.global("posix", "system")})R`, /got posix\.system, which is not allowed/],
    ["builtins.eval", `${op.global("builtins", "eval")})R`, /got builtins\.eval, which is not allowed/],
    ["a global with a name of its own", op.global("collections", "OrderedDict.__init__"), /which is not allowed/],
    [
      "a global named like a method of objects",
      op.global("__proto__", "constructor"),
      /__proto__\.constructor, which is not/,
    ],
    [
      "a call of a storage's class",
      `${op.global("torch", "FloatStorage")})R`,
      /expected a storage's name, got a call of it/,
    ],
    ["a call of a text", `${op.text("os.system")})R`, /expected a function and its arguments/],
    [
      "a named global by the stack",
      `${op.text("os")}${op.text("system")}\x93`,
      /expected what torch\.save writes .* opcode 147/,
    ],
    ["an instance", `(${op.text("x")}ios\nsystem\n`, /opcode 105/],
    ["a new object", `${op.global("collections", "OrderedDict")})\x81`, /opcode 129/],
    ["an extension", "\x82\x01", /opcode 130/],
    ["attributes of a tensor", `${tensor([2], [1])}}b`, /expected attributes of a dict/],
    ["another opcode", "0", /opcode 48/],
    ["a value too few", "N\x86", /expected a value on the stack, got none/],
    ["no mark", "t", /expected a mark, got none/],
    ["a memo that does not exist", "h\x07", /expected an object 7, got none of that number/],
    ["a text longer than the file", "X\xff\xff\xff\xff", /expected 4294967295 bytes at \d+, got the end/],
    ["a key that is a list", "}]Ns", /expected a text or number as key/],
    ["no dict", op.int(3), /^torch file: expected a dict of tensors, got another value/],
    [
      "a negative shape",
      op.dict(["w", tensor([-2, -3], [3, 1])]),
      /expected a tensor's storage, offset, shape and strides/,
    ],
    ["a negative offset", op.dict(["w", tensor([2], [1], { start: -1 })]), /expected a tensor's storage, offset/],
    [
      "a tensor beyond its storage",
      op.dict(["w", tensor([2, 3], [3, 1], { start: 1 })]),
      /expected an end within its storage/,
    ],
    ["a huge shape", op.dict(["w", tensor([2 ** 31 - 1, 2 ** 31 - 1], [1, 1])]), /expected an end within its storage/],
    ["a number repeated by stride 0", op.dict(["w", tensor([2, 3], [0, 0])]), /got strides \[0,0\] of shape \[2,3\]/],
    ["gaps between numbers", op.dict(["w", tensor([3], [2])]), /^tensor: expected numbers that lie one after another/],
    [
      "a storage of another size",
      op.dict(["w", tensor([2], [1], { of: storage(7) })]),
      /expected 7 numbers of 4 bytes, got 24/,
    ],
    [
      "no such storage",
      op.dict(["w", tensor([2], [1], { of: storage(6, { key: "9" }) })]),
      /^storage 9: expected a file/,
    ],
    [
      "another type of storage",
      op.dict(["w", tensor([2], [1], { of: storage(6, { type: "QInt8Storage" }) })]),
      /QInt8Storage/,
    ],
    ["another reference", `${op.tuple(op.text("module"))}Q`, /expected a storage, got another reference/],
    ["a dict in itself", `}q\x00(${op.text("a")}h\x00u`, /expected dicts that hold one another once, got a twice/],
    ["a dict in itself, ordered", `${ordered}q\x00(${op.text("a")}h\x00u`, /got a twice/],
    [
      "dicts that hold the next one twice, and so on",
      twice(40),
      /expected dicts that hold one another once, got a\.a.* twice/,
    ],
    [
      "dicts in dicts in dicts, 10,000 of them",
      `${`}(${op.text("a")}`.repeat(10_000)}}${"u".repeat(10_000)}`,
      /^pickle: expected dicts nested at most 100 deep, got deeper ones/,
    ],
    ["an old protocol", "\x80\x05", /^pickle protocol: expected 2, got 5/],
  ])("with %s is refused", async (_, pickle, message) => {
    expect(await refusal(openPickle(pickle))).toMatch(message);
  });

  test("without a pickle, of another byte order, or with a line break in a name is refused", async () => {
    expect(await refusal(openTorch(memorySource("f", makeZip([["a/x", text("")]]))))).toMatch(
      "expected a file data.pkl",
    );
    expect(await refusal(openPickle("}", [["a/byteorder", text("big")]]))).toMatch(
      "expected byteorder little, got big",
    );
    expect(await refusal(readZip(memorySource("f", makeZip([["a\n\x1bb", text("x"), { method: 8 }]]))))).toMatch("a b");
  });
});

describe("whatever the bytes, a file opens or is refused with a message:", () => {
  const files: [string, Uint8Array, (bytes: Uint8Array) => Promise<TensorFile>][] = [
    ["npz", fixture("plain/layer_1.npz"), (bytes) => openNpz(memorySource("f", bytes))],
    [
      "torch",
      fixture("openai/resid_post_mlp_v5_32k/autoencoders/1.pt"),
      (bytes) => openTorch(memorySource("f", bytes)),
    ],
  ];
  const opens = async (open: Promise<TensorFile>) => {
    try {
      const file = await open;
      for (const [name, info] of file.tensors) {
        expect((await file.read(name)).length).toBe(info.shape.reduce((a, b) => a * b, 1));
      }
    } catch (error) {
      expect(error).toMatchObject({ name: "UserError", message: expect.stringMatching(/^[^\n]*$/) });
    }
  };

  test.each(files)("%s with bytes changed, or cut short", async (_, good, open) => {
    await opens(open(good));
    // Headers and directory rather than numbers: the ends, and where names stand.
    const place = fc.oneof(
      fc.nat(good.length - 1),
      fc.nat(600),
      fc.nat(900).map((n) => Math.max(0, good.length - 1 - n)),
    );
    const change = fc.array(fc.tuple(place, fc.oneof(fc.nat(255), fc.constantFrom(0, 1, 0x7f, 0x80, 0xff))), {
      minLength: 1,
      maxLength: 4,
    });
    const changed = change.map((list) => {
      const bytes = good.slice();
      for (const [at, value] of list) bytes[at] = value;
      return bytes;
    });
    const cut = fc.nat(good.length).map((length) => good.slice(0, length));
    await fc.assert(
      fc.asyncProperty(fc.oneof({ arbitrary: changed, weight: 4 }, cut, fc.uint8Array({ maxLength: 120 })), (bytes) =>
        opens(open(bytes)),
      ),
      { numRuns: 800, seed: 3 },
    );
  });

  test("pickles of opcodes in any order", async () => {
    const pieces = fc.constantFrom(
      ..."(}])N\x88\x89.0tuseabqrhjRQX",
      "\x85",
      "\x86",
      "\x87",
      "q\x01",
      "h\x01",
      op.int(2),
      "K\x03",
      op.text("w"),
      op.global("collections", "OrderedDict"),
      op.global("torch._utils", "_rebuild_parameter"),
      op.global("os", "system"),
      storage(6),
      tensor([2, 3], [3, 1]),
      "\x8a\x02\xff\xff",
      "G12345678",
    );
    await fc.assert(
      fc.asyncProperty(fc.array(pieces, { maxLength: 40 }), (list) => opens(openPickle(list.join("")))),
      { numRuns: 1500, seed: 4 },
    );
  });

  test("a pickle that never ends, or names what a Map's prototype has, does not hang or reach it", () => {
    const fail = failureIn(memorySource("f", new Uint8Array(0)));
    const read = (pickle: string) => readPickle(latin(pickle), new Map(), () => null, fail);
    expect(() => read(`${op.start}${"(".repeat(100_000)}`)).toThrow("got the end in f");
    expect(() => read(`${op.start}${op.global("Map", "constructor")}`)).toThrow(
      "Map.constructor, which is not allowed",
    );
    expect(read(`${op.start}${op.dict(["__proto__", "K\x01"])}.`)).toEqual(new Map([["__proto__", 1]]));
  });
});
