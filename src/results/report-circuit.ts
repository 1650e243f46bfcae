import { existsSync } from "node:fs";
import { join } from "node:path";
import { graphFrom } from "../circuit/graph-schema.ts";
import { UserError } from "../errors.ts";
import { type ReportCircuit, type ReportEvaluation, reportCircuit } from "../report/circuit.ts";
import { rounded } from "../stats.ts";
import { readJsonFile } from "../storage/files.ts";
import { evaluationFile, evaluationFileSchema } from "./evaluation.ts";

/** Where a run's folder has what later commands find, unless told otherwise. */
export const evaluationFolderName = "evaluation";
export const circuitFolderName = "circuit";

/** A circuit's graph in its folder: JSON of a `CircuitGraph`, not pruned. */
export const graphFile = "graph.json";

/**
 * The graph that `sfc circuit` made of a run; null where there is none.
 *
 * @param limit edges that are kept
 * @throws UserError if the file is broken, naming it
 */
export async function readReportCircuit(folder: string, limit: number): Promise<ReportCircuit | null> {
  const path = join(folder, circuitFolderName, graphFile);
  if (!existsSync(path)) return null;
  try {
    return reportCircuit(graphFrom(await readJsonFile(path)), limit, rounded);
  } catch (error) {
    throw unusable(path, error, "Make it again with sfc circuit --force.");
  }
}

/** An error met with a file of the report, as one that says how to make the file again; a bug is left as it is. */
function unusable(path: string, error: unknown, again: string): unknown {
  if (!(error instanceof UserError)) return error;
  const reason = error.message.replace(/^JSON file: /, "").replace(/( in \S+\. Write it again)?\.?$/, "");
  return new UserError(`report: cannot use ${path} (${reason}). ${again}`);
}

/**
 * What `sfc evaluate` found of a run; null where it did not, or has not finished.
 *
 * @throws UserError if the file is broken, naming it
 */
export async function readReportEvaluation(folder: string): Promise<ReportEvaluation | null> {
  const path = join(folder, evaluationFolderName, evaluationFile);
  if (!existsSync(path)) return null;
  const stored = await readJsonFile(path).catch((error) => {
    throw unusable(path, error, "Remove it, and make it again with sfc evaluate.");
  });
  const parsed = evaluationFileSchema.safeParse(stored);
  if (!parsed.success) {
    const issue = parsed.error.issues[0]!;
    const error = new UserError(`expected this version's fields, got "${issue.path.join(".")}": ${issue.message}`);
    throw unusable(path, error, "Remove it, and make it again with sfc evaluate.");
  }
  const { status, evaluation } = parsed.data;
  if (status !== "finished" || evaluation === null) return null;
  return { ...evaluation, circuits: evaluation.circuits.map(({ features: _, ...circuit }) => circuit) };
}
