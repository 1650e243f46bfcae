import { createHash } from "node:crypto";
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, truncateSync, writeFileSync } from "node:fs";
import { open } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import * as node from "../src/bytes/file.node.ts";
import * as web from "../src/bytes/file.web.ts";
import { memoryFolder, readJson, subfolder } from "../src/bytes/folder.ts";
import { memorySource } from "../src/bytes/memory.ts";
import { sha256, sha256OfFiles, sha256OfText } from "../src/bytes/sha256.ts";
import { Random } from "../src/random.ts";

let folder = "";
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "sfc-bytes-"));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const bytes = new TextEncoder().encode("0123456789");

describe("a file's bytes", () => {
  test("are the same from disk, from a page and from memory", async () => {
    writeFileSync(join(folder, "digits"), bytes);
    const sources = [
      await node.openFile(join(folder, "digits")),
      await web.openFile(new File([bytes], "digits")),
      memorySource("digits", bytes),
    ];
    for (const source of sources) {
      expect(source.size).toBe(10);
      expect(new TextDecoder().decode(await source.read(3, 4))).toBe("3456");
      expect(await source.read(10, 0)).toEqual(new Uint8Array(0));
      await expect(source.read(8, 3)).rejects.toThrow(
        /bytes 8 to 11: expected at most 10, got a range beyond the end in .*digits/,
      );
      await expect(source.read(-1, 3)).rejects.toThrow("beyond the end");
      await source.close();
    }
  });

  test("can lie beyond 4 GiB", async () => {
    const path = join(folder, "sparse");
    const size = 5 * 2 ** 30;
    const handle = await open(path, "w");
    await handle.write(bytes, 0, 10, size - 10);
    await handle.close();
    const source = await node.openFile(path);
    expect(source.size).toBe(size);
    expect(new TextDecoder().decode(await source.read(size - 4, 4))).toBe("6789");
    await source.close();
    rmSync(path);
  });

  test("that vanish while they are read are an error, not a hang", async () => {
    const path = join(folder, "shrinks");
    writeFileSync(path, bytes);
    const source = await node.openFile(path);
    truncateSync(path, 5);
    await expect(source.read(0, 10)).rejects.toThrow("expected 10 bytes, got 5");
    await source.close();
  });

  test("of no file, or of a folder, are an error that names it", async () => {
    await expect(node.openFile(join(folder, "none"))).rejects.toThrow(/ENOENT.*none/);
    await expect(node.openFile(folder)).rejects.toThrow("it is not a file");
  });
});

describe("a folder", () => {
  test("lists its files, follows links, and leaves hidden ones out", async () => {
    const root = join(folder, "root");
    mkdirSync(join(root, "saes/resid_post.0"), { recursive: true });
    mkdirSync(join(root, ".git"), { recursive: true });
    writeFileSync(join(root, "config.json"), "{}");
    writeFileSync(join(root, ".git/x"), "");
    writeFileSync(join(root, "saes/resid_post.0/cfg.json"), '{"d_in": 8}');
    symlinkSync("config.json", join(root, "link.json"));
    symlinkSync("nowhere", join(root, "broken.json"));
    const disk = await node.openFolder(root);
    expect(await disk.list()).toEqual(["config.json", "link.json", "saes/resid_post.0/cfg.json"]);
    expect(await disk.open("none.json")).toBeUndefined();
    expect(await disk.open("saes")).toBeUndefined();
    await expect(disk.open("../digits")).rejects.toThrow('expected a path inside the folder, got "../digits"');
    expect(await readJson(subfolder(disk, "saes/resid_post.0"), "cfg.json")).toEqual({ d_in: 8 });
  });

  test("that does not exist, or is a file, is an error that names it", async () => {
    await expect(node.openFolder(join(folder, "none"))).rejects.toThrow(/folder: expected one, got nothing at .*none/);
    await expect(node.openFolder(join(folder, "digits"))).rejects.toThrow("got a file");
  });

  test("that are linked to themselves are looked through once", async () => {
    const root = join(folder, "circles");
    mkdirSync(join(root, "a/b"), { recursive: true });
    mkdirSync(join(root, "c"));
    for (const file of ["top", "a/b/deep", "c/other"]) writeFileSync(join(root, file), bytes);
    for (let i = 0; i < 40; i++) symlinkSync(root, join(root, `a/b/up${i}`));
    symlinkSync(".", join(root, "self"));
    symlinkSync("../c", join(root, "a/toC"));
    symlinkSync("../a", join(root, "c/toA"));
    symlinkSync("circle", join(root, "circle"));
    const list = await (await node.openFolder(root)).list();
    // A link to a folder that does not lead back is a folder.
    expect(list).toEqual(["a/b/deep", "a/toC/other", "c/other", "c/toA/b/deep", "top"]);
    expect(await (await node.openFolder(join(root, "self"))).list()).toEqual(list);
    await expect(node.openFolder(join(root, "circle"))).rejects.toThrow("folder: expected one, got ELOOP at");
  });

  test("chosen in a page has the same paths", async () => {
    const file = (path: string) => Object.assign(new File(["{}"], path), { webkitRelativePath: `demo/${path}` });
    const chosen = await web.openFolder(["saes/a/cfg.json", "config.json", ".x/y"].map(file));
    expect(chosen.name).toBe("demo");
    expect(await chosen.list()).toEqual(["config.json", "saes/a/cfg.json"]);
    expect((await chosen.open("saes/a/cfg.json"))?.name).toBe("demo/saes/a/cfg.json");
  });

  test("with broken JSON in it is an error that names the file in one line", async () => {
    const text = (t: string) => memoryFolder("model", { "config.json": new TextEncoder().encode(t) });
    await expect(readJson(text('{"a":\n'), "config.json")).rejects.toThrow(
      /^config.json: expected a JSON object.*in model\/config.json\. [^\n]*$/,
    );
    await expect(readJson(text("[1]"), "config.json")).rejects.toThrow("it is not an object");
    expect(await readJson(text("{}"), "other.json")).toBeUndefined();
  });
});

describe("sha256", () => {
  const random = new Random("sha256");
  const lengths = [0, 1, 3, 55, 56, 63, 64, 65, 119, 120, 128, 1000, 100_001];

  test("of a page equals Node's, however the bytes come", () => {
    for (const length of lengths) {
      const data = Uint8Array.from({ length }, () => random.below(256));
      const hash = web.newSha256();
      for (let at = 0; at < length; ) {
        const taken = 1 + random.below(200);
        hash.update(data.subarray(at, at + taken));
        at += taken;
      }
      expect(hash.hex(), `${length} bytes`).toBe(createHash("sha256").update(data).digest("hex"));
    }
  });

  test("of a text and of a source", async () => {
    const abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    expect(sha256OfText("abc")).toBe(abc);
    expect(await sha256(memorySource("abc", new TextEncoder().encode("abc")))).toBe(abc);
  });

  test("of several files does not depend on their order, but on their names", async () => {
    const [a, b] = [memorySource("x", Uint8Array.of(1)), memorySource("y", Uint8Array.of(2))];
    const one = await sha256OfFiles(new Map(Object.entries({ a, b })));
    expect(await sha256OfFiles(new Map(Object.entries({ b, a })))).toBe(one);
    expect(await sha256OfFiles(new Map(Object.entries({ a: b, b: a })))).not.toBe(one);
  });
});
