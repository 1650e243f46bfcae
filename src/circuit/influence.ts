import { UserError } from "../errors.ts";
import { type CircuitGraph, type GraphNode, graphPlaces } from "./graph.ts";

/** How much the metric depends on each node of a graph, along all paths (CIRCUITS: "Attribution graphs"; circuit-tracer's definitions). */
export interface Influence {
  /**
   * I[n] of the graph's nodes, in their order: I = p Σ_{k≥1} Âᵏ, with Â[target, source] = |edge| / Σ|edges into the target| (its remainder counts as
   * one of them) and p the probabilities of the metric nodes, 1 for a contrast. So I is the share of the metric's input that passes through n.
   */
  readonly influence: Float64Array;
  /** Share of ΣI held by the node and all those of more influence, in the nodes' order; 0 where there is no influence at all. */
  readonly cumulative: Float64Array;
  /** I of tokens / (I of tokens + I of errors and remainders); null without either. */
  readonly replacement: number | null;
  /** Share of the nodes' inputs, weighed by I + p, that comes from nodes other than errors and is no remainder; null without influence. */
  readonly completeness: number | null;
}

/** Thresholds of pruning: the shares of influence to keep, over 0 and up to 1. */
export interface PruneOptions {
  /** Of nodes; .8 by default. */
  readonly nodes?: number;
  /** Of edges between the nodes that are left; .98 by default. */
  readonly edges?: number;
}

/** Edges as columns of places in `graph.nodes`; share: Â of the edge. */
interface Shares {
  readonly source: Int32Array;
  readonly target: Int32Array;
  readonly share: Float64Array;
}

/**
 * The influence of every node, and how much of the graph its features explain.
 *
 * @throws UserError if the graph is broken (`graphPlaces`) or its edges go round in a cycle
 */
export function influenceOf(graph: CircuitGraph): Influence {
  const places = graphPlaces(graph);
  const remainders = Float64Array.from(graph.nodes, (node) => Math.abs(node.remainder ?? 0));
  const inputs = inputSums(graph, places, remainders);
  const shares = sharesOf(graph, places, inputs);
  const p = weightsOf(graph.nodes);
  const influence = influenceAlong(shares, p);

  // A remainder is an input that comes from no node: it takes its share of the influence with it, as an error does.
  const lost = Float64Array.from(remainders, (rest, n) => (rest === 0 ? 0 : rest / inputs[n]!));
  const unexplained = lost.slice();
  for (let e = 0; e < shares.share.length; e++) {
    if (graph.nodes[shares.source[e]!]!.kind === "error") unexplained[shares.target[e]!]! += shares.share[e]!;
  }
  let [tokens, errors, reached, explained, total] = [0, 0, 0, 0, 0];
  for (const [n, { kind }] of graph.nodes.entries()) {
    const weight = influence[n]! + p[n]!;
    if (kind === "token") tokens += influence[n]!;
    if (kind === "error") errors += influence[n]!;
    errors += weight * lost[n]!;
    reached += influence[n]!;
    total += weight;
    explained += weight * (1 - unexplained[n]!);
  }
  return {
    influence,
    cumulative: cumulativeShares(influence),
    replacement: tokens + errors > 0 ? tokens / (tokens + errors) : null,
    completeness: reached > 0 ? explained / total : null,
  };
}

/**
 * The part of a graph that carries most of the influence: nodes of most influence until they hold a share of it (tokens and the metric stay
 * always), of the edges between them likewise, then without dead ends: nodes without an edge to others, and features without an edge from others.
 *
 * @throws UserError if a threshold is not over 0 and up to 1, or the graph is broken
 */
export function prune(graph: CircuitGraph, { nodes = 0.8, edges = 0.98 }: PruneOptions = {}): CircuitGraph {
  checkThreshold("nodes", nodes);
  checkThreshold("edges", edges);
  const { influence, cumulative, ...scores } = influenceOf(graph);
  const nodeCutoff = cutoffOf(influence, nodes);
  const keptNodes = graph.nodes.map((node, n) => isFixed(node) || influence[n]! >= nodeCutoff);

  const places = graphPlaces(graph);
  const between = graph.edges.filter(
    ({ source, target, value }) => value !== 0 && keptNodes[places.get(source)!] && keptNodes[places.get(target)!],
  );
  const inner = { ...graph, edges: between };
  const shares = sharesOf(inner, places, inputSums(inner, places));
  const p = weightsOf(graph.nodes);
  const innerInfluence = influenceAlong(shares, p);
  const edgeScores = shares.share.map(
    (share, e) => share * (innerInfluence[shares.target[e]!]! + p[shares.target[e]!]!),
  );
  const edgeCutoff = cutoffOf(edgeScores, edges);
  const strong = between.filter((_, e) => edgeScores[e]! >= edgeCutoff);

  const left = withoutDeadEnds(
    graph.nodes
      .map((node, n) => ({ ...node, influence: influence[n]!, cumulative: cumulative[n]! }))
      .filter((_, n) => keptNodes[n]),
    strong,
  );
  return { ...left, about: { ...graph.about, thresholds: { nodes, edges }, scores } };
}

