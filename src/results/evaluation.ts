import { join } from "node:path";
import { z } from "zod";
import type { EvaluationPlaces } from "../analysis/evaluate.ts";
import { sha256OfText } from "../bytes/sha256.ts";
import { type Circuit, circuitSchema } from "../circuit/circuit.ts";
import { UserError } from "../errors.ts";
import { evaluationSchema, groupEvaluationSchema } from "../interventions/evaluation.ts";
import { readJsonFile, writeFileAtomic } from "../storage/files.ts";
import {
  abandonWork,
  closeFinished,
  type FinishedFolder,
  type FolderKind,
  type OpenFolder,
  openWorkFolder,
  partialFor,
} from "./folder.ts";
import { optionsSchema, versionsSchema } from "./manifest.ts";
import { maskPlaces } from "./mask-places.ts";

/** The manifest's name in the folder of an evaluation. */
export const evaluationFile = "evaluation.json";

/** `evaluation.json`: what was evaluated, and once it is finished what was found. */
export const evaluationFileSchema = z.strictObject({
  command: z.literal("evaluate"),
  status: z.enum(["running", "finished"]),
  options: optionsSchema,
  versions: versionsSchema,
  run: z.string().describe("SHA-256 of what the run was made of, of its pairs and of a given circuit"),
  evaluation: evaluationSchema.nullable(),
});

/** The contents of an evaluation's folder. */
export type EvaluationFile = z.infer<typeof evaluationFileSchema>;

const evaluationFolder: FolderKind<EvaluationFile> = {
  noun: "evaluation",
  manifestFile: evaluationFile,
  schema: evaluationFileSchema,
  files: () => [],
};

/** Opens `path` as an evaluation's folder, see `openWorkFolder`. */
export const openEvaluationFolder = (
  path: string,
  options: EvaluationFile["options"],
  force: boolean,
): Promise<OpenFolder<EvaluationFile> | FinishedFolder<EvaluationFile>> =>
  openWorkFolder(evaluationFolder, path, options, force);

/** Writes the file of an evaluation, whole or not at all; `path` is its folder. */
export const writeEvaluation = (path: string, file: EvaluationFile): Promise<void> =>
  writeFileAtomic(join(path, evaluationFile), `${JSON.stringify(evaluationFileSchema.parse(file), null, 1)}\n`);

/**
 * Where groups are kept that are finished.
 *
 * @param identity what results depend on; what was made of other things is removed
 */
export async function evaluationPlaces(
  folder: OpenFolder<EvaluationFile>,
  identity: unknown,
  startOver: () => void,
): Promise<EvaluationPlaces> {
  const partial = await partialFor(folder, [identity], startOver);
  const place = (name: string) => join(partial, sha256OfText(name).slice(0, 16));
  const path = (group: string) => `${place(group)}.json`;
  return {
    async read(group) {
      const stored = await readJsonFile(path(group)).catch(() => null);
      return groupEvaluationSchema.safeParse(stored).data;
    },
    write: (group, found) => writeFileAtomic(path(group), JSON.stringify(found)),
    masks: (group, ablation) => maskPlaces(`${place(`${group} ${ablation}`)}.masks`),
  };
}

/** Takes what is not needed any more out of a finished evaluation's folder. */
export const finishEvaluation = (folder: OpenFolder<EvaluationFile>): Promise<void> => closeFinished(folder);

/** Empties an evaluation's folder, see `abandonWork`. */
export const abandonEvaluation = (folder: OpenFolder<EvaluationFile>): Promise<void> =>
  abandonWork(evaluationFolder, folder);

/** Reads the circuit of a circuit.json: the file of `sfc circuit`, or what it has as its `circuit` alone. @throws UserError if there is none */
export async function readCircuit(path: string): Promise<Circuit> {
  const stored = await readJsonFile(path);
  const refuse = (problem: string, advice: string) => new UserError(`circuit: ${problem} in ${path}. ${advice}`);
  const { command, circuit = stored } = Object(stored) as { command?: unknown; circuit?: unknown };
  if (command === "circuit" && circuit === null) {
    throw refuse("expected a finished one, got one that was interrupted", "The command that began it resumes it.");
  }
  const { format, features } = Object(circuit) as { format?: unknown; features?: unknown };
  if (format === undefined || features === undefined) {
    throw refuse("expected a circuit.json, got another file", "Make one with sfc circuit.");
  }
  const parsed = circuitSchema.safeParse(circuit);
  if (parsed.success) return parsed.data;
  const { path: field, message } = parsed.error.issues[0]!;
  const name = field.map(String).join(".");
  const got = field.reduce<unknown>((value, key) => Object(value)[key], circuit);
  throw refuse(
    name === "format"
      ? `expected format 1, got ${JSON.stringify(format)}`
      : `expected the fields of format 1, got ${JSON.stringify(got) ?? "none"} for "${name || "circuit"}" (${message})`,
    "Make one with this version's sfc circuit.",
  );
}
