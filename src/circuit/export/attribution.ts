import { UserError } from "../../errors.ts";
import { compareSites, parseSite, type SiteName, siteKinds } from "../../site.ts";
import { type CircuitGraph, type GraphNode, graphNodeName, graphPlaces, graphTokens } from "../graph.ts";
import { influenceOf } from "../influence.ts";
import { subjectText } from "./subject.ts";

/** The attribution-graph file of circuit-tracer and Neuronpedia, schema version 1: names are theirs. */
export interface AttributionGraph {
  readonly metadata: AttributionMetadata;
  readonly qParams: {
    readonly pinnedIds: readonly string[];
    readonly supernodes: readonly (readonly string[])[];
    readonly linkType: "both" | "either" | "input" | "output";
    readonly clickedId: string;
    readonly sg_pos: string;
  };
  readonly nodes: readonly AttributionNode[];
  readonly links: readonly { readonly source: string; readonly target: string; readonly weight: number }[];
}

export interface AttributionMetadata {
  readonly slug: string;
  readonly scan: string;
  readonly transcoder_list: readonly string[];
  readonly prompt_tokens: readonly string[];
  readonly prompt: string;
  readonly schema_version: 1;
  readonly node_threshold?: number;
  readonly feature_details?: { readonly neuronpedia_source_set: string };
  readonly info: {
    readonly creator_name: string;
    readonly generator: { readonly name: string; readonly version?: string };
    readonly create_time_ms?: number;
    readonly neuronpedia_source_set?: string;
  };
  readonly generation_settings: Readonly<Record<string, unknown>>;
  readonly pruning_settings?: { readonly node_threshold: number; readonly edge_threshold: number };
  readonly replacement_score?: number;
  readonly completeness_score?: number;
}

export interface AttributionNode {
  readonly node_id: string;
  readonly feature: number;
  /** A whole number as text, or "E" for tokens. */
  readonly layer: string;
  readonly ctx_idx: number;
  readonly feature_type: "cross layer transcoder" | "mlp reconstruction error" | "embedding" | "logit" | "bias";
  readonly jsNodeId: string;
  readonly clerp: string;
  readonly token_prob: number;
  readonly is_target_logit: boolean;
  readonly influence: number | null;
  readonly activation: number | null;
}

export interface AttributionOptions {
  /** Name of the graph, in addresses and file names: letters, digits, `_`, `.` and `-`. */
  readonly slug: string;
  /** Neuronpedia's name of the model; by default made of the model's name. */
  readonly scan?: string;
  /** Neuronpedia's name of the dictionaries, e.g. `gemmascope-res-16k`, so that its page shows the features; for graphs of one kind of site. */
  readonly sourceSet?: string;
  /**
   * Nodes that the page pins besides the metric, those of most influence (or |effect|) first; 0 by default, because the page's layout of pinned nodes
   * (dagre 0.8.5) fails on some graphs.
   */
  readonly pinned?: number;
  /** Of the program that writes the graph. */
  readonly version?: string;
  /** Milliseconds since 1970. */
  readonly createTime?: number;
}

/** What slug and scan are made of. */
export const attributionName = /^[a-zA-Z0-9_.-]+$/;

/** Cantor's pairing of a layer and an index, the viewer's number of a feature. */
export const cantorPair = (layer: number, index: number) => ((layer + index) * (layer + index + 1)) / 2 + index;

/**
 * A circuit as the attribution graph that circuit-tracer's page and Neuronpedia open. Weights are the edges' values, in logits.
 *
 * Columns of the viewer are positions. A graph that sums over positions has the kinds of sites there instead, tokens first and the metric last.
 * Rows are the model's layers; a graph with positions and several kinds of sites has one for each site, from the bottom up in order of computation,
 * because the viewer drops features that share row, index and column. Names say which site it is.
 *
 * @throws UserError if the graph is broken, a name has other characters, or a source set is asked for several kinds of sites
 */