/** Tokens and the metric are what a graph leads from and to. */
const isFixed = ({ kind }: GraphNode) => kind === "token" || kind === "metric";

function weightsOf(nodes: readonly GraphNode[]): Float64Array {
  return Float64Array.from(nodes, ({ kind, probability }) => (kind === "metric" ? (probability ?? 1) : 0));
}

/** Σ|edges into the node|, and its remainder. */
function inputSums(
  { nodes, edges }: CircuitGraph,
  places: ReadonlyMap<string, number>,
  remainders = new Float64Array(nodes.length),
): Float64Array {
  const sums = remainders.slice();
  for (const { target, value } of edges) sums[places.get(target)!]! += Math.abs(value);
  return sums;
}

function sharesOf({ edges }: CircuitGraph, places: ReadonlyMap<string, number>, inputs: Float64Array): Shares {
  const target = Int32Array.from(edges, (edge) => places.get(edge.target)!);
  return {
    source: Int32Array.from(edges, (edge) => places.get(edge.source)!),
    target,
    share: Float64Array.from(edges, ({ value }, e) => (value === 0 ? 0 : Math.abs(value) / inputs[target[e]!]!)),
  };
}

/**
 * p Σ_{k≥1} Âᵏ of a graph without cycles, in one pass from the metric down: I[s] = Σ_t Â[t, s] (I[t] + p[t]).
 *
 * @throws UserError if the edges go round in a cycle
 */
function influenceAlong({ source, target, share }: Shares, p: Float64Array): Float64Array {
  const intoOf: number[][] = Array.from(p, () => []);
  const outgoing = new Int32Array(p.length);
  for (let e = 0; e < share.length; e++) {
    intoOf[target[e]!]!.push(e);
    outgoing[source[e]!]!++;
  }
  const influence = new Float64Array(p.length);
  const ready = [...outgoing.keys()].filter((n) => outgoing[n] === 0);
  for (let done = 0; done < ready.length; done++) {
    const t = ready[done]!;
    for (const e of intoOf[t]!) {
      const s = source[e]!;
      influence[s]! += share[e]! * (influence[t]! + p[t]!);
      if (--outgoing[s]! === 0) ready.push(s);
    }
  }
  if (ready.length < p.length)
    throw new UserError("graph: expected edges to later sites, got edges that form a cycle.");
  return influence;
}

/** The smallest score among the largest that together hold a share of the sum. */
function cutoffOf(scores: Float64Array, share: number): number {
  const falling = scores.toSorted().reverse();
  const enough = share * falling.reduce((sum, score) => sum + score, 0);
  let held = 0;
  for (const score of falling) {
    held += score;
    if (held >= enough) return score;
  }
  return falling.at(-1) ?? 0;
}

function cumulativeShares(influence: Float64Array): Float64Array {
  const order = [...influence.keys()].sort((a, b) => influence[b]! - influence[a]! || a - b);
  const total = order.reduce((sum, n) => sum + influence[n]!, 0);
  const shares = new Float64Array(influence.length);
  let held = 0;
  for (const n of order) {
    held += influence[n]!;
    shares[n] = total === 0 ? 0 : Math.min(1, held / total);
  }
  return shares;
}

function withoutDeadEnds<Node extends GraphNode>(nodes: readonly Node[], edges: CircuitGraph["edges"]) {
  let left = { nodes, edges };
  for (let size = Number.POSITIVE_INFINITY; left.nodes.length < size; ) {
    size = left.nodes.length;
    const [sources, targets] = [new Set<string>(), new Set<string>()];
    for (const { source, target } of left.edges) {
      sources.add(source);
      targets.add(target);
    }
    const alive = left.nodes.filter(
      (node) => isFixed(node) || (sources.has(node.id) && (node.kind !== "feature" || targets.has(node.id))),
    );
    const ids = new Set(alive.map(({ id }) => id));
    left = { nodes: alive, edges: left.edges.filter(({ source, target }) => ids.has(source) && ids.has(target)) };
  }
  return left;
}

function checkThreshold(what: "nodes" | "edges", value: number): void {
  if (value > 0 && value <= 1) return;
  throw new UserError(`threshold of ${what}: expected a share over 0 and up to 1, got ${value}.`);
}
