import { afterAll, describe, expect, it } from "vitest";
import { openFolder } from "../src/bytes/file.node.ts";
import { type Capture, capture } from "../src/capture/capture.ts";
import { readingHooks } from "../src/capture/hooks.ts";
import { openRunner } from "../src/capture/run.ts";
import type { Runner } from "../src/capture/runner.ts";
import { codeReader } from "../src/dictionaries/encode.ts";
import { analyticEffects } from "../src/effects/analytic.ts";
import { cutForest, type Merge, prefixForest } from "../src/forest/forest.ts";
import { type PlanOptions, planCapture } from "../src/forest/packs.ts";
import { modelFromConfig } from "../src/models/architectures.ts";
import { openCheckpoint } from "../src/models/checkpoint.ts";
import { heldWeights, loadedModel } from "../src/models/weights.ts";
import type { Split, TokenPair } from "../src/prompts/pairs.ts";
import { Random } from "../src/random.ts";
import { randomDictionary } from "./random-dictionary.ts";

const seed = "20261122";
const fixtures = new URL("fixtures/", import.meta.url).pathname;

function pair(
  clean: number[],
  patch: number[],
  answers: [number, number],
  kase = "a",
  split: Split = "train",
): TokenPair {
  const prefixes = { clean_prefix: clean.join(" "), patch_prefix: patch.join(" ") };
  return {
    pair: { ...prefixes, clean_answer: "", patch_answer: "", case: kase, split },
    clean,
    patch,
    cleanAnswer: answers[0],
    patchAnswer: answers[1],
  };
}

/** Prompts drawn from few tokens, so that prefixes coincide, with all of METHOD's hard cases among them. */
function hardPairs(): TokenPair[] {
  const random = new Random(`${seed}/pairs`);
  const pairs: TokenPair[] = [
    // Several patch partners of one clean prompt.
    pair([1, 5, 6, 7], [1, 8, 6, 7], [10, 11]),
    pair([1, 5, 6, 7], [1, 9, 6, 7], [10, 11]),
    pair([1, 5, 6, 7], [1, 5, 8, 7], [10, 11]),
    // A prompt that is a prefix of others, so that an end has children.
    pair([1, 5, 6], [1, 8, 6], [10, 11]),
    pair([1, 5, 6, 7, 7], [1, 8, 6, 7, 9], [12, 10]),
    // Several answer pairs at one end, and the same pair twice.
    pair([1, 5, 6], [1, 8, 6], [12, 13]),
    pair([1, 5, 6], [1, 8, 6], [12, 13]),
    // The same prompts in another case and split.
    pair([1, 5, 6, 7], [1, 8, 6, 7], [10, 11], "b"),
    pair([1, 5, 6, 7], [1, 8, 6, 7], [10, 11], "a", "test"),
    // A patch prompt that is nobody's clean prompt, and another first token.
    pair([2, 5], [2, 9], [10, 12]),
  ];
  for (let i = 0; i < 60; i++) {
    const T = 2 + random.below(6);
    const draw = () => [1, ...Array.from({ length: T - 1 }, () => 4 + random.below(3))];
    pairs.push(pair(draw(), draw(), [10 + random.below(2), 12 + random.below(2)], random.pick(["a", "b"])));
  }
  return pairs;
}

/** A model with its dictionaries, opened once for each type. */
const settings = { float32: open("float32"), float64: open("float64") };

async function open(dtype: "float32" | "float64") {
  const checkpoint = await openCheckpoint(await openFolder(`${fixtures}llama-gqa`));
  const model = modelFromConfig(checkpoint.config, "llama-gqa");
  const weights = await heldWeights(model, checkpoint, dtype);
  await checkpoint.close();
  const sites = ["embed", "attn_z.0", "attn_out.1", "mlp_out.1", "resid_post.0", "resid_post.2"];
  const widths = model.sites as Record<string, number>;
  const dictionaries = sites.map((s) => randomDictionary(s, widths[s.split(".")[0]!]!, 96, seed));
  return { loaded: loadedModel(model, weights, { dtype }), sites, dictionaries, codes: codeReader({ dtype }) };
}

const runners = new Map<string, Runner>();
afterAll(async () => {
  for (const runner of runners.values()) await runner.release();
});

