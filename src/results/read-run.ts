import { existsSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { readRegular } from "../bytes/file.node.ts";
import { sha256OfText } from "../bytes/sha256.ts";
import { type Ablation, ablationSchema } from "../circuit/meaning.ts";
import { type Ranking, rankingSchema } from "../circuit/ranking.ts";
import type { FeatureRow } from "../circuit/tables.ts";
import { messageOf, UserError } from "../errors.ts";
import { steps, type Watch } from "../progress.ts";
import type { PromptPair, Split } from "../prompts/pairs.ts";
import type { SiteName } from "../site.ts";
import { readJsonFile } from "../storage/files.ts";
import { Database, text } from "./database.ts";
import { type Manifest, readManifest } from "./manifest.ts";
import { type FeatureQuery, readFeatures } from "./tables.ts";

/** The pairs' name in a run's folder. */
export const pairsFile = "pairs.jsonl";

/** A line of `pairs.jsonl`: a pair with what the model makes of it. */
export interface RunPair extends PromptPair {
  /** m at the clean prompt, in logits: below 0 where the model prefers the clean answer. */
  readonly m_clean: number;
  /** m at the patch prompt; null where there is none. */
  readonly m_patch: number | null;
  /** The node of the whole prompts. */
  readonly end: number;
}

const pairSchema: z.ZodType<RunPair> = z.object({
  clean_prefix: z.string(),
  patch_prefix: z.string().nullable(),
  clean_answer: z.string(),
  patch_answer: z.string(),
  split: z.enum(["train", "test"]),
  case: z.string(),
  m_clean: z.number(),
  m_patch: z.number().nullable(),
  end: z.int().min(0),
});

/** A row of `nodes.parquet`: a clean and a patch prefix, by their last tokens. */
export interface NodeRow {
  readonly node: number;
  readonly split: Split;
  readonly case: string;
  /** The node of the prefix one token shorter; −1 at the first token. */
  readonly parent: number;
  readonly position: number;
  readonly token_id: number;
  readonly token: string;
  readonly patch_token_id: number;
  readonly patch_token: string;
  /** How many pairs pass through the node. */
  readonly weight: number;
}

/** A row of `effects.parquet`: a feature at a node, or the error, whose feature is −1. */
export interface EffectRow {
  readonly split: Split;
  readonly case: string;
  readonly site: SiteName;
  readonly node: number;
  readonly position: number;
  readonly feature: number;
  /** Codes at the clean and at the patch prefix; null for the error, and where they were not computed. */
  readonly f_clean: number | null;
  readonly f_patch: number | null;
  /** Change of the metric per unit of the code, in logits. */
  readonly gradient: number | null;
  /** In logits, signed, summed over the pairs that pass through the node. */
  readonly effect: number;
}

/** Which rows of `effects.parquet` to read; what is left out is not restricted. */
export interface EffectQuery {
  readonly site?: SiteName;
  readonly split?: Split;
  readonly case?: string;
  readonly feature?: number;
}

/** A run's folder, read back. */
export interface Run {
  readonly folder: string;
  /** run.json: what was run, on what, and whether its checks passed. */
  readonly manifest: Manifest;
  /** ranking.json: sites and layers with their strongest features. */
  readonly ranking: Ranking;
  /** ablation.json: what the strongest features stand for; undefined where the run has none. */
  readonly ablation: Ablation | undefined;
  readonly pairs: readonly RunPair[];
  /** The nodes of the prefix forest, in the order of their numbers. */
  nodes(): Promise<readonly NodeRow[]>;
  /** Features with their effects as means over the pairs; all cases together are the case ''. */
  features(query?: FeatureQuery): Promise<readonly FeatureRow[]>;
  /** Effects at single nodes, in the file's order: by site, node and feature. They are read in parts, so that none but these are in memory. */
  effects(query?: EffectQuery): AsyncGenerator<EffectRow>;
}

/**
 * Reads the folder of a finished run.
 *
 * @throws UserError if it is not one, the run is not finished, or a file is missing or damaged, naming it
 */
export async function readRun(folder: string): Promise<Run> {
  const manifest = await readManifest(folder);
  if (manifest.status !== "finished") {
    throw new UserError(
      `run: expected a finished one, got one that is ${manifest.status} in ${folder}. The command that began it resumes it.`,
    );
  }
  const ablation = existsSync(join(folder, "ablation.json"))
    ? await readParsed(folder, "ablation.json", ablationSchema)
    : undefined;
  return {
    folder,
    manifest,
    ranking: await readParsed(folder, "ranking.json", rankingSchema),
    ablation,
    pairs: await readPairLines(folder, manifest),
    nodes: () => readRows<NodeRow>(folder, "nodes.parquet", "", "ORDER BY node"),
    features: (query) => readFeatures(folder, query),
    effects: (query) => readEffects(folder, query),
  };
}

async function readParsed<T>(folder: string, name: string, schema: z.ZodType<T>): Promise<T> {
  const path = join(folder, name);
  const parsed = schema.safeParse(await readJsonFile(path));
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0]!;
  throw new UserError(
    `${name}: expected that of a run of this version, got "${issue.path.join(".")}": ${issue.message} in ${path}. Run it again.`,
  );
}

