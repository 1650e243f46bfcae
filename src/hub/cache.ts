import { randomUUID } from "node:crypto";
import { constants } from "node:fs";
import { copyFile, readFile, readlink, rename, rm, stat, symlink } from "node:fs/promises";
import { dirname, join, relative } from "node:path";
import { UserError } from "../errors.ts";
import { makeFolder, writeFileAtomic, writeProblem } from "../storage/files.ts";
import type { HubFile, HubListing } from "./client.ts";
import type { HubSettings } from "./settings.ts";

/**
 * Where a repository lies in the cache, laid out as Python's huggingface_hub does, so that both use each other's files:
 *
 *     models--org--name/blobs/<SHA-256 or git SHA-1>         the contents
 *                       snapshots/<commit>/<path>            links to them
 *                       refs/<revision>                      the commit it meant when it was last looked up
 *                       trees/<commit>.json                  the list of all its files at that commit
 *     .locks/models--org--name/                              locks of downloads
 */
export function repoFolder(cache: string, id: string): string {
  return join(cache, folderName(id));
}

/** The folder for a repository's locks. */
export function locksFolder(cache: string, id: string): string {
  return join(cache, ".locks", folderName(id));
}

const folderName = (id: string) => `models--${id.replaceAll("/", "--")}`;

/** What a file's blob is called: the hash of its contents. */
export function blobName(file: HubFile): string {
  return file.sha256 ?? file.blob;
}

/** Where a file's contents lie. */
export function blobPath(cache: string, id: string, file: HubFile): string {
  return join(repoFolder(cache, id), "blobs", blobName(file));
}

/** A variable that says where the cache lies, for messages. */
export const cachePlace = "HF_HUB_CACHE";

/** A repository at one commit, as far as it is cached. */
export interface Snapshot {
  readonly commit: string;
  readonly folder: string;
  /** All files of the repository at that commit, if they were ever listed. */
  readonly files: readonly HubFile[] | undefined;
}

/** The snapshot that a revision meant when it was last looked up, or undefined if there is none. */
export async function cachedSnapshot(cache: string, id: string, revision: string): Promise<Snapshot | undefined> {
  const repo = repoFolder(cache, id);
  const isCommit = /^[0-9a-f]{40}$/.test(revision);
  const commit = isCommit ? revision : (await readFile(join(repo, "refs", revision), "utf8").catch(() => "")).trim();
  const folder = join(repo, "snapshots", commit);
  if (!/^[0-9a-f]{40}$/.test(commit) || !(await isFolder(folder))) return undefined;
  return { commit, folder, files: await readTree(join(repo, "trees", `${commit}.json`)) };
}

/** Whether a snapshot has a file, of the listed length where it was listed. */
export async function hasFile({ folder, files }: Snapshot, path: string): Promise<boolean> {
  const found = await stat(join(folder, path)).catch(() => null);
  const size = files?.find((file) => file.path === path)?.size;
  return found?.isFile() === true && (size === undefined || found.size === size);
}

async function isFolder(path: string): Promise<boolean> {
  return (await stat(path).catch(() => null))?.isDirectory() ?? false;
}

/** The list of files that we or huggingface_hub (2 or later) keep per commit; undefined if there is none that can be understood. */
async function readTree(path: string): Promise<readonly HubFile[] | undefined> {
  try {
    const tree = JSON.parse(await readFile(path, "utf8")) as { format_version: number; files: Record<string, Entry> };
    if (tree.format_version !== 1) return undefined;
    return Object.entries(tree.files).map(([path, { size, blob_id, lfs_sha256 }]) => ({
      path,
      size,
      blob: blob_id,
      ...(lfs_sha256 == null ? {} : { sha256: lfs_sha256 }),
    }));
  } catch {
    return undefined;
  }
}

interface Entry {
  readonly size: number;
  readonly blob_id: string;
  readonly lfs_sha256?: string;
  readonly lfs_size?: number;
}

/**
 * Keeps what a revision means and what files there are.
 *
 * @throws UserError if the cache cannot be written
 */
export async function keepListing(
  cache: string,
  id: string,
  revision: string,
  { commit, files }: HubListing,
): Promise<Snapshot> {
  const repo = repoFolder(cache, id);
  const folder = join(repo, "snapshots", commit);
  const entries = files.map((file): [string, Entry] => [
    file.path,
    {
      size: file.size,
      blob_id: file.blob,
      ...(file.sha256 === undefined ? {} : { lfs_sha256: file.sha256, lfs_size: file.size }),
    },
  ]);
  const tree = join(repo, "trees", `${commit}.json`);
  // One of huggingface_hub's knows more of each file.
  if (!(await readTree(tree))) {
    await writeNew(tree, JSON.stringify({ format_version: 1, files: Object.fromEntries(entries) }, null, 1));
  }
  // Last: where there is a ref, the rest is there.
  if (revision !== commit) await writeNew(join(repo, "refs", revision), commit);
  await makeCacheFolder(folder);
  return { commit, folder, files };
}

async function writeNew(path: string, text: string): Promise<void> {
  if ((await readFile(path, "utf8").catch(() => null)) === text) return;
  await makeCacheFolder(dirname(path));
  await writeFileAtomic(path, text, cachePlace);
}

/** Makes a folder of the cache. @throws UserError if it cannot be made */
export async function makeCacheFolder(path: string): Promise<void> {
  await makeFolder(path).catch((error) => {
    throw writeProblem(error, path, cachePlace);
  });
}

/**
 * Puts a blob into a snapshot under its file's name: as a relative link, or as a copy where links cannot be made.
 *
 * @param snapshot its folder
 * @throws UserError if it cannot be written
 */
export async function linkFile(settings: HubSettings, id: string, snapshot: string, file: HubFile): Promise<void> {
  const blob = blobPath(settings.cache, id, file);
  const path = join(snapshot, file.path);
  const target = relative(dirname(path), blob);
  if ((await readlink(path).catch(() => null)) === target) return;
  await makeCacheFolder(dirname(path));
  // Made beside its place and renamed, so that nobody sees a file that is not whole, and whatever was there is replaced.
  const part = `${path}.${randomUUID().slice(0, 8)}.part`;
  try {
    const linked = settings.symlinks && (await symlink(target, part).then(isTrue, isUnsupported));
    if (!linked) await copyFile(blob, part, constants.COPYFILE_FICLONE);
    await rename(part, path);
  } catch (error) {
    await rm(part, { force: true }).catch(() => {});
    throw writeProblem(error, path, cachePlace);
  }
}

const isTrue = () => true;

/** False for the errors that mean that links cannot be made here; others are thrown. */
function isUnsupported(error: unknown): false {
  const code = String((error as { code?: unknown }).code);
  if (["EPERM", "EACCES", "ENOSYS", "ENOTSUP", "EOPNOTSUPP", "EINVAL"].includes(code)) return false;
  throw error;
}

/** The error of a file that is not cached while the network must not be used. */
export function offlineProblem(path: string, id: string, where: string, pull: string): UserError {
  return new UserError(
    `hub file ${path}: expected one of ${id} in the cache, got none at ${where}. HF_HUB_OFFLINE is set: unset it, or run sfc pull ${pull} where there is a network and copy the cache.`,
    { code: "network" },
  );
}
