import { join } from "node:path";
import type { Split } from "../prompts/pairs.ts";
import type { SiteName } from "../site.ts";
import { Database } from "./database.ts";

/** A feature of a site. */
export interface FeatureName {
  readonly site: SiteName;
  readonly feature: number;
}

/** Effect of a feature over a split and case of a run: a row of `features.parquet`. */
export interface CaseEffect extends FeatureName {
  readonly split: Split;
  /** '' for all cases together. */
  readonly case: string;
  /** Mean per pair. */
  readonly effect: number;
  readonly nodes: number;
  readonly rank: number | null;
}

/** Effect of a feature at some nodes of a split, summed over their pairs. */
interface PartEffect extends FeatureName {
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
export interface NodeEffect extends FeatureName {
  readonly node: number;
  /** The code at the patch prefix; null where there is none. */
  readonly f_patch: number | null;
  /** Mean over the node's pairs. */
  readonly effect: number;
  readonly pairs: number;
}

/** Where some features of a run have their effects, from the run's tables. */
export interface FeatureEffects {
  readonly cases: readonly CaseEffect[];
  /** By position, and by token and patch token; BOS and padding are left out, as in `features.parquet`. */
  readonly positions: readonly PositionEffect[];
  readonly tokens: readonly TokenEffect[];
  /** The nodes of the largest |effect| per pair, each with another token; the largest first. */
  readonly nodes: readonly NodeEffect[];
}

/**
 * Where features have their effects: by case, position, token and node.
 *
 * @param folder with nodes.parquet, effects.parquet and features.parquet
 * @param outside nodes that are left out
 * @param most nodes of each feature
 */
export async function featureEffects(
  folder: string,
  asked: readonly FeatureName[],
  outside: readonly number[],
  most: number,
): Promise<FeatureEffects> {
  // Of several threads each adds in its own order, and the last digits differ from run to run.
  const database = await Database.open({ threads: "1" });
  try {
    await database.load("asked", {
      site: ["VARCHAR", asked.map(({ site }) => site)],
      feature: ["INTEGER", Int32Array.from(asked, ({ feature }) => feature)],
    });
    await database.load("outside", { node: ["INTEGER", Int32Array.from(outside)] });
    const table = (name: string) => database.files(join(folder, `${name}.parquet`));
    await database.run(`CREATE TEMP TABLE own AS
      SELECT e.site, e.feature, e.split, e.node, e.position, e.f_patch, e.effect, n.weight, n.token_id AS token, n.patch_token_id AS patch
      FROM ${table("effects")} e JOIN asked USING (site, feature) JOIN ${table("nodes")} n USING (node)
      WHERE e.node NOT IN (SELECT node FROM outside)`);
    const parts = (by: string) =>
      `SELECT * FROM (
         SELECT site, feature, split, ${by}, sum(effect) AS effect, count(*)::INTEGER AS nodes, sum(weight)::INTEGER AS pairs
         FROM own GROUP BY ALL)`;
    return {
      cases: await database.rows<CaseEffect>(
        `SELECT site, feature, split, "case", effect, nodes_active AS nodes, rank
         FROM ${table("features")} JOIN asked USING (site, feature)`,
      ),
      positions: await database.rows<PositionEffect>(`${parts("position")} ORDER BY position`),
      tokens: await database.rows<TokenEffect>(`${parts("token, patch")} ORDER BY abs(effect) DESC, token, patch`),
      nodes: await database.rows<NodeEffect>(
        `WITH once AS (
           SELECT * FROM own
           QUALIFY row_number() OVER (PARTITION BY site, feature, token, patch ORDER BY abs(effect / weight) DESC, node) = 1)
         SELECT site, feature, node, f_patch, effect / weight AS effect, weight::INTEGER AS pairs FROM once
         QUALIFY row_number() OVER (PARTITION BY site, feature ORDER BY abs(effect / weight) DESC, node) <= ${most}
         ORDER BY abs(effect / weight) DESC, node`,
      ),
    };
  } finally {
    database.close();
  }
}