/** SHA-256 of a run's `pairs.jsonl`, for its manifest. @throws UserError if the file cannot be read */
export const pairsDigest = async (folder: string): Promise<string> => sha256OfText(await pairsText(folder));

/**
 * The pairs of a run's folder.
 *
 * @param manifest says which pairs they have to be; without it, and in runs of earlier versions, nothing does
 * @throws UserError if their file is missing, damaged, or not the one that the run wrote; StoppedError if asked to stop
 */
export async function readPairLines(
  folder: string,
  { pairs_sha256 }: Pick<Manifest, "pairs_sha256"> = {},
  watch: Watch = {},
): Promise<RunPair[]> {
  const text = await pairsText(folder);
  const path = join(folder, pairsFile);
  if (pairs_sha256 !== undefined && sha256OfText(text) !== pairs_sha256) {
    throw new UserError(
      `${pairsFile}: expected the file that the run wrote, got another one at ${path}. Its results are those of other pairs: put the file back, or run again.`,
      { code: "changed_input" },
    );
  }
  const lines = text.split("\n").filter((line) => line.trim() !== "");
  const step = steps(watch, lines.length);
  return lines.map((line, i) => {
    step(i);
    const parsed = pairSchema.safeParse(parsedLine(line));
    if (parsed.success) return parsed.data;
    const issue = parsed.error.issues[0]!;
    const what = issue.path.length > 0 ? `"${issue.path.join(".")}": ${issue.message}` : "another line";
    throw new UserError(
      `${pairsFile}: expected a pair with its result, got ${what} in line ${i + 1} of ${path}. Run it again.`,
    );
  });
}

async function pairsText(folder: string): Promise<string> {
  const path = join(folder, pairsFile);
  if (!existsSync(path)) {
    throw new UserError(`${pairsFile}: expected that of a run, got none at ${path}. Run it again.`, {
      code: "not_found",
    });
  }
  try {
    return String(await readRegular(path));
  } catch (error) {
    throw new UserError(
      `${pairsFile}: expected a file that can be read, got ${messageOf(error)}. Make it readable, or run again.`,
    );
  }
}

function parsedLine(line: string): unknown {
  try {
    return JSON.parse(line);
  } catch {
    return null;
  }
}

/** The path of a table. @throws UserError if it is missing */
function tablePath(folder: string, name: string): string {
  const path = join(folder, name);
  if (existsSync(path)) return path;
  throw new UserError(`${name} is missing in ${folder}. Give the folder of a finished run.`, { code: "not_found" });
}

async function readRows<Row>(folder: string, name: string, where: string, order: string): Promise<Row[]> {
  const path = tablePath(folder, name);
  const database = await Database.open();
  try {
    return await database.rows<Row>(`SELECT * FROM ${database.files(path)} ${where} ${order}`);
  } finally {
    database.close();
  }
}

async function* readEffects(folder: string, query: EffectQuery = {}): AsyncGenerator<EffectRow> {
  const path = tablePath(folder, "effects.parquet");
  const where = [
    ...(query.site === undefined ? [] : [`site = ${text(query.site)}`]),
    ...(query.split === undefined ? [] : [`split = ${text(query.split)}`]),
    ...(query.case === undefined ? [] : [`"case" = ${text(query.case)}`]),
    ...(query.feature === undefined ? [] : [`feature = ${Number(query.feature)}`]),
  ];
  const database = await Database.open();
  try {
    const rows = database.stream<EffectRow>(
      `SELECT * FROM ${database.files(path)} ${where.length > 0 ? `WHERE ${where.join(" AND ")}` : ""}`,
    );
    for await (const part of rows) yield* part;
  } finally {
    database.close();
  }
}
