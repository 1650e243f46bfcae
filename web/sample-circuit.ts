import { type GraphEdge, type GraphNode, graphNodeId } from "../src/circuit/graph.ts";
import { areas, type Curve } from "../src/interventions/evaluation.ts";
import { Random } from "../src/random.ts";
import { type ReportCircuit, type ReportEvaluation, reportCircuit } from "../src/report/circuit.ts";

const kinds = ["attn_out", "mlp_out", "resid_post"] as const;

/** An invented circuit in which effects flow: what comes to a node, its remainder included, is its effect. */
export function sampleCircuit(seed: number, { layers = 6, perSite = 7, limit = 1000 } = {}): ReportCircuit {
  const random = new Random(`${seed}/sample circuit`);
  const sites = Array.from({ length: layers }, (_, layer) => kinds.map((kind) => `${kind}.${layer}`)).flat();
  type Draft = Omit<GraphNode, "effect"> & { rank: number };
  const draft = (node: Omit<Draft, "id">): Draft => ({ ...node, id: graphNodeId(node) });
  const drafts: Draft[] = [draft({ kind: "token", site: "embed", rank: -1 })];
  for (const [rank, site] of sites.entries()) {
    for (let i = 0; i < perSite; i++)
      drafts.push(draft({ kind: "feature", site, feature: random.below(1 << 14), rank }));
    drafts.push(draft({ kind: "error", site, rank }));
  }
  drafts.push(draft({ kind: "metric", token: "logit(patch answer) − logit(clean answer)", rank: sites.length }));
  const distinct = drafts.filter(({ id }, i) => drafts.findIndex((other) => other.id === id) === i);
  const edges: GraphEdge[] = [];
  for (const target of distinct) {
    if (target.kind === "token") continue;
    for (const source of distinct) {
      if (source.rank >= target.rank || !random.chance(target.kind === "metric" ? 0.3 : 0.25)) continue;
      const size = (source.kind === "error" ? 0.01 : 0.2) * random.uniform() ** 4;
      edges.push({ source: source.id, target: target.id, value: size * (random.chance(0.8) ? 1 : -1) });
    }
  }
  const nodes = distinct.map(({ rank: _, ...node }): GraphNode => {
    const inflow = edges.reduce((sum, { target, value }) => sum + (target === node.id ? value : 0), 0);
    if (node.kind === "token") return { ...node, effect: 8.9 };
    const remainder = 0.02 * random.normal();
    return { ...node, remainder, effect: inflow + remainder };
  });
  const about = {
    model: "demo",
    layers,
    dictionaries: sites.map((site) => ({ site, source: "models/demo/saes" })),
    subject: { kind: "pairs" as const, pairs: 960, cases: ["nounpp_singular", "nounpp_plural"], split: null },
    metric: "logit(patch answer) − logit(clean answer)",
    method: "secant",
    jacobian: "secant" as const,
    slope: "secant" as const,
    slopeCap: 3,
  };
  return reportCircuit({ nodes, edges, about }, limit, (value) => Number(value.toPrecision(5)));
}

const groups = ["simple", "nounpp", "within_subject_rc"];
const ways = ["masks", "secant", "random", "basis"];

/** An invented evaluation: two kinds of ablation, learned and ranked circuits, and two baselines. */
export function sampleEvaluation(seed: number): ReportEvaluation {
  const random = new Random(`${seed}/sample evaluation`);
  const sizes = [20, 40, 60, 100, 150];
  const splits = ["train", "test"] as const;
  const curve = (
    group: string,
    split: "train" | "test",
    ablation: "mean" | "patch",
    way: string,
    seed: number | null,
  ) => {
    const half = { masks: 28, secant: 50, basis: 180 }[way] ?? 1e9;
    const points = sizes.map((size) => {
      const faithfulness = 1 / (1 + (half / size) ** 3) + 0.02 * random.normal();
      const wide = 0.06 + 0.1 * random.uniform();
      return {
        size,
        f: -0.1 - 4.4 * faithfulness,
        faithfulness,
        by_words: { low: faithfulness - wide, high: faithfulness + wide },
        by_pairs: { low: faithfulness - wide / 3, high: faithfulness + wide / 3 },
        completeness: way === "random" ? 0.95 : 0.02 * random.normal(),
        cases: { [`${group}_singular`]: faithfulness + 0.1, [`${group}_plural`]: faithfulness - 0.1 },
      };
    });
    const found: Curve = {
      group,
      split,
      ablation,
      errors: "ablated",
      way,
      seed,
      f_model: -4.5,
      f_empty: ablation === "mean" ? -0.1 : 4.4,
      whole: 0.98,
      points,
      ...areas(points, 900, 0.98),
    };
    return found;
  };
  const seeded = ways.flatMap((way) => (way === "random" ? [0, 1, 2] : [null]).map((seed) => ({ way, seed })));
  return {
    format: 1,
    sites: Array.from({ length: 6 }, (_, layer) => `resid_post.${layer}`),
    pairs: groups.flatMap((group) =>
      splits.map((split) => ({ group, split, cases: [`${group}_singular`, `${group}_plural`], pairs: 40, words: 15 })),
    ),
    candidates: Object.fromEntries(groups.map((group) => [group, 900])),
    circuits: groups.flatMap((group) =>
      seeded.flatMap(({ way, seed }) =>
        sizes.map((size) => ({ group, way, ablation: null, seed, size, stability: way === "secant" ? 0.83 : null })),
      ),
    ),
    curves: groups.flatMap((group) =>
      splits.flatMap((split) =>
        (["mean", "patch"] as const).flatMap((ablation) =>
          seeded.map(({ way, seed }) => curve(group, split, ablation, way, seed)),
        ),
      ),
    ),
    transfer: {
      way: "masks",
      size: 60,
      ablation: "mean",
      groups,
      faithfulness: groups.map((_, i) => groups.map((_, j) => (i === j ? 0.93 : -0.1 + random.uniform()))),
    },
  };
}
