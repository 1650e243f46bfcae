import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { type CircuitGraph, type GraphNode, graphNodeId } from "../src/circuit/graph.ts";
import { influenceOf, prune } from "../src/circuit/influence.ts";
import { randomCircuit } from "./random-circuit.ts";

const { about } = randomCircuit(0);

/** A graph of named nodes: `T…` tokens, `E…` errors, `M…` the metric, all others features. */
function named(edges: Record<string, number>, extra: Partial<GraphNode> & { of?: string } = {}): CircuitGraph {
  const kinds = { T: "token", E: "error", M: "metric" } as const;
  const ids = [...new Set(Object.keys(edges).flatMap((key) => key.split(" → ")))];
  return {
    about,
    nodes: ids.map((id) => ({
      id,
      kind: kinds[id[0] as "T"] ?? "feature",
      effect: 1,
      ...(extra.of === id ? extra : {}),
    })),
    edges: Object.entries(edges).map(([key, value]) => {
      const [source, target] = key.split(" → ") as [string, string];
      return { source, target, value };
    }),
  };
}

const influences = (graph: CircuitGraph) =>
  Object.fromEntries(graph.nodes.map(({ id }, n) => [id, influenceOf(graph).influence[n]!]));

describe("influence", () => {
  // Â: A reads T .75 and E .25; B reads A and E, .5 each; M reads B .8 and A .2. So I(B) = .8, I(A) = .2 + .5 · .8, …
  const example = { "T → A": 3, "E → A": 1, "A → B": 2, "E → B": -2, "B → M": 4, "A → M": -1 };

  it("is the share of the metric's input that passes through a node: a worked example", () => {
    const graph = named(example);
    const expected = { T: 0.45, A: 0.6, E: 0.55, B: 0.8, M: 0 };
    for (const [id, value] of Object.entries(influences(graph))) {
      expect(value, id).toBeCloseTo(expected[id as "T"], 14);
    }
    const { replacement, completeness, cumulative } = influenceOf(graph);
    expect(replacement).toBeCloseTo(0.45 / (0.45 + 0.55), 14);
    // Shares of inputs that are no errors, weighed by I + p: M 1, B .5, A .75; tokens and errors read nothing.
    expect(completeness).toBeCloseTo((1 + 0.5 * 0.8 + 0.75 * 0.6 + 0.45 + 0.55) / 3.4, 14);
    expect(cumulative[graph.nodes.findIndex(({ id }) => id === "A")]).toBeCloseTo((0.8 + 0.6) / 2.4, 14);
  });

  it("weighs the logits of a prompt by their probabilities", () => {
    const graph = named({ "A → M1": 1, "B → M2": 1 });
    const probabilities = { M1: 0.6, M2: 0.3 } as Record<string, number>;
    const nodes = graph.nodes.map((node) =>
      node.kind === "metric" ? { ...node, probability: probabilities[node.id]! } : node,
    );
    expect(influences({ ...graph, nodes })).toEqual({ A: 0.6, M1: 0, B: 0.3, M2: 0 });
  });

  it("counts a remainder as an input that nothing explains", () => {
    const graph = named({ "T → A": 3, "A → M": 2 }, { of: "A", remainder: -1 });
    expect(influences(graph)).toEqual({ T: 0.75, A: 1, M: 0 });
    expect(influenceOf(graph)).toMatchObject({ replacement: 0.75, completeness: (1 + 0.75 + 0.75) / 2.75 });
  });

  it("is null where nothing reaches the metric", () => {
    expect(influenceOf(named({ "T → A": 1 }))).toMatchObject({ replacement: null, completeness: null });
  });

  it.each(Array.from({ length: 12 }, (_, seed) => seed))(
    "solves I = (I + p)Â in random graphs, as a dense solver does (seed %i)",
    (seed) => {
      const graph = randomCircuit(seed, { layers: 1 + (seed % 4), ...(seed % 3 === 0 && { tokens: ["The", " dog"] }) });
      const { influence } = influenceOf(graph);
      const n = graph.nodes.length;
      const at = new Map(graph.nodes.map(({ id }, i) => [id, i]));
      const matrix = Array.from({ length: n }, () => new Array<number>(n).fill(0));
      for (const { source, target, value } of graph.edges)
        matrix[at.get(target)!]![at.get(source)!]! += Math.abs(value);
      for (const row of matrix) {
        const total = row.reduce((a, b) => a + b, 0);
        if (total > 0) for (const s of row.keys()) row[s]! /= total;
      }
      // (1 − Âᵀ) I = Âᵀ p
      const p = graph.nodes.map(({ kind }) => (kind === "metric" ? 1 : 0));
      const left = matrix.map((_, i) => matrix.map((row, t) => (i === t ? 1 : 0) - row[i]!));
      const right = matrix.map((_, i) => matrix.reduce((sum, row, t) => sum + row[i]! * p[t]!, 0));
      const solution = solve(left, right);
      for (const [i, value] of solution.entries()) expect(influence[i], graph.nodes[i]!.id).toBeCloseTo(value, 12);
    },
  );

  it("refuses broken graphs in one line", () => {
    expect(() => influenceOf(named({ "A → B": 1, "B → A": 1 }))).toThrow("edges that form a cycle");
    const graph = named(example);
    expect(() => influenceOf({ ...graph, nodes: graph.nodes.slice(1) })).toThrow('between nodes, got one of "T"');
    expect(() => influenceOf({ ...graph, nodes: [...graph.nodes, graph.nodes[0]!] })).toThrow('got "T" twice');
    expect(() => influenceOf(named({ ...example, "A → M": Number.NaN }))).toThrow('got NaN from "A" to "M"');
    expect(() => prune(graph, { nodes: 80 })).toThrow(
      "threshold of nodes: expected a share over 0 and up to 1, got 80.",
    );
    expect(() => prune(graph, { edges: 0 })).toThrow("threshold of edges");
  });
});

