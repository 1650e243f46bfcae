import { parseSite } from "../../site.ts";
import { type CircuitGraph, type GraphEdge, type GraphNode, graphNodeName, graphPlaces } from "../graph.ts";
import { element, xmlText } from "./xml.ts";

type Value = string | number | undefined;

/** A typed attribute of GraphML: its name, its type, and where its value comes from. */
type Column<Row> = readonly [name: string, type: "string" | "int" | "double", of: (row: Row) => Value];

const nodeColumns: readonly Column<GraphNode>[] = [
  ["name", "string", ({ id }) => id],
  ["label", "string", graphNodeName],
  ["kind", "string", ({ kind }) => kind],
  ["site", "string", ({ site }) => site],
  ["layer", "int", ({ site }) => (site === undefined ? undefined : parseSite(site).layer)],
  ["feature", "int", ({ feature }) => feature],
  ["position", "int", ({ position }) => position],
  ["token", "string", ({ token }) => token],
  ["token_id", "int", ({ tokenId }) => tokenId],
  ["meaning", "string", ({ label }) => label],
  ["effect", "double", ({ effect }) => effect],
  ["activation", "double", ({ activation }) => activation],
  ["patch_activation", "double", ({ patchActivation }) => patchActivation],
  ["probability", "double", ({ probability }) => probability],
  ["remainder", "double", ({ remainder }) => remainder],
  ["influence", "double", ({ influence }) => influence],
  ["cumulative_influence", "double", ({ cumulative }) => cumulative],
];

const edgeColumns: readonly Column<GraphEdge>[] = [
  ["value", "double", ({ value }) => value],
  // What programs that lay graphs out take for an edge's strength; it must not be negative there.
  ["weight", "double", ({ value }) => Math.abs(value)],
];

/**
 * A circuit as GraphML, for Gephi, yEd, Cytoscape, NetworkX and igraph. Effects and values are in logits; an edge's `value` has the sign, its
 * `weight` is |value|. Attributes that no node has are left out; the graph has those of `graph.about`, as text (numbers) or JSON.
 *
 * @throws UserError if the graph is broken (`graphPlaces`)
 */
export function graphMl(graph: CircuitGraph): string {
  const places = graphPlaces(graph);
  const nodes = usedColumns("node", nodeColumns, graph.nodes);
  const edges = usedColumns("edge", edgeColumns, graph.edges);
  const about = usedColumns("graph", aboutColumns(graph), [graph]);
  // GraphML's ids may not hold the slash of `resid_post.2/1035`.
  const id = (name: string) => `n${places.get(name)}`;
  return [
    '<?xml version="1.0" encoding="UTF-8"?>',
    '<graphml xmlns="http://graphml.graphdrawing.org/xmlns">',
    ...[...nodes, ...edges, ...about].map(({ key }) => key),
    '<graph id="circuit" edgedefault="directed">',
    ...about.map(({ data }) => data(graph)),
    ...graph.nodes.map((node) => element("node", { id: id(node.id) }, nodes.map(({ data }) => data(node)).join(""))),
    ...graph.edges.map((edge) =>
      element(
        "edge",
        { source: id(edge.source), target: id(edge.target) },
        edges.map(({ data }) => data(edge)).join(""),
      ),
    ),
    "</graph>",
    "</graphml>",
    "",
  ].join("\n");
}

function aboutColumns({ about }: CircuitGraph): Column<CircuitGraph>[] {
  return Object.entries(about).map(([name, value]) => [
    name,
    "string",
    () => (typeof value === "string" ? value : JSON.stringify(value)),
  ]);
}

/** Columns that some row fills, each with its declaration and the data element of a row. */
function usedColumns<Row>(owner: string, columns: readonly Column<Row>[], rows: readonly Row[]) {
  return columns
    .filter(([, , of]) => rows.some((row) => of(row) !== undefined))
    .map(([name, type, of]) => ({
      key: element("key", { id: `${owner}.${name}`, for: owner, "attr.name": name, "attr.type": type }),
      data: (row: Row) => {
        const value = of(row);
        return value === undefined ? "" : `<data key="${owner}.${name}">${xmlText(String(value))}</data>`;
      },
    }));
}
