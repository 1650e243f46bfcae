import { memoryStore } from "../capture/store.ts";
import { type FeatureEffects, type Ranking, rankOrder, rankRun, rankSite } from "../circuit/ranking.ts";
import { checkFiniteEffects, type FeatureRow, notFinite, type RankOptions, type Tables } from "../circuit/tables.ts";
import { type EffectRows, errorFeature } from "../effects/rows.ts";
import {
  allCases,
  indexNodes,
  type NodeIndex,
  type NodesTable,
  type PairCount,
  type Sums,
  sumRows,
} from "../effects/sums.ts";
import type { Split } from "../prompts/pairs.ts";
import { compareSites, type SiteName } from "../site.ts";
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

/** Sums of a site's features over the nodes of a split and case, or of all of its cases. */
interface Means extends Pick<FeatureEffects, "feature" | "nodesActive"> {
  readonly effect: Float64Array;
}

const splits = ["train", "test"] as const satisfies readonly Split[];

/** Tables in memory: for the library, for tests and for a page. */
export function memoryTables(): MemoryTables {
  let [nodes, index, pairs]: [NodesTable?, NodeIndex?, (readonly PairCount[])?] = [];
  const effects = new Map<SiteName, EffectRows>();
  const sums = new Map<SiteName, Sums>();
  const known = (): NodeIndex => {
    if (!index) throw new Error("internal: the nodes come first");
    return index;
  };
  const meansOf = (site: SiteName, split: Split, name: string): Means => {
    const ofSite = sums.get(site);
    if (!ofSite || !pairs) throw new Error(`internal: ${site} has not been written and ranked`);
    return meansOfCase(ofSite, known(), pairs, split, name);
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
    async rank(options) {
      pairs = options.pairs;
      const sites = options.sites.toSorted(compareSites);
      const ranking = rankSites(sites, options, (site, split) => {
        const leftOut = options.score === "gradient" ? null : leftOutOf(effects.get(site)!, known(), split);
        return { ...withoutError(meansOf(site, split, allCases)), leftOut };
      });
      const rows = [...effects.values()].reduce((count, { node }) => count + node.length, 0);
      return { ranking, rows };
    },
    features(site, split, name) {
      const { feature, effect, nodesActive } = meansOf(site, split, name);
      return Array.from(feature, (of, i) => ({
        split,
        case: name,
        site,
        feature: of,
        effect: effect[i]!,
        effect_abs: Math.abs(effect[i]!),
        nodes_active: nodesActive[i]!,
        rank: of === errorFeature ? null : i + (feature[0] === errorFeature ? 0 : 1),
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

function rankSites(
  sites: readonly SiteName[],
  { pairs, score, top, change }: RankOptions,
  effectsOf: (site: SiteName, split: Split) => FeatureEffects,
): Ranking {
  const present = splits.filter((split) => pairs.some((group) => group.split === split && group.pairs > 0));
  const ranked = sites.map((site) => {
    const bySplit = present.map((split) => [split, { ...effectsOf(site, split), change: change?.[split] ?? null }]);
    return rankSite(site, Object.fromEntries(bySplit), top);
  });
  return rankRun(score, top, ranked, change);
}

/** Means over the pairs of a split and case, the error first, then the features by rank. Sums over cases are taken in the order of their names. */
function meansOfCase(
  sums: Sums,
  { groups }: NodeIndex,
  pairs: readonly PairCount[],
  split: Split,
  name: string,
): Means {
  const chosen = [...groups.keys()]
    .filter((group) => groups[group]!.split === split && (name === allCases || groups[group]!.case === name))
    .sort((a, b) => (groups[a]!.case < groups[b]!.case ? -1 : 1));
  const count = pairs
    .filter((group) => group.split === split && (name === allCases || group.case === name))
    .reduce((sum, group) => sum + group.pairs, 0);
  const rowsOf = new Map<number, number[]>(chosen.map((group) => [group, []]));
  sums.group.forEach((group, row) => void rowsOf.get(group)?.push(row));
  const found = new Map<number, { total: number; nodes: number }>();
  for (const group of chosen) {
    for (const row of rowsOf.get(group)!) {
      const feature = sums.feature[row]!;
      const before = found.get(feature);
      const [total, nodes] = [sums.total[row]!, sums.nodes[row]!];
      if (before) {
        before.total += total;
        before.nodes += nodes;
      } else found.set(feature, { total, nodes });
    }
  }
  const error = found.get(errorFeature);
  found.delete(errorFeature);
  const features = [...found.keys()];
  const order = rankOrder(
    features,
    features.map((feature) => found.get(feature)!.total / count),
  );
  const ordered = [...(error ? [errorFeature] : []), ...Array.from(order, (i) => features[i]!)];
  const of = (feature: number) => (feature === errorFeature ? error! : found.get(feature)!);
  return {
    feature: ordered,
    effect: Float64Array.from(ordered, (feature) => of(feature).total / count),
    nodesActive: ordered.map((feature) => of(feature).nodes),
  };
}

function withoutError({ feature, effect, nodesActive }: Means): FeatureEffects {
  const from = feature[0] === errorFeature ? 1 : 0;
  const rest = <T>(values: ArrayLike<T>) => Array.from(values).slice(from);
  return {
    feature: rest(feature),
    effect: rest(effect),
    nodesActive: rest(nodesActive),
    error: from === 1 ? effect[0]! : null,
  };
}

/** The share of a site's Σ|effect| over features that lies at nodes of BOS and padding, which are left out of the sums. */
function leftOutOf({ node, feature, effect }: EffectRows, nodes: NodeIndex, split: Split): number {
  let [outside, total] = [0, 0];
  for (let i = 0; i < node.length; i++) {
    const row = nodes.rowOf[node[i]!]!;
    if (feature[i] === errorFeature || nodes.groups[nodes.group[row]!]!.split !== split) continue;
    total += Math.abs(effect[i]!);
    if (nodes.outside[row]) outside += Math.abs(effect[i]!);
  }
  return Number((outside / (total || 1)).toPrecision(6));
}
