import { existsSync } from "node:fs";
import { rename } from "node:fs/promises";
import { join } from "node:path";
import type { ComparisonPlaces } from "../analysis/compare.ts";
import type { MethodRun } from "../analysis/compare-measure.ts";
import { type MethodSpec, methodFolder, namesIn } from "../analysis/compare-methods.ts";
import { type Comparison, comparisonSchema } from "../report/comparison.ts";
import { makeFolder, writeFileAtomic, writeProblem } from "../storage/files.ts";
import type { InputFiles } from "../storage/input-files.ts";
import {
  closeFinished,
  type FinishedFolder,
  type FolderKind,
  type OpenFolder,
  openWorkFolder,
  partialFor,
} from "./folder.ts";
import { featuresFile, storedResult } from "./method-result.ts";
import { comparisonFile, reportFile, writeComparisonReport } from "./report.ts";

const comparisonFolder: FolderKind<Comparison> = {
  noun: "comparison",
  manifestFile: comparisonFile,
  schema: comparisonSchema,
  files: (stored) => {
    const { options } = Object(stored) as { options?: { methods?: unknown } };
    return [reportFile, ...namesIn(options?.methods).map((name) => join(methodFolder(name), featuresFile))];
  },
};

/** Opens `path` as a comparison's folder, see `openWorkFolder`. */
export const openComparisonFolder = (
  path: string,
  options: Comparison["options"],
  force: boolean,
): Promise<OpenFolder<Comparison> | FinishedFolder<Comparison>> =>
  openWorkFolder(comparisonFolder, path, options, force);

/** What is needed to keep a comparison in its folder. */
export interface ComparisonFolderOptions {
  /** What results may have been made of. */
  readonly inputs: InputFiles;
  /** The page that the report is made from. */
  readonly template: string;
  /** Called where what an interruption left was made of other files or by another version. */
  readonly startOver: () => void;
  /** Runs a method, whose results go into a folder. */
  readonly measure: (run: MethodRun, folder: string) => Promise<void>;
}

/** The folder of a comparison as its steps see it. @throws UserError if it cannot be written */
export function comparisonPlaces(
  folder: OpenFolder<Comparison>,
  { inputs, template, startOver, measure }: ComparisonFolderOptions,
): ComparisonPlaces {
  const { path } = folder;
  let partial = folder.partial;
  const stored = ({ name }: MethodSpec) =>
    storedResult(join(partial, methodFolder(name)), join(path, methodFolder(name)));
  return {
    async begin(comparison) {
      await writeComparison(path, comparison);
      partial = await partialFor(folder, [comparison.versions, comparison.sha256], startOver);
    },
    stored,
    async measure(run) {
      await measure(run, join(partial, methodFolder(run.spec.name)));
      const result = await stored(run.spec);
      if (!result) throw new Error(`internal: ${run.spec.name} left no result`);
      return result;
    },
    async finish(comparison) {
      for (const { name } of comparison.methods) await moveFeatures(partial, path, name);
      await writeComparisonReport(path, comparison, template);
      inputs.check();
      await writeComparison(path, comparison);
      await closeFinished(folder);
    },
  };
}

/** Puts a method's table in its place. An interruption among several leaves the others where they were. */
async function moveFeatures(partial: string, path: string, name: string): Promise<void> {
  const to = join(path, methodFolder(name));
  try {
    await makeFolder(to);
    await rename(join(partial, methodFolder(name), featuresFile), join(to, featuresFile));
  } catch (error) {
    // One that was moved before an interruption lies there already.
    const moved = (error as NodeJS.ErrnoException).code === "ENOENT" && existsSync(join(to, featuresFile));
    if (!moved) throw writeProblem(error, to);
  }
}

async function writeComparison(path: string, comparison: Comparison): Promise<void> {
  const text = JSON.stringify(comparisonSchema.parse(comparison), null, 2);
  await writeFileAtomic(join(path, comparisonFile), `${text}\n`);
}
