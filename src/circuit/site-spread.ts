import { errorFeature } from "../effects/rows.ts";
import { allCases } from "../effects/sums.ts";
import { candidatesOf, type SplitSpread, spreadOf, wordDraws } from "../interventions/spread.ts";
import { EffectSummer, type FeatureRows, type Units } from "../interventions/units.ts";
import type { RankedMeans } from "./means.ts";
import { type Ranking, type SiteRanking, withSpread } from "./ranking.ts";

/** Reads a site's rows of some features, in parts, sorted by node. */
export type ReadRows = (features: Int32Array) => AsyncIterable<FeatureRows> | Iterable<FeatureRows>;

/** Adds to rankings of sites how much they would change with other words: see `spreadOf`. */
export class RankingSpread {
  readonly #units: Units;
  readonly #draws: readonly (readonly Float64Array[])[];

  constructor(units: Units) {
    this.#units = units;
    this.#draws = units.splits.map(wordDraws);
  }

  /** The words of each split. */
  get words(): Ranking["words"] {
    return Object.fromEntries(this.#units.splits.map(({ split, words }) => [split, words]));
  }

  /** How many of them train and test have in common; null with one split. */
  get shared(): Ranking["words_shared"] {
    return this.#units.splits.length < 2 ? null : this.#units.shared;
  }

  /**
   * @param means the site's, over all cases and by case; their features by rank
   * @param top how many features the ranking lists
   */
  async add(site: SiteRanking, means: readonly RankedMeans[], top: number, read: ReadRows): Promise<SiteRanking> {
    if (this.#draws.every((draws) => draws.length === 0)) return site;
    const candidates = this.#units.splits.map(({ split }, s) => {
      const { feature } = means.find((of) => of.split === split && of.case === allCases)!;
      const listed = this.#draws[s]!.length === 0 ? feature.subarray(0, 0) : feature;
      return candidatesOf(
        listed.filter((f) => f !== errorFeature),
        top,
      );
    });
    const summer = new EffectSummer(this.#units, candidates);
    const features = Int32Array.from(new Set(candidates.flatMap(({ feature }) => [...feature]))).sort();
    for await (const rows of read(features)) summer.add(rows);
    const spreads = summer.finish().map((sums, s): SplitSpread | null => spreadOf(sums, this.#draws[s]!));
    return withSpread(site, spreads);
  }
}
