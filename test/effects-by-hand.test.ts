import { describe, expect, it } from "vitest";
import type { Capture } from "../src/capture/capture.ts";
import { forestCheckPlans, forestGaps } from "../src/capture/forest-check.ts";
import type { CodeReader } from "../src/dictionaries/encode.ts";
import { analyticEffects } from "../src/effects/analytic.ts";
import { shareFrom } from "../src/effects/estimate.ts";
import { gradientActivation, gradientSums } from "../src/effects/scores.ts";
import { indexNodes, nodesTable, sumRows } from "../src/effects/sums.ts";
import { prefixForest } from "../src/forest/forest.ts";
import { type Plan, planCapture } from "../src/forest/packs.ts";
import { intervenedMetrics } from "../src/interventions/intervene.ts";
import type { SiteName } from "../src/site.ts";
import { coordinates, handDictionary, tokenPair, toyModel } from "./toy-model.ts";

const site: SiteName = "resid_post.0";

/** A capture of one site of two numbers per token, x by forward node and g by backward node. */
function handCapture(plan: Plan, x: (node: number) => readonly number[], g: (node: number) => readonly number[]) {
  const rows = new Float64Array(2 * plan.rows);
  plan.row.forEach((row, node) => {
    if (row >= 0) rows.set(x(node), 2 * row);
  });
  const captured: Capture = {
    plan,
    sites: [site],
    cleanMetric: new Float64Array(plan.forest.ends.length),
    patchMetric: new Float64Array(plan.forest.ends.length),
    site: async () => ({
      site,
      width: 2,
      x: rows,
      g: Float64Array.from(Array.from({ length: plan.forest.backward.size }, (_, node) => g(node)).flat()),
    }),
    sampledNodes: [],
    sample: async () => rows,
    activeNodes: () =>
      Int32Array.from(plan.forest.backward.clean.keys()).filter(
        (node) => plan.forest.backward.clean[node] !== plan.forest.backward.patch[node],
      ),
  };
  return captured;
}

/** Codes that are given: `codes` by the first number of a row of x. */
function handCodes(F: number, codes: (x: number) => readonly number[]): CodeReader {
  return {
    async encode(_, x) {
      const dense = Array.from({ length: x.length / 2 }, (_, row) => codes(x[2 * row]!));
      const found = dense.map((row) => row.flatMap((value, i) => (value === 0 ? [] : [[i, value] as const])));
      expect(dense.every((row) => row.length === F)).toBe(true);
      const offsets = [0];
      for (const row of found) offsets.push(offsets.at(-1)! + row.length);
      return {
        rows: dense.length,
        offsets: Int32Array.from(offsets),
        features: Int32Array.from(found.flat(), ([i]) => i),
        values: Float64Array.from(found.flat(), ([, value]) => value),
      };
    },
    release: async () => {},
  };
}

describe("effects at two nodes, worked out by hand", () => {
  // Two pairs that share BOS: backward nodes 0 (BOS), 1 (5 to 6) and 2 (7 to 8).
  const pairs = [tokenPair([1, 5], [1, 6], [20, 21]), tokenPair([1, 7], [1, 8], [20, 21])];
  const forest = prefixForest(pairs);
  const plan = planCapture(forest, { wanted: "changed" });
  const tokenOf = (node: number) => forest.forward.token[node]!;
  const dictionary = (d: readonly number[]) => handDictionary(site, new Float32Array(4), Float32Array.from(d), 2);

  it("are Δf·⟨g, d⟩, and the error's is what Δx has besides", async () => {
    // x is the token's number and 1; Δx = (1, 0) at both nodes, g = (3, 2).
    const captured = handCapture(
      plan,
      (node) => [tokenOf(node), 1],
      () => [3, 2],
    );
    // At 5 and 6: codes 0 and 2 of feature 0, none of feature 1. At 7 and 8: 4 and 1 of feature 1, 1 and 1 of feature 0.
    const codes = handCodes(2, (x) => ({ 5: [0, 0], 6: [2, 0], 7: [1, 4], 8: [1, 1] })[x]!);
    const { rows, check } = await analyticEffects(captured, dictionary([1, 1, 0, 0.5]), codes);
    const table = [...rows.node].map((node, i) => [node, rows.feature[i], rows.effect[i]]);
    // ⟨g, d_0⟩ = 5, so 2·5 = 10 and Δx − 2·d_0 = (−1, −2) with effect −7; ⟨g, d_1⟩ = 1, so −3 and (1, 1.5) with 6. Both add up to 3.
    expect(table).toEqual([
      [1, -1, -7],
      [1, 0, 10],
      [2, -1, 6],
      [2, 1, -3],
    ]);
    expect(check).toEqual({ node: 1, gap: 0, scale: 17 });
  });

  it("are checked at every node: the check has the node that is furthest off", async () => {
    const captured = handCapture(
      plan,
      (node) => [tokenOf(node), 1],
      () => [1, 0],
    );
    for (const [far, node] of [
      [6, 1],
      [8, 2],
    ] as const) {
      // A code of 2^60 in the dictionary's only direction: next to it Δx = 1 is rounded away, and effect and error add up to 0 instead of 1.
      const codes = handCodes(1, (x) => [x === far ? 2 ** 60 : x % 2]);
      const { check } = await analyticEffects(captured, dictionary([1, 0]), codes);
      expect(check).toEqual({ node, gap: 1, scale: 2 ** 61 });
    }
  });
});

