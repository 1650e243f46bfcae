import { describe, expect, it } from "vitest";
import type { EdgeBlock, SiteEdges } from "../src/circuit/edges.ts";
import { graphOf } from "../src/circuit/graph-of.ts";
import { influenceOf } from "../src/circuit/influence.ts";
import { randomCircuit } from "./random-circuit.ts";

const { about } = randomCircuit(0);
const [singular, plural] = ["singular", "plural"].map((name) => ({ split: "train", case: name }) as EdgeBlock["group"]);

/** Edges into one target from one source of two pairs of one case. */
function block(
  target: EdgeBlock["target"],
  source: string,
  values: Record<number, number>,
  more: Partial<EdgeBlock> = {},
): SiteEdges {
  const made: EdgeBlock = {
    target,
    group: singular!,
    source,
    features: Int32Array.from(Object.keys(values).map(Number)),
    values: Float64Array.from(Object.values(values)),
    error: 0,
    effect: 0,
    remainder: 0,
    ...more,
  };
  return { target: target.site, source, through: "mlp", blocks: [made] };
}

describe("the graph of edges", () => {
  const a = { site: "resid_post.0", feature: 7 } as const;
  const b = { site: "resid_post.1", feature: 3 } as const;
  const error = { site: "resid_post.1", feature: "error" } as const;
  const metric = { site: "metric", feature: "metric" } as const;
  const found = [
    block(a, "embed", {}, { token: 4, effect: 4 }),
    block(a, "embed", {}, { token: 2, effect: 3, remainder: 1, group: plural! }),
    // 7 is a target, 9 is not.
    block(b, "resid_post.0", { 7: 2, 9: -1 }, { error: 0.5, effect: 2, remainder: 0.5 }),
    block(error, "resid_post.0", { 7: 0.1 }, { effect: 0.1 }),
    block(metric, "resid_post.1", { 3: 2, 8: 1 }, { error: 0.1, effect: 3.1 }),
  ];

  it("has targets, errors and tokens as nodes, and means over the pairs as values", async () => {
    const graph = await graphOf(found, { pairs: 2, about });
    expect(Object.fromEntries(graph.nodes.map(({ id, effect, remainder = 0 }) => [id, [effect, remainder]]))).toEqual({
      "resid_post.0/7": [3.5, 0.5],
      "embed/token": [3, 0],
      "resid_post.1/3": [1, 0.25 - 0.5],
      "resid_post.0/error": [0.25, 0],
      "resid_post.1/error": [0.05, 0],
      metric: [1.55, 0.5],
    });
    expect(graph.edges.map(({ source, target, value }) => [`${source} → ${target}`, value])).toEqual([
      ["embed/token → resid_post.0/7", 3],
      ["resid_post.0/error → resid_post.1/3", 0.25],
      ["resid_post.0/7 → resid_post.1/3", 1],
      ["resid_post.0/7 → resid_post.1/error", 0.05],
      ["resid_post.1/error → metric", 0.05],
      ["resid_post.1/3 → metric", 1],
    ]);
    expect(graph.about).toBe(about);
  });

  it("adds up: edges and remainder are the effect, where the blocks' are", async () => {
    for (const least of [0, 0.5, 2]) {
      const { nodes, edges } = await graphOf(found, { pairs: 2, about, least });
      for (const { id, effect, remainder = 0, kind } of nodes) {
        const into = edges.filter(({ target }) => target === id).map(({ value }) => value);
        if (kind === "token" || id === "resid_post.0/error") continue;
        expect(
          into.reduce((sum, value) => sum + value, remainder),
          `${id} at ${least}`,
        ).toBeCloseTo(effect, 12);
        for (const value of into) expect(Math.abs(value)).toBeGreaterThanOrEqual(least);
      }
    }
  });

  it("takes effects of sources that are no targets from where they are known", async () => {
    const effects = new Map([["resid_post.0", { feature: [7], effect: [99], error: 0.75 }]]);
    const { nodes } = await graphOf(found, { pairs: 2, about, effects });
    const effectOf = (id: string) => nodes.find((node) => node.id === id)?.effect;
    expect([effectOf("resid_post.0/error"), effectOf("resid_post.0/7")]).toEqual([0.75, 3.5]);
  });

  it("counts what no edge carries as unexplained", async () => {
    const { replacement } = influenceOf(await graphOf(found, { pairs: 2, about }));
    const [b1, error1] = [1 / 1.55, 0.05 / 1.55];
    const [a0, error0] = [b1 * (1 / 1.5) + error1, b1 * (0.25 / 1.5)];
    const tokens = a0 * (3 / 3.5);
    const lost = 0.5 / 1.55 + b1 * (0.25 / 1.5) + a0 * (0.5 / 3.5);
    expect(replacement).toBeCloseTo(tokens / (tokens + error0 + error1 + lost), 12);
  });
});
