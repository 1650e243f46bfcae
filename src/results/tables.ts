import { rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { effectsBySplit, leftOutShare, partsOf, type RankedMeans, rankedMeans, splits } from "../circuit/means.ts";
import { type Ranking, rankRun, rankSite, type SiteRanking } from "../circuit/ranking.ts";
import { RankingSpread } from "../circuit/site-spread.ts";
import { type FeatureRow, type FeatureSums, notFinite, type RankOptions } from "../circuit/tables.ts";
import { type EffectRows, errorFeature } from "../effects/rows.ts";
import {
  emptySums,
  indexNodes,
  type NodeIndex,
  type NodesTable,
  type PairCount,
  type Sums,
  sumRows,
} from "../effects/sums.ts";
import { StoppedError, UserError } from "../errors.ts";
import type { FeatureRows } from "../interventions/units.ts";
import { steps, type Watch } from "../progress.ts";
import type { OutsideText } from "../prompts/outside.ts";
import { groupKey, type Split } from "../prompts/pairs.ts";
import { compareSites, type SiteName } from "../site.ts";
import { rounded } from "../stats.ts";
import { makeFolder, writeFileAtomic } from "../storage/files.ts";
import { isSealed, seal } from "../storage/seal.ts";
import { type Column, Database, named, text } from "./database.ts";

/** The files of a site's checkpoint. */
type ChunkKind = "effects" | "sums";

/** What ranking has come to: sites are ranked in their order, each once its rows are written. */
interface Expected {
  readonly options: RankOptions;
  readonly sites: readonly SiteName[];
  readonly spread: RankingSpread | undefined;
  readonly ranked: SiteRanking[];
}

export interface TablesOptions extends Pick<Watch, "stopped"> {
  readonly threads?: number | undefined;
  readonly spill?: string | undefined;
}

/**
 * The tables of a run in the making. Each site's rows become a file of their own in the folder for unfinished work, which is that site's
 * checkpoint; `finish` puts the files of all sites together.
 *
 * Sums over nodes are taken here, in the order of the nodes, and not by DuckDB, whose threads add in any order: so they have the same bits on
 * every run, whatever the number of threads and the order in which the sites were written.
 */
export class RunTables {
  readonly #partial: string;
  readonly #database: Database;
  /** Checkpoints whose files are known to be whole. */
  readonly #whole = new Set<string>();
  /** What `#leftOut` finds of sites that were written here. */
  readonly #leftOutOf = new Map<SiteName, Partial<Record<Split, number>>>();
  readonly #watch: Watch;
  #nodes: NodeIndex | undefined;
  #expected: Expected | undefined;
  /** The rows and sums that were written last, where they are to be ranked next. */
  #fresh: { readonly rows: EffectRows; readonly sums: Sums } | undefined;
  /** One thing after another: the database answers one question at a time. */
  #last: Promise<unknown> = Promise.resolve();
  #copying: Promise<void> | undefined;

  private constructor(partial: string, database: Database, stopped: Watch["stopped"]) {
    this.#partial = partial;
    this.#database = database;
    this.#watch = { stopped };
  }

  /**
   * Opens the tables whose unfinished files lie in `partial`.
   *
   * @param options threads: how many DuckDB may use, all by default; spill: the folder in it for what does not fit in memory, one for each of the
   *   processes that work on the same tables; stopped: asked during all work, which ends with a StoppedError then
   */
  static async open(partial: string, { threads, spill = "spill", stopped }: TablesOptions = {}): Promise<RunTables> {
    await makeFolder(partial);
    const settings = {
      // It takes most of the machine otherwise; what is larger goes through the disk.
      memory_limit: "1GB",
      ...(threads === undefined ? {} : { threads: String(threads) }),
    };
    const database = await Database.open(settings, stopped);
    await database.spillInto(join(partial, spill));
    return new RunTables(partial, database, stopped);
  }

  close(): void {
    this.#database.close();
  }

  /**
   * Takes the run's nodes; comes before all other writing. The sites' checkpoints count only for the nodes with which they were made.
   *
   * @param outside BOS and padding: nodes at these tokens are left out of features.parquet and the ranking, not of effects.parquet
   */
  async writeNodes(nodes: NodesTable, outside: OutsideText): Promise<void> {
    this.takeIndex(indexNodes(nodes, outside));
    await this.#database.load("nodes", {
      node: ["INTEGER", nodes.node],
      split: ["VARCHAR", nodes.split],
      case: ["VARCHAR", nodes.case],
      parent: ["INTEGER", nodes.parent],
      position: ["INTEGER", nodes.position],
      token_id: ["INTEGER", nodes.token_id],
      token: ["VARCHAR", nodes.token],
      patch_token_id: ["INTEGER", nodes.patch_token_id],
      patch_token: ["VARCHAR", nodes.patch_token],
      weight: ["DOUBLE", nodes.weight],
    });
    const index = this.#known();
    await this.#database.load("outside", {
      node: ["INTEGER", nodes.node.filter((_, row) => index.outside[row] === 1)],
    });
  }

  /** Takes the index of nodes whose table is not wanted: enough for `writeSums` and `writeFeatures`. */
  takeIndex(nodes: NodeIndex): void {
    this.#nodes = nodes;
  }

  /** Whether a site's rows of effects, and their sums, are already on the disk, and whole. */
  hasEffects(site: SiteName): Promise<boolean> {
    return this.#isWhole(site, ["effects", "sums"]);
  }

  /**
   * Writes the rows of one site, its checkpoint. NaN in codes and gradients becomes null.
   *
   * @throws UserError if an effect is not finite, naming node and feature, or if the disk is full
   */
  async writeEffects(rows: EffectRows): Promise<void> {
    await this.#inTurn(() => this.#writeEffects(rows));
    this.#rankAhead();
  }

  async #writeEffects(rows: EffectRows): Promise<void> {
    const nodes = this.#known();
    await this.#clear(rows.site);
    const length = rows.node.length;
    const group = new Uint16Array(length);
    const position = new Int32Array(length);
    const step = steps(this.#watch, length);
    for (let i = 0; i < length; i++) {
      if (i % 4096 === 0) step(i);
      const at = nodes.rowOf[rows.node[i]!] ?? -1;
      if (at < 0)
        throw new Error(`internal: ${rows.site} has effects at node ${rows.node[i]}, which is not in the table`);
      const order = i === 0 ? 1 : rows.node[i]! - rows.node[i - 1]! || rows.feature[i]! - rows.feature[i - 1]!;
      if (order <= 0) throw new Error(`internal: row ${i} of ${rows.site} is not sorted by node and feature`);
      if (!Number.isFinite(rows.effect[i])) {
        throw notFinite("effect", rows.effect[i]!, `${rows.site}, node ${rows.node[i]}, feature ${rows.feature[i]}`);
      }
      group[i] = nodes.group[at]!;
      position[i] = nodes.position[at]!;
    }
    await this.#database.load("rows", {
      group: ["USMALLINT", group],
      node: ["INTEGER", rows.node],
      position: ["INTEGER", position],
      feature: ["INTEGER", rows.feature],
      f_clean: ["FLOAT", rows.fClean],
      f_patch: ["FLOAT", rows.fPatch],
      gradient: ["FLOAT", rows.gradient],
      effect: ["DOUBLE", rows.effect],
    });
    const numberOrNull = ["f_clean", "f_patch", "gradient"].map((name) => `nullif(${name}, 'nan'::FLOAT) AS ${name}`);
    await this.#copy(
      `SELECT ${this.#splitAndCase()}, ${text(rows.site)} AS site, node, position, feature, ${numberOrNull}, effect FROM rows`,
      this.#chunk("effects", rows.site),
    );
    await this.#database.run("DROP TABLE rows");
    const own = splits.filter((split) => nodes.groups.some((of) => of.split === split));
    this.#leftOutOf.set(rows.site, Object.fromEntries(own.map((split) => [split, leftOutShare(rows, nodes, split)])));
    const sums = sumRows(rows, nodes);
    await this.writeSums(rows.site, sums);
    await this.#seal(rows.site, ["effects", "sums"]);
    if (this.#nextSite() === rows.site) this.#fresh = { rows, sums };
  }

  /** Whether a site's sums of the score `gradient` are already on the disk, and whole. */
  hasFeatureSums(site: SiteName): Promise<boolean> {
    return this.#isWhole(site, ["sums"]);
  }

  /**
   * Writes the sums of the score `gradient` at one site, for every split and case: its checkpoint. Leaving the nodes of BOS and padding out of
   * the sums is up to the caller; as active nodes count all others.
   *
   * @throws UserError if a sum is not finite, or if the disk is full
   */
  async writeFeatureSums(site: SiteName, parts: readonly FeatureSums[]): Promise<void> {
    const { groups } = this.#known();
    const sums = emptySums(parts.reduce((count, part) => count + part.sums.length, 0));
    let start = 0;
    for (const part of parts) {
      const group = groups.findIndex((of) => of.split === part.split && of.case === part.case);
      if (group < 0) throw new Error(`internal: sums of ${part.split}, ${part.case}, which have no nodes`);
      const broken = part.sums.findIndex((value) => !Number.isFinite(value));
      if (broken >= 0) throw notFinite("gradient", part.sums[broken]!, `${site}, feature ${broken}`);
      const end = start + part.sums.length;
      sums.group.fill(group, start, end);
      sums.nodes.fill(groups[group]!.nodes, start, end);
      sums.total.set(part.sums, start);
      for (let i = start; i < end; i++) sums.feature[i] = i - start;
      start = end;
    }
    await this.#inTurn(async () => {
      await this.#clear(site);
      await this.writeSums(site, sums);
      await this.#seal(site, ["sums"]);
    });
    this.#rankAhead();
  }

  /** Writes sums of a site's features that were taken with the index. */
  async writeSums(site: SiteName, { group, feature, total, nodes }: Sums): Promise<void> {
    await this.#database.load("sums", {
      group: ["USMALLINT", group],
      feature: ["INTEGER", feature],
      total: ["DOUBLE", total],
      nodes: ["INTEGER", nodes],
    });
    await this.#copy(`SELECT ${this.#splitAndCase()}, feature, total, nodes FROM sums`, this.#chunk("sums", site));
    await this.#database.run("DROP TABLE sums");
  }

  /** The columns split and case, from the column "group". */
  #splitAndCase(): string {
    const { groups } = this.#known();
    const [names, cases] = [groups.map((of) => of.split), groups.map((of) => of.case)];
    return `${named(names, '"group"')} AS split, ${named(cases, '"group"')} AS "case"`;
  }

  /** Ranks from now on each site as soon as it and those before it are written, for a `rank` with these options. */
  async expect(options: RankOptions): Promise<void> {
    await this.#inTurn(() => this.#begin(options));
    this.#rankAhead();
  }

  async #begin(options: RankOptions): Promise<Expected> {
    const { units } = options;
    await this.#beginFeatures();
    this.#fresh = undefined;
    this.#expected = {
      options,
      sites: options.sites.toSorted(compareSites),
      spread: units && new RankingSpread(units),
      ranked: [],
    };
    return this.#expected;
  }

  #nextSite(): SiteName | undefined {
    return this.#expected?.sites[this.#expected.ranked.length];
  }

  /** Ranks what is written, while others compute; who asks for the ranking has the error. */
  #rankAhead(): void {
    if (!this.#expected) return;
    this.#inTurn(() => this.#rankWritten()).catch(() => {
      this.#expected = undefined;
    });
  }

  async #rankWritten(): Promise<void> {
    const expected = this.#expected;
    if (!expected) return;
    for (let site = this.#nextSite(); site !== undefined; site = this.#nextSite()) {
      if (!(await this.#hasAll(site, expected.options))) return;
      await this.#rankSite(site, expected);
    }
  }

  async #rankSite(site: SiteName, { options, spread, ranked }: Expected): Promise<void> {
    if (this.#watch.stopped?.()) throw new StoppedError();
    const fresh = this.#fresh?.rows.site === site ? this.#fresh : undefined;
    this.#fresh = undefined;
    const means = rankedMeans(fresh?.sums ?? (await this.#sumsOf(site)), this.#known(), options.pairs);
    const leftOut = options.score === "gradient" ? () => null : await this.#leftOut(site);
    const own = rankSite(site, effectsBySplit(means, options.change, leftOut), options.top);
    const rowsOf = (features: Int32Array) => (fresh ? [fresh.rows] : this.#rowsOf(site, features));
    const spreadOut = spread ? await spread.add(own, means, options.top, rowsOf) : own;
    await this.#database.append("features", columnsOf(ranked.length, means));
    ranked.push(spreadOut);
  }

  #hasAll(site: SiteName, { score }: RankOptions): Promise<boolean> {
    return score === "gradient" ? this.hasFeatureSums(site) : this.hasEffects(site);
  }

  /**
   * Writes `nodes.parquet`, `features.parquet` and `ranking.json` into the run's folder, each whole or not at all, and begins `effects.parquet`, which
   * is there after `written`.
   *
   * @returns the ranking, and the number of rows of effects
   * @throws UserError if the folder cannot be written, or a checkpoint was damaged meanwhile
   */
  rank(folder: string, options: RankOptions): Promise<{ ranking: Ranking; rows: number }> {
    return this.#inTurn(async () => {
      for (const site of options.sites) {
        if (!(await this.#hasAll(site, options))) throw new Error(`internal: ${site} has not been written`);
      }
      return this.#orDamaged(options, () => this.#rank(folder, options));
    });
  }

  /** Waits until effects.parquet is there. @throws as `rank` */
  async written(): Promise<void> {
    await this.#copying;
  }

  /** `rank`, and all that it writes. */
  async finish(folder: string, options: RankOptions): Promise<{ ranking: Ranking; rows: number }> {
    const found = await this.rank(folder, options);
    await this.written();
    return found;
  }

  /** Does something with the checkpoints of all sites. @throws UserError where it fails because one was damaged */
  async #orDamaged<T>(options: RankOptions, work: () => Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (error) {
      this.#whole.clear();
      for (const site of options.sites.toSorted(compareSites)) {
        if (await this.#hasAll(site, options)) continue;
        throw new UserError(
          `The unfinished work of ${site} was removed or damaged (${this.#partial}). Run the same command again.`,
          { cause: error },
        );
      }
      throw error;
    }
  }

  async #rank(folder: string, options: RankOptions): Promise<{ ranking: Ranking; rows: number }> {
    const sites = options.sites.toSorted(compareSites);
    const hasRows = options.score !== "gradient";
    await this.#copy("SELECT * FROM nodes", join(folder, "nodes.parquet"));
    const chunks = hasRows ? sites.map((site) => this.#chunk("effects", site)) : [];
    const rows = chunks.length > 0 ? `SELECT * FROM ${this.#database.files(...chunks)}` : noEffects;
    // DuckDB copies the rows on threads of its own while other work goes on.
    const beside = await this.#database.beside();
    const copying = this.#orDamaged(options, () => beside.copy(rows, join(folder, "effects.parquet"))).finally(() =>
      beside.close(),
    );
    copying.catch(() => {});
    this.#copying = copying;
    try {
      const expected = this.#expected ?? (await this.#begin(options));
      await this.#rankWritten();
      this.#expected = undefined;
      await this.#endFeatures(folder, sites);
      const [count] = await this.#database.rows<{ n: number }>(`SELECT count(*)::INTEGER AS n FROM (${rows})`);
      const { ranked, spread } = expected;
      const ranking = rankRun(options.score, options.top, ranked, options.change, spread?.words, spread?.shared);
      await writeFileAtomic(join(folder, "ranking.json"), `${JSON.stringify(ranking, null, 2)}\n`);
      return { ranking, rows: count!.n };
    } catch (error) {
      await copying.catch(() => {});
      throw error;
    }
  }

  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const next = this.#last.then(work);
    this.#last = next.catch(() => {});
    return next;
  }

  /**
   * Writes `features.parquet` into a folder, from the sites' sums, all of which must have been written.
   *
   * @param sites in order of computation
   * @param counts every split and case that has nodes
   * @throws UserError if the folder cannot be written
   */
  async writeFeatures(folder: string, sites: readonly SiteName[], counts: readonly PairCount[]): Promise<void> {
    await this.#beginFeatures();
    const step = steps(this.#watch, sites.length);
    for (const [place, site] of sites.entries()) {
      step(place);
      const means = rankedMeans(await this.#sumsOf(site), this.#known(), counts);
      await this.#database.append("features", columnsOf(place, means));
    }
    await this.#endFeatures(folder, sites);
  }

  async #beginFeatures(): Promise<void> {
    await this.#database.run(`CREATE OR REPLACE TEMP TABLE features (
      place USMALLINT, part USMALLINT, feature INTEGER, effect DOUBLE, nodes_active INTEGER, rank INTEGER)`);
  }

  /** Writes `features.parquet`: the rows lie in the file's order already. */
  async #endFeatures(folder: string, sites: readonly SiteName[]): Promise<void> {
    const parts = partsOf(this.#known());
    await this.#copy(
      `SELECT ${named(
        parts.map((of) => of.split),
        "part",
      )} AS split, ${named(
        parts.map((of) => of.case),
        "part",
      )} AS "case",
         ${named(sites, "place")} AS site, feature, effect, abs(effect) AS effect_abs, nodes_active, nullif(rank, 0) AS rank
       FROM features`,
      join(folder, "features.parquet"),
    );
  }

  /** The sums of a site, from its checkpoint. */
  async #sumsOf(site: SiteName): Promise<Sums> {
    const keys = this.#known().groups.map((of) => text(groupKey(of.split, of.case)));
    const columns = await this.#database.wholeColumns(
      `SELECT list_position([${keys.join(", ")}], split || '/' || "case") - 1, feature, total, nodes
       FROM ${this.#database.files(this.#chunk("sums", site))}`,
    );
    const [group = [], feature = [], total = [], nodes = []] = columns as number[][];
    return {
      group: Uint16Array.from(group),
      feature: Int32Array.from(feature),
      total: Float64Array.from(total),
      nodes: Int32Array.from(nodes),
    };
  }

  /** By split, the share of a site's Σ|effect| over features that lies at nodes of BOS and padding, which are left out of the sums. */
  async #leftOut(site: SiteName): Promise<(split: Split) => number> {
    const known = this.#leftOutOf.get(site);
    if (known) return (split) => known[split] ?? 0;
    const sums = await this.#database.rows<{ split: Split; outside: number | null; total: number }>(
      `SELECT split, sum(abs(effect)) FILTER (node IN (SELECT node FROM outside)) AS outside, sum(abs(effect)) AS total
       FROM ${this.#database.files(this.#chunk("effects", site))} WHERE feature <> ${errorFeature} GROUP BY split`,
    );
    // DuckDB's threads add in any order; what is kept has the digits that they agree on.
    const shares = new Map(sums.map(({ split, outside, total }) => [split, rounded((outside ?? 0) / (total || 1), 6)]));
    return (split) => shares.get(split) ?? 0;
  }

  /** The rows of some of a site's features, in the order of the nodes. */
  async *#rowsOf(site: SiteName, features: Int32Array): AsyncGenerator<FeatureRows> {
    const rows = this.#database.columns(
      `SELECT node, feature, effect FROM ${this.#database.files(this.#chunk("effects", site))} WHERE feature IN (${[errorFeature - 1, ...features]})`,
    );
    for await (const [node = [], feature = [], effect = []] of rows) yield { node, feature, effect };
  }

  /** Whether a site's checkpoint is there and whole. */
  async #isWhole(site: SiteName, kinds: readonly ChunkKind[]): Promise<boolean> {
    const path = this.#sealOf(site);
    if (this.#whole.has(path)) return true;
    const chunks = kinds.map((kind) => this.#chunk(kind, site));
    if (!(await isSealed(path, chunks))) return false;
    this.#whole.add(path);
    return true;
  }

  async #seal(site: SiteName, kinds: readonly ChunkKind[]): Promise<void> {
    const chunks = kinds.map((kind) => this.#chunk(kind, site));
    await seal(this.#sealOf(site), chunks);
    this.#whole.add(this.#sealOf(site));
  }

  /** Removes what there is of a site's checkpoint, whatever it is. */
  async #clear(site: SiteName): Promise<void> {
    const paths = [this.#sealOf(site), this.#chunk("effects", site), this.#chunk("sums", site)];
    for (const path of paths) await rm(path, { recursive: true, force: true });
  }

  #copy(query: string, path: string): Promise<void> {
    return this.#database.copy(query, path);
  }

  #chunk(kind: ChunkKind, site: SiteName): string {
    return join(this.#partial, `${kind}.${site}.${this.#known().digest}.parquet`);
  }

  #sealOf(site: SiteName): string {
    return join(this.#partial, `${site}.${this.#known().digest}.seal`);
  }

  #known(): NodeIndex {
    if (!this.#nodes) throw new Error("internal: the nodes come first");
    return this.#nodes;
  }
}