describe("the check of the forest against separate examples", () => {
  // Two pairs that share the changed prefix 5 to 6, and go on with 9 and 10.
  const pairs = [tokenPair([1, 5, 9], [1, 6, 9], [20, 21]), tokenPair([1, 5, 10], [1, 6, 10], [20, 21])];
  const [merged, separate] = forestCheckPlans(pairs);
  const captured = (plan: Plan, at: number, g: readonly number[]) =>
    handCapture(
      plan,
      (node) => [plan.forest.forward.token[node]!, 1],
      (node) => (plan.forest.backward.token[node] === at ? g : [0, 0]),
    );

  it.each([
    ["more", 6, 2],
    ["less", 2, 2],
    ["the other way round", -4, 8],
  ])("tells the gap where the forest has %s", async (_, together, gap) => {
    // Δx = (1, 0) at token 5. Each example by itself has g = (2, 0) there, so ⟨g, Δx⟩ = 4 for the two of them.
    const [whole, alone] = [captured(merged, 5, [together, 0]), captured(separate, 5, [2, 0])];
    expect(await forestGaps(whole, alone)).toEqual([{ site, gap, scale: 4 }]);
  });

  it("measures by the size of the terms, not by what is left when they cancel", async () => {
    const plan = (wanted: "clean") => forestCheckPlans(pairs, undefined, wanted);
    const [whole, alone] = plan("clean");
    // At the clean prefix 5: x = (5, 1), g = (1, −5) for each of two examples. Their sum is 0, its terms 5, 5, 5 and 5.
    expect(await forestGaps(captured(whole, 5, [2, -10]), captured(alone, 5, [1, -5]))).toEqual([
      { site, gap: 0, scale: 20 },
    ]);
  });
});

describe("scores of the clean prompts, worked out by hand", () => {
  // BOS, then 5; BOS, then 7. The second pair is of another case.
  const pairs = [
    tokenPair([1, 5], [1, 5], [20, 21], { case: "one" }),
    tokenPair([1, 7], [1, 7], [20, 21], { case: "two" }),
  ];
  const forest = prefixForest(pairs);
  const plan = planCapture(forest, { wanted: "clean" });
  const captured = handCapture(
    plan,
    (node) => [forest.forward.token[node]!, 1],
    // BOS has the largest gradient of all.
    (node) => (forest.backward.token[node] === 1 ? [100, 100] : [forest.backward.token[node]!, 2]),
  );
  const dictionary = handDictionary(site, new Float32Array(4), Float32Array.of(1, 0, 1, -1), 2);

  it("gradient sums ⟨g, d⟩ over all nodes but those left out", async () => {
    const isBos = (node: number) => forest.backward.token[node] === 1;
    const without = await gradientSums(captured, dictionary, isBos);
    expect(without.map((sum) => [...sum])).toEqual([
      [5, 3],
      [7, 5],
    ]);
    const all = await gradientSums(captured, dictionary, () => false);
    expect(all.map((sum) => [...sum])).toEqual([
      [105, 3],
      [107, 5],
    ]);
  });

  it("gradient-activation multiplies with the code", async () => {
    const codes = handCodes(2, (x) => (x === 1 ? [0, 0] : x === 5 ? [3, 0] : [0, 0.5]));
    const rows = await gradientActivation(captured, dictionary, codes);
    const at = (node: number) => forest.backward.token[node];
    expect([...rows.node].map((node, i) => [at(node), rows.feature[i], rows.effect[i]])).toEqual([
      [5, 0, 15],
      [7, 1, 2.5],
    ]);
  });
});

