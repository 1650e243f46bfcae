import { existsSync } from "node:fs";
import { stat, statfs } from "node:fs/promises";
import { dirname, join } from "node:path";
import { bytesText, countText } from "../amounts.ts";
import { StoppedError, UserError } from "../errors.ts";
import type { Reporter } from "../progress.ts";
import { fetchBlob, partialPath } from "./blob.ts";
import { blobPath, cachePlace, hasFile, keepListing, linkFile, repoFolder, type Snapshot } from "./cache.ts";
import { type HubFile, type HubListing, listRepo } from "./client.ts";
import type { HubSettings } from "./settings.ts";
import type { Want } from "./wants.ts";

/** What work with the hub tells. */
export type PullReporter = Pick<Reporter, "begin" | "set" | "end" | "line" | "stopped"> & {
  /** Nothing may be fetched: what is not cached is an error. */
  readonly cachedOnly?: boolean;
};

/** A reporter that says nothing. */
export const silent: PullReporter = { begin() {}, set() {}, end() {}, line() {}, stopped: () => false };

/** What is to be fetched of a repository. */
export interface PullPlan {
  readonly id: string;
  readonly revision: string;
  readonly listing: HubListing;
  /** Where the files go. */
  readonly folder: string;
  /** Looks at a file that has come, before larger ones are fetched. @throws UserError if these would be of no use */
  readonly check?: Want["check"];
  /** All files that are wanted. */
  readonly files: readonly HubFile[];
  /** Those that the snapshot does not have yet. */
  readonly missing: readonly HubFile[];
  /** Bytes of those whose contents are not in the cache under another name. */
  readonly bytes: number;
  /** How many of these bytes an interrupted call has left. */
  readonly begun: number;
}

/**
 * Asks the hub what a repository has, and compares with the cache. Nothing is written.
 *
 * @param choose the files that are wanted, of all files
 * @throws UserError, also of `choose`
 */
export async function planPull(
  settings: HubSettings,
  id: string,
  revision: string,
  choose: (files: readonly HubFile[]) => readonly HubFile[],
): Promise<PullPlan> {
  const listing = await listRepo(settings, id, revision);
  const files = choose(listing.files);
  const folder = join(repoFolder(settings.cache, id), "snapshots", listing.commit);
  const missing: HubFile[] = [];
  const counted = new Set<string>();
  let [bytes, begun] = [0, 0];
  for (const file of files) {
    if (await hasFile({ commit: listing.commit, folder, files: listing.files }, file.path)) continue;
    missing.push(file);
    const blob = blobPath(settings.cache, id, file);
    if (counted.has(blob) || (await sizeOf(blob)) === file.size) continue;
    counted.add(blob);
    bytes += file.size;
    begun += Math.min(file.size, (await sizeOf(partialPath(blob))) ?? 0);
  }
  return { id, revision, listing, folder, files, missing, bytes, begun };
}

/**
 * Fetches what plans miss, after saying what and how much; small files first, so that a refusal comes at once.
 *
 * @returns the snapshots, one per plan
 * @throws UserError if the disk has no room, a file cannot be had or written; StoppedError if asked to stop, the next call goes on there
 */
export async function pull(
  settings: HubSettings,
  plans: readonly PullPlan[],
  reporter: PullReporter,
): Promise<Snapshot[]> {
  const wanted = plans.flatMap((plan) => plan.missing.map((file) => ({ plan, file })));
  const bytes = plans.reduce((sum, plan) => sum + plan.bytes, 0);
  if (bytes > 0) {
    const begun = plans.reduce((sum, plan) => sum + plan.begun, 0);
    await checkRoom(settings.cache, bytes - begun);
    const from = [...new Set(plans.filter((plan) => plan.bytes > 0).map((plan) => plan.id))].join(", ");
    reporter.line(
      `Downloading ${countText(wanted.length, "file")}, ${bytesText(bytes)}${begun > 0 ? ` (${bytesText(begun)} are there from before)` : ""}, of ${from} from ${settings.endpoint} to ${settings.cache}.`,
    );
  }
  if (wanted.length > 0) {
    reporter.begin("download", bytes);
    let done = 0;
    for (const { plan, file } of wanted.sort((a, b) => a.file.size - b.file.size)) {
      let there = 0;
      await fetchBlob(settings, plan.id, plan.listing.commit, file, {
        onBytes(count) {
          there = count;
          reporter.set(done + there);
        },
        onWait: (holder) => reporter.line(`Waiting for ${holder}, which downloads ${file.path}.`),
      });
      done += there;
      await linkFile(settings, plan.id, plan.folder, file);
      await plan.check?.(file.path, join(plan.folder, file.path));
    }
    reporter.end();
  }
  // Only now does the revision mean this snapshot: until then the one before is whole.
  const snapshots: Snapshot[] = [];
  for (const { id, revision, listing } of plans) {
    snapshots.push(await keepListing(settings.cache, id, revision, listing));
  }
  return snapshots;
}

/**
 * Runs work with the hub that ends soon after the reporter is asked to stop.
 *
 * @throws StoppedError then
 */
export async function stoppable<T>(
  settings: HubSettings,
  reporter: PullReporter,
  work: (settings: HubSettings) => Promise<T>,
): Promise<T> {
  const controller = new AbortController();
  const look = setInterval(() => reporter.stopped() && controller.abort(new StoppedError()), 100);
  try {
    return await work({ ...settings, signal: controller.signal });
  } finally {
    clearInterval(look);
  }
}

async function sizeOf(path: string): Promise<number | undefined> {
  return (await stat(path).catch(() => null))?.size;
}

/** @throws UserError if there are fewer bytes free than are needed */
async function checkRoom(cache: string, needed: number): Promise<void> {
  let nearest = cache;
  while (!existsSync(nearest) && dirname(nearest) !== nearest) nearest = dirname(nearest);
  const disk = await statfs(nearest).catch(() => null);
  // Some file systems tell nothing.
  if (!disk || disk.blocks === 0) return;
  const free = disk.bavail * disk.bsize;
  if (free < needed) {
    throw new UserError(
      `cache: expected ${bytesText(needed)} of room on the disk, got ${bytesText(free)} at ${cache}. Free some space, or set ${cachePlace} to a folder on another disk.`,
      { code: "no_space" },
    );
  }
}
