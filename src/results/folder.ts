import { readdir, rm, rmdir, stat } from "node:fs/promises";
import { dirname, join } from "node:path";
import type { z } from "zod";
import { sha256OfText } from "../bytes/sha256.ts";
import { messageOf, UsageError, UserError } from "../errors.ts";
import { makeFolder, readJsonFile, writeFileAtomic, writeProblem } from "../storage/files.ts";
import { type LockOptions, lockHolder, tryLock } from "../storage/lock.ts";
import { type Manifest, manifestFile, manifestSchema, type RunOptions, writeManifest } from "./manifest.ts";

/** Where unfinished work lies inside a folder until it is complete. */
export const partialFolder = ".partial";

const lockFile = ".lock";
/** Locks of shards of the work: each lets one process in at a time, besides those of the other shards. */
const shardLock = `${lockFile}-shard-`;

type Options = RunOptions;

/** What a kind of folder bears in its manifest, whatever else is there. */
interface FolderManifest {
  readonly command: string;
  readonly status: string;
  readonly options: Options;
}

/** A kind of folder that work is done in: a run's, or another command's. Its manifest says what it is and whether it is complete. */
export interface FolderKind<M extends FolderManifest> {
  /** What messages call the work: `run`. */
  readonly noun: string;
  readonly manifestFile: string;
  readonly schema: z.ZodType<M>;
  /** The files that the work of a stored manifest, of whatever version, may have written; nothing else in its folder is ever removed. */
  files(manifest: object | undefined): readonly string[];
}

const runFolder: FolderKind<Manifest> = {
  noun: "run",
  manifestFile,
  schema: manifestSchema,
  files: () => [
    "pairs.jsonl",
    "nodes.parquet",
    "effects.parquet",
    "features.parquet",
    "ranking.json",
    "ablation.json",
    "feature-cards.json",
    "report.html",
    "slurm",
  ],
};

/**
 * What lies at a path: nothing, an empty folder, complete work, work that was interrupted, that of another version of this program, or something
 * that is no folder of this kind and is left alone.
 */
export type FolderState<M = Manifest> =
  | { readonly state: "absent" | "empty" }
  | { readonly state: "complete" | "unfinished"; readonly manifest: M }
  | { readonly state: "other version"; readonly manifest: Readonly<Record<string, unknown>>; readonly why: string }
  | { readonly state: "foreign"; readonly why: string };

/** Looks at a path for a run's folder, without changing anything. */
export const inspectRunFolder = (path: string): Promise<FolderState> => inspectFolder(runFolder, path);

async function inspectFolder<M extends FolderManifest>(kind: FolderKind<M>, path: string): Promise<FolderState<M>> {
  const { manifestFile, noun } = kind;
  const found = await stat(path).catch(() => null);
  if (!found) return { state: "absent" };
  if (!found.isDirectory()) return { state: "foreign", why: "a file" };
  const names = await readdir(path).catch((error) => messageOf(error));
  if (typeof names === "string") return { state: "foreign", why: names };
  if (!names.includes(manifestFile)) {
    const others = names.filter((name) => name !== partialFolder && !name.startsWith(lockFile) && !isPart(name));
    return others.length === 0 ? { state: "empty" } : { state: "foreign", why: `other files (${others[0]})` };
  }
  const stored = await readJsonFile(join(path, manifestFile)).catch(() => null);
  if (stored === null) return { state: "foreign", why: `a damaged ${manifestFile}` };
  if (!isManifest(stored)) return { state: "foreign", why: `a ${manifestFile} that is not a ${noun}'s` };
  const parsed = kind.schema.safeParse(stored);
  if (parsed.success) {
    return { state: parsed.data.status === "finished" ? "complete" : "unfinished", manifest: parsed.data };
  }
  const { path: field, message } = parsed.error.issues[0]!;
  return { state: "other version", manifest: stored, why: `"${field.join(".")}": ${message}` };
}

/** Whether a manifest is one of this program, of whatever version. */
function isManifest(stored: unknown): stored is Record<string, unknown> {
  const { command, status } = Object(stored) as { command?: unknown; status?: unknown };
  return typeof command === "string" && typeof status === "string";
}

/** A folder, opened for work: this process alone writes to it until `release`. */
export interface OpenFolder<M = Manifest> {
  readonly state: "new" | "resume";
  /** What the interrupted work had written of its manifest; undefined in a new folder. */
  readonly manifest: M | undefined;
  readonly path: string;
  /** The folder for unfinished work. */
  readonly partial: string;
  /** Lets other processes write again; has no effect the second time. */
  release(): Promise<void>;
}

/** Work that had been finished with the same options: nothing to do. */
export interface FinishedFolder<M = Manifest> {
  readonly state: "finished";
  readonly manifest: M;
}

/** Opens `path` as a run's folder, see `openWorkFolder`. */
export const openRunFolder = (path: string, options: RunOptions, force = false, locking: LockOptions = {}) =>
  openWorkFolder(runFolder, path, options, force, locking);