export function attributionGraph(graph: CircuitGraph, options: AttributionOptions): AttributionGraph {
  graphPlaces(graph);
  const { about } = graph;
  const { slug, scan = defaultScan(about.model), sourceSet, pinned = 0, version, createTime } = options;
  for (const [what, name] of Object.entries({ slug, scan })) checkName(what, name);
  const grid = gridOf(graph);
  if (sourceSet !== undefined && !grid.rowsAreLayers) {
    throw new UserError(
      `source set: expected a graph of one kind of site, got several, and Neuronpedia shows one set per graph. Leave "${sourceSet}" out.`,
    );
  }
  const written = new Map<string, AttributionNode>(graph.nodes.map((node) => [node.id, attributionNode(node, grid)]));
  addMetric(graph.nodes, grid, written);
  const shown = graph.nodes
    .filter(({ kind }) => kind !== "token" && kind !== "metric")
    .toSorted((a, b) => (a.cumulative ?? 0) - (b.cumulative ?? 0) || Math.abs(b.effect) - Math.abs(a.effect));
  const metric = graph.nodes.filter(({ kind }) => kind === "metric").map(({ id }) => written.get(id)!.node_id);
  const cumulative = shown.flatMap((node) => node.cumulative ?? []);
  const scores = about.scores ?? influenceOf(graph);
  return {
    metadata: {
      slug,
      scan,
      transcoder_list: [],
      prompt_tokens: grid.columns.map(notHtml),
      prompt: subjectText(about.subject),
      schema_version: 1,
      // The page hides nodes over the threshold, so it is rounded up to the last one, to a step of the page's slider.
      ...(cumulative.length > 0 && { node_threshold: Math.min(1, Math.ceil(Math.max(...cumulative) * 100) / 100) }),
      ...(sourceSet !== undefined && { feature_details: { neuronpedia_source_set: sourceSet } }),
      info: {
        creator_name: "analytic-sfc",
        generator: { name: "analytic-sfc", ...(version !== undefined && { version }) },
        ...(createTime !== undefined && { create_time_ms: createTime }),
        ...(sourceSet !== undefined && { neuronpedia_source_set: sourceSet }),
      },
      generation_settings: { ...about },
      ...(about.thresholds && {
        pruning_settings: { node_threshold: about.thresholds.nodes, edge_threshold: about.thresholds.edges },
      }),
      ...(scores.replacement !== null && { replacement_score: scores.replacement }),
      ...(scores.completeness !== null && { completeness_score: scores.completeness }),
    },
    qParams: {
      pinnedIds: [...shown.slice(0, pinned).map(({ id }) => written.get(id)!.node_id), ...metric],
      supernodes: [],
      linkType: "both",
      clickedId: metric[0] ?? "",
      sg_pos: "",
    },
    nodes: graph.nodes
      .toSorted((a, b) => order.indexOf(a.kind) - order.indexOf(b.kind))
      .map(({ id }) => written.get(id)!),
    links: graph.edges
      .filter(({ value }) => value !== 0)
      .map(({ source, target, value }) => ({
        source: written.get(source)!.node_id,
        target: written.get(target)!.node_id,
        weight: value,
      })),
  };
}

/** `graph-metadata.json`, which circuit-tracer's page reads beside the graphs to list them. */
export function attributionIndex(graphs: readonly AttributionGraph[]): { graphs: AttributionMetadata[] } {
  return { graphs: graphs.map(({ metadata }) => metadata) };
}

/** circuit-tracer's order of nodes; biases, which it has not, stand with the errors. */
const order: readonly GraphNode["kind"][] = ["feature", "error", "bias", "token", "metric"];

/** Where the viewer puts nodes. */
interface Grid {
  readonly columns: readonly string[];
  readonly columnOf: (node: GraphNode) => number;
  readonly rowOf: (site: SiteName) => number;
  readonly rowsAreLayers: boolean;
}

