import { describe, expect, it } from "vitest";
import { openFolder } from "../src/bytes/file.node.ts";
import { codeReader } from "../src/dictionaries/encode.ts";
import { StoppedError } from "../src/errors.ts";
import { ablationBase, evaluationForest, type Features, readActivations } from "../src/interventions/ablation.ts";
import {
  bySite,
  chooseAbove,
  chooseCovering,
  chooseTop,
  type ScoresBySite,
  sizeOf,
} from "../src/interventions/choose.ts";
import { evaluateSubsets } from "../src/interventions/evaluate.ts";
import { halvesOf, learnOnHalves } from "../src/interventions/mask-halves.ts";
import {
  type MaskState,
  type MaskStates,
  maskStateSchema,
  maskStatesSchema,
} from "../src/interventions/mask-states.ts";
import { chooseByMasks, evenMasks, learnMasks, type Masks, openMaskLoss } from "../src/interventions/masks.ts";
import { openCheckpoint } from "../src/models/checkpoint.ts";
import { fittedModel } from "../src/models/fitted.ts";
import { heldWeights, loadedModel, streamedWeights } from "../src/models/weights.ts";
import type { TokenPair } from "../src/prompts/pairs.ts";
import { Random } from "../src/random.ts";
import { parseSite, type SiteName } from "../src/site.ts";
import { randomDictionary } from "./random-dictionary.ts";

const seed = "masks";
const sites: SiteName[] = ["resid_post.0", "mlp_out.1", "resid_post.1"];
const picked: Features = new Map([
  ["resid_post.0", [1, 4, 7, 20, 33]],
  ["resid_post.1", [0, 2, 3, 11, 39]],
]);

function somePairs(): TokenPair[] {
  const random = new Random(seed);
  return Array.from({ length: 6 }, (_, i) => {
    const rest = Array.from({ length: 2 + (i % 2) }, () => 4 + random.below(3));
    const texts = { clean_prefix: "", patch_prefix: "", clean_answer: "", patch_answer: "" };
    return {
      pair: { ...texts, case: i < 3 ? "a" : "b", split: "train" as const },
      clean: [1, 8 + (i % 3), ...rest],
      patch: [1, 11 + (i % 2), ...rest],
      cleanAnswer: 20,
      patchAnswer: 22 + (i % 3),
    };
  });
}

/** A random model in float64 with dictionaries of one kind, and the base of a mean ablation over them. */
async function open(name: string, kind: "relu" | "jumprelu" | "topk", weights: "held" | "streamed" = "held") {
  const checkpoint = await openCheckpoint(await openFolder(new URL(`fixtures/${name}`, import.meta.url).pathname));
  const { model } = await fittedModel(checkpoint);
  const loaded = loadedModel(
    model,
    weights === "held" ? await heldWeights(model, checkpoint, "float64") : streamedWeights(checkpoint),
    { dtype: "float64" },
  );
  const dictionaries = new Map(
    sites.map((site) => [
      site,
      randomDictionary(site, model.sites[parseSite(site).kind]!, 40, seed, { kind, threshold: 0.1 }),
    ]),
  );
  const forest = evaluationForest(somePairs());
  const codes = codeReader(loaded);
  const activations = await readActivations(loaded, forest, sites);
  const base = await ablationBase(activations, dictionaries, codes, picked, { values: "mean", errors: "ablated" });
  await codes.release();
  const setting = { loaded, forest, dictionaries, outside: { first: new Set([1]), padding: new Set<number>() } };
  return { setting, base, target: activations.cleanMetric, close: () => checkpoint.close() };
}

