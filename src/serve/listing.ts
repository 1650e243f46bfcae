import { existsSync } from "node:fs";
import { readdir, realpath, stat } from "node:fs/promises";
import { join } from "node:path";
import { messageOf, UserError } from "../errors.ts";
import { comparisonSchema } from "../report/comparison.ts";
import { type Manifest, manifestFile, readManifest } from "../results/manifest.ts";
import { comparisonFile, reportFile } from "../results/report.ts";
import { readJsonFile } from "../storage/files.ts";
import type { FolderItem, FolderListing } from "./api.ts";
import { isPlainName } from "./guard.ts";
import type { Places } from "./places.ts";

/** Folders of folders are looked into so deep. */
const depth = 3;
/** Folders that are looked at, so that a whole disk is not. */
const most = 5000;

/** The runs and comparisons of a folder, the latest first. Those that cannot be read are told with the reason. */
export async function listFolder(places: Places): Promise<FolderListing> {
  const items: FolderItem[] = [];
  const problems: { name: string; reason: string }[] = [];
  let seen = 0;
  const visit = async (path: string, parts: readonly string[]): Promise<void> => {
    if (seen++ > most) return;
    const name = parts.length === 0 ? "." : parts.join("/");
    const [isRun, isComparison] = [manifestFile, comparisonFile].map((file) => existsSync(join(path, file)));
    if (isRun || isComparison) {
      try {
        items.push(isRun ? await runItem(name, path) : await comparisonItem(name, path));
      } catch (error) {
        problems.push({ name, reason: messageOf(error) });
      }
      // What lies in a run's folder belongs to the run; the served folder may be a run that holds others.
      if (parts.length > 0) return;
    }
    if (parts.length === depth) return;
    for (const inner of (await readdir(path).catch(() => [])).filter(isPlainName).sort()) {
      const real = await realpath(join(path, inner)).catch(() => null);
      if (real === null || !places.holds(real) || !(await stat(real)).isDirectory()) continue;
      await visit(real, [...parts, inner]);
    }
  };
  await visit(places.root, []);
  items.sort((a, b) => (b.started ?? "").localeCompare(a.started ?? "") || a.name.localeCompare(b.name));
  return { folder: places.root, items, problems };
}

async function runItem(name: string, path: string): Promise<FolderItem> {
  const manifest = await readManifest(path);
  const { status, options, counts, dictionaries, started, seconds } = manifest;
  return {
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
}

const taskOf = ({ task, pairs, clean }: Manifest["options"]): string => String(task ?? pairs ?? clean ?? "pairs");

async function comparisonItem(name: string, path: string): Promise<FolderItem> {
  const parsed = comparisonSchema.safeParse(await readJsonFile(join(path, comparisonFile)));
  if (!parsed.success) {
    const issue = parsed.error.issues[0]!;
    throw new UserError(
      `comparison: expected this version's fields, got "${issue.path.join(".")}": ${issue.message} in ${path}. Make it again.`,
    );
  }
  const { status, model, task, methods, pairs, dictionaries } = parsed.data;
  return {
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
}