function gridOf({ nodes, about }: CircuitGraph): Grid {
  const sites = [...new Set(nodes.flatMap(({ kind, site }) => (kind === "token" || site === undefined ? [] : site)))];
  const kinds = siteKinds.filter((kind) => sites.some((site) => parseSite(site).kind === kind));
  const layerOf = (site: SiteName) => parseSite(site).layer;
  if (!nodes.some(({ position }) => position !== undefined)) {
    const columns = ["embed", ...kinds.filter((kind) => kind !== "embed"), "metric"];
    return {
      columns,
      columnOf: ({ site }) => columns.indexOf(site === undefined ? "metric" : parseSite(site).kind),
      rowOf: layerOf,
      rowsAreLayers: kinds.length <= 1,
    };
  }
  const tokens = graphTokens(about) ?? [];
  // The viewer cannot place anything in a single column.
  const columns = tokens.length > 1 ? tokens : [...tokens, "metric"];
  const columnOf = ({ position }: GraphNode) => position ?? columns.length - 1;
  if (kinds.length <= 1) return { columns, columnOf, rowOf: layerOf, rowsAreLayers: true };
  const rows = [...new Set([...about.dictionaries.map(({ site }) => site), ...sites])].sort(compareSites);
  return { columns, columnOf, rowOf: (site) => rows.indexOf(site), rowsAreLayers: false };
}

function attributionNode(node: GraphNode, { columnOf, rowOf }: Grid): AttributionNode {
  const { kind, site, feature, token, tokenId, label, cumulative, activation } = node;
  const column = columnOf(node);
  const shared = {
    ctx_idx: column,
    clerp: notHtml(`${graphNodeName(node)}${label === undefined ? "" : `: ${label}`}`),
    token_prob: 0,
    is_target_logit: false,
    influence: cumulative ?? null,
    activation: activation ?? null,
  };
  const row = site === undefined ? 0 : rowOf(site);
  if (kind === "feature") {
    return {
      ...shared,
      node_id: `${row}_${feature}_${column}`,
      feature: cantorPair(row, feature!),
      layer: String(row),
      feature_type: "cross layer transcoder",
      jsNodeId: `${row}_${feature}-0`,
    };
  }
  if (kind === "token") {
    return {
      ...shared,
      node_id: `E_${tokenId ?? 0}_${column}`,
      feature: column,
      layer: "E",
      feature_type: "embedding",
      jsNodeId: `E_${tokenId ?? 0}-${column}`,
      clerp: notHtml(`Emb: “${token ?? "all tokens"}”`),
    };
  }
  const number = kind === "error" ? -1 : -2;
  return {
    ...shared,
    node_id: `${row}_${number}_${column}`,
    feature: number,
    layer: String(row),
    feature_type: kind === "error" ? "mlp reconstruction error" : "bias",
    jsNodeId: `${row}_${number}-${column}`,
  };
}

/** Metric nodes stand two rows over the highest of the others: in the viewer's numbers one row is left out. */
function addMetric(nodes: readonly GraphNode[], grid: Grid, written: Map<string, AttributionNode>): void {
  const metrics = nodes.filter(({ kind }) => kind === "metric");
  const rows = nodes.flatMap(({ kind, site }) => (kind === "token" || site === undefined ? [] : grid.rowOf(site)));
  const layer = String(rows.reduce((highest, row) => Math.max(highest, row), 0) + 2);
  for (const [n, { id, token = "metric", tokenId = n, probability = 1 }] of metrics.entries()) {
    const column = written.get(id)!.ctx_idx;
    // The page takes the token from between the first two quotes, and the probability from behind the first `(p=`.
    const quoted = notHtml(token).replaceAll('"', "″").replaceAll("(p=", "(p\u2060=");
    written.set(id, {
      ...written.get(id)!,
      node_id: `${layer}_${tokenId}_${column}`,
      feature: tokenId,
      layer,
      feature_type: "logit",
      jsNodeId: `L_${tokenId}-${column}`,
      clerp: `Output "${quoted}" (p=${probability.toFixed(3)})`,
      token_prob: probability,
      is_target_logit: n === 0,
    });
  }
}

/** The page shows names as HTML where the pointer rests: a word joiner, which nobody sees, keeps `<bos>` from being a tag. */
const notHtml = (text: string) => text.replaceAll(/<(?=[a-z/!?])/gi, "<\u2060");

const defaultScan = (model: string) =>
  model
    .split("/")
    .at(-1)!
    .replaceAll(/[^a-zA-Z0-9_.-]+/g, "-") || "model";

function checkName(what: string, name: string): void {
  if (attributionName.test(name)) return;
  throw new UserError(`${what}: expected letters, digits, "_", "." and "-", got "${name}".`);
}
