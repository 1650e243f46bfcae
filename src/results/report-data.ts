import { existsSync } from "node:fs";
import { join } from "node:path";
import type { z } from "zod";
import { percentText } from "../amounts.ts";
import { ablationSchema } from "../circuit/meaning.ts";
import { type Ranking, rankingSchema } from "../circuit/ranking.ts";
import { errorFeature } from "../effects/rows.ts";
import { messageOf, StoppedError, UserError } from "../errors.ts";
import type { Watch } from "../progress.ts";
import { groupPairs, type Split } from "../prompts/pairs.ts";
import { commandLine } from "../report/citation.ts";
import {
  type CaseAccuracy,
  type DriverContext,
  type FeatureDrivers,
  type ReportData,
  type ReportExample,
  type ReportLimits,
  type ReportPrompt,
  type ReportRun,
  reportLimits,
  type SiteAgreement,
} from "../report/data.ts";
import { compareSites, type SiteName } from "../site.ts";
import { mean, roundAll, rounded } from "../stats.ts";
import { readJsonFile } from "../storage/files.ts";
import { Database, text } from "./database.ts";
import { leftByOthers } from "./made-of.ts";
import { type Manifest, readManifest } from "./manifest.ts";
import { pairsFile, type RunPair, readPairLines } from "./read-run.ts";
import { readReportCards } from "./report-cards.ts";
import { readReportCircuit, readReportEvaluation } from "./report-circuit.ts";
import { exactSample, type FoundFeatures, importanceOf, withExactValues, withSpread } from "./report-ranking.ts";

/** A row of `nodes.parquet`. */
interface Node {
  readonly node: number;
  readonly parent: number;
  readonly position: number;
  readonly token_id: number;
  readonly token: string;
  readonly patch_token_id: number | null;
  readonly patch_token: string | null;
  readonly weight: number;
}

/** What the report shows of the tables: all that takes long, and is there as soon as the run has its ranking. */
export interface ReportTables extends Pick<ReportData, "agreement" | "examples" | "drivers"> {
  readonly found: readonly FoundFeatures[];
}

/**
 * Reads what the report shows of a run's tables.
 *
 * @throws as `readReportData`
 */
export async function readReportTables(
  folder: string,
  limits: ReportLimits = reportLimits,
  stopped?: Watch["stopped"],
): Promise<ReportTables> {
  const ranking = await readChecked(join(folder, "ranking.json"), rankingSchema);
  const pairs = await readPairLines(folder, {}, { stopped });
  const tables = await Tables.open(
    folder,
    ranking.sites.map(({ site }) => site),
    stopped,
  );
  try {
    const prompts = new Prompts(await tables.nodes(), pairs);
    const hasEffects = ranking.score !== "gradient";
    return {
      found: await tables.topFeatures(limits.features),
      agreement: await agreementOf(tables, ranking, limits.points),
      examples: hasEffects ? await examplesOf(tables, prompts, pairs, ranking, limits.examples) : [],
      drivers: hasEffects ? await driversOf(tables, prompts, ranking, limits) : [],
    };
  } finally {
    tables.close();
  }
}

/**
 * Reads what the report shows from a run's folder: `run.json`, `ranking.json`, `pairs.jsonl`, the Parquet files, and where they are there
 * `ablation.json`, the circuit's graph and the evaluation. Long lists are cut off at `limits`; numbers keep five significant digits.
 *
 * @param stopped asked during the work
 * @param known what was read of the tables already
 * @throws UserError if a file is missing or broken, naming it; StoppedError if asked to stop
 */
