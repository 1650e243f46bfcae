import { createHash } from "node:crypto";
import { constants } from "node:fs";
import { type FileHandle, open, readdir, realpath, stat } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import zlib from "node:zlib";
import { messageOf, UserError } from "../errors.ts";
import { crc32OfBytes } from "./crc32.ts";
import type { Folder } from "./folder.ts";
import { knownHash } from "./known-hashes.node.ts";
import { withoutPointer } from "./lfs.ts";
import { checkRange } from "./memory.ts";
import type { ByteSource } from "./source.ts";

/** One read of the operating system takes at most 2 GiB. */
const largestRead = 2 ** 30;

/**
 * A file on disk.
 *
 * @throws UserError if it cannot be opened or is not a file
 */
export async function openFile(path: string): Promise<ByteSource> {
  try {
    const { handle, size } = await openRegular(path);
    return fileSource(path, handle, size);
  } catch (error) {
    throw new UserError(
      `file: expected one that can be read, got an error (${messageOf(error)}) at ${path}. Check the path.`,
    );
  }
}

/**
 * The bytes of a file.
 *
 * @throws the system's error, or one for what is no file: a pipe could be waited for without an end, and a device read without one
 */
export async function readRegular(path: string): Promise<Buffer> {
  const { handle } = await openRegular(path);
  try {
    return await handle.readFile();
  } finally {
    await handle.close();
  }
}

async function openRegular(path: string): Promise<{ readonly handle: FileHandle; readonly size: number }> {
  // Without waiting for whoever writes to a pipe. Windows has no such flag.
  const handle = await open(path, constants.O_RDONLY | (constants.O_NONBLOCK ?? 0));
  try {
    const status = await handle.stat();
    if (status.isDirectory()) throw new Error("it is not a file, but a folder");
    if (!status.isFile()) throw new Error("it is not a file, but a pipe or a device: save it to a file first");
    return { handle, size: status.size };
  } catch (error) {
    await handle.close();
    throw error;
  }
}

function fileSource(name: string, handle: FileHandle, size: number): ByteSource {
  return {
    name,
    size,
    async read(offset, length, into = new Uint8Array(length)) {
      checkRange(name, size, offset, length);
      for (let done = 0; done < length; ) {
        const { bytesRead } = await handle.read(into, done, Math.min(largestRead, length - done), offset + done);
        if (bytesRead === 0) {
          throw new UserError(
            `file: expected ${size} bytes, got ${offset + done} in ${name}. It changed while it was read.`,
          );
        }
        done += bytesRead;
      }
      return into;
    },
    known: knownHash(handle, size),
    close: () => handle.close(),
  };
}

/**
 * A folder on disk. Links to files and folders are followed.
 *
 * @throws UserError if it does not exist or is not a folder
 */
export async function openFolder(path: string): Promise<Folder> {
  const status = await stat(path).catch((error: NodeJS.ErrnoException) => error);
  if (status instanceof Error || !status.isDirectory()) {
    const got = !(status instanceof Error) ? "a file" : status.code === "ENOENT" ? "nothing" : status.code;
    throw new UserError(`folder: expected one, got ${got} at ${path}. Check the path.`);
  }
  const realFolders = new Map<string, Promise<string>>();
  const realFolder = (folder: string) => {
    const known = realFolders.get(folder) ?? realpath(folder).catch(() => folder);
    realFolders.set(folder, known);
    return known;
  };
  return {
    name: path,
    async namesOf(inner) {
      const whole = resolve(path, inner);
      const inReal = join(await realFolder(dirname(whole)), basename(whole));
      const real = await realpath(whole).catch(() => whole);
      return [...new Set([whole, inReal, real])].map((name) => name.replaceAll("\\", "/"));
    },
    async list() {
      const found: string[] = [];
      await filesUnder(path, "", [], found).catch((error) => {
        if (error instanceof UserError) throw error;
        throw new UserError(
          `folder: expected one that can be read, got an error (${messageOf(error)}) at ${path}. Check its permissions.`,
        );
      });
      return found.sort();
    },
    async open(inner) {
      if (inner.startsWith("/") || inner.split("/").includes("..")) {
        throw new UserError(
          `file: expected a path inside the folder, got "${inner}" in ${path}. Check where it came from.`,
        );
      }
      const full = join(path, inner);
      const exists = await stat(full).catch(() => undefined);
      return exists?.isFile() ? withoutPointer(await openFile(full)) : undefined;
    },
  };
}

/** Folders are looked into to this depth. */
const mostLevels = 6;
/** A folder with more files than this is none of a model's or of SAEs, or is linked to itself in many places. */
const mostFiles = 200_000;

/**
 * Adds the files under a folder of a root to `found`.
 *
 * @param above the folders on the way, as the system numbers them: a link back to one of them is not followed
 * @throws UserError if there are too many files; the system's error if the folder cannot be read
 */
async function filesUnder(root: string, path: string, above: readonly string[], found: string[]): Promise<void> {
  const { dev, ino } = await stat(join(root, path), { bigint: true });
  const here = `${dev}/${ino}`;
  // Some file systems give no numbers.
  if (ino !== 0n && above.includes(here)) return;
  for (const entry of await readdir(join(root, path), { withFileTypes: true })) {
    if (entry.name.startsWith(".")) continue;
    const inner = path === "" ? entry.name : `${path}/${entry.name}`;
    // A folder that may not be read, or a link that leads nowhere, holds nothing for us.
    const kind = entry.isSymbolicLink() ? await stat(join(root, inner)).catch(() => undefined) : entry;
    if (kind?.isFile()) found.push(inner);
    if (found.length > mostFiles) {
      throw new UserError(
        `folder: expected at most ${mostFiles} files, got more in ${root}. Name the folder of the model or the SAEs itself.`,
      );
    }
    if (kind?.isDirectory() && above.length < mostLevels - 1) {
      await filesUnder(root, inner, [...above, here], found).catch((error) => {
        if (error instanceof UserError) throw error;
      });
    }
  }
}

/** The CRC-32 of bytes behind others whose CRC is `before`. */
export const crc32: (bytes: Uint8Array, before?: number) => number = zlib.crc32 ?? crc32OfBytes;

/** A SHA-256 that takes its bytes in pieces. */
export function newSha256(): { update(bytes: Uint8Array): void; hex(): string } {
  const hash = createHash("sha256");
  return { update: (bytes) => void hash.update(bytes), hex: () => hash.digest("hex") };
}
