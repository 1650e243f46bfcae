import { existsSync } from "node:fs";
import { readdir, readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import { messageOf, StoppedError, UserError } from "../errors.ts";
import type { Reporter, Watch } from "../progress.ts";
import { type Comparison, comparisonSchema } from "../report/comparison.ts";
import { reportLimits } from "../report/data.ts";
import { reportPage } from "../report/page.ts";
import { readJsonFile, writeFileAtomic } from "../storage/files.ts";
import { packageRoot } from "../storage/package.ts";
import { circuitFile } from "./circuit.ts";
import { evaluationFile } from "./evaluation.ts";
import { manifestFile, readManifest } from "./manifest.ts";
import { circuitFolderName, evaluationFolderName } from "./report-circuit.ts";
import { type ReportTables, readReportData } from "./report-data.ts";

/** Name of the report in a run's or a comparison's folder. */
export const reportFile = "report.html";

/** Name of a comparison in its folder. */
export const comparisonFile = "compare.json";

/**
 * The built page that reports are made from.
 *
 * @throws UserError if it has not been built
 */
export async function reportTemplate(): Promise<string> {
  return readFile(join(packageRoot, "dist/web/report.html"), "utf8").catch(() => {
    throw new UserError("report: expected the built page dist/web/report.html, got none. Build it with npm run build.");
  });
}

/**
 * Writes `report.html` into a run's folder from what lies in it.
 *
 * @param options status: what the report says of the run, where its folder does not say so yet; stopped: asked during the work; tables: what was read
 *   of the run's tables already
 * @returns the report's path
 * @throws UserError if the folder is not a run's or cannot be written; StoppedError if asked to stop
 */
export async function writeReport(
  folder: string,
  {
    status,
    stopped,
    tables,
  }: Pick<Watch, "stopped"> & { readonly status?: string; readonly tables?: ReportTables } = {},
): Promise<string> {
  const template = await reportTemplate();
  if (status === undefined && (await readManifest(folder)).status !== "finished") {
    throw new UserError(
      `run: expected a finished one, got an interrupted one in ${folder}. Repeat its sfc run to go on.`,
    );
  }
  const path = join(folder, reportFile);
  let parts: string;
  do {
    parts = await finishedParts(folder);
    const data = await readReportData(folder, reportLimits, stopped, tables);
    const shown = status === undefined ? data : { ...data, run: { ...data.run, status } };
    await writeFileAtomic(path, reportPage(template, shown));
    // What another command finished meanwhile is in its own report, which this one may have replaced.
  } while ((await finishedParts(folder)) !== parts);
  return path;
}

/** When the circuit and the evaluation in a run's folder were finished, if they are. */
async function finishedParts(folder: string): Promise<string> {
  const files = [join(folder, circuitFolderName, circuitFile), join(folder, evaluationFolderName, evaluationFile)];
  const times = files.map(async (file) => {
    const { status } = Object(await readJsonFile(file).catch(() => null)) as { status?: unknown };
    return status === "finished" ? (await stat(file)).mtimeMs : null;
  });
  return String(await Promise.all(times));
}

/**
 * Writes the report of a run's folder again where it has one, after something was added to the run. The run's results are there without it, so what
 * is in the way is told, not thrown.
 *
 * @param reporter takes the one line that says why the report could not be written
 * @throws StoppedError if asked to stop
 */
export async function refreshReport(
  folder: string,
  { line, stopped }: Pick<Reporter, "line" | "stopped">,
): Promise<void> {
  if (!existsSync(join(folder, reportFile))) return;
  try {
    await writeReport(folder, { stopped });
  } catch (error) {
    if (error instanceof StoppedError) throw error;
    line(`The report in ${folder} is as it was (${messageOf(error)}) Repeat it with sfc report ${folder}.`);
  }
}

/**
 * Writes `report.html` into a comparison's folder: the same page whether the comparison was just made or read from its file.
 *
 * @returns the report's path
 * @throws UserError if the folder cannot be written
 */
export async function writeComparisonReport(folder: string, comparison: Comparison, template: string): Promise<string> {
  const path = join(folder, reportFile);
  await writeFileAtomic(path, reportPage(template, comparisonSchema.parse(comparison)));
  return path;
}

/**
 * Writes the report of a finished run's or comparison's folder again.
 *
 * @returns the report's path
 * @throws UserError if the folder is neither, saying what it is, or its work is not finished
 */
export async function rewriteReport(folder: string): Promise<string> {
  const names = await readdir(folder).catch((error: NodeJS.ErrnoException) => error);
  if (names instanceof Error) {
    const got = names.code === "ENOENT" ? "nothing" : names.code === "ENOTDIR" ? "a file" : names.code;
    throw new UserError(`report: expected a run's or a comparison's folder, got ${got} at ${folder}. Check the path.`);
  }
  if (names.includes(manifestFile)) return writeReport(folder);
  if (!names.includes(comparisonFile)) {
    throw new UserError(
      `report: expected a run's or a comparison's folder, got ${describeFolder(folder, names)} at ${folder}. Name the --output_dir of sfc run or sfc compare.`,
    );
  }
  const comparison = await readComparison(folder);
  if (comparison.status !== "finished") {
    throw new UserError(`The comparison was interrupted (${folder}). Repeat its sfc compare to resume it.`);
  }
  return writeComparisonReport(folder, comparison, await reportTemplate());
}

/**
 * The comparison in a folder, finished or not.
 *
 * @throws UserError if there is none, or if it is not one of this version, naming the field
 */
export async function readComparison(folder: string): Promise<Comparison> {
  const path = join(folder, comparisonFile);
  const parsed = comparisonSchema.safeParse(await readJsonFile(path));
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0]!;
  throw new UserError(
    `comparison: expected this version's fields, got "${issue.path.join(".")}": ${issue.message} in ${path}. Make the comparison again.`,
  );
}

/** What a folder without a run or a comparison is, by the names in it. */
function describeFolder(folder: string, names: readonly string[]): string {
  const shown = names.filter((name) => !name.startsWith("."));
  if (shown.length === 0) return names.length === 0 ? "an empty folder" : "a folder in which nothing is finished";
  const runs = shown.filter((name) =>
    [manifestFile, comparisonFile].some((file) => existsSync(join(folder, name, file))),
  );
  if (runs.length > 0) return `a folder of ${runs.length === 1 ? "one" : runs.length}, as ${runs[0]},`;
  if (names.includes("config.json") || names.some((name) => name.endsWith(".gguf"))) return "a model's folder";
  if (names.includes("cfg.json") || names.includes("sae_weights.safetensors")) return "an SAE's folder";
  return `other files (${shown[0]})`;
}
