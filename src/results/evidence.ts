import { existsSync } from "node:fs";
import { rm, stat } from "node:fs/promises";
import { dirname, join } from "node:path";
import { z } from "zod";
import type { FeatureEvidence } from "../contexts/site-contexts.ts";
import { messageOf, StoppedError, UserError } from "../errors.ts";
import type { SiteName } from "../site.ts";
import { makeFolder, readJsonFile, writeFileAtomic } from "../storage/files.ts";
import { Database } from "./database.ts";

const count = z.int().min(0);
const digest = z.string().regex(/^[0-9a-f]{64}$/);

/** `contexts/<site>.json`: what the evidence beside it was made of. */
export const evidenceSchema = z.strictObject({
  format: z.literal(1),
  site: z.string(),
  sae: z.strictObject({ sha256: z.string(), features: count }).describe("the SAE, as runs name it"),
  model: z.strictObject({ name: z.string(), sha256: z.string() }),
  corpus: z.strictObject({
    name: z.string(),
    files: z
      .array(z.strictObject({ name: z.string(), bytes: count, sha256: digest }))
      .describe("in their order; none for generated English"),
    seed: count.nullable().describe("of generated English; null for files"),
  }),
  length: count.describe("tokens of a row"),
  asked: count.describe("tokens that were asked for; a text of files may have fewer"),
  rows: count,
  tokens: count.describe("tokens whose codes were looked at: all but the first of each row"),
  contexts: count.describe("windows kept for each feature"),
  window: count.describe("tokens of a window at most"),
  features: z.array(count).nullable().describe("the features that were looked at; null for all"),
});

/** What evidence of one site was made of. */
export type EvidenceAbout = z.infer<typeof evidenceSchema>;

/**
 * The folder `contexts` beside SAEs that lie in a folder; null for those of the hub.
 *
 * @param source the SAEs' folder or file; null for the model's own
 */
export async function evidenceBeside(source: string | null, model: string): Promise<string | null> {
  const place = source ?? `${model}/saes`;
  const found = await stat(place).catch(() => null);
  return found && join(found.isFile() ? dirname(place) : place, "contexts");
}

const tableOf = (folder: string, site: SiteName) => join(folder, `${site}.parquet`);
const aboutOf = (folder: string, site: SiteName) => join(folder, `${site}.json`);

/** A code with three significant digits: what a reader of contexts can use, in a third of the bytes. */
const short = (value: number) => Number(value.toPrecision(3));

/**
 * Writes the evidence of a site: its table, then what it was made of, which says that the table is whole.
 *
 * @throws UserError if the folder cannot be written
 */
export async function writeEvidence(
  folder: string,
  about: EvidenceAbout,
  features: Iterable<FeatureEvidence>,
): Promise<void> {
  await makeFolder(folder);
  const rows = { feature: [] as number[], active: [] as number[], max: [] as number[], width: [] as number[] };
  const bins = { feature: [] as number[], place: [] as number[], n: [] as number[] };
  const tops = { feature: [] as number[], place: [] as number[], token: [] as number[], n: [] as number[] };
  const windows = { feature: [] as number[], rank: [] as number[], top: [] as number[] };
  const words = {
    feature: [] as number[],
    rank: [] as number[],
    place: [] as number[],
    token: [] as number[],
    code: [] as number[],
  };
  for (const { feature, active, max, histogram, topTokens, contexts } of features) {
    rows.feature.push(feature);
    rows.active.push(active);
    rows.max.push(short(max));
    rows.width.push(histogram?.width ?? 0);
    for (const [place, n] of (histogram?.counts ?? []).entries()) {
      bins.feature.push(feature);
      bins.place.push(place);
      bins.n.push(n);
    }
    for (const [place, { token, rows: n }] of topTokens.slice(0, keptTokens).entries()) {
      tops.feature.push(feature);
      tops.place.push(place);
      tops.token.push(token);
      tops.n.push(n);
    }
    for (const [rank, { tokens, codes, top }] of contexts.entries()) {
      windows.feature.push(feature);
      windows.rank.push(rank);
      windows.top.push(top);
      for (const [place, token] of tokens.entries()) {
        words.feature.push(feature);
        words.rank.push(rank);
        words.place.push(place);
        words.token.push(token);
        words.code.push(short(codes[place]!));
      }
    }
  }
  // One thread: the same rows then make the same bytes.
  const database = await Database.open({ threads: "1" });
  try {
    const whole = (values: readonly number[]) => ["INTEGER", Int32Array.from(values)] as const;
    const { feature, active, max, width } = rows;
    await database.load("evidence", {
      feature: whole(feature),
      active: whole(active),
      max: ["FLOAT", Float32Array.from(max)],
      width: ["DOUBLE", Float64Array.from(width)],
    });
    await database.load("bins", { feature: whole(bins.feature), place: whole(bins.place), n: whole(bins.n) });
    await database.load("tops", {
      feature: whole(tops.feature),
      place: whole(tops.place),
      token: whole(tops.token),
      n: whole(tops.n),
    });
    await database.load("windows", {
      feature: whole(windows.feature),
      rank: whole(windows.rank),
      top: whole(windows.top),
    });
    await database.load("words", {
      feature: whole(words.feature),
      rank: whole(words.rank),
      place: whole(words.place),
      token: whole(words.token),
      code: ["FLOAT", Float32Array.from(words.code)],
    });
    // Without its description a table counts as not there, so no new one ever stands under an old description.
    await rm(aboutOf(folder, about.site), { force: true });
    await database.copy(
      `SELECT feature, active, max, nullif(width, 0) AS bin_width, coalesce(counts, []) AS bins,
         coalesce(top_tokens, []) AS top_tokens, coalesce(top_rows, []) AS top_rows, coalesce(contexts, []) AS contexts
       FROM evidence
       LEFT JOIN (SELECT feature, list(n ORDER BY place) AS counts FROM bins GROUP BY feature) USING (feature)
       LEFT JOIN (SELECT feature, list(token ORDER BY place) AS top_tokens, list(n ORDER BY place) AS top_rows
         FROM tops GROUP BY feature) USING (feature)
       LEFT JOIN (
         SELECT feature, list({'top': top, 'tokens': tokens, 'codes': codes} ORDER BY rank) AS contexts
         FROM windows JOIN (
           SELECT feature, rank, list(token ORDER BY place) AS tokens, list(code ORDER BY place) AS codes
           FROM words GROUP BY feature, rank) USING (feature, rank)
         GROUP BY feature) USING (feature)
       ORDER BY feature`,
      tableOf(folder, about.site),
      "zstd",
    );
  } finally {
    database.close();
  }
  await writeFileAtomic(aboutOf(folder, about.site), `${JSON.stringify(about, null, 2)}\n`);
}