export async function readReportData(
  folder: string,
  limits: ReportLimits = reportLimits,
  stopped?: Watch["stopped"],
  known?: ReportTables,
): Promise<ReportData> {
  const manifest = await readManifest(folder);
  const ranking = await readChecked(join(folder, "ranking.json"), rankingSchema);
  const ablationPath = join(folder, "ablation.json");
  const meaning = existsSync(ablationPath) ? await readChecked(ablationPath, ablationSchema) : null;
  const left = await leftByOthers(folder, manifest);
  const circuit = left.circuit ? null : await readReportCircuit(folder, limits.edges);
  const pairs = await readPairLines(folder, manifest, { stopped });
  const accuracy = accuracyOf(pairs);
  const { found, agreement, examples, drivers } = known ?? (await readReportTables(folder, limits, stopped));
  return {
    format: 1,
    run: describeRun(manifest, ranking),
    warnings: [...warningsOf(manifest, ranking, accuracy), ...leftText(left)],
    accuracy,
    checks: manifest.checks.map((check) => ({ ...check, site: check.site ?? "" })),
    importance: importanceOf(ranking),
    features: withSpread(withExactValues(found, ranking, manifest), ranking),
    words: ranking.words,
    wordsShared: ranking.words_shared,
    change: roundAll(ranking.change),
    unexplained: roundAll(knownShares(manifest.unexplained)),
    exact: exactSample(ranking),
    agreement,
    examples,
    drivers,
    meaning: meaning === null ? null : roundAll(meaning),
    cards: await readReportCards(folder, circuit, limits.cards),
    circuit,
    evaluation: left.evaluation ? null : roundAll(await readReportEvaluation(folder)),
    limits,
  };
}

async function readChecked<T>(path: string, schema: z.ZodType<T>): Promise<T> {
  const parsed = schema.safeParse(await readJsonFile(path));
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0]!;
  throw new UserError(
    `report: expected this version's fields, got "${issue.path.join(".")}": ${issue.message} in ${path}. Make the run again.`,
  );
}

function describeRun(manifest: Manifest, ranking: Ranking): ReportRun {
  const { options, counts } = manifest;
  const shownAbove = ["model_name", "task", "method", "score", "seed"];
  const sources = [...new Set(manifest.dictionaries.map((dictionary) => dictionary.source))];
  const digests = [...new Set(manifest.dictionaries.map((dictionary) => dictionary.sha256))];
  return {
    model: { name: manifest.model?.name ?? String(options.model_name ?? "?"), sha256: manifest.model?.sha256 ?? null },
    dictionaries: {
      name: sources.join(", ") || "none",
      dummy: manifest.dictionaries.some((dictionary) => dictionary.dummy),
      sha256: digests.length === 1 ? digests[0]! : null,
    },
    task: String(options.task ?? options.pairs ?? "pairs"),
    method: String(options.method ?? "analytic"),
    score: ranking.score,
    command: commandLine(manifest.command, { ...options, seed: manifest.seed }),
    seed: manifest.seed,
    status: manifest.error === null ? manifest.status : `${manifest.status}: ${manifest.error}`,
    versions: Object.entries(manifest.versions).map(([name, value]) => ({ name, value })),
    options: Object.entries(options)
      .filter(([name, value]) => !shownAbove.includes(name) && value !== null)
      .map(([name, value]) => ({ name, value: Array.isArray(value) ? value.join(", ") : String(value) })),
    counts: [
      { name: "tokens unmerged", value: counts.tokens },
      { name: "forward nodes", value: counts.nodes_forward },
      { name: "backward nodes", value: counts.nodes_backward },
      { name: "effect rows", value: counts.rows },
    ],
    phases: Object.entries(manifest.seconds).map(([name, seconds]) => ({ name, seconds: rounded(seconds) })),
    peakBytes: manifest.peak_rss_bytes > 0 ? manifest.peak_rss_bytes : null,
  };
}

/** The run's own warnings, and what a reader of the report has to know besides; no line twice. */
/** Says what of an earlier run in this folder the report leaves out. */
const leftText = ({ circuit, evaluation }: { readonly circuit: boolean; readonly evaluation: boolean }) => [
  ...(circuit
    ? ["The circuit in this folder is of an earlier run and not shown. Make it again with sfc circuit --force."]
    : []),
  ...(evaluation
    ? ["The evaluation in this folder is of an earlier run and not shown. Make it again with sfc evaluate --force."]
    : []),
];

