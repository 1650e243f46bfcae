import { createHash } from "node:crypto";
import { constants } from "node:fs";
import { type FileHandle, open, readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { messageOf, UserError } from "../errors.ts";
import type { Folder } from "./folder.ts";
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
  let handle: FileHandle | undefined;
  try {
    handle = await open(path, constants.O_RDONLY);
    const status = await handle.stat();
    if (!status.isFile()) throw new Error("it is not a file");
    return fileSource(path, handle, status.size);
  } catch (error) {
    await handle?.close();
    throw new UserError(
      `file: expected one that can be read, got an error (${messageOf(error)}) at ${path}. Check the path.`,
    );
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
    close: () => handle.close(),
  };
}

/**
 * A folder on disk. Links to files and folders are followed.
 *
 * @throws UserError if it does not exist or is not a folder
 */
export async function openFolder(path: string): Promise<Folder> {
  const status = await stat(path).catch(() => undefined);
  if (!status?.isDirectory()) {
    throw new UserError(`folder: expected one, got ${status ? "a file" : "nothing"} at ${path}. Check the path.`);
  }
  return {
    name: path,
    list: async () => (await filesUnder(path, "", 6)).sort(),
    async open(inner) {
      if (inner.startsWith("/") || inner.split("/").includes("..")) {
        throw new UserError(
          `file: expected a path inside the folder, got "${inner}" in ${path}. Check where it came from.`,
        );
      }
      const full = join(path, inner);
      const exists = await stat(full).catch(() => undefined);
      return exists?.isFile() ? openFile(full) : undefined;
    },
  };
}

async function filesUnder(root: string, path: string, levels: number): Promise<string[]> {
  const found: string[] = [];
  for (const entry of await readdir(join(root, path), { withFileTypes: true })) {
    if (entry.name.startsWith(".")) continue;
    const inner = path === "" ? entry.name : `${path}/${entry.name}`;
    // A folder that may not be read, or a link that leads nowhere, holds nothing for us.
    const kind = entry.isSymbolicLink() ? await stat(join(root, inner)).catch(() => undefined) : entry;
    if (kind?.isFile()) found.push(inner);
    if (kind?.isDirectory() && levels > 1) found.push(...(await filesUnder(root, inner, levels - 1).catch(() => [])));
  }
  return found;
}

/** A SHA-256 that takes its bytes in pieces. */
export function newSha256(): { update(bytes: Uint8Array): void; hex(): string } {
  const hash = createHash("sha256");
  return { update: (bytes) => void hash.update(bytes), hex: () => hash.digest("hex") };
}
