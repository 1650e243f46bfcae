import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { fileStore } from "../src/results/pack-store.ts";

describe("parts of a capture on disk", () => {
  let folder: string;
  let number = 0;
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "sfc-store-"));
  });
  afterAll(() => rm(folder, { recursive: true, force: true }));
  const numbers = (...values: number[]) => new Map([["x", Float32Array.from(values)]]);
  /** A store with parts p0, p1, …, each with its own number. */
  const filled = async (count: number) => {
    const store = fileStore(folder, String(number++).padStart(16, "0"));
    for (let i = 0; i < count; i++) await store.save(`p${i}`, numbers(i));
    return store;
  };

  it("are read side by side, more of them than are kept open", async () => {
    const store = await filled(150);
    const order = Array.from({ length: 600 }, (_, i) => (i * 67) % 150);
    const read = await Promise.all(order.map((i) => store.read(`p${i}`, "x")));
    expect(read.map((values) => values![0])).toEqual(order);
    await store.close();
  });

  it("are what was saved last", async () => {
    const store = await filled(1);
    expect(await store.read("p0", "x")).toEqual(Float32Array.of(0));
    await store.save("p0", numbers(7, 8));
    expect(await store.read("p0", "x")).toEqual(Float32Array.of(7, 8));
    expect(await store.read("p0", "y")).toBeUndefined();
    await store.close();
  });

  it("are not there when removed, damaged or of another identity", async () => {
    const store = await filled(3);
    await store.remove("p0");
    const damaged = (await readdir(folder)).find((name) =>
      name.startsWith(`p1-${String(number - 1).padStart(16, "0")}`),
    )!;
    await writeFile(join(folder, damaged), "no tensors");
    expect(await Promise.all(["p0", "p1", "p2"].map((part) => store.has(part)))).toEqual([false, false, true]);
    await expect(store.read("p0", "x")).rejects.toThrow(/^The unfinished work was .*p0.*Run the same command again\.$/);
    expect(await fileStore(folder, "another").has("p2")).toBe(false);
    await store.close();
  });

  it("are not there when a single bit of a number or a name is another, or the end is missing", async () => {
    const store = await filled(3);
    await store.close();
    const files = (await readdir(folder)).filter((name) => name.includes(String(number - 1).padStart(16, "0"))).sort();
    const bytes = await Promise.all(files.map((name) => readFile(join(folder, name))));
    bytes[0]![bytes[0]!.length - 1]! ^= 1;
    const name = bytes[1]!.indexOf('"x"');
    bytes[1]![name + 1]! ^= 1;
    bytes[2] = bytes[2]!.subarray(0, -1);
    await Promise.all(files.map((file, i) => writeFile(join(folder, file), bytes[i]!)));
    expect(await Promise.all(["p0", "p1", "p2"].map((part) => store.has(part)))).toEqual([false, false, false]);
    await store.save("p0", numbers(5));
    expect(await store.has("p0")).toBe(true);
    await store.close();
  });

  it("are made anew where something else lies in their place", async () => {
    const store = await filled(1);
    await store.close();
    const file = join(
      folder,
      (await readdir(folder)).find((name) => name.includes(String(number - 1).padStart(16, "0")))!,
    );
    await rm(file);
    await mkdir(join(file, "folder"), { recursive: true });
    expect(await store.has("p0")).toBe(false);
    await store.save("p0", numbers(1, 2));
    expect(await store.read("p0", "x")).toEqual(Float32Array.of(1, 2));
    await store.close();
  });

  it("are kept out where what comes before saving fails", async () => {
    const store = fileStore(folder, "checked", () => {
      throw new Error("an input changed");
    });
    await expect(store.save("p0", numbers(1))).rejects.toThrow("an input changed");
    expect(await store.has("p0")).toBe(false);
  });

  it("are refused with a number that is none, and the model is said to overflow", async () => {
    const store = await filled(0);
    await expect(store.save("rows", numbers(1, Number.POSITIVE_INFINITY))).rejects.toThrow(
      "activations x of rows: expected finite numbers, got Infinity. The model overflows in float32: try --precision float64",
    );
    expect(await store.has("rows")).toBe(false);
  });
});
