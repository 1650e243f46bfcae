import { createHash } from "node:crypto";
import { appendFileSync, mkdtempSync, readdirSync, readFileSync, rmSync, utimesSync, writeFileSync } from "node:fs";
import { open } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";

const large = 4 * 2 ** 20;
let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "sfc-hashes-"));
  vi.stubEnv("XDG_CACHE_HOME", join(folder, "cache"));
  // The list is read once in a process.
  vi.resetModules();
});
afterEach(() => {
  vi.unstubAllEnvs();
  vi.useRealTimers();
  rmSync(folder, { recursive: true });
});

/** The remembered hash of a file, as of `later` milliseconds after now; what is not known is computed and kept. */
async function found(path: string, later = 10_000): Promise<{ known: string | undefined; right: string }> {
  const { knownHash } = await import("../src/bytes/known-hashes.node.ts");
  vi.useFakeTimers({ toFake: ["Date"], now: Date.now() + later });
  const handle = await open(path);
  try {
    const bytes = readFileSync(path);
    const right = createHash("sha256").update(bytes).digest("hex");
    const of = knownHash(handle, bytes.length);
    const known = await of?.find();
    if (known === undefined) await of?.keep(right);
    return { known, right };
  } finally {
    vi.useRealTimers();
    await handle.close();
  }
}

describe("remembered hashes", () => {
  it("are those of the file, in this process and the next", async () => {
    const path = join(folder, "weights");
    writeFileSync(path, Buffer.alloc(large, 1));
    expect((await found(path)).known).toBeUndefined();
    vi.resetModules();
    const again = await found(path);
    expect(again.known).toBe(again.right);
  });

  it("are forgotten when the file changes, whatever its length and the time it claims", async () => {
    const path = join(folder, "weights");
    writeFileSync(path, Buffer.alloc(large, 1));
    utimesSync(path, 1e9, 1e9);
    await found(path);
    writeFileSync(path, Buffer.alloc(large, 2));
    utimesSync(path, 1e9, 1e9);
    vi.resetModules();
    expect((await found(path)).known).toBeUndefined();
  });

  it("are not kept of a file that has just been written, nor of a small one", async () => {
    const path = join(folder, "weights");
    writeFileSync(path, Buffer.alloc(large, 1));
    await found(path, 0);
    const small = join(folder, "small");
    writeFileSync(small, "a");
    await found(small);
    expect(readdirSync(folder).sort()).toEqual(["small", "weights"]);
  });

  it("go on where the list has a broken line", async () => {
    const path = join(folder, "weights");
    writeFileSync(path, Buffer.alloc(large, 1));
    await found(path);
    const list = join(folder, "cache/analytic-sfc/sha256.txt");
    appendFileSync(list, `1-2-3-4-5 ${"0".repeat(30)}`);
    vi.resetModules();
    const again = await found(path);
    expect(again.known).toBe(again.right);
  });
});
