import { type CircuitGraph, type GraphEdge, type GraphNode, graphNodeId } from "../src/circuit/graph.ts";
import { Random } from "../src/random.ts";
import { parseSite, type SiteName } from "../src/site.ts";

/** What a circuit of random numbers looks like. */
export interface RandomCircuit {
  readonly layers?: number;
  readonly kinds?: readonly ("attn_out" | "mlp_out" | "resid_post")[];
  /** Features of a site, at each position where there are some. */
  readonly features?: number;
  /** Tokens of one pair's clean prompt: nodes get positions. Without them the graph sums over pairs. */
  readonly tokens?: readonly string[];
  /** Chance of an edge between two nodes that may have one. */
  readonly density?: number;
}

/**
 * A circuit of the shape that real ones have: tokens, features and errors at every site, edges from a site to those that read it (the same block's
 * later sites, the next block), at the same or an earlier position; few strong values, many weak ones, of both signs.
 */
export function randomCircuit(
  seed: number | string,
  {
    layers = 4,
    kinds = ["attn_out", "mlp_out", "resid_post"],
    features = 5,
    tokens,
    density = 0.4,
  }: RandomCircuit = {},
): CircuitGraph {
  const random = new Random(seed);
  const size = () => (random.chance(0.8) ? 1 : -0.5) * Math.exp(1.2 * random.normal() - 1.5);
  const sites = Array.from({ length: layers }, (_, layer) => kinds.map((kind) => `${kind}.${layer}`)).flat();
  const positions = tokens === undefined ? [undefined] : [...tokens.keys()];
  const nodes: GraphNode[] = [];
  const add = (node: Omit<GraphNode, "id" | "effect">, position?: number) => {
    const placed = position === undefined ? node : { ...node, position, token: tokens![position]! };
    nodes.push({ ...placed, id: graphNodeId(placed), effect: size() });
  };
  for (const position of positions) add({ kind: "token", site: "embed" }, position);
  for (const site of sites) {
    for (const position of positions) {
      for (const feature of distinct(random, features))
        add({ kind: "feature", site, feature, activation: 1.5 }, position);
      add({ kind: "error", site }, position);
    }
  }
  add({ kind: "metric", token: "logit( are) − logit( is)" });

  const order = ["embed", ...sites];
  const place = (site: SiteName | undefined) => (site === undefined ? order.length : order.indexOf(site));
  const near = (s: GraphNode, t: GraphNode) =>
    t.site === undefined
      ? place(s.site) >= order.length - kinds.length
      : parseSite(t.site).layer - parseSite(s.site!).layer <= 1;
  const edges: GraphEdge[] = [];
  for (const target of nodes) {
    for (const source of nodes) {
      if (place(source.site) >= place(target.site) || !near(source, target)) continue;
      if ((source.position ?? 0) > (target.position ?? Number.POSITIVE_INFINITY)) continue;
      if (random.chance(density)) edges.push({ source: source.id, target: target.id, value: size() });
    }
  }
  return {
    nodes,
    edges,
    about: {
      model: "demo",
      layers,
      dictionaries: sites.map((site) => ({ site, source: "demo" })),
      subject:
        tokens === undefined
          ? { kind: "pairs", pairs: 100, cases: ["nounpp_singular", "nounpp_plural"], split: "train" }
          : { kind: "pair", clean: tokens, patch: tokens.map((token, i) => (i === 1 ? `${token}s` : token)) },
      metric: "logit(patch answer) − logit(clean answer)",
      method: "secant",
      jacobian: "secant",
      slope: "secant",
      slopeCap: 3,
    },
  };
}

function distinct(random: Random, count: number): number[] {
  const found = new Set<number>();
  while (found.size < count) found.add(random.below(1536));
  return [...found].sort((a, b) => a - b);
}