function warningsOf(manifest: Manifest, ranking: Ranking, accuracy: readonly CaseAccuracy[]): string[] {
  const lines = [...manifest.warnings];
  const failed = manifest.checks.filter((check) => !check.passed);
  if (failed.length > 0) {
    lines.push(
      `${failed.length} of ${manifest.checks.length} checks failed; do not rely on the numbers before you know why.`,
    );
  }
  for (const row of accuracy) {
    const said = manifest.warnings.some((line) => /^Accuracy below/.test(line));
    if (row.accuracy >= 0.8 || said) continue;
    lines.push(
      `The model prefers the clean answer in only ${percentText(row.accuracy)} of the ${row.split} pairs of ${row.case}: there is little behaviour to explain.`,
    );
  }
  if (!ranking.sites.some((site) => site.train_test !== null)) {
    lines.push("The run has one split only, so nothing shows whether its features hold on other prompts.");
  }
  return [...new Set(lines)];
}

function accuracyOf(pairs: readonly RunPair[]): CaseAccuracy[] {
  return groupPairs(pairs).map(({ split, case: name, members }) => {
    const group = members.map((i) => pairs[i]!);
    const patched = group.flatMap((pair) => pair.m_patch ?? []);
    return {
      split,
      case: name,
      pairs: group.length,
      accuracy: group.filter((pair) => pair.m_clean < 0).length / group.length,
      cleanMean: rounded(mean(group.map((pair) => pair.m_clean))),
      patchMean: patched.length === group.length ? rounded(mean(patched)) : null,
    };
  });
}

async function agreementOf(tables: Tables, ranking: Ranking, points: number): Promise<SiteAgreement[]> {
  const bySite = await tables.points(points);
  return ranking.sites.flatMap(({ site, train_test }) => {
    if (train_test === null) return [];
    return [
      {
        site,
        spearman: train_test.spearman === null ? null : rounded(train_test.spearman),
        both: train_test.features,
        overlap10: train_test.overlap_10,
        overlap50: train_test.overlap_50,
        overlap10ByWords: train_test.overlap_10_by_words,
        overlap50ByWords: train_test.overlap_50_by_words,
        ...(bySite.get(site) ?? { feature: [], train: [], test: [] }),
      },
    ];
  });
}

/** For every case the pair whose metric changes by the median amount: a typical one. Test pairs where there are any. */
function typicalPairs(pairs: readonly RunPair[], limit: number): number[] {
  const split: Split = pairs.some((pair) => pair.split === "test") ? "test" : "train";
  const cases = new Map<string, number[]>();
  for (const [i, pair] of pairs.entries()) {
    if (pair.split !== split) continue;
    const group = cases.get(pair.case);
    if (group === undefined) cases.set(pair.case, [i]);
    else group.push(i);
  }
  const change = (i: number) => (pairs[i]!.m_patch ?? 0) - pairs[i]!.m_clean;
  const typical = [...cases.values()].map(
    (group) => group.toSorted((a, b) => change(a) - change(b))[group.length >> 1]!,
  );
  return typical.slice(0, limit);
}

/** Features named at each token of an example, per site. */
const namedPerToken = 5;

async function examplesOf(
  tables: Tables,
  prompts: Prompts,
  pairs: readonly RunPair[],
  ranking: Ranking,
  limit: number,
): Promise<ReportExample[]> {
  const chosen = typicalPairs(pairs, limit).map((i) => ({ pair: pairs[i]!, path: prompts.path(pairs[i]!.end) }));
  const nodes = [...new Set(chosen.flatMap(({ path }) => path.map((node) => node.node)))];
  const sums = await tables.sumsAt(nodes);
  const strongest = await tables.strongestAt(nodes, namedPerToken);
  return chosen.map(({ pair, path }) => ({
    split: pair.split,
    case: pair.case,
    prompt: promptOf(path),
    cleanAnswer: pair.clean_answer,
    patchAnswer: pair.patch_answer,
    cleanMetric: rounded(pair.m_clean),
    patchMetric: pair.m_patch == null ? null : rounded(pair.m_patch),
    sites: ranking.sites.map(({ site }) => {
      const at = path.map(({ node, weight }) => {
        const sum = sums.get(`${site} ${node}`) ?? { features: 0, error: 0 };
        return { features: rounded(sum.features / weight), error: rounded(sum.error / weight) };
      });
      const top = path.map(({ node, weight }) => {
        const found = strongest.get(`${site} ${node}`) ?? { feature: [], effect: [] };
        return { feature: found.feature, effect: found.effect.map((effect) => rounded(effect / weight)) };
      });
      return { site, features: at.map((sum) => sum.features), error: at.map((sum) => sum.error), top };
    }),
  }));
}

