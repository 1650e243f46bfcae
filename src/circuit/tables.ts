import type { EffectRows } from "../effects/rows.ts";
import type { NodesTable, PairCount } from "../effects/sums.ts";
import { UserError } from "../errors.ts";
import type { Units } from "../interventions/units.ts";
import type { OutsideText } from "../prompts/outside.ts";
import type { Split } from "../prompts/pairs.ts";
import type { SiteName } from "../site.ts";
import type { Ranking, Score } from "./ranking.ts";

/** Sums of the score `gradient` over the nodes of a split and case: one value for each of the F features of a site. */
export interface FeatureSums {
  readonly split: Split;
  readonly case: string;
  readonly sums: Float64Array;
}

/** A row of `features.parquet`. The site's error has feature −1 and no rank. */
export interface FeatureRow {
  readonly split: Split;
  /** The case, or '' for all of them together. */
  readonly case: string;
  readonly site: SiteName;
  readonly feature: number;
  /** Σ over nodes / number of pairs, signed, in logits. */
  readonly effect: number;
  readonly effect_abs: number;
  readonly nodes_active: number;
  readonly rank: number | null;
}

/** How the rows of a run are ranked. */
export interface RankOptions {
  /** The sites of the run, in any order; all of them must have been written. */
  readonly sites: readonly SiteName[];
  /** Every split and case that has nodes. */
  readonly pairs: readonly PairCount[];
  readonly score: Score;
  /** Features listed per site and split in the ranking. */
  readonly top: number;
  /** Mean of m(patch) − m(clean) over the pairs of each split, in logits; left out for scores. */
  readonly change?: Ranking["change"];
  /** What the rows' nodes belong to, for intervals; left out where there are none to give. */
  readonly units?: Units;
}

/**
 * The rows of an analysis in the making, site by site. Those that an earlier call has written are found again, so that an interrupted analysis
 * resumes: on disk (`RunTables`) or in memory (`memoryTables`).
 */
export interface Tables {
  /**
   * Takes the run's nodes; comes before all other writing.
   *
   * @param outside BOS and padding: nodes at these tokens are left out of all sums and of the ranking
   */
  writeNodes(nodes: NodesTable, outside: OutsideText): Promise<void>;
  /** Whether a site's rows of effects are there, and whole. */
  hasEffects(site: SiteName): Promise<boolean>;
  /** @throws UserError if an effect is not finite, naming node and feature */
  writeEffects(rows: EffectRows): Promise<void>;
  /** Whether a site's sums of the score `gradient` are there, and whole. */
  hasFeatureSums(site: SiteName): Promise<boolean>;
  /** @throws UserError if a sum is not finite, naming the feature */
  writeFeatureSums(site: SiteName, parts: readonly FeatureSums[]): Promise<void>;
  /** Told once the nodes are written for what `rank` will be asked: sites may be ranked while others are computed. */
  expect?(options: RankOptions): Promise<void>;
  /** Ranks the features of all sites; also tells the number of rows of effects. */
  rank(options: RankOptions): Promise<{ readonly ranking: Ranking; readonly rows: number }>;
  /** Waits for what is still being written after `rank`. */
  written?(): Promise<void>;
}

/** The error for a number in a table that is not finite. */
export function notFinite(what: string, got: number, where: string): UserError {
  return new UserError(
    `${what}: expected a finite number, got ${got} at ${where}. Check the model and the dictionary for values that are not numbers, or use a higher --precision.`,
  );
}

/** @throws UserError if an effect is not finite, naming site, node and feature */
export function checkFiniteEffects({ site, node, feature, effect }: EffectRows): void {
  const broken = effect.findIndex((value) => !Number.isFinite(value));
  if (broken < 0) return;
  throw notFinite("effect", effect[broken]!, `${site}, node ${node[broken]}, feature ${feature[broken]}`);
}