describe(`masks (seed ${seed})`, () => {
  it.each([
    ["gemma2", "jumprelu"],
    ["gpt2", "topk"],
    ["llama-gqa", "relu"],
  ] as const)("of %s with %s: the gradient is what central differences of the loss give", async (name, kind) => {
    const { setting, base, target, close } = await open(name, kind);
    const loss = await openMaskLoss(setting, base, target);
    const random = new Random(`${seed}/${name}`);
    const masks = new Map([...evenMasks(base, 0)].map(([site, w]) => [site, w.map(() => random.uniform())]));
    const { gradient } = await loss.at(masks);
    const largest = Math.max(...[...gradient.values()].flatMap((g) => [...g].map(Math.abs)));
    expect(largest).toBeGreaterThan(1e-3);
    for (const [site, w] of masks) {
      for (const i of w.keys()) {
        const h = 1e-5;
        const at = async (by: number) => {
          const moved = new Map([...masks, [site, w.map((value, j) => value + (i === j ? by : 0))]]);
          return (await loss.at(moved)).loss;
        };
        const difference = ((await at(h)) - (await at(-h))) / (2 * h);
        expect(Math.abs(gradient.get(site)![i]! - difference) / largest, `${site} ${i}`).toBeLessThan(1e-6);
      }
    }
    await loss.release();
    await close();
  });

  it("of 0 and 1 are a circuit: its loss is that of the circuit's evaluation, held and streamed", async () => {
    const chosen: Features = new Map([
      ["resid_post.0", [4, 20]],
      ["resid_post.1", [0, 11, 39]],
    ]);
    for (const weights of ["held", "streamed"] as const) {
      const { setting, base, target, close } = await open("llama-gqa", "jumprelu", weights);
      const masks: Masks = new Map(
        [...picked].map(([site, all]) => [
          site,
          Float64Array.from(all, (f) => (chosen.get(site)!.includes(f) ? 1 : 0)),
        ]),
      );
      const loss = await openMaskLoss(setting, base, target);
      const [m] = await evaluateSubsets(setting, base, [{ kind: "circuit", features: chosen }]);
      let [missed, all] = [0, 0];
      setting.forest.ends.forEach(({ weight }, end) => {
        missed += weight * (m![end]! - target[end]!) ** 2;
        all += weight * target[end]! ** 2;
      });
      expect((await loss.at(masks)).loss).toBeCloseTo(missed / all, 10);
      await loss.release();
      await close();
    }
  });

  it("are learned: the loss falls below that of all features, a high price leaves few of them, and the same comes out again", async () => {
    const { setting, base, target, close } = await open("llama-gqa", "jumprelu");
    const loss = await openMaskLoss(setting, base, target);
    const options = { prices: [0, 0.5], stepsPerPrice: 30 };
    const stages = await learnMasks(setting, base, target, options);
    const whole = (await loss.at(evenMasks(base, 1))).loss;
    expect((await loss.at(stages[0]!.masks)).loss).toBeLessThan(whole);
    const kept = (masks: Masks) => [...masks.values()].reduce((sum, w) => sum + w.reduce((a, b) => a + b, 0), 0);
    expect(kept(stages[1]!.masks)).toBeLessThan(kept(stages[0]!.masks));
    for (const { masks } of stages)
      for (const w of masks.values()) for (const v of w) expect(v >= 0 && v <= 1).toBe(true);
    expect(await learnMasks(setting, base, target, options)).toEqual(stages);
    const chosen = await chooseByMasks(setting, base, stages, target, [2, 5]);
    expect(chosen.map(sizeOf)).toEqual([2, 5]);
    await loss.release();
    await close();
  });
});

describe(`masks learned on halves of the words (seed ${seed})`, () => {
  /** Two pairs of each word. */
  const manyPairs = (words: number): TokenPair[] =>
    Array.from({ length: 2 * words }, (_, i) => {
      const [pair] = somePairs();
      const rest = [4 + (i % 3)];
      return { ...pair!, clean: [1, 6 + (i >> 1), ...rest], patch: [1, 6 + words + (i >> 1), ...rest] };
    });

  it("have both pairs of half of the words, others in each half, the same ones again; few words are not halved", () => {
    const pairs = manyPairs(9);
    const halves = halvesOf(pairs, 4);
    for (const half of halves) {
      const words = new Map<number, number>();
      for (const { clean } of half) words.set(clean[1]!, (words.get(clean[1]!) ?? 0) + 1);
      expect([...words.values()]).toEqual([2, 2, 2, 2, 2]);
    }
    expect(new Set(halves.map((half) => half.map(({ clean }) => clean[1]).join())).size).toBe(4);
    expect(halvesOf(pairs, 4)).toEqual(halves);
    expect(halvesOf(manyPairs(7), 4)).toEqual([manyPairs(7)]);
  });

  it("are means over the halves, stage by stage", async () => {
    const { setting, close } = await open("llama-gqa", "jumprelu");
    const kind = { values: "mean", errors: "ablated" } as const;
    const options = { prices: [0, 0.1], stepsPerPrice: 4 };
    const pairs = manyPairs(8);
    const codes = codeReader(setting.loaded);
    const found = await learnOnHalves(setting, pairs, picked, kind, codes, { ...options, halves: 2 });
    const apart = [];
    for (const half of halvesOf(pairs, 2)) {
      const forest = evaluationForest(half);
      const activations = await readActivations(setting.loaded, forest, sites);
      const base = await ablationBase(activations, setting.dictionaries, codes, picked, kind);
      apart.push(await learnMasks({ ...setting, forest }, base, activations.cleanMetric, options));
    }
    for (const [stage, { price, loss, masks }] of found.entries()) {
      const [a, b] = [apart[0]![stage]!, apart[1]![stage]!];
      expect(price).toBe(a.price);
      expect(loss).toBeCloseTo((a.loss + b.loss) / 2, 12);
      for (const [site, w] of masks) {
        w.forEach((value, i) => {
          expect(value).toBeCloseTo((a.masks.get(site)![i]! + b.masks.get(site)![i]!) / 2, 12);
        });
      }
    }
    expect(apart[0]).not.toEqual(apart[1]);
    await codes.release();
    await close();
  });
});