/** Top tokens that the table keeps. */
const keptTokens = 10;

/**
 * What the evidence of a site was made of; null where there is none.
 *
 * @throws UserError if it is damaged, naming the file
 */
export async function readEvidenceAbout(folder: string, site: SiteName): Promise<EvidenceAbout | null> {
  const path = aboutOf(folder, site);
  if (!existsSync(path)) return null;
  const parsed = evidenceSchema.safeParse(await readJsonFile(path));
  if (parsed.success) return parsed.data;
  const { path: field, message } = parsed.error.issues[0]!;
  throw new UserError(
    `contexts: expected this version's fields, got "${field.join(".")}": ${message} in ${path}. Make them again with sfc contexts --force.`,
  );
}

/** What the evidence of a site comes to. */
export interface EvidenceSummary {
  readonly site: SiteName;
  readonly features: number;
  /** Features that were never active. */
  readonly silent: number;
  /** Mean number of active features per token. */
  readonly active: number;
}

/** @throws UserError if the table cannot be read */
export async function summariseEvidence(folder: string, { site, tokens }: EvidenceAbout): Promise<EvidenceSummary> {
  const [row] = await query<{ features: number; silent: number; active: number }>(
    tableOf(folder, site),
    `count(*)::INTEGER AS features, (count(*) FILTER (active = 0))::INTEGER AS silent, sum(active)::DOUBLE AS active`,
  );
  const { features, silent, active } = row!;
  return { site, features, silent, active: tokens === 0 ? 0 : active / tokens };
}

/** A row of the table. */
export interface EvidenceRow {
  readonly feature: number;
  /** Tokens at which the code is above 0. */
  readonly active: number;
  readonly max: number;
  readonly bin_width: number | null;
  readonly bins: readonly number[];
  readonly top_tokens: readonly number[];
  readonly top_rows: readonly number[];
  readonly contexts: readonly {
    readonly top: number;
    readonly tokens: readonly number[];
    readonly codes: readonly number[];
  }[];
}

/**
 * The evidence of some of a site's features, by feature; those that were not looked at are left out.
 *
 * @param opened a database that is open already: to open one takes longer than to read a site
 * @throws UserError if the table cannot be read
 */
export async function readEvidence(
  folder: string,
  site: SiteName,
  features: readonly number[],
  opened?: Database,
): Promise<Map<number, EvidenceRow>> {
  if (features.length === 0) return new Map();
  const where = `WHERE feature IN (${features.join(", ")})`;
  const rows = await query<EvidenceRow>(tableOf(folder, site), "*", where, opened);
  return new Map(rows.map((row) => [row.feature, row]));
}

async function query<Row>(path: string, columns: string, where = "", opened?: Database): Promise<Row[]> {
  const database = opened ?? (await Database.open());
  try {
    return await database.rows<Row>(`SELECT ${columns} FROM ${database.files(path)} ${where}`);
  } catch (error) {
    if (error instanceof StoppedError) throw error;
    throw new UserError(
      `contexts: expected a table of evidence, got ${existsSync(path) ? messageOf(error).split("\n")[0] : "none"} at ${path}. Make it again with sfc contexts --force.`,
    );
  } finally {
    if (!opened) database.close();
  }
}
