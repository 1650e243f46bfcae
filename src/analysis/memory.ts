import { memoryStore } from "../capture/store.ts";
import { effectsBySplit, leftOutShare, type RankedMeans, rankedMeans } from "../circuit/means.ts";
import { rankRun, rankSite, type SiteRanking } from "../circuit/ranking.ts";
import { RankingSpread } from "../circuit/site-spread.ts";
import { checkFiniteEffects, type FeatureRow, notFinite, type Tables } from "../circuit/tables.ts";
import type { EffectRows } from "../effects/rows.ts";
import { indexNodes, type NodeIndex, type NodesTable, type PairCount, type Sums, sumRows } from "../effects/sums.ts";
import type { Split } from "../prompts/pairs.ts";
import type { SiteName } from "../site.ts";
import type { Places } from "./steps.ts";

/** The tables of an analysis in memory: what `RunTables` keeps on disk, with the same numbers. */
export interface MemoryTables extends Tables {
  readonly nodes: NodesTable | undefined;
  /** The rows of effects by site, in the order in which they came; none with the score `gradient`. */
  readonly effects: ReadonlyMap<SiteName, EffectRows>;
  /**
   * The features of a site, as features.parquet has them: those of a split and a case, the error first, then by rank.
   *
   * @param name '' for all cases together
   */
  features(site: SiteName, split: Split, name: string): readonly FeatureRow[];
}

/** Tables in memory: for the library, for tests and for a page. */
export function memoryTables(): MemoryTables {
  let [nodes, index, pairs]: [NodesTable?, NodeIndex?, (readonly PairCount[])?] = [];
  const effects = new Map<SiteName, EffectRows>();
  const sums = new Map<SiteName, Sums>();
  const known = (): NodeIndex => {
    if (!index) throw new Error("internal: the nodes come first");
    return index;
  };
  const meansOf = (site: SiteName): RankedMeans[] => {
    const ofSite = sums.get(site);
    if (!ofSite || !pairs) throw new Error(`internal: ${site} has not been written and ranked`);
    return rankedMeans(ofSite, known(), pairs);
  };
  return {
    get nodes() {
      return nodes;
    },
    effects,
    async writeNodes(table, outside) {
      const before = index?.digest;
      nodes = table;
      index = indexNodes(table, outside);
      if (before === index.digest) return;
      effects.clear();
      sums.clear();
    },
    hasEffects: async (site) => effects.has(site),
    async writeEffects(rows) {
      checkFiniteEffects(rows);
      effects.set(rows.site, rows);
      sums.set(rows.site, sumRows(rows, known()));
    },
    hasFeatureSums: async (site) => sums.has(site),
    async writeFeatureSums(site, parts) {
      const { groups } = known();
      const list = parts.flatMap((part) => {
        const group = groups.findIndex((of) => of.split === part.split && of.case === part.case);
        if (group < 0) throw new Error(`internal: sums of ${part.split}, ${part.case}, which have no nodes`);
        const broken = part.sums.findIndex((value) => !Number.isFinite(value));
        if (broken >= 0) throw notFinite("gradient", part.sums[broken]!, `${site}, feature ${broken}`);
        return Array.from(part.sums, (total, feature) => ({ group, feature, total, nodes: groups[group]!.nodes }));
      });
      sums.set(site, {
        group: Uint16Array.from(list, (row) => row.group),
        feature: Int32Array.from(list, (row) => row.feature),
        total: Float64Array.from(list, (row) => row.total),
        nodes: Int32Array.from(list, (row) => row.nodes),
      });
    },
    async rank({ sites, pairs: counts, score, top, change, units }) {
      pairs = counts;
      const spread = units && new RankingSpread(units);
      const ranked: SiteRanking[] = [];
      for (const site of sites) {
        const leftOut = (split: Split) =>
          score === "gradient" ? null : leftOutShare(effects.get(site)!, known(), split);
        const means = meansOf(site);
        const own = rankSite(site, effectsBySplit(means, change, leftOut), top);
        ranked.push(spread ? await spread.add(own, means, top, () => [effects.get(site)!]) : own);
      }
      const ranking = rankRun(score, top, ranked, change, spread?.words, spread?.shared);
      const rows = [...effects.values()].reduce((count, { node }) => count + node.length, 0);
      return { ranking, rows };
    },
    features(site, split, name) {
      const means = meansOf(site).find((of) => of.split === split && of.case === name);
      return Array.from(means?.feature ?? [], (feature, i) => ({
        split,
        case: name,
        site,
        feature,
        effect: means!.effect[i]!,
        effect_abs: Math.abs(means!.effect[i]!),
        nodes_active: means!.nodesActive[i]!,
        rank: means!.rank[i] || null,
      }));
    },
  };
}

/** Keeps all that an analysis finds in memory. */
export function memoryPlaces(): Places & { readonly tables: MemoryTables } {
  return {
    tables: memoryTables(),
    store: () => memoryStore(),
    async save() {},
    checkInputs() {},
    async writePairs() {},
    async writeRanking() {},
    async writeAblation() {},
  };
}