describe(`masks that were interrupted (seed ${seed})`, () => {
  const options = { prices: [0, 0.1], stepsPerPrice: 4 };

  it("go on from the state after any step to the same numbers, by way of its JSON", async () => {
    const { setting, base, target, close } = await open("llama-gqa", "jumprelu");
    const states: MaskState[] = [];
    const onStep = async (_done: number, state: () => MaskState) => {
      states.push(maskStateSchema.parse(JSON.parse(JSON.stringify(state()))));
    };
    const whole = await learnMasks(setting, base, target, { ...options, onStep });
    expect(states.map(({ steps }) => steps)).toEqual([1, 2, 3, 4, 5, 6, 7, 8]);
    for (const state of states) expect(await learnMasks(setting, base, target, { ...options, state })).toEqual(whole);
    await close();
  });

  it("keep halves that are done and the steps of the one in the middle; those of other candidates start over", async () => {
    const { setting, close } = await open("llama-gqa", "jumprelu");
    const kind = { values: "mean", errors: "ablated" } as const;
    const many = Array.from({ length: 8 }, (_, i) => ({
      ...somePairs()[0]!,
      clean: [1, 6 + i, 4],
      patch: [1, 20 + i, 4],
    }));
    const codes = codeReader(setting.loaded);
    let written: MaskStates | undefined;
    const resumed: [number, number][] = [];
    const places = {
      read: async () => written,
      write: async (states: MaskStates) => {
        written = maskStatesSchema.parse(JSON.parse(JSON.stringify(states)));
      },
    };
    const all = { ...options, halves: 2, places, onResume: (...told: [number, number]) => resumed.push(told) };
    const learn = (features: Features, watch = {}) => learnOnHalves(setting, many, features, kind, codes, all, watch);
    const plain = await learnOnHalves(setting, many, picked, kind, codes, { ...options, halves: 2 });
    // Stopped in the second half: what is written then is the end of the first.
    let steps = 0;
    const stopping = { stopped: () => steps >= 11, onProgress: () => steps++ };
    await expect(learn(picked, stopping)).rejects.toThrow(StoppedError);
    expect(written!.parts.map((part) => part.steps)).toEqual([8]);
    expect(await learn(picked)).toEqual(plain);
    expect(resumed).toEqual([[8, 16]]);
    expect(await learn(picked)).toEqual(plain);
    expect(resumed).toEqual([
      [8, 16],
      [16, 16],
    ]);
    await learn(new Map([...picked].slice(0, 1)));
    expect(resumed).toHaveLength(2);
    await codes.release();
    await close();
  });
});

describe("choosing features", () => {
  const scores: ScoresBySite = new Map([
    ["resid_post.0", { features: [3, 5, 9], scores: [4, -1, 0] }],
    ["resid_post.1", { features: [2, 7, 8], scores: [-0.5, 0.4, 0.1] }],
  ]);

  it("takes those of the largest |score|, or above a threshold; a score of 0 is never taken", () => {
    expect([...chooseTop(scores, 3)]).toEqual([
      ["resid_post.0", [3, 5]],
      ["resid_post.1", [2]],
    ]);
    expect(chooseAbove(scores, 0.4)).toEqual(
      bySite([
        { site: "resid_post.0", feature: 3 },
        { site: "resid_post.0", feature: 5 },
        { site: "resid_post.1", feature: 2 },
        { site: "resid_post.1", feature: 7 },
      ]),
    );
    expect(sizeOf(chooseTop(scores, 100))).toBe(5);
  });

  it("covers sites alike: 80 % of one site are taken at once, so the other catches up first", () => {
    expect(chooseCovering(scores, 3)).toEqual(
      bySite([
        { site: "resid_post.0", feature: 3 },
        { site: "resid_post.1", feature: 2 },
        { site: "resid_post.1", feature: 7 },
      ]),
    );
    expect(sizeOf(chooseCovering(scores, 100))).toBe(5);
  });
});