async function driversOf(
  tables: Tables,
  prompts: Prompts,
  ranking: Ranking,
  limits: ReportLimits,
): Promise<FeatureDrivers[]> {
  const top = ranking.sites.flatMap(({ site, splits }) =>
    ((splits.train ?? splits.test)?.top ?? [])
      .slice(0, limits.drivers)
      .map(({ feature, effect, exact }) => ({ site, feature, effect, exact: exact?.effect ?? null })),
  );
  const contexts = await tables.contexts(top, limits.contexts, prompts.sharedStart);
  return top.map(({ site, feature, effect, exact }) => ({
    site,
    feature,
    effect: rounded(effect),
    exact: exact === null ? null : rounded(exact),
    contexts: (contexts.get(`${site}/${feature}`) ?? []).map((row): DriverContext => {
      const path = prompts.through(row.node);
      return {
        split: row.split,
        case: row.case,
        prompt: promptOf(path),
        position: row.position,
        codeClean: rounded(row.f_clean),
        codePatch: row.f_patch === null ? null : rounded(row.f_patch),
        effect: rounded(row.effect),
        pairs: row.weight,
      };
    }),
  }));
}

/** The prompts of a run, found again from its forest of backward nodes. */
class Prompts {
  readonly #nodes: ReadonlyMap<number, Node>;
  /** The end node of one pair that passes through each node. */
  readonly #end = new Map<number, number>();
  /** Whether all prompts start with the same token (BOS): effects there belong to no prompt. */
  readonly sharedStart: boolean;

  /** @throws UserError if the nodes are no forest */
  constructor(nodes: readonly Node[], pairs: readonly RunPair[]) {
    this.#nodes = new Map(nodes.map((node) => [node.node, node]));
    const broken = nodes.find(({ node, parent, position }) => {
      const before = parent < 0 ? -1 : this.#nodes.get(parent)?.position;
      return before !== position - 1 || parent < -1 || this.#nodes.get(node)!.parent !== parent;
    });
    if (broken || this.#nodes.size < nodes.length) {
      const got = broken ? `node ${broken.node} at position ${broken.position} after ${broken.parent}` : "a node twice";
      throw new UserError(
        `table of the run: expected each node once, one position after its parent, got ${got} in nodes.parquet. Make the run again with --force.`,
      );
    }
    const starts = nodes.filter((node) => node.position === 0);
    this.sharedStart =
      new Set(starts.flatMap((node) => [node.token_id, node.patch_token_id ?? node.token_id])).size === 1;
    for (const { end } of pairs) {
      for (let at = this.#nodes.get(end); at && !this.#end.has(at.node); at = this.#nodes.get(at.parent)) {
        this.#end.set(at.node, end);
      }
    }
  }

