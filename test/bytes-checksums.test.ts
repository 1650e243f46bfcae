import { readFileSync } from "node:fs";
import { crc32, deflateRawSync } from "node:zlib";
import { describe, expect, test } from "vitest";
import { crc32OfBytes } from "../src/bytes/crc32.ts";
import { memorySource } from "../src/bytes/memory.ts";
import { openNpz } from "../src/bytes/npz.ts";
import { sha256 } from "../src/bytes/sha256.ts";
import type { ByteSource } from "../src/bytes/source.ts";
import type { TensorFile } from "../src/bytes/tensor-file.ts";
import { openTorch } from "../src/bytes/torch.ts";
import { readZip } from "../src/bytes/zip.ts";
import { makeZip } from "./make-zip.ts";

const fixture = (path: string) => new Uint8Array(readFileSync(`test/fixtures/dictionaries/${path}`));
const flipped = (bytes: Uint8Array, at: number, bit = 0) => {
  const changed = bytes.slice();
  changed[at]! ^= 1 << bit;
  return changed;
};
const npy = (values: readonly number[], rows: number) => {
  const shape = `(${rows}, ${values.length / rows})`;
  const header = `{'descr': '<f4', 'fortran_order': False, 'shape': ${shape}, }`.padEnd(117, " ");
  return Buffer.concat([
    Buffer.from("\x93NUMPY\x01\x00v\x00", "latin1"),
    Buffer.from(`${header}\n`),
    new Uint8Array(Float32Array.from(values).buffer),
  ]);
};

/** Counts the bytes that are read. */
function counting(bytes: Uint8Array, more: Partial<ByteSource> = {}) {
  const source = memorySource("f", bytes);
  const counted = {
    ...source,
    ...more,
    bytes: 0,
    async read(offset: number, length: number) {
      counted.bytes += length;
      return source.read(offset, length);
    },
  };
  return counted;
}

test("our CRC-32 is zlib's, of any length and in pieces", () => {
  const bytes = Uint8Array.from({ length: 300 }, (_, i) => (i * i * 7 + i) & 255);
  for (let length = 0; length <= 40; length++) {
    const part = bytes.subarray(3, 3 + length);
    expect(crc32OfBytes(part)).toBe(crc32(part));
  }
  expect(crc32OfBytes(bytes.subarray(101), crc32OfBytes(bytes.subarray(0, 101)))).toBe(crc32(bytes));
  // The check value of the algorithm's catalogue.
  expect(crc32OfBytes(new TextEncoder().encode("123456789"))).toBe(0xcbf43926);
});

