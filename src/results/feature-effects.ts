import { join } from "node:path";
import type { Split } from "../prompts/pairs.ts";
import type { SiteName } from "../site.ts";
import { type Database, text } from "./database.ts";

/** A feature of a site. */
export interface FeatureName {
  readonly site: SiteName;
  readonly feature: number;
}

/** Effect of a feature over a split and case of a run: a row of `features.parquet`. */
export interface CaseEffect {
  readonly split: Split;
  /** '' for all cases together. */
  readonly case: string;
  /** Mean per pair. */
  readonly effect: number;
  readonly nodes: number;
  readonly rank: number | null;
}

/** Effect of a feature at some nodes of a split, summed over their pairs. */
interface PartEffect {
  readonly split: Split;
  readonly effect: number;
  readonly nodes: number;
  /** Pairs that pass through the nodes. */
  readonly pairs: number;
}

export interface PositionEffect extends PartEffect {
  readonly position: number;
}

export interface TokenEffect extends PartEffect {
  readonly token: number;
  readonly patch: number;
}

/** A node at which a feature has a large effect. */
export interface NodeEffect {
  readonly node: number;
  /** The code at the patch prefix; null where there is none. */
  readonly f_patch: number | null;
  /** Mean over the node's pairs. */
  readonly effect: number;
  readonly pairs: number;
}

/** Where a feature of a run has its effects, from the run's tables. BOS and padding are left out, as in `features.parquet`. */
export interface FeatureEffects {
  readonly cases: readonly CaseEffect[];
  readonly positions: readonly PositionEffect[];
  /** By token and patch token, those of the largest |effect| in each split; the largest first. */
  readonly tokens: readonly TokenEffect[];
  /** The effects of all other tokens of a split together. */
  readonly otherTokens: Readonly<Partial<Record<Split, number>>>;
  /** The nodes of the largest |effect| per pair, each with another token; the largest first. */
  readonly nodes: readonly NodeEffect[];
}

/** What is asked of a run's tables. */
export interface FeaturesAsked {
  readonly features: readonly FeatureName[];
  /** Names of the run's cases. */
  readonly cases: readonly string[];
  /** Nodes that are left out. */
  readonly outside: readonly number[];
  /** Of each feature: tokens of each split, and nodes. */
  readonly most: { readonly tokens: number; readonly nodes: number };
}

/**
 * Where features have their effects: by case, position, token and node, in the order in which they are asked for.
 *
 * @param database of one thread: of several each adds in its own order, and the last digits differ from run to run
 * @param folder with nodes.parquet, effects.parquet and features.parquet
 */
export async function featureEffects(
  database: Database,
  folder: string,
  { features, cases, outside, most }: FeaturesAsked,
): Promise<FeatureEffects[]> {
  // Columns of numbers alone are read many times faster than rows with texts.
  await database.load("asked", {
    place: ["INTEGER", Int32Array.from(features.keys())],
    site: ["VARCHAR", features.map(({ site }) => site)],
    feature: ["INTEGER", Int32Array.from(features, ({ feature }) => feature)],
  });
  await database.load("outside", { node: ["INTEGER", Int32Array.from(outside)] });
  const table = (name: string) => database.files(join(folder, `${name}.parquet`));
  const split = `(split = 'test')::INTEGER AS split`;
  await database.run(`CREATE TEMP TABLE own AS
    SELECT place, (e.split = 'test')::INTEGER AS split, e.node, e.position, e.f_patch, e.effect, n.weight,
      n.token_id AS token, n.patch_token_id AS patch
    FROM ${table("effects")} e JOIN asked USING (site, feature) JOIN ${table("nodes")} n USING (node)
    WHERE e.node NOT IN (SELECT node FROM outside)`);
  const parts = (by: string) =>
    `SELECT place, split, ${by}, sum(effect) AS effect, count(*)::INTEGER AS nodes, sum(weight)::INTEGER AS pairs
     FROM own GROUP BY ALL`;
  await database.run(`CREATE TEMP TABLE tokens AS
    SELECT *, row_number() OVER (PARTITION BY place, split ORDER BY abs(effect) DESC, token, patch) AS nth
    FROM (${parts("token, patch")})`);

  const found = features.map(() => ({
    cases: [] as CaseEffect[],
    positions: [] as PositionEffect[],
    tokens: [] as TokenEffect[],
    otherTokens: {} as Partial<Record<Split, number>>,
    nodes: [] as NodeEffect[],
  }));
  const names = ["", ...cases];
  const rows = async (sql: string, take: (of: (typeof found)[number], row: (column: number) => number) => void) => {
    const [place = [], ...columns] = (await database.wholeColumns(sql)) as number[][];
    for (const [i, of] of place.entries()) take(found[of]!, (column) => columns[column]![i]!);
  };
  await rows(
    `SELECT place, ${split}, list_position([${names.map(text).join(", ")}], "case")::INTEGER - 1, effect, nodes_active, rank
     FROM ${table("features")} JOIN asked USING (site, feature)`,
    (of, at) =>
      of.cases.push({
        split: splitOf(at(0)),
        case: names[at(1)]!,
        effect: at(2),
        nodes: at(3),
        rank: at(4),
      }),
  );
  await rows(
    `SELECT place, split, position, effect, nodes, pairs FROM (${parts("position")}) ORDER BY position`,
    (of, at) =>
      of.positions.push({ split: splitOf(at(0)), position: at(1), effect: at(2), nodes: at(3), pairs: at(4) }),
  );
  await rows(
    `SELECT place, split, token, patch, effect, nodes, pairs FROM tokens WHERE nth <= ${most.tokens} ORDER BY place, split, nth`,
    (of, at) =>
      of.tokens.push({
        split: splitOf(at(0)),
        token: at(1),
        patch: at(2),
        effect: at(3),
        nodes: at(4),
        pairs: at(5),
      }),
  );
  await rows(
    `SELECT place, split, sum(effect ORDER BY nth) FROM tokens WHERE nth > ${most.tokens} GROUP BY place, split`,
    (of, at) => {
      of.otherTokens[splitOf(at(0))] = at(1);
    },
  );
  await rows(
    `WITH once AS (
       SELECT * FROM own
       QUALIFY row_number() OVER (PARTITION BY place, token, patch ORDER BY abs(effect / weight) DESC, node) = 1)
     SELECT place, node, f_patch, effect / weight AS effect, weight::INTEGER AS pairs FROM once
     QUALIFY row_number() OVER (PARTITION BY place ORDER BY abs(effect / weight) DESC, node) <= ${most.nodes}
     ORDER BY abs(effect / weight) DESC, node`,
    (of, at) => of.nodes.push({ node: at(0), f_patch: at(1), effect: at(2), pairs: at(3) }),
  );
  await database.run("DROP TABLE own; DROP TABLE tokens");
  return found;
}

const splitOf = (isTest: number): Split => (isTest === 1 ? "test" : "train");
