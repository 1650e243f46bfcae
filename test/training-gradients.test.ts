import { readFile } from "node:fs/promises";
import { describe, expect, it } from "vitest";
import { openFile, openFolder } from "../src/bytes/file.node.ts";
import { openSafetensors } from "../src/bytes/safetensors.ts";
import { compile, type Value } from "../src/graph/session.ts";
import { modelFromConfig } from "../src/models/architectures.ts";
import { openCheckpoint } from "../src/models/checkpoint.ts";
import { Random } from "../src/random.ts";
import { Adam, cosineSchedule } from "../src/training/adam.ts";
import { compileLoss, lossGraph, type Rows, rowContext, targetValues } from "../src/training/loss.ts";
import { gradientName, initialise, layoutOf, parameterValues } from "../src/training/parameters.ts";
import { dictionaryGraph } from "../src/training/sae.ts";

const fixtures = new URL("fixtures/", import.meta.url).pathname;

/** From torch and transformers in float64 (test/oracles/make_training.py). */
interface Expected {
  readonly loss: { readonly model: string; readonly length: number; readonly rows: number[][]; readonly loss: number };
  readonly adam: {
    readonly beta1: number;
    readonly beta2: number;
    readonly decay: number;
    readonly decayed: [number, number][];
    readonly steps: { readonly weights: number[]; readonly gradient?: number[]; readonly learning_rate?: number }[];
  };
}
const expected = JSON.parse(await readFile(`${fixtures}training/expected.json`, "utf8")) as Expected;

const tiny = {
  model_type: "llama",
  hidden_size: 12,
  intermediate_size: 20,
  num_hidden_layers: 2,
  num_attention_heads: 2,
  num_key_value_heads: 1,
  vocab_size: 17,
  tie_word_embeddings: true,
};

describe("gradients of the loss with respect to every parameter", () => {
  it("are the slopes of the loss (central differences in float64)", async () => {
    const random = new Random("loss gradients");
    const model = modelFromConfig(tiny, "test");
    const layout = layoutOf(model.parameters);
    const [rows, length] = [3, 5];
    const session = await compile(lossGraph(model, layout, length, "float64"), { threads: 1 });
    const flat = Float64Array.from(initialise(layout, model.layers, 0.4, random));
    const text = randomRows(random, rows, length, model.vocabulary);
    const run = (weights: Float64Array) =>
      session.run({
        ...float64Context(text),
        weight: { dtype: "float64", data: Float64Array.of(1 / (rows * length)), shape: [] },
        ...Object.fromEntries(
          layout.entries.map(({ name, shape, offset, size }): [string, Value] => [
            name,
            { dtype: "float64", data: weights.slice(offset, offset + size), shape },
          ]),
        ),
      });
    const lossAt = async (weights: Float64Array) => Number((await run(weights)).loss!.data[0]);
    const results = await run(flat);
    for (const { name, offset, size } of layout.entries) {
      const gradient = results[gradientName(name)]!.data as Float64Array;
      const largest = gradient.reduce((most, g) => Math.max(most, Math.abs(g)), 0);
      expect(largest, name).toBeGreaterThan(0);
      for (let trial = 0; trial < 3; trial++) {
        const i = random.below(size);
        const slope = await centralDifference(lossAt, flat, offset + i, 1e-5);
        expect(Math.abs(gradient[i]! - slope) / largest, `${name}[${i}]`).toBeLessThan(1e-6);
      }
    }
    await session.release();
  });

  it("agree with PyTorch's, and so does the loss", async () => {
    const { model: name, length, rows, loss } = expected.loss;
    const checkpoint = await openCheckpoint(await openFolder(`${fixtures}${name}`));
    const model = modelFromConfig(checkpoint.config, name);
    const layout = layoutOf(model.parameters);
    const flat = new Float32Array(layout.size);
    for (const entry of layout.entries) flat.set(await checkpoint.tensor(entry.name, entry.shape), entry.offset);
    const text = { count: rows.length, length, tokens: Int32Array.from(rows.flat()) };
    const session = await compileLoss(model, layout, length, { threads: 1 });
    const results = await session.run({
      ...rowContext(text),
      targets: targetValues(text),
      weight: { dtype: "float32", data: Float32Array.of(1 / (rows.length * length)), shape: [] },
      ...parameterValues(layout, flat),
    });
    expect(Number(results.loss!.data[0])).toBeCloseTo(loss, 5);
    const oracle = await openSafetensors(await openFile(`${fixtures}training/gradients.safetensors`));
    for (const { name: parameter } of layout.entries) {
      const [ours, theirs] = [results[gradientName(parameter)]!.data as Float32Array, await oracle.read(parameter)];
      const largest = theirs.reduce((most, g) => Math.max(most, Math.abs(g)), 0);
      const gap = ours.reduce((most, g, i) => Math.max(most, Math.abs(g - theirs[i]!)), 0);
      expect(gap / largest, parameter).toBeLessThan(1e-5);
    }
    await session.release();
    await oracle.source.close();
    await checkpoint.close();
  });
});