describe("sums over nodes", () => {
  it("leave out nodes at which either prompt has padding, or BOS in the first place", () => {
    const [bos, pad] = [1, 2];
    const pairs = [
      tokenPair([bos, 5, 9], [bos, 6, 9], [20, 21]),
      tokenPair([bos, pad, 9], [bos, 6, 9], [20, 21]),
      tokenPair([bos, 7, 9], [bos, pad, 9], [20, 21]),
      // BOS further on is a word like others; in the first place of one prompt it is not.
      tokenPair([8, 5], [bos, 5], [20, 21]),
      tokenPair([bos, 5, bos], [bos, 6, bos], [20, 21]),
    ];
    const { backward } = prefixForest(pairs);
    const index = indexNodes(
      nodesTable(prefixForest(pairs), (id) => `${id}`),
      { first: new Set([bos]), padding: new Set([pad]) },
    );
    const leftOut = [...index.outside].flatMap((out, node) =>
      out ? [[backward.token[node], backward.patchToken[node], backward.position[node]]] : [],
    );
    expect(leftOut).toEqual([
      [bos, bos, 0],
      [pad, 6, 1],
      [7, pad, 1],
      [8, bos, 0],
    ]);
    expect(index.groups).toEqual([{ split: "train", case: "a", nodes: backward.size - 4 }]);
    // An effect of 1 of one feature at every node: only those that count are summed.
    const node = Int32Array.from({ length: backward.size }, (_, i) => i);
    const nothing = new Float32Array(backward.size);
    const sums = sumRows(
      {
        site,
        node,
        feature: node.map(() => 3),
        fClean: nothing,
        fPatch: nothing,
        gradient: nothing,
        effect: new Float64Array(backward.size).fill(1),
      },
      index,
    );
    expect([[...sums.feature], [...sums.total], [...sums.nodes]]).toEqual([
      [3],
      [backward.size - 4],
      [backward.size - 4],
    ]);
  });
});

describe("the metric without a feature", () => {
  // Token 5 is (1, 1): the answers 20 and 21 have equal logits. Without coordinate 0 it is (0, 1), √2 of it after the norm: 21 has √2 more than 20.
  const rows = Array.from({ length: 22 }, () => [1, 1]);
  const toy = toyModel(
    rows,
    new Map([
      [20, [1, 0]],
      [21, [0, 1]],
    ]),
    1,
  );
  const metric = async (prompt: readonly number[], outside: { first?: number[]; padding?: number[] }) => {
    const forest = prefixForest([tokenPair(prompt, prompt, [20, 21])]);
    const left = { first: new Set(outside.first), padding: new Set(outside.padding) };
    const dictionaries = new Map([[site, coordinates(site, 2)]]);
    const without = [{ site, feature: 0, factor: 0, value: 0 }];
    const [m] = await intervenedMetrics({ loaded: toy.loaded, forest, dictionaries, outside: left }, [without]);
    return m![0];
  };

  it("is that of the plain model where the prompt ends with padding, or is BOS alone", async () => {
    expect(await metric([1, 5], {})).toBeCloseTo(Math.SQRT2, 5);
    expect(await metric([1, 5], { padding: [5] })).toBeCloseTo(0, 5);
    expect(await metric([5], { first: [5] })).toBeCloseTo(0, 5);
    // Further on the token of BOS is a word like others.
    expect(await metric([1, 5], { first: [5] })).toBeCloseTo(Math.SQRT2, 5);
  });
});

it("the share of a model from a site on counts a block in full that has work left to do, and none whose output is the site", () => {
  const { model } = toyModel([[1, 0]], new Map(), 4);
  const shares = ["embed", "attn_z.0", "mlp_out.0", "resid_post.0", "attn_out.3", "resid_post.3"].map((name) =>
    shareFrom(model, name),
  );
  expect(shares).toEqual([1, 1, 1, 3 / 4, 1 / 4, 0]);
});
