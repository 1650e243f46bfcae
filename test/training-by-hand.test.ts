import { describe, expect, it } from "vitest";
import { accuracyByCase } from "../src/training/accuracy.ts";
import { type ActivationSource, Moments, sinkLimit, withoutFirst, withoutSinks } from "../src/training/activations.ts";
import { evaluateDictionaries } from "../src/training/evaluate.ts";
import { meanLoss } from "../src/training/loss.ts";
import { type DictionaryProgress, type DictionaryRecipe, trainDictionaries } from "../src/training/sae.ts";
import type { TextSource } from "../src/training/text.ts";
import { handDictionary, tokenPair, toyModel } from "./toy-model.ts";

const site = "resid_post.0";
const oneThread = { threads: 1 };

describe("activations", () => {
  it("of attention sinks are those more than 20 times as long as the median", () => {
    // Lengths 1, 1, 1, 19, 21: the median is 1.
    const x = Float32Array.of(1, 0, 0, 1, 0.6, 0.8, 19, 0, 0, 21);
    expect(sinkLimit(x, 2)).toBeCloseTo(20, 5);
    expect([...withoutSinks(x, 2, sinkLimit(x, 2))]).toEqual([...x.subarray(0, 8)]);
  });

  it("come without the first of each row", () => {
    expect([...withoutFirst(Float32Array.of(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11), 2, 3)]).toEqual([
      2, 3, 4, 5, 8, 9, 10, 11,
    ]);
  });

  it("have a mean, and a deviation around it", () => {
    const moments = new Moments(2);
    moments.add(Float32Array.of(1, 10, 3, 10));
    moments.add(Float32Array.of(5, 16));
    // Means 3 and 12; squares of what is left: 4 + 0 + 4 and 4 + 4 + 16, over six numbers.
    expect(moments.rows).toBe(3);
    expect([...moments.mean()]).toEqual([3, 12]);
    expect(moments.variation()).toBeCloseTo(32, 10);
    expect(moments.scale().deviation).toBeCloseTo(Math.sqrt(32 / 6), 10);
  });
});

describe("an SAE in training", () => {
  /** The same activations in every batch, ±1 in two of four directions: mean 0, and half of the numbers have square 1. */
  const rows = [1, 0, 0, 0, -1, 0, 0, 0, 0, 1, 0, 0, 0, -1, 0, 0];
  const source = (x: readonly number[], mean = 0, deviation = 1): ActivationSource => ({
    sites: [{ site, width: 4 }],
    scales: async () => new Map([[site, { mean: new Float32Array(4).fill(mean), deviation }]]),
    batch: async () => new Map([[site, Float32Array.from(x)]]),
    close: async () => {},
  });
  const recipe: DictionaryRecipe = { seed: 1, expansion: 8, steps: 120, activeFeatures: 1, learningRate: 0.01 };
  const train = async (of: ActivationSource, changes: Partial<DictionaryRecipe> = {}) => {
    const steps: DictionaryProgress[] = [];
    const [sae] = await trainDictionaries(of, { ...recipe, ...changes }, (step) => steps.push(step), oneThread);
    return { sae: sae!, steps };
  };
  const lengths = (decoder: Float32Array) =>
    Array.from({ length: decoder.length / 4 }, (_, i) => Math.hypot(...decoder.subarray(4 * i, 4 * i + 4)));

  it("has decoder rows of length 1, at first and after steps that change them", async () => {
    const [{ sae: first }, { sae: later }] = [await train(source(rows), { steps: 0 }), await train(source(rows))];
    const change = later.decoder.map((d, i) => Math.abs(d - first.decoder[i]!));
    expect(Math.max(...change)).toBeGreaterThan(0.1);
    for (const length of [...lengths(first.decoder), ...lengths(later.decoder)]) expect(length).toBeCloseTo(1, 5);
  });

  it("wakes features that are never among the largest: their biases rise after 30 steps until they are", async () => {
    // Each of the four rows keeps one code, so that at most four of 32 features are active at first.
    const before = await train(source(rows), { steps: 29 });
    const after = await train(source(rows), { steps: 40 });
    const raised = (biases: Float32Array) => biases.filter((b) => b > 0).length;
    expect(before.steps.map(({ silent }) => silent)).toEqual(Array(29).fill(0));
    expect(after.steps[29]!.silent).toBeGreaterThanOrEqual(28);
    // Gradients reach the active features alone: a bias of another one moves by waking alone, by the same for all.
    const silent = after.sae.encoderBias.filter((b) => b > 0.02);
    expect(raised(before.sae.encoderBias)).toBeLessThanOrEqual(4);
    expect(silent.length).toBeGreaterThanOrEqual(24);
    const long = await train(source(rows));
    expect(Math.min(...long.steps.map(({ silent }) => silent).slice(90))).toBeLessThan(20);
  });

  it("is that of the activations as they are: shifted and scaled ones give the same SAE, shifted and scaled", async () => {
    const [plain, other] = [
      await train(source(rows)),
      await train(
        source(
          rows.map((x) => 3 * x + 5),
          5,
          3,
        ),
      ),
    ];
    plain.sae.decoder.forEach((d, i) => {
      expect(other.sae.decoder[i]).toBeCloseTo(d, 4);
    });
    // z of 3x + 5 is 3 times that of x.
    const z = ({ encoder, encoderBias }: typeof plain.sae, x: readonly number[]) =>
      Array.from(encoderBias, (b, i) => x.reduce((sum, value, d) => sum + value * encoder[32 * d + i]!, b));
    const [small, large] = [z(plain.sae, [1, 0, 0, 0]), z(other.sae, [8, 5, 5, 5])];
    small.forEach((value, i) => {
      expect(large[i]).toBeCloseTo(3 * value, 3);
    });
    expect(other.sae.threshold[0]).toBeCloseTo(3 * plain.sae.threshold[0]!, 4);
    other.sae.decoderBias.forEach((b, d) => {
      expect(b).toBeCloseTo(3 * plain.sae.decoderBias[d]! + 5, 4);
    });
  });
});

