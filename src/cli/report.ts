import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { UserError } from "../errors.ts";
import { reportPage } from "../report/page.ts";
import { writeFileAtomic } from "./files.ts";
import { readManifest } from "./manifest.ts";
import { readReportData } from "./report-data.ts";
import { packageRoot } from "./setting.ts";

/** Name of the report in a run's folder. */
export const reportFile = "report.html";

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
 * @param status what the report says of the run, where its folder does not say so yet
 * @returns the report's path
 * @throws UserError if the folder is not a run's or cannot be written
 */
export async function writeReport(folder: string, status?: string): Promise<string> {
  const template = await reportTemplate();
  if (status === undefined && (await readManifest(folder)).status !== "finished") {
    throw new UserError(
      `run: expected a finished one, got an interrupted one in ${folder}. Repeat its sfc run to go on.`,
    );
  }
  const data = await readReportData(folder);
  const path = join(folder, reportFile);
  await writeFileAtomic(
    path,
    reportPage(template, status === undefined ? data : { ...data, run: { ...data.run, status } }),
  );
  return path;
}