/** The rows of all of a site's means, one list behind the other: an appender for each list would take longer than its rows. */
function columnsOf(place: number, means: readonly RankedMeans[]): Column[] {
  const rows = means.reduce((sum, { feature }) => sum + feature.length, 0);
  const part = new Uint16Array(rows);
  const [feature, nodesActive, rank] = [new Int32Array(rows), new Int32Array(rows), new Int32Array(rows)];
  const effect = new Float64Array(rows);
  let at = 0;
  for (const [i, list] of means.entries()) {
    part.fill(i, at, at + list.feature.length);
    feature.set(list.feature, at);
    effect.set(list.effect, at);
    nodesActive.set(list.nodesActive, at);
    rank.set(list.rank, at);
    at += list.feature.length;
  }
  return [
    ["USMALLINT", new Uint16Array(rows).fill(place)],
    ["USMALLINT", part],
    ["INTEGER", feature],
    ["DOUBLE", effect],
    ["INTEGER", nodesActive],
    ["INTEGER", rank],
  ];
}

/** The columns of effects.parquet without a row, for the score that has none. */
const noEffects = `SELECT ''::VARCHAR AS split, ''::VARCHAR AS "case", ''::VARCHAR AS site, 0::INTEGER AS node, 0::INTEGER AS position,
  0::INTEGER AS feature, 0::FLOAT AS f_clean, 0::FLOAT AS f_patch, 0::FLOAT AS gradient, 0::DOUBLE AS effect WHERE false`;

