import { existsSync } from "node:fs";
import { readdir, realpath, stat } from "node:fs/promises";
import { join } from "node:path";
import { messageOf } from "../errors.ts";
import { type Manifest, manifestFile, readManifest } from "../results/manifest.ts";
import { comparisonFile, readComparison, reportFile } from "../results/report.ts";
import type { FolderItem, FolderListing } from "./api.ts";
import { isPlainName } from "./guard.ts";
import type { Places } from "./places.ts";

/** Folders of folders are looked into so deep. */
const depth = 3;
/** Folders that are looked at, so that a whole disk is not. */
const most = 5000;

/** A run or a comparison, with the run's manifest as it was when it was listed. */
export interface Listed {
  readonly item: FolderItem;
  /** Null for comparisons. */
  readonly manifest: Manifest | null;
}

/** The runs and comparisons of a folder, the latest first. Those that cannot be read are told with the reason. */
export async function listFolder(places: Places): Promise<FolderListing> {
  const { listed, problems } = await readFolder(places);
  return { folder: places.root, items: listed.map(({ item }) => item), problems };
}

/** The same with manifests. What vanishes meanwhile is left out, or is a problem. */
export async function readFolder(
  places: Places,
): Promise<{ readonly listed: readonly Listed[]; readonly problems: FolderListing["problems"] }> {
  const listed: Listed[] = [];
  const problems: { name: string; reason: string }[] = [];
  let seen = 0;
  const visit = async (path: string, parts: readonly string[]): Promise<void> => {
    if (seen++ > most) return;
    const name = parts.length === 0 ? "." : parts.join("/");
    const [isRun, isComparison] = [manifestFile, comparisonFile].map((file) => existsSync(join(path, file)));
    if (isRun || isComparison) {
      try {
        listed.push(isRun ? await listedRun(name, path) : await listedComparison(name, path));
      } catch (error) {
        problems.push({ name, reason: messageOf(error) });
      }
      // What lies in a run's folder belongs to the run; the served folder may be a run that holds others.
      if (parts.length > 0) return;
    }
    if (parts.length === depth) return;
    for (const inner of (await readdir(path).catch(() => [])).filter(isPlainName).sort()) {
      const real = await realpath(join(path, inner)).catch(() => null);
      const about = real !== null && places.holds(real) ? await stat(real).catch(() => null) : null;
      if (real === null || !about?.isDirectory()) continue;
      await visit(real, [...parts, inner]);
    }
  };
  await visit(places.root, []);
  listed.sort(
    ({ item: a }, { item: b }) => (b.started ?? "").localeCompare(a.started ?? "") || a.name.localeCompare(b.name),
  );
  return { listed, problems };
}

async function listedRun(name: string, path: string): Promise<Listed> {
  const manifest = await readManifest(path);
  const { status, options, counts, dictionaries, started, seconds } = manifest;
  const item: FolderItem = {
    name,
    kind: "run",
    status,
    model: manifest.model?.name ?? String(options.model_name ?? "?"),
    task: taskOf(options),
    method: String(options.score === "effect" ? options.method : options.score),
    pairs: counts.pairs,
    sites: dictionaries.map(({ site }) => site),
    rows: counts.rows,
    started,
    seconds: Object.values(seconds).reduce((sum, value) => sum + value, 0),
    dummy: dictionaries.some(({ dummy }) => dummy),
    report: existsSync(join(path, reportFile)),
  };
  return { item, manifest };
}

/** What a run's pairs are of, in a word. */
export const taskOf = ({ task, pairs, clean }: Manifest["options"]): string =>
  String(task ?? pairs ?? clean ?? "pairs");

async function listedComparison(name: string, path: string): Promise<Listed> {
  const { status, model, task, methods, pairs, dictionaries } = await readComparison(path);
  const item: FolderItem = {
    name,
    kind: "comparison",
    status,
    model: model.name,
    task,
    method: methods.map((one) => one.name).join(", "),
    pairs,
    sites: dictionaries.sites,
    rows: null,
    started: (await stat(join(path, comparisonFile))).mtime.toISOString(),
    seconds: methods.reduce((sum, { seconds, loading_seconds }) => sum + seconds + loading_seconds, 0),
    dummy: dictionaries.dummy,
    report: existsSync(join(path, reportFile)),
  };
  return { item, manifest: null };
}
