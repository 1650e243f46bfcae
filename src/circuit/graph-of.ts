import type { SiteName } from "../site.ts";
import type { EdgeBlock, SiteEdges } from "./edges.ts";
import { type CircuitGraph, type GraphAbout, type GraphEdge, type GraphNode, graphNodeId } from "./graph.ts";
import type { FeatureEffects } from "./ranking.ts";

/** How edges become a graph. */
export interface GraphOptions {
  /** Pairs over which the edges were summed: values and effects are means over them. */
  readonly pairs: number;
  readonly about: GraphAbout;
  /**
   * Effects of sources that are no targets (errors, features of `embed`), by site, means over the pairs. By default a source has the sum of its edges,
   * which is its effect where all targets were asked for.
   */
  readonly effects?: ReadonlyMap<SiteName, Pick<FeatureEffects, "feature" | "effect" | "error">>;
  /** Of edges that are resolved by node at both ends: the position of a node. The graph's nodes then have positions, and those without keep none. */
  readonly positionOf?: (node: number) => number;
  /** What is known of features at a position by their ids; they are nodes even where no edge leads into them. */
  readonly known?: ReadonlyMap<string, Pick<GraphNode, "effect" | "activation" | "patchActivation">>;
  /** Least |value| of an edge in logits; 0 by default, which leaves out none but zeros. */
  readonly least?: number;
}

/** A node in the making. */
interface Draft {
  readonly node: Omit<GraphNode, "effect">;
  /** Of a target, from its blocks. */
  effect: number | null;
  remainder: number;
  outflow: number;
}

/**
 * The graph of the edges that `edges` finds, summed over splits and cases, and over positions unless it is asked for them.
 *
 * Its nodes are the targets (features, errors, the metric) and the sources that no edge can lead into: errors, tokens, features of `embed`. What comes
 * to a target from other features, and by edges under `least`, is part of its remainder, so that edges and remainder still add up to its effect
 * as far as those of `edges` do.
 */
export async function graphOf(
  found: AsyncIterable<SiteEdges> | Iterable<SiteEdges>,
  { pairs, about, effects, positionOf, known, least = 0 }: GraphOptions,
): Promise<CircuitGraph> {
  const drafts = new Map<string, Draft>();
  const edges = new Map<string, Map<string, number>>();
  const seen = new Set<string>();
  const draft = (node: Omit<GraphNode, "effect" | "id">): Draft => {
    const id = graphNodeId(node);
    const made = drafts.get(id) ?? { node: { ...node, id }, effect: null, remainder: 0, outflow: 0 };
    drafts.set(id, made);
    return made;
  };
  const placeAt = (node: number | undefined) => {
    if (positionOf === undefined || node === undefined) return {};
    return { position: positionOf(node) };
  };
  const targetOf = ({ target: { site, feature }, group, node, effect, remainder }: EdgeBlock): Draft => {
    const at = placeAt(node);
    const target =
      site === "metric"
        ? draft({ kind: "metric", token: about.metric })
        : draft(
            feature === "error"
              ? { kind: "error", site, ...at }
              : { kind: "feature", site, feature: feature as number, ...at },
          );
    const key = `${target.node.id} ${group.split} ${group.case} ${node ?? ""}`;
    if (!seen.has(key)) {
      seen.add(key);
      target.effect = (target.effect ?? 0) + effect / pairs;
      target.remainder += remainder / pairs;
    }
    return target;
  };

  for await (const { blocks } of found) {
    for (const block of blocks) {
      const target = targetOf(block);
      const into = edges.get(target.node.id) ?? new Map<string, number>();
      edges.set(target.node.id, into);
      const add = (node: Omit<GraphNode, "effect" | "id">, value: number) => {
        const { id } = draft(node).node;
        into.set(id, (into.get(id) ?? 0) + value / pairs);
      };
      const { source: site, features, values, error, token } = block;
      const at = placeAt(block.sourceNode);
      const [kind, whole] = token === undefined ? (["error", error] as const) : (["token", token] as const);
      if (whole !== 0) add({ kind, site, ...at }, whole);
      for (const [i, feature] of features.entries()) {
        const source = { kind: "feature", site, feature, ...at } as const;
        // Sources stand before their targets, so all targets among them are known by now.
        const id = graphNodeId(source);
        if (site === "embed" || drafts.has(id) || known?.has(id)) add(source, values[i]!);
        else target.remainder += values[i]! / pairs;
      }
    }
  }

  const kept: GraphEdge[] = [];
  for (const [target, into] of edges) {
    for (const [source, value] of into) {
      drafts.get(source)!.outflow += value;
      if (value === 0) continue;
      if (Math.abs(value) < least) drafts.get(target)!.remainder += value;
      else kept.push({ source, target, value });
    }
  }
  const given = (node: Omit<GraphNode, "effect">): number | undefined => {
    if (node.position !== undefined) return known?.get(node.id)?.effect;
    const at = node.site === undefined ? undefined : effects?.get(node.site);
    if (at === undefined) return undefined;
    if (node.kind === "error") return at.error ?? undefined;
    const place = node.kind === "feature" ? Array.from(at.feature).indexOf(node.feature!) : -1;
    return place < 0 ? undefined : at.effect[place];
  };
  const nodes = [...drafts.values()].map(({ node, effect, remainder, outflow }) => ({
    ...known?.get(node.id),
    ...node,
    effect: effect ?? given(node) ?? outflow,
    ...(remainder !== 0 && { remainder }),
  }));
  return { nodes, edges: kept, about };
}