/** Which rows of `features.parquet` to read; what is left out is not restricted. */
export interface FeatureQuery {
  readonly split?: Split;
  /** '' for all cases together. */
  readonly case?: string;
  readonly site?: SiteName;
  /** At most so many features per split, case and site, the strongest; leaves the error out. */
  readonly top?: number;
}

/**
 * Rows of a finished run's `features.parquet`, in the file's order: by site, train before test, case, rank, the error first.
 *
 * @throws UserError if the folder has no such file
 */
export async function readFeatures(folder: string, query: FeatureQuery = {}): Promise<FeatureRow[]> {
  const path = join(folder, "features.parquet");
  if (!(await stat(path).catch(() => null))?.isFile()) {
    throw new UserError(
      `features: expected features.parquet, got none in ${folder}. Give the folder of a finished run.`,
    );
  }
  const where = [
    ...(query.split === undefined ? [] : [`split = ${text(query.split)}`]),
    ...(query.case === undefined ? [] : [`"case" = ${text(query.case)}`]),
    ...(query.site === undefined ? [] : [`site = ${text(query.site)}`]),
    ...(query.top === undefined ? [] : [`rank <= ${Number(query.top)}`]),
  ];
  const database = await Database.open();
  try {
    return await database.rows<FeatureRow>(
      `SELECT * FROM ${database.files(path)} ${where.length > 0 ? `WHERE ${where.join(" AND ")}` : ""}`,
    );
  } finally {
    database.close();
  }
}