describe("pruning", () => {
  it("keeps everything at 1 but dead ends", () => {
    const graph = named({ "T → A": 1, "A → M": 1, "A → C": 5, "E → B": 1, "B → D": 1, "D → M": 1, "X → M": 1 });
    const { nodes, edges } = prune(graph, { nodes: 1, edges: 1 });
    // C leads nowhere; X, a feature, is fed by nothing.
    expect(nodes.map(({ id }) => id)).toEqual(["T", "A", "M", "E", "B", "D"]);
    expect(edges.map(({ source, target }) => `${source} → ${target}`)).toEqual([
      "T → A",
      "A → M",
      "E → B",
      "B → D",
      "D → M",
    ]);
  });

  it("writes down its thresholds, and each node's influence in the whole graph", () => {
    const graph = randomCircuit(1);
    const whole = influenceOf(graph);
    const pruned = prune(graph, { nodes: 0.6, edges: 0.9 });
    expect(pruned.about.thresholds).toEqual({ nodes: 0.6, edges: 0.9 });
    expect(pruned.nodes.length).toBeLessThan(graph.nodes.length);
    for (const node of pruned.nodes) {
      const n = graph.nodes.findIndex(({ id }) => id === node.id);
      expect([node.influence, node.cumulative]).toEqual([whole.influence[n], whole.cumulative[n]]);
    }
  });

  interface Pruned {
    features: number;
    errors: number;
    tokens: number;
    probabilities: number[];
    edges: [source: number, target: number, value: number][];
    thresholds: { nodes: number; edges: number };
    replacement: number;
    completeness: number;
    cumulative: number[];
    kept_nodes: number[];
    kept_edges: [source: number, target: number][];
  }
  const cases: Pruned[] = JSON.parse(readFileSync(new URL("fixtures/pruning.json", import.meta.url), "utf8"));

  it.each(cases)("gives circuit-tracer's scores, nodes and edges ($features features, at $thresholds)", (one) => {
    const kinds = [
      ...new Array(one.features).fill("feature"),
      ...new Array(one.errors).fill("error"),
      ...new Array(one.tokens).fill("token"),
      ...one.probabilities.map(() => "metric"),
    ];
    const first = kinds.indexOf("metric");
    const graph: CircuitGraph = {
      about,
      nodes: kinds.map((kind, n) => ({
        id: graphNodeId({ kind, feature: n, position: n }),
        kind,
        effect: 0,
        ...(kind === "metric" && { probability: one.probabilities[n - first]! }),
      })),
      edges: [],
    };
    const id = (n: number) => graph.nodes[n]!.id;
    const whole = { ...graph, edges: one.edges.map(([s, t, value]) => ({ source: id(s), target: id(t), value })) };
    const { replacement, completeness, cumulative } = influenceOf(whole);
    expect(replacement).toBeCloseTo(one.replacement, 12);
    expect(completeness).toBeCloseTo(one.completeness, 12);
    // Nodes of equal influence stand in any order there, so the shares are compared in rising order.
    const expected = one.cumulative.toSorted((a, b) => a - b);
    for (const [n, share] of cumulative.toSorted().entries()) expect(share).toBeCloseTo(expected[n]!, 12);
    const pruned = prune(whole, one.thresholds);
    expect(pruned.nodes.map((node) => node.id)).toEqual(one.kept_nodes.map(id));
    const pairs = (edges: readonly { source: string; target: string }[]) =>
      edges.map(({ source, target }) => `${source} → ${target}`).sort();
    expect(pairs(pruned.edges)).toEqual(pairs(one.kept_edges.map(([s, t]) => ({ source: id(s), target: id(t) }))));
  });
});

/** Gaussian elimination with row pivots. */
function solve(matrix: number[][], right: number[]): number[] {
  const rows = matrix.map((row, i) => [...row, right[i]!]);
  for (let c = 0; c < rows.length; c++) {
    const pivot = rows
      .slice(c)
      .reduce((best, row, i) => (Math.abs(row[c]!) > Math.abs(rows[best]![c]!) ? c + i : best), c);
    [rows[c], rows[pivot]] = [rows[pivot]!, rows[c]!];
    for (const [r, row] of rows.entries()) {
      if (r === c || row[c] === 0) continue;
      const factor = row[c]! / rows[c]![c]!;
      for (let k = c; k < row.length; k++) row[k]! -= factor * rows[c]![k]!;
    }
  }
  return rows.map((row, i) => row.at(-1)! / row[i]!);
}
