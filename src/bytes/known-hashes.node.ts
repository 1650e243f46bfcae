import type { BigIntStats } from "node:fs";
import { appendFile, type FileHandle, mkdir, readFile, rm } from "node:fs/promises";
import { homedir } from "node:os";
import { join } from "node:path";
import type { ByteSource } from "./source.ts";

/** Files below this are hashed again: it takes as long as looking. */
const worthKeeping = 4 * 2 ** 20;
/** A file that was changed so shortly before it is hashed could be changed again without a new time. */
const settledAfter = 2_000;
/** The list begins anew beyond this length; a line has 150 bytes. */
const longestList = 2 * 2 ** 20;

/**
 * The SHA-256 of large files by their number, length, and times of the last write and of the last change, which nobody can set back: hashing an unchanged
 * model takes seconds. They are kept in the user's folder for caches, `analytic-sfc/sha256.txt`; where none can be written, nothing is known.
 */
export function knownHash(handle: FileHandle, size: number): ByteSource["known"] {
  if (size < worthKeeping) return undefined;
  let asked: string | undefined;
  return {
    async find() {
      asked = stateOf(await handle.stat({ bigint: true }));
      return asked && (await list()).get(asked);
    },
    async keep(hash) {
      if (asked === undefined || asked !== stateOf(await handle.stat({ bigint: true }))) return;
      const known = await list();
      if (known.get(asked) === hash) return;
      known.set(asked, hash);
      await append(`${asked} ${hash}\n`).catch(() => {});
    },
  };
}

/** Undefined for a file that was changed a moment ago. */
function stateOf({ dev, ino, size, mtimeNs, ctimeNs }: BigIntStats): string | undefined {
  const changed = Number(ctimeNs / 1_000_000n);
  if (ino === 0n || Date.now() - changed < settledAfter) return undefined;
  return [dev, ino, size, mtimeNs, ctimeNs].join("-");
}

const folder = () => join(process.env.XDG_CACHE_HOME || join(homedir(), ".cache"), "analytic-sfc");
const file = () => join(folder(), "sha256.txt");

let read: Promise<Map<string, string>> | undefined;

/** The hashes by state, of a list as it was when it was first asked for. */
function list(): Promise<Map<string, string>> {
  read ??= readFile(file(), "utf8").then(
    async (text) => {
      if (text.length > longestList) await rm(file(), { force: true }).catch(() => {});
      // A line that was cut off, or one that two programs wrote at once, is none.
      return new Map([...text.matchAll(/^([\d-]+) ([0-9a-f]{64})$/gm)].map(([, state, hash]) => [state!, hash!]));
    },
    () => new Map(),
  );
  return read;
}

async function append(line: string): Promise<void> {
  await mkdir(folder(), { recursive: true });
  await appendFile(file(), line);
}