describe.each([
  ["TopK", true],
  ["JumpReLU", false],
] as const)("gradients of an SAE's error under %s", (_, topk) => {
  it("are its slopes (central differences in float64)", async () => {
    const random = new Random(`dictionary gradients ${topk}`);
    const [N, D, expansion] = [6, 4, 3];
    const F = D * expansion;
    const recipe = { seed: 1, expansion, steps: 1, activeFeatures: 3, learningRate: 1e-3 };
    const session = await compile(dictionaryGraph(D, recipe, topk, "float64"), { threads: 1 });
    const shapes = { W_enc: [D, F], b_enc: [F], W_dec: [F, D], b_dec: [D] } as const;
    const numbers = (n: number) => Float64Array.from({ length: n }, () => random.normal());
    const values = Object.fromEntries(
      Object.entries({ x: [N, D], ...shapes }).map(([name, shape]): [string, Value & { data: Float64Array }] => [
        name,
        { dtype: "float64", data: numbers(shape.reduce((product: number, n) => product * n, 1)), shape },
      ]),
    );
    const scalar = (value: number): Value => ({ dtype: "float64", data: Float64Array.of(value), shape: [] });
    const run = () => session.run({ ...values, threshold: scalar(0.7), weight: scalar(1 / (N * D)) });
    const results = await run();
    const active = results.active!.data as Float64Array;
    if (topk) expect(active.reduce((sum, n) => sum + n, 0)).toBeLessThanOrEqual(3 * N);
    else expect(active.reduce((sum, n) => sum + n, 0)).toBe(Number(results.above!.data[0]));
    for (const name of Object.keys(shapes)) {
      const gradient = results[gradientName(name)]!.data as Float64Array;
      const { data } = values[name]!;
      for (let trial = 0; trial < 4; trial++) {
        const i = random.below(data.length);
        // Small enough that no code crosses the threshold: there the error jumps and has no slope.
        const slope = await centralDifference(async () => Number((await run()).loss!.data[0]), data, i, 1e-6);
        expect(gradient[i]!, `${name}[${i}]`).toBeCloseTo(slope, 7);
      }
    }
    await session.release();
  });
});

describe("AdamW", () => {
  it("makes the steps that torch makes, decay on some weights only", () => {
    const { beta1, beta2, decay, decayed, steps } = expected.adam;
    const weights = Float32Array.from(steps[0]!.weights);
    const adam = new Adam(weights.length, { beta1, beta2, decay, decayed });
    for (const { gradient, learning_rate, weights: after } of steps.slice(1)) {
      // A gradient of twice the size, halved by the factor.
      adam.step(
        weights,
        Float32Array.from(gradient!, (g) => 2 * g),
        learning_rate!,
        0.5,
      );
      after.forEach((w, i) => {
        expect(Math.abs(weights[i]! - w), `weight ${i}`).toBeLessThan(1e-6);
      });
    }
  });

  it("follows a schedule that rises in a line and falls along a cosine", () => {
    const schedule = { steps: 110, warmup: 10, peak: 2 };
    const rates = Array.from({ length: 110 }, (_, step) => cosineSchedule(step, schedule));
    expect(rates[0]).toBeCloseTo(0.2, 12);
    expect(rates[9]).toBeCloseTo(2, 12);
    expect(rates[60]).toBeCloseTo(1, 12);
    expect(rates[109]).toBeLessThan(0.001);
  });
});

async function centralDifference(
  f: (at: Float64Array) => Promise<number>,
  at: Float64Array,
  i: number,
  h: number,
): Promise<number> {
  const kept = at[i]!;
  at[i] = kept + h;
  const above = await f(at);
  at[i] = kept - h;
  const below = await f(at);
  at[i] = kept;
  return (above - below) / (2 * h);
}

function randomRows(random: Random, count: number, length: number, vocabulary: number): Rows {
  const tokens = Int32Array.from({ length: count * (length + 1) }, (_, i) =>
    i % (length + 1) === 0 ? 0 : 1 + random.below(vocabulary - 1),
  );
  return { count, length, tokens };
}

function float64Context(rows: Rows): Record<string, Value> {
  const { mask, ...rest } = rowContext(rows);
  return {
    ...rest,
    mask: { dtype: "float64", data: Float64Array.from(mask.data as Float32Array), shape: mask.shape },
    targets: targetValues(rows),
  };
}