  /** The nodes from the root to an end node. */
  path(end: number): Node[] {
    const path: Node[] = [];
    for (let at = this.#nodes.get(end); at; at = this.#nodes.get(at.parent)) path.push(at);
    if (path.length === 0) {
      throw new UserError(
        `pairs of the run: expected an end among the nodes, got ${end} in ${pairsFile}. Make the run again.`,
      );
    }
    return path.reverse();
  }

  /** The whole path of one pair that passes through a node. */
  through(node: number): Node[] {
    return this.path(this.#end.get(node) ?? node);
  }
}

function promptOf(path: readonly Node[]): ReportPrompt {
  return {
    clean: path.map((node) => node.token),
    patch: path.map((node) =>
      node.patch_token_id === null || node.patch_token_id === node.token_id ? null : node.patch_token,
    ),
  };
}

interface ContextRow {
  readonly site: SiteName;
  readonly feature: number;
  readonly split: Split;
  readonly case: string;
  readonly node: number;
  readonly position: number;
  readonly f_clean: number;
  readonly f_patch: number | null;
  readonly effect: number;
  readonly weight: number;
}

/** The columns of each table, with the types that a run gives them. */
const columnsOf = {
  nodes: {
    node: "INTEGER",
    split: "VARCHAR",
    case: "VARCHAR",
    parent: "INTEGER",
    position: "INTEGER",
    token_id: "INTEGER",
    token: "VARCHAR",
    patch_token_id: "INTEGER",
    patch_token: "VARCHAR",
    weight: "DOUBLE",
  },
  effects: {
    split: "VARCHAR",
    case: "VARCHAR",
    site: "VARCHAR",
    node: "INTEGER",
    position: "INTEGER",
    feature: "INTEGER",
    f_clean: "FLOAT",
    f_patch: "FLOAT",
    gradient: "FLOAT",
    effect: "DOUBLE",
  },
  features: {
    split: "VARCHAR",
    case: "VARCHAR",
    site: "VARCHAR",
    feature: "INTEGER",
    effect: "DOUBLE",
    effect_abs: "DOUBLE",
    nodes_active: "INTEGER",
    rank: "INTEGER",
  },
} as const;

type TableName = keyof typeof columnsOf;

/** What holds for every row that a run writes; `n` is the row's node in `nodes`. */
const rowRules: Readonly<Record<TableName, readonly string[]>> = {
  nodes: [
    "node >= 0",
    "split IN ('train', 'test')",
    '"case" IS NOT NULL',
    "parent >= -1",
    "position >= 0",
    "token_id IS NOT NULL AND token IS NOT NULL",
    "(patch_token IS NULL) = (patch_token_id IS NULL)",
    "isfinite(weight) AND weight > 0",
  ],
  effects: [
    "n.node IS NOT NULL",
    't.split = n.split AND t."case" = n."case" AND t.position = n.position',
    `feature >= ${errorFeature}`,
    "isfinite(effect)",
    "coalesce(isfinite(f_clean), true) AND coalesce(isfinite(f_patch), true)",
  ],
  features: [
    "split IN ('train', 'test')",
    '"case" IS NOT NULL',
    `feature >= ${errorFeature}`,
    "isfinite(effect)",
    "nodes_active >= 0",
    `CASE WHEN feature = ${errorFeature} THEN rank IS NULL ELSE rank >= 1 END`,
  ],
};

/** The Parquet files of a run's folder, read with DuckDB. */
class Tables {
  readonly #folder: string;
  readonly #database: Database;

  private constructor(folder: string, database: Database) {
    this.#folder = folder;
    this.#database = database;
  }

  /**
   * Opens the tables of a run and checks them.
   *
   * @param sites those of the run
   * @throws UserError if a table is missing or damaged, or has other columns or rows than a run writes, naming it
   */
  static async open(folder: string, sites: readonly SiteName[], stopped?: () => boolean): Promise<Tables> {
    const tables = new Tables(folder, await Database.open({ memory_limit: "1GB" }, stopped));
    try {
      for (const name of ["nodes", "effects", "features"] as const) await tables.#add(name, sites);
      return tables;
    } catch (error) {
      tables.close();
      throw error;
    }
  }

  async #add(name: TableName, sites: readonly SiteName[]): Promise<void> {
    const file = this.#database.files(this.#path(name));
    const found = await this.#query<{ column_name: string; column_type: string }>(
      name,
      `DESCRIBE SELECT * FROM ${file}`,
    );
    const types = new Map(found.map((column) => [column.column_name, column.column_type]));
    for (const [column, type] of Object.entries(columnsOf[name])) {
      const got = types.get(column) ?? "none";
      if (got !== type) throw this.#damaged(name, `a column ${column} of type ${type}`, got);
    }
    await this.#query(name, `CREATE VIEW ${name} AS SELECT * FROM ${file}`);
    const known = `site IN (${["", ...sites].map(text).join(", ")})`;
    const rules = name === "nodes" ? rowRules.nodes : [...rowRules[name], known];
    const broken = rules.map((rule, i) => `count(*) FILTER (NOT coalesce(${rule}, false))::DOUBLE AS "${i}"`);
    const join = name === "effects" ? "LEFT JOIN nodes n ON t.node = n.node" : "";
    const [counts] = await this.#query<Record<string, number>>(name, `SELECT ${broken} FROM ${name} t ${join}`);
    const at = rules.findIndex((_, i) => counts![i] !== 0);
    if (at >= 0) throw this.#damaged(name, `rows with ${rules[at]}`, `${counts![at]} others`);
  }

