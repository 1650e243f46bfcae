import type { CircuitGraph, GraphAbout, GraphEdge, GraphNode } from "../circuit/graph.ts";
import { influenceOf, prune } from "../circuit/influence.ts";
import type { Evaluation } from "../interventions/evaluation.ts";

/** A circuit's graph as the report has it: what `graph.json` holds, edges as columns of equal length. */
export interface ReportCircuit {
  /** With the scores of the whole graph. */
  readonly about: GraphAbout;
  readonly nodes: readonly GraphNode[];
  readonly edges: {
    /** Places in `nodes`. */
    readonly source: readonly number[];
    readonly target: readonly number[];
    /** In logits, signed, mean over the pairs. */
    readonly value: readonly number[];
  };
  /** Weaker edges that are left out; what they carry is part of their targets' remainders. */
  readonly left: number;
  /** Shares of influence at which the drawing starts: as in exports, or less where that would not be legible. */
  readonly start: { readonly nodes: number; readonly edges: number };
}

/** Ways that choose no features of the SAEs, or none on purpose: what the others are measured by. */
export const baselineWays: readonly string[] = ["random", "basis", "neurons"];

/** What circuits are worth, without their features: those are in `evaluation.json`. */
export type ReportEvaluation = Omit<Evaluation, "circuits"> & {
  readonly circuits: readonly Omit<Evaluation["circuits"][number], "features">[];
};

/**
 * A graph for the report: its `limit` strongest edges, the others as parts of their targets' remainders, so that inflow and remainder still add up.
 *
 * @param round takes digits off a number that the page does not show
 */
export function reportCircuit(graph: CircuitGraph, limit: number, round: (value: number) => number): ReportCircuit {
  const places = new Map(graph.nodes.map(({ id }, place) => [id, place]));
  const falling = graph.edges.toSorted((a, b) => Math.abs(b.value) - Math.abs(a.value));
  const kept = falling.slice(0, limit);
  const rest = Float64Array.from(graph.nodes, ({ remainder = 0 }) => remainder);
  for (const { target, value } of falling.slice(limit)) rest[places.get(target)!]! += value;
  const { replacement, completeness } = influenceOf(graph);
  const scores = {
    replacement: replacement === null ? null : round(replacement),
    completeness: completeness === null ? null : round(completeness),
  };
  const circuit: Omit<ReportCircuit, "start"> = {
    about: { ...graph.about, scores },
    nodes: graph.nodes.map(({ remainder: _, ...node }, n) => ({
      ...node,
      effect: round(node.effect),
      ...(rest[n] !== 0 && { remainder: round(rest[n]!) }),
    })),
    edges: {
      source: kept.map(({ source }) => places.get(source)!),
      target: kept.map(({ target }) => places.get(target)!),
      value: kept.map(({ value }) => round(value)),
    },
    left: falling.length - kept.length,
  };
  return { ...circuit, start: legibleShares(graphOfReport(circuit)) };
}

/** What can be read in one drawing. */
const legible = { nodes: 90, edges: 300 };
/** Shares to try, in percent. */
const nodeShares = [80, 75, 70, 65, 60, 55, 50, 45, 40, 35, 30, 25, 20];
const edgeShares = [98, 95, 90, 85, 80, 75, 70, 65, 60, 55, 50];

/** The largest shares of influence whose nodes and edges can be read; the smallest that are tried where none can. */
function legibleShares(graph: CircuitGraph): ReportCircuit["start"] {
  const at = (nodes: number, edges: number) => prune(graph, { nodes: nodes / 100, edges: edges / 100 });
  const nodes = nodeShares.find((share) => at(share, edgeShares[0]!).nodes.length <= legible.nodes);
  const first = nodes ?? nodeShares.at(-1)!;
  // Where influence comes from errors for the most part, no path from the tokens may be left.
  const chosen = [first, 85, 90, 95, 99].find((share) => at(share, edgeShares[0]!).edges.length > 0) ?? 100;
  const edges = edgeShares.find((share) => at(chosen, share).edges.length <= legible.edges) ?? edgeShares.at(-1)!;
  return { nodes: chosen / 100, edges: edges / 100 };
}

/** The graph of a report again. */
export function graphOfReport(circuit: Pick<ReportCircuit, "about" | "nodes" | "edges">): CircuitGraph {
  const { about, nodes } = circuit;
  const { source, target, value } = circuit.edges;
  const idOf = (place: number | undefined) => nodes[place!]!.id;
  const edges = value.map((of, e): GraphEdge => ({ source: idOf(source[e]), target: idOf(target[e]), value: of }));
  return { nodes, edges, about };
}

/** One end of the flow at a node. */
export interface FlowEnd {
  readonly node: GraphNode;
  readonly value: number;
}

/** What comes to a node, and what leaves it, in logits: the strongest first. */
export interface Flow {
  readonly node: GraphNode;
  readonly inflow: readonly FlowEnd[];
  readonly outflow: readonly FlowEnd[];
  /** Σ of the edges. */
  readonly in: number;
  readonly out: number;
}

/** The flow at a node of a graph. @throws Error if there is no such node */
export function flowAt({ nodes, edges }: CircuitGraph, id: string): Flow {
  const byId = new Map(nodes.map((node) => [node.id, node]));
  const node = byId.get(id);
  if (node === undefined) throw new Error(`internal: no node ${id}`);
  const ends = (from: "source" | "target", to: "source" | "target"): FlowEnd[] =>
    edges
      .filter((edge) => edge[from] === id)
      .map((edge) => ({ node: byId.get(edge[to])!, value: edge.value }))
      .sort((a, b) => Math.abs(b.value) - Math.abs(a.value));
  const [inflow, outflow] = [ends("target", "source"), ends("source", "target")];
  const sum = (of: readonly FlowEnd[]) => of.reduce((total, { value }) => total + value, 0);
  return { node, inflow, outflow, in: sum(inflow), out: sum(outflow) };
}