describe("a language model, measured on one whose blocks add nothing", () => {
  // Tokens 1 and 2 say 4, token 3 says 5; the logits are 1 and 0 times √2, since x / √mean(x²) = √2·x for a unit vector of two numbers.
  const toy = toyModel(
    [
      [1, 1],
      [1, 0],
      [1, 0],
      [0, 1],
      [1, 1],
      [1, 1],
    ],
    new Map([
      [4, [1, 0]],
      [5, [0, 1]],
    ]),
    1,
  );

  it("prefers the right answer in so many pairs of each case, whatever their length", async () => {
    const pairs = [
      tokenPair([0, 1], [0, 3], [4, 5], { case: "one" }),
      tokenPair([0, 3, 2], [0, 3, 3], [4, 5], { case: "one" }),
      tokenPair([0, 3], [0, 2], [4, 5], { case: "one" }),
      tokenPair([0, 1, 3], [0, 1, 1], [5, 4], { case: "two" }),
      // Neither answer: equal logits are not right.
      tokenPair([0, 1], [0, 3], [1, 2], { case: "two" }),
    ];
    expect(await accuracyByCase(toy.model, toy.weights, pairs, oneThread)).toEqual([
      { case: "one", pairs: 3, correct: 2 },
      { case: "two", pairs: 2, correct: 1 },
    ]);
  });

  it("has the mean of −log p of the next token", async () => {
    // After 1: 4, then after 4: 0. After 3: 5, then after 5: 4. Rows of three tokens, of which the first two are read.
    const rows = { count: 2, length: 2, tokens: Int32Array.of(1, 4, 0, 3, 5, 4) };
    const said = Math.log(Math.exp(Math.SQRT2) + 5) - Math.SQRT2;
    // Tokens 4 and 5 are (1, 1): mean square 1, logits 1 and 1.
    const both = Math.log(2 * Math.E + 4);
    const expected = (2 * said + both + (both - 1)) / 4;
    expect(await meanLoss(toy.model, toy.weights, rows, oneThread)).toBeCloseTo(expected, 5);
  });
});

describe("an SAE, measured on a model whose blocks add nothing", () => {
  it("counts ordinary tokens alone, and leaves the first of a row and attention sinks as they are", async () => {
    // Tokens: 0 BOS; 1 and 2 unit vectors; 3 an attention sink, more than twenty times as long. Every row reads 0 1 2 3 and is to predict 1 2 3 4.
    const toy = toyModel(
      [
        [1, 1],
        [1, 0],
        [0, 1],
        [100, 100],
        [1, 1],
        [1, 1],
      ],
      new Map([
        [4, [1, 0]],
        [5, [0, 1]],
      ]),
      1,
    );
    const text: TextSource = {
      rows: (_, count, length) => ({ count, length, tokens: Int32Array.from({ length: 5 * count }, (_, i) => i % 5) }),
      distinct: () => Number.POSITIVE_INFINITY,
    };
    // Two features that are the coordinates, two that are never on, and one that is on at the sink alone. It gives back nothing.
    const weight = Float32Array.of(1, 0, -1, -1, 1, 0, 1, -1, 0, 1);
    const sae = {
      ...handDictionary(site, weight, new Float32Array(5 * 2), 2),
      encoder: async () => ({
        weight,
        bias: Float32Array.of(0, 0, 0, 0, -3),
        activation: { kind: "relu" as const },
      }),
    };
    const [quality] = await evaluateDictionaries(toy.model, toy.weights, [sae], text, 4, 48, undefined, oneThread);
    // Around the mean (½, ½) the two ordinary tokens have ½ each; nothing given back leaves 1 each.
    expect(quality).toMatchObject({ features: 5, tokens: 48, activeFeatures: 1, silent: 3 / 5, varianceExplained: -1 });
    const sink = Math.log(2 * Math.E + 4) - 1;
    const mean = (each: number) => (2 * each + sink) / 3;
    expect(quality!.loss).toBeCloseTo(mean(Math.log(Math.exp(Math.SQRT2) + 5)), 5);
    expect(quality!.lossReconstructed).toBeCloseTo(mean(Math.log(6)), 5);
    expect(quality!.lossAblated).toBeCloseTo(mean(Math.log(2 * Math.E + 4)), 5);
    const [all, left] = [Math.log(2 * Math.E + 4), Math.log(2 * Math.E + 4) - Math.log(6)];
    expect(quality!.lossRecovered).toBeCloseTo(left / (all - Math.log(Math.exp(Math.SQRT2) + 5)), 3);
  });
});
