import type { SiteName } from "../site.ts";
import type { EdgeBlock, SiteEdges } from "./edges.ts";

/** What stands for a source or target that is no feature. */
export const edgeEnds = { error: -1, token: -2, remainder: -4 } as const;

/** Rows of edges.parquet for one target site, as columns. */
export interface EdgeRows {
  /** Index into `groups`. */
  readonly group: Uint16Array;
  readonly groups: readonly EdgeBlock["group"][];
  readonly target: Int32Array;
  /** Index into `sources`. */
  readonly place: Uint16Array;
  readonly sources: readonly (SiteName | "metric")[];
  readonly source: Int32Array;
  /** Mean over the pairs of the split and case, in logits. */
  readonly edge: Float64Array;
  /** The target's node and its position; −1 where edges are summed over positions. */
  readonly node: Int32Array;
  readonly position: Int32Array;
  /** Likewise of the source. */
  readonly sourceNode: Int32Array;
  readonly sourcePosition: Int32Array;
}

/** How blocks become rows. */
export interface EdgeRowOptions {
  /** How many pairs a split and case has. */
  readonly pairsOf: (group: EdgeBlock["group"]) => number;
  /** Least |edge| of a row in logits: smaller ones are added to the target's remainder. */
  readonly least: number;
  /** The number of a node in the run's tables, and its position. */
  readonly placeOf: (node: number) => { readonly node: number; readonly position: number };
}

/**
 * The rows of all edges into the targets of one site: those from features, errors and tokens, and for each target what no edge carries (slopes that were
 * capped, edges that are too small). By secants a target's rows add up to its effect: exactly where every way into it is the stream itself, and up to
 * the rule of the points where ways lead through sublayers. By gradients they do not.
 */
export function edgeRows(
  target: SiteName | "metric",
  found: readonly SiteEdges[],
  { pairsOf, least, placeOf }: EdgeRowOptions,
): EdgeRows {
  const groups: EdgeBlock["group"][] = [];
  const sources: (SiteName | "metric")[] = [target];
  const rests = new Map<string, { readonly block: EdgeBlock; value: number }>();
  const columns = {
    ...{ group: [] as number[], target: [] as number[], place: [] as number[], source: [] as number[] },
    ...{ edge: [] as number[], node: [] as number[], position: [] as number[] },
    ...{ sourceNode: [] as number[], sourcePosition: [] as number[] },
  };
  const indexIn = <T>(list: T[], one: T) => {
    const at = list.indexOf(one);
    return at >= 0 ? at : list.push(one) - 1;
  };
  const add = (
    { target: { feature }, group, node }: EdgeBlock,
    site: SiteName | "metric",
    of: number,
    edge: number,
    sourceNode?: number,
  ) => {
    const [at, from] = [node, sourceNode].map((one) => (one === undefined ? { node: -1, position: -1 } : placeOf(one)));
    columns.group.push(indexIn(groups, group));
    columns.target.push(feature === "error" ? edgeEnds.error : feature === "metric" ? 0 : feature);
    columns.place.push(indexIn(sources, site));
    columns.source.push(of);
    columns.edge.push(edge);
    columns.node.push(at!.node);
    columns.position.push(at!.position);
    columns.sourceNode.push(from!.node);
    columns.sourcePosition.push(from!.position);
  };
  for (const { source, blocks } of found) {
    for (const block of blocks) {
      const { group, node, features, values, error, token, remainder } = block;
      const pairs = pairsOf(group);
      const key = `${block.target.feature} ${group.split} ${group.case} ${node ?? ""}`;
      const rest = rests.get(key) ?? { block, value: remainder / pairs };
      rests.set(key, rest);
      const put = (of: number, value: number) => {
        if (value === 0) return;
        if (Math.abs(value) < least) rest.value += value;
        else add(block, source, of, value, block.sourceNode);
      };
      if (token !== undefined) put(edgeEnds.token, token / pairs);
      else put(edgeEnds.error, error / pairs);
      for (let i = 0; i < features.length; i++) put(features[i]!, values[i]! / pairs);
    }
  }
  for (const { block, value } of rests.values()) if (value !== 0) add(block, target, edgeEnds.remainder, value);
  return {
    groups,
    sources,
    group: Uint16Array.from(columns.group),
    target: Int32Array.from(columns.target),
    place: Uint16Array.from(columns.place),
    source: Int32Array.from(columns.source),
    edge: Float64Array.from(columns.edge),
    node: Int32Array.from(columns.node),
    position: Int32Array.from(columns.position),
    sourceNode: Int32Array.from(columns.sourceNode),
    sourcePosition: Int32Array.from(columns.sourcePosition),
  };
}
