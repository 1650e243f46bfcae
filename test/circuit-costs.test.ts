import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openFolder } from "../src/bytes/file.node.ts";
import { passWork, type Running } from "../src/capture/cost.ts";
import { tileSizeOf } from "../src/capture/pack-inputs.ts";
import { inTurn, workOf } from "../src/capture/work.ts";
import { edgesWork } from "../src/circuit/cost.ts";
import { prefixForest } from "../src/forest/forest.ts";
import { evaluationForest } from "../src/interventions/ablation.ts";
import { maskScoresWork, masksWork, subsetsWork } from "../src/interventions/cost.ts";
import { forwardPacks } from "../src/interventions/evaluate.ts";
import { type Checkpoint, openCheckpoint } from "../src/models/checkpoint.ts";
import { fittedModel } from "../src/models/fitted.ts";
import type { TokenPair } from "../src/prompts/pairs.ts";
import type { SiteName } from "../src/site.ts";
import { randomDictionary } from "./random-dictionary.ts";

/** Two blocks of width 32: what one token takes in the matrices of attention and of the MLP of one block, and for each token attended to. */
const [D, M, L] = [32, 56, 2];
const [attention, mlp, seen] = [2 * 4 * D * D, 2 * 3 * D * M, 4 * D];
const F = 40;

let checkpoint: Checkpoint;
let held: Running;
beforeAll(async () => {
  checkpoint = await openCheckpoint(await openFolder(new URL("fixtures/llama-mha", import.meta.url).pathname));
  const { model } = await fittedModel(checkpoint);
  held = { model, weights: "held", storedType: checkpoint.storedType, number: 4 };
});
afterAll(() => checkpoint.close());

const sites: SiteName[] = ["resid_post.0", "resid_post.1"];
const dictionaries = new Map(sites.map((site) => [site, randomDictionary(site, D, F, "costs", { kind: "jumprelu" })]));
/** The second of four tokens differs, so that three nodes change. */
const pair: TokenPair = {
  pair: { clean_prefix: "", patch_prefix: "", clean_answer: "", patch_answer: "", case: "a", split: "train" },
  clean: [1, 8, 5, 6],
  patch: [1, 9, 5, 6],
  cleanAnswer: 20,
  patchAnswer: 21,
};

describe("what circuits take, worked out by hand", () => {
  it("passes: rows with padding, and attention to all rows of a tile; the way back once more, twice for attention", () => {
    const packs = forwardPacks(evaluationForest([pair]));
    const rows = packs.reduce((sum, { tokens }) => sum + tokens.length, 0);
    expect([rows, tileSizeOf(packs[0]!)]).toEqual([8, 8]);
    const linear = L * (attention + mlp);
    const dense = 8 * L * seen;
    expect(passWork(held, packs, sites, { times: 3 })).toMatchObject({ passes: 3 * 8 * (linear + dense), read: 0 });
    expect(passWork(held, packs, sites, { back: true }).passes).toBe(8 * (2 * linear + 3 * dense));
    const streamed = passWork({ ...held, weights: "streamed" }, packs, sites, { back: true });
    expect(streamed.passes).toBe(8 * (3 * linear + 4 * dense));
    // Stored in float32; all matrices and two norms per block, forward and back.
    expect(streamed.read).toBe(2 * 4 * L * (4 * D * D + 3 * D * M + 2 * D));
  });

  it("evaluations: a forward pass for each circuit, whole dictionaries where all features count", () => {
    const forest = evaluationForest([pair]);
    // The first site lies behind the first of two layers.
    const pass = (8 * L * (attention + mlp + 8 * seen)) / 2;
    const work = subsetsWork(held, forest, dictionaries, { own: 4, whole: 1 });
    expect(work.passes).toBe(5 * pass);
    // Eight rows are encoded and decoded at two sites; encoders are read for both kinds, decoders for one, with its encoder again.
    expect(work.codes).toBe(2 * 8 * (2 * D * F) * 2);
    expect(work.dictionaries).toBe(2 * (2 * D * F) + 2 * (2 * D * F));
  });

  it("masks: 60 gradients and 5 circuits for each size; scores on the way from ablation take 5 gradients", () => {
    const forest = evaluationForest([pair]);
    const [linear, dense] = [L * (attention + mlp), 8 * L * seen];
    const back = 8 * (2 * linear + 3 * dense);
    const masks = masksWork(held, forest, dictionaries, 30, 2);
    expect(masks.gradients).toBe(60);
    expect(masks.passes).toBe((60 * back + 5 * 2 * 8 * (linear + dense)) / 2);
    expect(maskScoresWork(held, forest, dictionaries).passes).toBe(5 * back);
  });

  it("from the residual stream on: the layers before the first site are not run again", () => {
    const forest = evaluationForest([pair]);
    const last = new Map([...dictionaries].slice(1));
    const half = 8 * L * (attention + mlp + 8 * seen);
    expect(subsetsWork(held, forest, last, { own: 4, whole: 0 }).passes).toBe(0 * half);
    expect(subsetsWork(held, forest, dictionaries, { own: 4, whole: 0 }).passes).toBe((4 * half) / 2);
  });

  it("edges: each sublayer forward for every node, and a product with it for every node of a target, of the error and of the site", () => {
    const forest = prefixForest([pair]);
    const nodes = new Map<SiteName, number>([
      ["resid_post.0", 4],
      ["resid_post.1", 2],
    ]);
    const features = new Map(sites.map((site) => [site, 2]));
    const edges = (kind: "gradient" | "secant") =>
      edgesWork(held, forest, dictionaries, features, { jacobian: kind, nodes });
    // Below the last layer three nodes change, in it the end alone; each way leads through an MLP and attention.
    const [lower, upper] = [4 + 2 * 3, 2 + 2 * 1];
    expect(edges("gradient").vectors).toBe(2 * (lower + upper));
    expect(edges("secant").vectors).toBe(2 * (lower + upper));
    // Attention takes features' nodes with what comes before them: nodes have three tokens in the mean, so half of two more.
    const trees = 4 * 2 + 2 * 3 + (2 * 2 + 2 * 1);
    // Nodes go forward at each of the points: through the MLP those that change, through attention all four. Rows only back, all points together.
    for (const [kind, points] of [["gradient", 1] as const, ["secant", 4] as const]) {
      const [inMlp, inAttention] = [points * (3 + 1), points * (4 + 4)];
      expect(edges(kind).passes).toBeCloseTo((inMlp + lower + upper) * mlp + (inAttention + trees) * attention, 3);
    }
    expect(edges("secant").products).toBeGreaterThan(edges("gradient").products);
  });

  it("steps in turn: work adds up, the memory is that of the largest and of what is kept", () => {
    const steps = [workOf({ passes: 1, memory: 5 }), workOf({ passes: 2, read: 3, memory: 4 })];
    expect(inTurn(steps, 10)).toEqual(workOf({ passes: 3, read: 3, memory: 15 }));
  });
});
