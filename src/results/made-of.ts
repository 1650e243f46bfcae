import { join } from "node:path";
import { sha256OfText } from "../bytes/sha256.ts";
import { featuresOf } from "../interventions/evaluation.ts";
import { readJsonFile } from "../storage/files.ts";
import { circuitFile } from "./circuit.ts";
import { evaluationFile, evaluationFileSchema } from "./evaluation.ts";
import type { Manifest } from "./manifest.ts";
import { type Run, readPairLines } from "./read-run.ts";
import { circuitFolderName, evaluationFolderName } from "./report-circuit.ts";

/** The points of `secant` that a run was told to take; undefined where it was not. */
export const stepsOfRun = ({ options: { method, steps } }: Pick<Manifest, "options">): number | undefined =>
  method === "secant" ? ((steps as number | null) ?? undefined) : undefined;

/** What results of a run's circuits depend on besides their options: the run's model, SAEs and pairs, and what else is named. */
export function runIdentity(
  { manifest, pairs }: Pick<Run, "manifest" | "pairs">,
  ...others: readonly unknown[]
): string {
  const steps = stepsOfRun(manifest);
  const points = steps === undefined ? [] : [{ steps }];
  // Random directions have no file whose SHA-256 the manifest could tell.
  const drawn = manifest.dictionaries.some(({ dummy }) => dummy) ? [{ seed: manifest.options.seed }] : [];
  const made = [manifest.model?.sha256, manifest.dictionaries, pairs, ...points, ...drawn, ...others];
  return sha256OfText(JSON.stringify(made));
}

/** Which folders in a run's folder hold the circuit or the evaluation of another run, which lay there before. */
export async function leftByOthers(
  folder: string,
  manifest: Manifest,
): Promise<{ circuit: boolean; evaluation: boolean }> {
  const stored = (...path: string[]) => readJsonFile(join(folder, ...path)).catch(() => null);
  const circuit = Object(await stored(circuitFolderName, circuitFile)) as { run?: unknown };
  const evaluation = evaluationFileSchema.safeParse(await stored(evaluationFolderName, evaluationFile)).data;
  if (circuit.run === undefined && evaluation === undefined) return { circuit: false, evaluation: false };
  const run = { manifest, pairs: await readPairLines(folder, manifest) };
  const given = evaluation?.evaluation?.circuits.find(({ way }) => way === "given");
  const others = given ? [[...featuresOf(given.features)]] : [];
  return {
    circuit: circuit.run !== undefined && circuit.run !== runIdentity(run),
    evaluation: evaluation !== undefined && evaluation.run !== runIdentity(run, ...others),
  };
}
