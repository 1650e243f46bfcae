import { existsSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { readRegular } from "../bytes/file.node.ts";
import { type Ablation, ablationSchema } from "../circuit/meaning.ts";
import { type Ranking, rankingSchema } from "../circuit/ranking.ts";
import type { FeatureRow } from "../circuit/tables.ts";
import { messageOf, UserError } from "../errors.ts";
import type { PromptPair, Split } from "../prompts/pairs.ts";
import type { SiteName } from "../site.ts";
import { readJsonFile } from "../storage/files.ts";
import { Database, text } from "./database.ts";
import { type Manifest, readManifest } from "./manifest.ts";
import { type FeatureQuery, readFeatures } from "./tables.ts";

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
    pairs: await readPairLines(folder),
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

/** The pairs of a run's folder. @throws UserError if their file is missing or damaged */
export async function readPairLines(folder: string): Promise<RunPair[]> {
  const path = join(folder, "pairs.jsonl");
  if (!existsSync(path)) {
    throw new UserError(`pairs.jsonl: expected that of a run, got none at ${path}. Run it again.`, {
      code: "not_found",
    });
  }
  try {
    const lines = String(await readRegular(path)).split("\n");
    return lines.filter((line) => line !== "").map((line) => pairSchema.parse(JSON.parse(line)));
  } catch (error) {
    throw new UserError(`pairs.jsonl: expected that of a run, got ${messageOf(error)} in ${path}. Run it again.`);
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