/**
 * Opens `path` as the folder of work of this kind with these options: makes it if it is absent, takes up interrupted work with the same options, and
 * reports finished work. With `force`, what was written earlier, of whatever version, is removed first and the state is `new`. A folder of another
 * kind is never touched. A new folder says what it is only once the caller has written its manifest, which should be the first thing it does.
 *
 * @param options every option that bears on the results, by flag name without dashes
 * @param locking how the folder's lock is taken
 * @throws UserError if the folder is not of this kind, holds work with other options (all named), is in use, or cannot be written
 */
export async function openWorkFolder<M extends FolderManifest>(
  kind: FolderKind<M>,
  path: string,
  options: Options,
  force: boolean,
  locking: LockOptions = {},
): Promise<OpenFolder<M> | FinishedFolder<M>> {
  if (path === "") throw new UsageError("--output_dir: expected a folder, got an empty name. Name one.");
  const before = await inspectFolder(kind, path);
  refuse(kind, path, before, options, force);
  if (before.state === "complete" && !force) {
    await rm(join(path, partialFolder), { recursive: true, force: true }).catch(() => {});
    return { state: "finished", manifest: before.manifest };
  }
  const partial = join(path, partialFolder);
  try {
    await makeFolder(path);
  } catch (error) {
    throw writeProblem(error, path);
  }
  const release = await lock(kind, path, locking);
  try {
    await refuseShards(kind, path, locking);
    // Another process may have worked here until just now, so what counts is what lies here under the lock.
    const now = await inspectFolder(kind, path);
    refuse(kind, path, now, options, force);
    if (now.state === "complete" && !force) {
      await release();
      return { state: "finished", manifest: now.manifest };
    }
    if ("manifest" in now && force) await removeWork(kind, path, now.manifest);
    await removeParts(kind, path);
    const manifest = now.state === "unfinished" && !force ? now.manifest : undefined;
    if (!manifest) await rm(partial, { recursive: true, force: true });
    await makeFolder(partial);
    return { state: manifest ? "resume" : "new", manifest, path, partial, release };
  } catch (error) {
    await release();
    throw writeProblem(error, path);
  }
}

/**
 * Declares a run complete: writes its manifest as finished now, then removes the unfinished work and the lock. All its other files must be in
 * place.
 *
 * @returns the manifest as written
 * @throws UserError if the manifest cannot be written; then the run is not complete
 */
export async function completeRunFolder(folder: OpenFolder, manifest: Manifest): Promise<Manifest> {
  const finished: Manifest = { ...manifest, status: "finished", error: null, finished: new Date().toISOString() };
  await writeManifest(folder.path, finished);
  await closeFinished(folder);
  return finished;
}

/**
 * A folder inside that for unfinished work, for work on just what is named. What was made of anything else, before a file or this program changed, is
 * removed.
 *
 * @param madeOf all that unfinished work depends on
 * @param startOver called if there is other work, before it is removed
 * @throws UserError if the folder cannot be written
 */
export async function partialFor(
  { partial }: Pick<OpenFolder<unknown>, "partial">,
  madeOf: readonly unknown[],
  startOver: () => Promise<void> | void,
): Promise<string> {
  const name = sha256OfText(JSON.stringify(madeOf)).slice(0, 16);
  const path = join(partial, name);
  try {
    const others = (await readdir(partial)).filter((other) => other !== name);
    if (others.length > 0) await startOver();
    for (const other of others) await rm(join(partial, other), { recursive: true, force: true });
    await makeFolder(path);
  } catch (error) {
    throw writeProblem(error, path);
  }
  return path;
}

/** Removes the unfinished work and the lock of a folder whose manifest says by now that it is complete. */
export async function closeFinished({ path, partial, release }: OpenFolder<unknown>): Promise<void> {
  // What stays of it is removed when the folder is shown again.
  await rm(partial, { recursive: true, force: true }).catch(() => {});
  for (const file of await shardLocks(path).catch(() => [])) await rm(file, { force: true }).catch(() => {});
  await release();
}

/** Empties a folder of work whose options turned out unfit for it, so that the next call may have others. */
export async function abandonWork<M extends FolderManifest>(
  { manifestFile, files }: FolderKind<M>,
  { path, partial }: Pick<OpenFolder<M>, "path" | "partial">,
): Promise<void> {
  for (const name of [manifestFile, ...files(undefined)]) await rm(join(path, name), { recursive: true, force: true });
  await rm(partial, { recursive: true, force: true });
}

function refuse<M extends FolderManifest>(
  { noun }: FolderKind<M>,
  path: string,
  found: FolderState<M>,
  options: Options,
  force: boolean,
): void {
  if (found.state === "foreign") {
    throw new UserError(
      `output folder: expected a new, empty or ${noun}'s folder, got ${found.why} at ${path}. Choose another --output_dir.`,
    );
  }
  if (!("manifest" in found) || force) return;
  if (found.state === "other version") {
    throw new UserError(
      `output folder: expected a ${noun} of this version, got one that another version wrote (${found.why}) in ${path}. Choose another --output_dir, or --force to replace that ${noun}.`,
    );
  }
  const differing = optionDifferences(found.manifest.options, options);
  if (differing.length > 0) {
    throw new UserError(
      `output folder: expected the options of its ${found.state === "complete" ? "finished" : "interrupted"} ${noun}, got ${differing.join("; ")} in ${path}. Choose another --output_dir, or --force to replace that ${noun}.`,
      { code: "changed_input" },
    );
  }
}