  #path(name: TableName): string {
    return join(this.#folder, `${name}.parquet`);
  }

  #damaged(name: TableName, expected: string, got: string): UserError {
    return new UserError(
      `table of the run: expected ${expected}, got ${got} in ${this.#path(name)}. Make the run again with --force.`,
    );
  }

  close(): void {
    this.#database.close();
  }

  nodes(): Promise<Node[]> {
    return this.#query(
      "nodes",
      "SELECT node, parent, position, token_id, token, patch_token_id, patch_token, weight FROM nodes",
    );
  }

  /** The strongest features of every split, case and site, with the error beside them. */
  async topFeatures(limit: number): Promise<FoundFeatures[]> {
    const rows = await this.#query<{
      split: Split;
      case: string;
      site: SiteName;
      feature: number;
      effect: number;
      nodes: number;
    }>(
      "features",
      `SELECT split, "case", site, feature, effect, nodes_active::INTEGER AS nodes FROM features
       WHERE rank <= ${limit} OR feature = ${errorFeature} ORDER BY split DESC, "case", site, rank NULLS FIRST`,
    );
    type Group = FoundFeatures & { feature: number[]; effect: number[]; nodes: number[]; error: number | null };
    const groups = new Map<string, Group>();
    for (const row of rows) {
      const key = `${row.split} ${row.case} ${row.site}`;
      const { split, case: name, site } = row;
      const group = groups.get(key) ?? {
        split,
        case: name,
        site,
        feature: [],
        effect: [],
        nodes: [],
        error: null,
      };
      groups.set(key, group);
      if (row.feature === errorFeature) {
        group.error = rounded(row.effect);
      } else {
        group.feature.push(row.feature);
        group.effect.push(rounded(row.effect));
        group.nodes.push(row.nodes);
      }
    }
    return [...groups.values()].sort((a, b) => compareSites(a.site, b.site));
  }

  /** By site, the features with the largest effect in either split; 0 where a feature has no row in one of them. */
  async points(limit: number): Promise<Map<SiteName, { feature: number[]; train: number[]; test: number[] }>> {
    const rows = await this.#query<{ site: SiteName; feature: number; train: number; test: number }>(
      "features",
      `WITH effects_of AS (
         SELECT site, feature, coalesce(sum(effect) FILTER (split = 'train'), 0) AS train,
           coalesce(sum(effect) FILTER (split = 'test'), 0) AS test
         FROM features WHERE "case" = '' AND feature <> ${errorFeature} GROUP BY site, feature)
       SELECT site, feature, train, test FROM effects_of
       QUALIFY row_number() OVER (PARTITION BY site ORDER BY greatest(abs(train), abs(test)) DESC, feature) <= ${limit}
       ORDER BY site, greatest(abs(train), abs(test)) DESC, feature`,
    );
    const bySite = new Map<SiteName, { feature: number[]; train: number[]; test: number[] }>();
    for (const { site, feature, train, test } of rows) {
      const points = bySite.get(site) ?? { feature: [], train: [], test: [] };
      bySite.set(site, points);
      points.feature.push(feature);
      points.train.push(rounded(train));
      points.test.push(rounded(test));
    }
    return bySite;
  }

  /** Σ of the features' effects, and the error's, at each of the nodes: keyed `<site> <node>`, summed over the pairs that share the node. */
  async sumsAt(nodes: readonly number[]): Promise<Map<string, { features: number; error: number }>> {
    if (nodes.length === 0) return new Map();
    const rows = await this.#query<{ site: SiteName; node: number; features: number; error: number }>(
      "effects",
      `SELECT site, node, coalesce(sum(effect) FILTER (feature <> ${errorFeature}), 0) AS features,
         coalesce(sum(effect) FILTER (feature = ${errorFeature}), 0) AS error
       FROM effects WHERE node IN (${nodes.join(", ")}) GROUP BY site, node`,
    );
    return new Map(rows.map((row) => [`${row.site} ${row.node}`, row]));
  }

  /** The features with the largest |effect| at each of the nodes; keyed `<site> <node>`, summed over the pairs that share the node. */
  async strongestAt(
    nodes: readonly number[],
    limit: number,
  ): Promise<Map<string, { feature: number[]; effect: number[] }>> {
    if (nodes.length === 0) return new Map();
    const rows = await this.#query<{ site: SiteName; node: number; feature: number; effect: number }>(
      "effects",
      `SELECT site, node, feature, effect FROM effects
       WHERE node IN (${nodes.join(", ")}) AND feature <> ${errorFeature} AND effect <> 0
       QUALIFY row_number() OVER (PARTITION BY site, node ORDER BY abs(effect) DESC, feature) <= ${limit}
       ORDER BY site, node, abs(effect) DESC, feature`,
    );
    const found = new Map<string, { feature: number[]; effect: number[] }>();
    for (const { site, node, feature, effect } of rows) {
      const one = found.get(`${site} ${node}`) ?? { feature: [], effect: [] };
      found.set(`${site} ${node}`, one);
      one.feature.push(feature);
      one.effect.push(effect);
    }
    return found;
  }

  /**
   * The nodes with the largest effect per pair of each of the features, every token (with its patch token) once; keyed `<site>/<feature>`.
   *
   * @param skipStart leaves out position 0
   */
  async contexts(
    top: readonly { readonly site: SiteName; readonly feature: number }[],
    limit: number,
    skipStart: boolean,
  ): Promise<Map<string, ContextRow[]>> {
    if (top.length === 0) return new Map();
    const asked = top.map(({ site, feature }) => `(${text(site)}, ${feature})`);
    const rows = await this.#query<ContextRow>(
      "effects",
      `WITH asked(site, feature) AS (VALUES ${asked.join(", ")}),
       found AS (
         SELECT e.site, e.feature, e.split, e."case", e.node, e.position, e.f_clean, e.f_patch, n.token_id, n.patch_token_id,
           e.effect / n.weight AS effect, n.weight
         FROM effects e JOIN asked USING (site, feature) JOIN nodes n USING (node)
         WHERE e.position >= ${skipStart ? 1 : 0}),
       distinct_tokens AS (
         SELECT * FROM found
         QUALIFY row_number() OVER (PARTITION BY site, feature, token_id, patch_token_id ORDER BY abs(effect) DESC, node) = 1)
       SELECT site, feature, split, "case", node, position, f_clean, f_patch, effect, weight FROM distinct_tokens
       QUALIFY row_number() OVER (PARTITION BY site, feature ORDER BY abs(effect) DESC, node) <= ${limit}
       ORDER BY site, feature, abs(effect) DESC, node`,
    );
    const byFeature = new Map<string, ContextRow[]>();
    for (const row of rows) {
      const key = `${row.site}/${row.feature}`;
      byFeature.set(key, [...(byFeature.get(key) ?? []), row]);
    }
    return byFeature;
  }

  /** @param name the table to name where it cannot be read */
  async #query<Row>(name: TableName, sql: string): Promise<Row[]> {
    try {
      return await this.#database.rows<Row>(sql);
    } catch (error) {
      if (error instanceof StoppedError) throw error;
      throw this.#damaged(name, "a Parquet file", existsSync(this.#path(name)) ? firstLine(error) : "none");
    }
  }
}

const firstLine = (error: unknown) => messageOf(error).split("\n")[0]!;

/** The sites where something is known. */
function knownShares(unexplained: Manifest["unexplained"]): Record<SiteName, number> {
  return Object.fromEntries(
    Object.entries(unexplained ?? {}).flatMap(([site, share]) => (share === null ? [] : [[site, share] as const])),
  );
}
