import { existsSync } from "node:fs";
import { join } from "node:path";
import { UserError } from "../errors.ts";
import { type FeatureCards, featureCardsSchema, joinedCards } from "../report/cards.ts";
import type { ReportCircuit } from "../report/circuit.ts";
import { readJsonFile } from "../storage/files.ts";
import { circuitFolderName } from "./report-circuit.ts";

/** Cards in the folder of a run, and of a circuit. */
export const cardsFile = "feature-cards.json";

/**
 * The cards of a run's features, those of its circuit with them; null in runs of before.
 *
 * @param circuit whose features are marked
 * @param limit cards that are kept, those of the largest |effect|
 * @throws UserError if a file is broken, naming it
 */
export async function readReportCards(
  folder: string,
  circuit: ReportCircuit | null,
  limit: number,
): Promise<FeatureCards | null> {
  const own = await readCards(join(folder, cardsFile));
  if (own === null) return null;
  const others = circuit === null ? null : await readCards(join(folder, circuitFolderName, cardsFile));
  const inCircuit = new Set(circuit?.nodes.map(({ site, feature }) => `${site}/${feature}`));
  return joinedCards(others === null ? [own] : [own, others], inCircuit, limit);
}

/** The cards in a file; null where there is none. @throws UserError if it is broken */
export async function readCards(path: string): Promise<FeatureCards | null> {
  if (!existsSync(path)) return null;
  const parsed = featureCardsSchema.safeParse(await readJsonFile(path));
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0]!;
  throw new UserError(
    `report: expected this version's fields, got "${issue.path.join(".")}": ${issue.message} in ${path}. Make the run again.`,
  );
}
