import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import type { CircuitGraph } from "../src/circuit/graph.ts";
import { graphFrom } from "../src/circuit/graph-schema.ts";
import { prune } from "../src/circuit/influence.ts";
import { UserError } from "../src/errors.ts";
import { flowAt, graphOfReport, reportCircuit } from "../src/report/circuit.ts";
import { readReportCircuit, readReportEvaluation } from "../src/results/report-circuit.ts";

const folder = mkdtempSync(join(tmpdir(), "sfc-report-circuit-"));
mkdirSync(join(folder, "circuit"));
mkdirSync(join(folder, "evaluation"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** token → a, b; a, b → metric, with a remainder of 0.5 at b. */
const graph: CircuitGraph = {
  nodes: [
    { id: "embed/token", kind: "token", site: "embed", effect: 3 },
    { id: "resid_post.0/4", kind: "feature", site: "resid_post.0", feature: 4, effect: 2 },
    { id: "resid_post.0/7", kind: "feature", site: "resid_post.0", feature: 7, effect: 1, remainder: 0.5 },
    { id: "metric", kind: "metric", token: "m", effect: 3 },
  ],
  edges: [
    { source: "embed/token", target: "resid_post.0/4", value: 2 },
    { source: "embed/token", target: "resid_post.0/7", value: 0.5 },
    { source: "resid_post.0/4", target: "metric", value: 2 },
    { source: "resid_post.0/7", target: "metric", value: 1 },
  ],
  about: {
    model: "tiny",
    layers: 1,
    dictionaries: [],
    subject: { kind: "pairs", pairs: 2, cases: ["simple"], split: null },
    metric: "m",
    method: "secant",
    jacobian: "secant",
    slope: "secant",
  },
};

describe("a circuit's graph in the report", () => {
  test("is that of graph.json", async () => {
    writeFileSync(join(folder, "circuit", "graph.json"), JSON.stringify(graph));
    const circuit = (await readReportCircuit(folder, 100))!;
    const { nodes, edges, about } = graphOfReport(circuit);
    expect(nodes).toEqual(graph.nodes);
    // The influence of tokens is 2/3 + 1/6; the remainder takes another 1/6, out of 2/3 + 1/3 + 5/6 + 1 that come to all nodes together.
    expect(about).toEqual({ ...graph.about, scores: { replacement: 0.83333, completeness: 0.94118 } });
    expect(edges.toSorted((a, b) => a.target.localeCompare(b.target) || a.source.localeCompare(b.source))).toEqual(
      graph.edges.toSorted((a, b) => a.target.localeCompare(b.target) || a.source.localeCompare(b.source)),
    );
    expect([circuit.left, circuit.start]).toEqual([0, { nodes: 0.8, edges: 0.98 }]);
  });

  test("keeps its strongest edges, and what the others carry as remainders", () => {
    const circuit = reportCircuit(graph, 2, (value) => value);
    const cut = graphOfReport(circuit);
    expect(circuit.left).toBe(2);
    expect(cut.edges.map(({ value }) => value)).toEqual([2, 2]);
    expect(cut.nodes.map(({ remainder }) => remainder)).toEqual([undefined, undefined, 1, 1]);
    for (const node of cut.nodes.slice(1)) {
      expect(flowAt(cut, node.id).in + (node.remainder ?? 0)).toBeCloseTo(node.effect, 12);
    }
  });

  test("has the flow at each node, strongest first", () => {
    const at = flowAt(graph, "embed/token");
    expect(at.outflow.map(({ node, value }) => [node.id, value])).toEqual([
      ["resid_post.0/4", 2],
      ["resid_post.0/7", 0.5],
    ]);
    expect([at.in, at.out, at.inflow]).toEqual([0, 2.5, []]);
  });

  test("starts with no more nodes and edges than one can read", () => {
    const features = Array.from({ length: 400 }, (_, i) => ({
      ...graph.nodes[1]!,
      id: `resid_post.0/${i}`,
      feature: i,
      effect: 1 + i / 1000,
    }));
    const edges = features.flatMap(({ id, effect }) => [
      { source: "embed/token", target: id, value: effect },
      { source: id, target: "metric", value: effect },
    ]);
    const nodes = [graph.nodes[0]!, ...features, graph.nodes[3]!];
    const circuit = reportCircuit({ ...graph, nodes, edges }, 20_000, (value) => value);
    const { nodes: left } = prune(graphOfReport(circuit), circuit.start);
    expect(left.length).toBeLessThanOrEqual(90);
    // The next larger share has more.
    const more = prune(graphOfReport(circuit), { ...circuit.start, nodes: circuit.start.nodes + 0.05 });
    expect(more.nodes.length).toBeGreaterThan(90);
  });

  test.each([
    ["no JSON", "{"],
    ["another thing", "[]"],
    ["an edge to nowhere", JSON.stringify({ ...graph, nodes: graph.nodes.slice(1) })],
    ["a text for a number", JSON.stringify(graph).replace('"value":2', '"value":"2"')],
  ])("is refused by name where the file is %s", async (_, text) => {
    writeFileSync(join(folder, "circuit", "graph.json"), text);
    const error = await readReportCircuit(folder, 100).catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(UserError);
    expect((error as UserError).message).toContain("graph.json");
    expect((error as UserError).message).not.toContain("\n");
  });

  test("a graph read back is the graph", () => {
    expect(graphFrom(JSON.parse(JSON.stringify(graph)))).toEqual(graph);
  });
});

describe("a circuit that mostly comes from outside of itself", () => {
  test("begins with a share of influence that leaves a path from the tokens to the metric", () => {
    const late = { id: "resid_post.1/2", kind: "feature", site: "resid_post.1", feature: 2, effect: 3 } as const;
    const early = graph.nodes[1]!;
    const outside: CircuitGraph = {
      ...graph,
      nodes: [graph.nodes[0]!, early, { ...late, remainder: 2.9 }, graph.nodes[3]!],
      edges: [
        { source: "embed/token", target: early.id, value: 2 },
        { source: early.id, target: late.id, value: 0.1 },
        { source: late.id, target: "metric", value: 3 },
      ],
    };
    expect(prune(outside, { nodes: 0.8, edges: 0.98 }).edges).toEqual([]);
    const { start } = reportCircuit(outside, 10, (value) => value);
    expect(prune(outside, start).edges).toEqual(outside.edges);
  });
});

describe("an evaluation in the report", () => {
  const file = { command: "evaluate", options: {}, versions: {}, run: "x", evaluation: null };

  test("is none before it is finished", async () => {
    writeFileSync(join(folder, "evaluation", "evaluation.json"), JSON.stringify({ ...file, status: "running" }));
    expect(await readReportEvaluation(folder)).toBeNull();
    expect(await readReportEvaluation(join(folder, "circuit"))).toBeNull();
  });

  test("is refused by name where the file is broken", async () => {
    writeFileSync(join(folder, "evaluation", "evaluation.json"), JSON.stringify({ ...file, status: "done" }));
    await expect(readReportEvaluation(folder)).rejects.toThrow(/evaluation\.json.*"status"/);
  });
});
