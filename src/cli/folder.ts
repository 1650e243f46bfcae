import { mkdir, readdir, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { messageOf, UserError } from "../errors.ts";
import { makeFolder, readJsonFile, writeFileAtomic, writeProblem } from "./files.ts";
import { tryLock } from "./lock.ts";
import { type Manifest, manifestFile, manifestSchema, type RunOptions, writeManifest } from "./manifest.ts";

/** Where unfinished work lies inside a run's folder until the run is complete. */
export const partialFolder = ".partial";

const lockFile = ".lock";

/** What a run writes; nothing else in its folder is ever removed. */
const runFiles = [
  "pairs.jsonl",
  "nodes.parquet",
  "effects.parquet",
  "features.parquet",
  "ranking.json",
  "ablation.json",
  "report.html",
] as const;

/**
 * What lies at a path: nothing, an empty folder, a complete run, one that was interrupted, a run of another version of this program, or something
 * that is not a run's folder and is left alone.
 */
export type FolderState =
  | { readonly state: "absent" | "empty" }
  | { readonly state: "complete" | "unfinished"; readonly manifest: Manifest }
  | { readonly state: "other version"; readonly manifest: Readonly<Record<string, unknown>>; readonly why: string }
  | { readonly state: "foreign"; readonly why: string };

/** Looks at a path without changing anything. */
export async function inspectRunFolder(path: string): Promise<FolderState> {
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
  if (stored === null) return { state: "foreign", why: `a ${manifestFile} that cannot be read` };
  if (!isManifest(stored)) return { state: "foreign", why: `a ${manifestFile} that is not a run's` };
  const parsed = manifestSchema.safeParse(stored);
  if (parsed.success) {
    return { state: parsed.data.status === "finished" ? "complete" : "unfinished", manifest: parsed.data };
  }
  const { path: field, message } = parsed.error.issues[0]!;
  return { state: "other version", manifest: stored, why: `"${field.join(".")}": ${message}` };
}

/** Whether a run.json is one of this program, of whatever version. */
function isManifest(stored: unknown): stored is Record<string, unknown> {
  const { command, status } = Object(stored) as { command?: unknown; status?: unknown };
  return typeof command === "string" && typeof status === "string";
}

/** A run's folder, opened for work: this process alone writes to it until `release`. */
export interface OpenFolder {
  readonly state: "new" | "resume";
  /** What the interrupted run had written of its manifest; undefined in a new folder. */
  readonly manifest: Manifest | undefined;
  readonly path: string;
  /** The folder for unfinished work. */
  readonly partial: string;
  /** Lets other processes write again; has no effect the second time. */
  release(): Promise<void>;
}

/** A run that had been finished with the same options: nothing to do. */
export interface FinishedFolder {
  readonly state: "finished";
  readonly manifest: Manifest;
}

/**
 * Opens `path` as the folder of a run with these options: makes it if it is absent, takes up an interrupted run with the same options, and
 * reports a finished one. With `force`, what an earlier run wrote, of whatever version, is removed first and the state is `new`. A folder that is
 * not a run's is never touched. A new folder says what it is only once the caller has written its manifest, which should be the first thing it does.
 *
 * @param options every option that bears on the results, by flag name without dashes
 * @throws UserError if the folder is not a run's, holds a run with other options (all named), is in use, or cannot be written
 */
export async function openRunFolder(
  path: string,
  options: RunOptions,
  force = false,
): Promise<OpenFolder | FinishedFolder> {
  const before = await inspectRunFolder(path);
  refuse(path, before, options, force);
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
  const release = await lock(path);
  try {
    // Another process may have worked here until just now, so what counts is what lies here under the lock.
    const now = await inspectRunFolder(path);
    refuse(path, now, options, force);
    if (now.state === "complete" && !force) {
      await release();
      return { state: "finished", manifest: now.manifest };
    }
    if ("manifest" in now && force) await removeRun(path, now.manifest);
    await removeParts(path);
    const manifest = now.state === "unfinished" && !force ? now.manifest : undefined;
    if (!manifest) await rm(partial, { recursive: true, force: true });
    await mkdir(partial, { recursive: true });
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
  // What stays of it is removed when the run is shown again.
  await rm(folder.partial, { recursive: true, force: true }).catch(() => {});
  await folder.release();
  return finished;
}

function refuse(path: string, found: FolderState, options: RunOptions, force: boolean): void {
  if (found.state === "foreign") {
    throw new UserError(
      `output folder: expected a new, empty or run's folder, got ${found.why} at ${path}. Choose another --output_dir.`,
    );
  }
  if (!("manifest" in found) || force) return;
  if (found.state === "other version") {
    throw new UserError(
      `output folder: expected a run of this version, got one that another version wrote (${found.why}) in ${path}. Choose another --output_dir, or --force to replace that run.`,
    );
  }
  const differing = optionDifferences(found.manifest.options, options);
  if (differing.length > 0) {
    throw new UserError(
      `output folder: expected the options of its ${found.state === "complete" ? "finished" : "interrupted"} run, got ${differing.join("; ")} in ${path}. Choose another --output_dir, or --force to replace that run.`,
    );
  }
}

/** One text for each option that differs, `--seed 1 here, 2 asked`, in the order of their names. */
export function optionDifferences(here: RunOptions, asked: RunOptions): string[] {
  const show = (value: RunOptions[string] | undefined) =>
    value === undefined || value === null ? "unset" : Array.isArray(value) ? value.join(",") : String(value);
  return [...new Set([...Object.keys(here), ...Object.keys(asked)])]
    .sort()
    .filter((name) => JSON.stringify(here[name] ?? null) !== JSON.stringify(asked[name] ?? null))
    .map((name) => `--${name} ${show(here[name])} here, ${show(asked[name])} asked`);
}

const isPart = (name: string) => /\.\d+\.part$/.test(name);

async function removeParts(path: string): Promise<void> {
  const names = new Set<string>([manifestFile, ...runFiles]);
  for (const name of await readdir(path)) {
    if (isPart(name) && names.has(name.replace(/\.\d+\.part$/, ""))) await rm(join(path, name), { force: true });
  }
}

/** Removes what a run wrote. The manifest stays, saying that the folder is not complete, until the caller replaces it. */
async function removeRun(path: string, manifest: object): Promise<void> {
  const incomplete = { ...manifest, status: "running", finished: null };
  await writeFileAtomic(join(path, manifestFile), `${JSON.stringify(incomplete, null, 2)}\n`);
  for (const name of [...runFiles, partialFolder]) await rm(join(path, name), { recursive: true, force: true });
}

/**
 * Takes the folder's lock.
 *
 * @throws UserError if another process holds it, or it cannot be written
 */
async function lock(path: string): Promise<() => Promise<void>> {
  const file = join(path, lockFile);
  const taken = await tryLock(file).catch((error) => {
    throw writeProblem(error, file);
  });
  if ("release" in taken) return taken.release;
  throw new UserError(
    `output folder: expected no other run in it, got ${taken.holder} at ${path}. Wait for it, or remove ${taken.file} if it has ended.`,
  );
}