describe("one flipped bit of a member", () => {
  const files: [string, string, (source: ByteSource) => Promise<TensorFile>][] = [
    ["npz that numpy wrote", "plain/layer_1.npz", openNpz],
    ["pt that torch wrote", "openai/resid_post_mlp_v5_32k/autoencoders/1.pt", openTorch],
  ];
  test.each(files)("of an %s is refused by its name, however it is read", async (_, path, open) => {
    const good = fixture(path);
    const entries = await readZip(memorySource("f", good));
    const { tensors } = await open(memorySource("f", good));
    expect(tensors.size).toBeGreaterThan(2);
    const named = (at: number) =>
      [...entries.values()].find(({ offset, length }) => offset <= at && at < offset + length)!.name;
    for (const [name, { offset, length, shape }] of tensors) {
      for (const [at, bit] of [
        [offset, 0],
        [offset + (length >> 1), 3],
        [offset + length - 1, 7],
      ] as const) {
        const bytes = flipped(good, at, bit);
        const message = new RegExp(
          `^zip entry ${named(at).replace(/\W/g, "\\$&")}: expected the checksum [0-9a-f]{8}, got [0-9a-f]{8} in f\\. The file is damaged`,
        );
        const file = await open(memorySource("f", bytes));
        await expect(file.read(name)).rejects.toThrow(message);
        await expect(file.read(name)).rejects.toThrow(message);
        if (shape.length === 2) {
          await expect((await open(memorySource("f", bytes))).rows(name, [0])).rejects.toThrow(message);
          await expect((await open(memorySource("f", bytes))).read(name, { transposed: true })).rejects.toThrow(
            message,
          );
        }
        await expect(sha256((await open(memorySource("f", bytes))).source)).rejects.toThrow(message);
      }
    }
  });

  test("of a pickle or of an array's header is refused", async () => {
    const pt = fixture("openai/resid_post_mlp_v5_32k/autoencoders/1.pt");
    const pickle = [...(await readZip(memorySource("f", pt))).values()].find(({ name }) => name.endsWith("data.pkl"))!;
    // A digit of the activation's k or a letter of a name: the pickle still reads.
    const letter = Buffer.from(pt).indexOf("encoder.weight", pickle.offset);
    await expect(openTorch(memorySource("f", flipped(pt, letter)))).rejects.toThrow(/^zip entry .*data\.pkl: expected/);
    const npz = makeZip([["w.npy", npy([1, 2, 3, 4], 2)]]);
    const shape = Buffer.from(npz).indexOf("(2, 2)");
    const changed = npz.slice();
    changed.set(new TextEncoder().encode("(4, 1)"), shape);
    const file = await openNpz(memorySource("f", changed));
    await expect(file.read("w")).rejects.toThrow("zip entry w.npy: expected the checksum");
  });

  test("of a storage that tensors share is refused though the tensor's own bytes are whole", async () => {
    const bytes = makeZip([["w.npy", npy([1, 2, 3, 4, 5, 6], 3)]]);
    const last = await openNpz(memorySource("f", bytes)).then(({ tensors }) => tensors.get("w")!);
    const file = await openNpz(memorySource("f", flipped(bytes, last.offset + 20)));
    await expect(file.rows("w", [0])).rejects.toThrow("zip entry w.npy");
  });

  test("of deflated members cannot pass: they are refused as such", async () => {
    const packed = deflateRawSync(npy([1, 2, 3, 4], 2));
    const lies = { method: 8, length: 128 + 16, storedLength: packed.length };
    const bytes = makeZip([["w.npy", packed, lies]]);
    await expect(openNpz(memorySource("f", bytes))).rejects.toThrow("got compressed ones in f. Save it uncompressed");
  });
});

test("a whole array is read once for its numbers and its checksum, a pass over the file once for its hash", async () => {
  const values = Array.from({ length: 5000 }, (_, i) => i);
  const bytes = makeZip([["w.npy", npy(values, 50)]]);
  const source = counting(bytes);
  const file = await openNpz(source);
  const opened = source.bytes;
  await file.read("w");
  expect(source.bytes - opened).toBe(20_000);
  await file.rows("w", [1]);
  expect(source.bytes - opened).toBe(20_400);
  const again = counting(bytes);
  await sha256((await openNpz(again)).source);
  expect(again.bytes - opened).toBe(bytes.length);
});

test("rows over a network cost no more than the rows", async () => {
  const source = counting(
    makeZip([
      [
        "w.npy",
        npy(
          Array.from({ length: 5000 }, () => 1),
          50,
        ),
      ],
    ]),
    { overNetwork: true },
  );
  const file = await openNpz(source);
  const opened = source.bytes;
  await file.rows("w", [7]);
  expect(source.bytes - opened).toBe(400);
});

test("a file that torch saved without checksums is read", async () => {
  const good = fixture("openai/resid_post_mlp_v5_32k/autoencoders/1.pt");
  const entries = await readZip(memorySource("f", good));
  const without = makeZip(
    [...entries.values()].map(({ name, offset, length }) => [name, good.slice(offset, offset + length), { crc: 0 }]),
  );
  const file = await openTorch(memorySource("f", without));
  const same = await openTorch(memorySource("f", good));
  for (const name of same.tensors.keys()) expect(await file.read(name)).toEqual(await same.read(name));
});