/** One text for each option that differs, `--seed 1 here, 2 asked`, in the order of their names. How exact a device has to be changes no result. */
export function optionDifferences(here: RunOptions, asked: RunOptions): string[] {
  const show = (value: RunOptions[string] | undefined) =>
    value === undefined || value === null ? "unset" : Array.isArray(value) ? value.join(",") : String(value);
  return [...new Set([...Object.keys(here), ...Object.keys(asked)])]
    .sort()
    .filter((name) => name !== "device_tolerance")
    .filter((name) => JSON.stringify(here[name] ?? null) !== JSON.stringify(asked[name] ?? null))
    .map((name) => `--${name} ${show(here[name])} here, ${show(asked[name])} asked`);
}

const isPart = (name: string) => /\.\d+\.part$/.test(name);

async function removeParts<M extends FolderManifest>(kind: FolderKind<M>, path: string): Promise<void> {
  const names = new Set<string>([kind.manifestFile, ...kind.files(undefined)]);
  for (const name of await readdir(path)) {
    if (isPart(name) && names.has(name.replace(/\.\d+\.part$/, ""))) await rm(join(path, name), { force: true });
  }
}

/** Removes what was written. The manifest stays, saying that the folder is not complete, until the caller replaces it. */
async function removeWork<M extends FolderManifest>(
  kind: FolderKind<M>,
  path: string,
  manifest: object,
): Promise<void> {
  const incomplete = { ...manifest, status: "running", ...("finished" in manifest ? { finished: null } : {}) };
  await writeFileAtomic(join(path, kind.manifestFile), `${JSON.stringify(incomplete, null, 2)}\n`);
  await rm(join(path, partialFolder), { recursive: true, force: true });
  for (const name of kind.files(manifest)) {
    await rm(join(path, name), { recursive: true, force: true });
    // A folder of the work's own goes with the last file in it.
    if (dirname(name) !== ".") await rmdir(join(path, dirname(name))).catch(() => {});
  }
}

/**
 * Takes the folder's lock.
 *
 * @throws UserError if another process holds it, or it cannot be written
 */
async function lock<M extends FolderManifest>(
  { noun }: FolderKind<M>,
  path: string,
  locking: LockOptions,
): Promise<() => Promise<void>> {
  const file = join(path, lockFile);
  const taken = await tryLock(file, locking).catch((error) => {
    throw writeProblem(error, file);
  });
  if ("release" in taken) return taken.release;
  throw new UserError(
    `output folder: expected no other ${noun} in it, got ${taken.holder} at ${path}. Wait for it, or remove ${taken.file} if it has ended.`,
  );
}

/** @throws UserError if a process is at work on a shard */
async function refuseShards<M extends FolderManifest>(
  { noun }: FolderKind<M>,
  path: string,
  locking: LockOptions,
): Promise<void> {
  for (const file of await shardLocks(path)) {
    const holder = await lockHolder(file, locking);
    if (holder === null) continue;
    throw new UserError(
      `output folder: expected nobody at work on a shard of the ${noun}, got ${holder} at ${path}. Wait for it, or remove ${file} if it has ended.`,
    );
  }
}

async function shardLocks(path: string): Promise<string[]> {
  const names = (await readdir(path)).filter((name) => /^\d+$/.test(name.slice(shardLock.length)));
  return names.filter((name) => name.startsWith(shardLock)).map((name) => join(path, name));
}

/** A shard of a run's work that this process alone works on until `release`. */
export interface OpenShard {
  release(): Promise<void>;
  /** Whether another process has taken it over, see `Lock`. */
  isLost(): boolean;
}

/**
 * Takes the lock of one shard of an unfinished run. Others may work on other shards, and nobody on the whole.
 *
 * @param shard counted from 1
 * @throws UserError if another process holds it or works on the whole run, or it cannot be written
 */
export async function openShard(path: string, shard: number, locking: LockOptions): Promise<OpenShard> {
  const file = join(path, `${shardLock}${shard}`);
  // First our lock, then a look at the other: of two processes that begin at once, at least one sees the other's.
  const taken = await tryLock(file, locking).catch((error) => {
    throw writeProblem(error, file);
  });
  const busy = (what: string, holder: string, at: string) =>
    new UserError(
      `shard ${shard}: expected no other process at work on ${what}, got ${holder} at ${path}. Wait for it, or remove ${at} if it has ended.`,
    );
  if (!("release" in taken)) throw busy("it", taken.holder, taken.file);
  const whole = join(path, lockFile);
  const holder = await lockHolder(whole, locking).catch(async (error) => {
    await taken.release();
    throw error;
  });
  if (holder === null) return taken;
  await taken.release();
  throw busy("the whole run", holder, whole);
}
