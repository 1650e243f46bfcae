import { createHash, type Hash } from "node:crypto";
import { createReadStream } from "node:fs";
import { type FileHandle, open, readdir, rename, rm, stat } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { UserError } from "../errors.ts";
import { writeProblem } from "../storage/files.ts";
import { type Lock, tryLock } from "../storage/lock.ts";
import { blobName, blobPath, cachePlace, locksFolder, makeCacheFolder } from "./cache.ts";
import { download, type HubFile, type HubSink } from "./client.ts";
import type { HubSettings } from "./settings.ts";

export interface BlobProgress {
  /** So many bytes of the file are there by now. */
  onBytes(bytes: number): void;
  /** Another process downloads the file; we wait for it. */
  onWait(holder: string): void;
}

/** Seconds. */
const lookAgain = 0.3;
const staleAfter = 300;
/** Seconds without a change after which another program's unfinished download counts as given up. */
const abandonedAfter = 600;

/**
 * Downloads the contents of a file into the cache's blobs, unless they are there: into a partial file of its own name, which the next call goes on with after
 * an interruption, renamed into place once length and hash are right. One process at a time downloads a file, others wait for it.
 *
 * @throws UserError if the hash is wrong twice, the disk is full or cannot be written, or what `download` throws; the signal's reason
 */
export async function fetchBlob(
  settings: HubSettings,
  id: string,
  commit: string,
  file: HubFile,
  progress: BlobProgress,
): Promise<void> {
  const path = blobPath(settings.cache, id, file);
  if (await isThere(path, file)) return;
  await makeCacheFolder(dirname(path));
  const lock = await waitForLock(settings, id, file, progress);
  try {
    // Whoever had the lock may have done it.
    if (await isThere(path, file)) return;
    const partial = partialPath(path);
    await adoptPartial(path, partial);
    for (const last of [false, true]) {
      const sink = await openSink(partial, file, progress);
      try {
        await download(settings, id, commit, file, sink);
        await sink.flush();
      } finally {
        await sink.close();
      }
      if (sink.digest() === blobName(file)) break;
      await rm(partial, { force: true });
      if (last) {
        throw new UserError(
          `hub file ${file.path}: expected contents with the hash ${blobName(file)}, got others, twice, from ${id} at ${settings.endpoint}. Start again later; if it happens again, the network changes files on the way.`,
        );
      }
    }
    await rename(partial, path);
  } catch (error) {
    throw writeProblem(error, path, cachePlace);
  } finally {
    await lock();
  }
}

/** What is there of an unfinished blob. The name is ours alone: huggingface_hub would not see that another program appends to its own. */
export function partialPath(blob: string): string {
  return `${blob}.sfc.incomplete`;
}

async function isThere(path: string, { size }: HubFile): Promise<boolean> {
  const found = await stat(path).catch(() => null);
  return found?.isFile() === true && found.size === size;
}

/** @returns what gives the lock back */
async function waitForLock(
  { cache, signal }: HubSettings,
  id: string,
  file: HubFile,
  progress: BlobProgress,
): Promise<() => Promise<void>> {
  const folder = locksFolder(cache, id);
  await makeCacheFolder(folder);
  const path = join(folder, `${blobName(file)}.sfc.lock`);
  const attempt = (): Promise<Lock> =>
    tryLock(path, { staleAfter }).catch((error) => {
      throw writeProblem(error, path, cachePlace);
    });
  for (let told = false; ; told = true) {
    const taken = await attempt();
    if ("release" in taken) return taken.release;
    if (!told) progress.onWait(taken.holder);
    await new Promise((resolve) => setTimeout(resolve, 1000 * lookAgain));
    signal?.throwIfAborted();
  }
}

/** Takes over the partial file that another program has left of this file, the longest one, if we have none ourselves. */
async function adoptPartial(blob: string, partial: string): Promise<void> {
  if (await stat(partial).catch(() => null)) return;
  let best = { size: 0, path: "" };
  for (const other of await readdir(dirname(blob))) {
    if (!other.startsWith(`${basename(blob)}.`) || !other.endsWith(".incomplete")) continue;
    const path = join(dirname(blob), other);
    const { size, mtimeMs } = (await stat(path).catch(() => null)) ?? { size: 0, mtimeMs: Date.now() };
    if (size > best.size && Date.now() - mtimeMs > 1000 * abandonedAfter) best = { size, path };
  }
  if (best.path) await rename(best.path, partial);
}

interface FileSink extends HubSink {
  /** Brings what was appended to the disk. */
  flush(): Promise<void>;
  close(): Promise<void>;
  /** The hash of all bytes, in hex, as the blob is named; can be asked for once. */
  digest(): string;
}

/** A partial file as a sink that goes on behind what it holds, hashed on the way. */
async function openSink(partial: string, file: HubFile, { onBytes }: BlobProgress): Promise<FileSink> {
  const handle: FileHandle = await open(partial, "a+");
  try {
    let hash = newHash(file);
    let size = (await handle.stat()).size;
    if (size > file.size) {
      await handle.truncate(0);
      size = 0;
    }
    for await (const bytes of createReadStream(partial, { highWaterMark: 2 ** 20 })) hash.update(bytes as Uint8Array);
    onBytes(size);
    return {
      get size() {
        return size;
      },
      async append(bytes) {
        await handle.writeFile(bytes);
        hash.update(bytes);
        size += bytes.length;
        onBytes(size);
      },
      async restart() {
        await handle.truncate(0);
        hash = newHash(file);
        size = 0;
        onBytes(0);
      },
      flush: () => handle.sync(),
      close: () => handle.close(),
      digest: () => hash.digest("hex"),
    };
  } catch (error) {
    await handle.close();
    throw error;
  }
}

/** SHA-256 of a large file, otherwise git's: SHA-1 of `blob <length>`, a zero byte, and the contents. */
function newHash({ sha256, size }: HubFile): Hash {
  return sha256 === undefined ? createHash("sha1").update(`blob ${size}\0`) : createHash("sha256");
}