/** Effects summed over nodes with equal split, case, prefixes, feature: comparable between merged, unmerged and separate runs. */
async function effects(
  pairs: readonly TokenPair[],
  {
    merge = "all",
    dtype = "float64",
    ...options
  }: Partial<PlanOptions> & { merge?: Merge; dtype?: "float32" | "float64" } = {},
  sums = new Map<string, number>(),
): Promise<Map<string, number>> {
  const { loaded, sites, dictionaries, codes } = await settings[dtype];
  const forest = prefixForest(pairs, { merge });
  const plan = planCapture(forest, { wanted: "changed", ...options });
  // A session takes longer to make than to run: plans of one type share theirs.
  const runner = runners.get(dtype) ?? openRunner(loaded, { hooks: readingHooks(sites) });
  runners.set(dtype, runner);
  const result: Capture = await capture(loaded, plan, { sites, runner });
  const { backward } = forest;
  const names: string[] = [];
  for (let node = 0; node < backward.size; node++) {
    const parent = backward.parent[node]!;
    const { split, case: kase } = backward.groups[backward.group[node]!]!;
    const prefix = parent < 0 ? `${split}/${kase}` : names[parent];
    names.push(`${prefix} ${backward.token[node]}:${backward.patchToken[node]}`);
  }
  const add = (key: string, value: number) => sums.set(key, (sums.get(key) ?? 0) + value);
  for (const dictionary of dictionaries) {
    const { rows, check } = await analyticEffects(result, dictionary, codes);
    expect(check.gap).toBeLessThanOrEqual(1e-10 * check.scale);
    rows.effect.forEach((effect, i) => {
      add(`${rows.site} ${names[rows.node[i]!]} ${rows.feature[i]}`, effect);
    });
  }
  pairs.forEach((p, i) => {
    const end = forest.endIndexOfPair[i]!;
    add(
      `m ${p.clean} ${p.cleanAnswer} ${p.patchAnswer} ${p.pair.case} ${p.pair.split} ${p.patch}`,
      result.cleanMetric[end]!,
    );
    add(
      `m patch ${p.clean} ${p.cleanAnswer} ${p.patchAnswer} ${p.pair.case} ${p.pair.split} ${p.patch}`,
      result.patchMetric[end]!,
    );
  });
  return sums;
}

/** Largest difference over the largest effect; an effect that is missing counts as 0. */
function gap(a: ReadonlyMap<string, number>, b: ReadonlyMap<string, number>): number {
  let [worst, scale] = [0, 0];
  for (const key of new Set([...a.keys(), ...b.keys()])) {
    worst = Math.max(worst, Math.abs((a.get(key) ?? 0) - (b.get(key) ?? 0)));
    scale = Math.max(scale, Math.abs(b.get(key) ?? 0));
  }
  expect(scale).toBeGreaterThan(0);
  return worst / scale;
}

describe(`effects on the prefix forest, float64, seed ${seed}`, async () => {
  const pairs = hardPairs();
  const separate = new Map<string, number>();
  for (const p of pairs) await effects([p], {}, separate);

  it("equal the sum of every example computed alone", async () => {
    expect(gap(await effects(pairs), separate)).toBeLessThan(1e-9);
  });

  it.each(["forward", "none"] as const)("equal the form that merges %s", async (merge) => {
    expect(gap(await effects(pairs, { merge }), separate)).toBeLessThan(1e-9);
  });

  it.each([
    ["tiles just large enough for the longest prompt", { tileSize: 8 }],
    ["an odd tile size and one tile per pack", { tileSize: 11, nodes: 11 }],
    ["at most three pairs per pack", { batchSize: 3 }],
    ["one pair per pack", { batchSize: 1 }],
    ["forward nodes beside the tiles", { beside: "always" as const }],
    ["forward nodes beside small tiles, several per pack", { beside: "always" as const, tileSize: 11, nodes: 33 }],
  ])("do not depend on the cut: %s", async (_, options) => {
    const { packs } = planCapture(prefixForest(pairs), { wanted: "changed", ...options });
    expect(packs.some(({ beside }) => beside !== undefined)).toBe("beside" in options);
    expect(gap(await effects(pairs, options), separate)).toBeLessThan(1e-9);
  });

  it("do not depend on the order of the pairs", async () => {
    expect(gap(await effects(new Random(seed).shuffled(pairs)), separate)).toBeLessThan(1e-9);
  });

  it("differ if backward nodes were keyed by the clean prefix alone", async () => {
    const oneKey = pairs.map((p) => ({ ...p, patch: pairs.find((q) => `${q.clean}` === `${p.clean}`)!.patch }));
    expect(gap(await effects(oneKey), separate)).toBeGreaterThan(0.01);
  });
});

describe("in float32", () => {
  it("effects equal example by example to 1e-5 of the largest, but for codes that lie at their threshold", async () => {
    const pairs = hardPairs();
    const merged = await effects(pairs, { dtype: "float32" });
    const separate = new Map<string, number>();
    for (const p of pairs) await effects([p], { dtype: "float32" }, separate);
    const scale = Math.max(...[...separate].filter(([key]) => !key.startsWith("m ")).map(([, e]) => Math.abs(e)));
    // A code that rounding moves across its threshold is there in one form and missing in the other, and changes the error of its node.
    const flipped = new Set<string>();
    for (const key of new Set([...merged.keys(), ...separate.keys()])) {
      if (merged.has(key) !== separate.has(key)) flipped.add(key.slice(0, key.lastIndexOf(" ")));
    }
    let [compared, worst] = [0, 0];
    for (const [key, effect] of separate) {
      if (flipped.has(key.slice(0, key.lastIndexOf(" ")))) continue;
      compared++;
      if (!key.startsWith("m ")) worst = Math.max(worst, Math.abs(effect - merged.get(key)!) / scale);
    }
    expect(worst).toBeLessThan(1e-5);
    console.log(`${compared} effects compared, ${flipped.size} nodes with a flipped code left out`);
    expect(flipped.size).toBeLessThanOrEqual(1e-3 * compared);
  });
});

describe("the prefix forest", () => {
  it("counts nodes and pairs of a worked example", () => {
    const forest = prefixForest([
      pair([1, 5, 6], [1, 8, 6], [10, 11]),
      pair([1, 8, 6], [1, 5, 6], [11, 10]),
      pair([1, 5, 6], [1, 8, 6], [12, 13]),
    ]);
    expect(forest.forward.size).toBe(5);
    expect(forest.backward.size).toBe(5);
    expect([...forest.backward.weight]).toEqual([3, 2, 2, 1, 1]);
    expect(forest.ends.map((e) => [e.node, e.cleanAnswer, e.weight])).toEqual([
      [2, 10, 1],
      [4, 11, 1],
      [2, 12, 1],
    ]);
    expect([...forest.backward.clean]).toEqual([0, 1, 3, 2, 4]);
    expect([...forest.backward.patch]).toEqual([0, 2, 4, 1, 3]);
    // Every patch prompt is a clean prompt, so one backward pack does it all.
    const { packs } = planCapture(forest, { wanted: "changed" });
    expect(packs.map((p) => p.kind)).toEqual(["backward"]);
  });

  it("keeps cases apart: one that shares all prompts with another has backward nodes of its own", () => {
    const forest = prefixForest([pair([1, 5], [1, 8], [10, 11], "a"), pair([1, 5], [1, 8], [10, 11], "b")]);
    expect([forest.forward.size, forest.backward.size]).toEqual([3, 4]);
  });

  it.each([1, 2, 3, 7])("is cut and packed so that at most %i pairs end in a tile and in a pack", (batchSize) => {
    // Thirty pairs of three cases, with shared prefixes; no two pairs end at one node.
    const pairs = Array.from({ length: 30 }, (_, i) =>
      pair([1, 5 + (i % 4), 20 + i], [1, 9, 20 + i], [10, 11], `case ${i % 3}`),
    );
    const forest = prefixForest(pairs);
    const ends = new Set(forest.ends.map(({ node }) => node));
    const load = (node: number) => (ends.has(node) ? 1 : 0);
    const tiles = cutForest(forest.backward, 64, { load, maxLoad: batchSize });
    const ending = tiles.map(({ nodes, owned }) => nodes.reduce((sum, node, i) => sum + owned[i]! * load(node), 0));
    expect(Math.max(...ending)).toBe(batchSize);
    expect(ending.reduce((a, b) => a + b, 0)).toBe(30);
    const { packs } = planCapture(forest, { wanted: "changed", batchSize });
    const weights = packs.map(({ metric }) => metric.weight.reduce((a, b) => a + b, 0));
    expect(Math.max(...weights)).toBeLessThanOrEqual(batchSize);
    expect(weights.reduce((a, b) => a + b, 0)).toBe(30);
  });

  it("is cut into tiles in which every node has its ancestors and belongs to one tile", () => {
    const { forward } = prefixForest(hardPairs());
    for (const budget of [8, 9, 13, 64]) {
      const owner = new Int32Array(forward.size);
      for (const { nodes, parent, owned } of cutForest(forward, budget)) {
        expect(nodes.length).toBeLessThanOrEqual(budget);
        nodes.forEach((node, i) => {
          expect(parent[i] === -1 ? -1 : nodes[parent[i]!]).toBe(forward.parent[node]);
          expect(parent[i]!).toBeLessThan(i);
          owner[node]! += owned[i]!;
        });
      }
      expect([...owner]).toEqual(Array(forward.size).fill(1));
    }
  });
});
