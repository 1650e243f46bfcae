import { beforeAll, describe, expect, it } from "vitest";
import type { Dictionary } from "../src/dictionaries/dictionary.ts";
import type { JumpReluWeights } from "../src/dictionaries/formats/sae-lens.ts";
import type { SessionOptions } from "../src/graph/session.ts";
import { constant } from "../src/graph/tensor.ts";
import { modelFromConfig } from "../src/models/architectures.ts";
import type { Model, Weights } from "../src/models/model.ts";
import { demoLexicon } from "../src/prompts/english/lexicon-demo.ts";
import { makeTokenizer } from "../src/prompts/make-tokenizer.ts";
import { loadTokenizer } from "../src/prompts/tokenizer.ts";
import { activationBatches, activationReader } from "../src/training/activations.ts";
import { evaluateDictionaries } from "../src/training/evaluate.ts";
import { type GradientPool, type LanguageModelRecipe, shardGradient, trainLanguageModel } from "../src/training/lm.ts";
import { meanLoss } from "../src/training/loss.ts";
import { layoutOf, namedParameters } from "../src/training/parameters.ts";
import { trainDictionaries } from "../src/training/sae.ts";
import { generatedText, type TextSource } from "../src/training/text.ts";

const tokenizer = loadTokenizer(JSON.parse(makeTokenizer(demoLexicon)["tokenizer.json"]));
const model = modelFromConfig(
  {
    model_type: "llama",
    hidden_size: 48,
    intermediate_size: 64,
    num_hidden_layers: 2,
    num_attention_heads: 2,
    num_key_value_heads: 1,
    vocab_size: tokenizer.vocabularySize,
    tie_word_embeddings: true,
  },
  "test",
);
const recipe: LanguageModelRecipe = {
  seed: 1,
  steps: 90,
  rows: 32,
  length: 16,
  shards: 2,
  learningRate: 2e-2,
  warmup: 10,
  decay: 0.1,
  clip: 1,
  deviation: 0.05,
};
const text = generatedText(tokenizer, demoLexicon, recipe.seed);
const heldOut = generatedText(tokenizer, demoLexicon, "held-out");
const oneThread = { threads: 1 };

let trained: Float32Array;
const losses: number[] = [];

beforeAll(async () => {
  const pool = await localPool(model, text, recipe, oneThread);
  await trainLanguageModel(model, recipe, pool, ({ loss }) => void losses.push(loss));
  await pool.close();
  trained = pool.weights;
});

describe("a tiny language model trained for 90 steps", () => {
  it("begins as if it knew nothing and ends below the entropy of single words", async () => {
    const sample = heldOut.rows(0, 64, recipe.length);
    expect(Math.abs(losses[0]! - Math.log(model.vocabulary))).toBeLessThan(0.3);
    // The best a model can do that sees no context, with the frequencies of a larger sample of the same text.
    const blind = unigramEntropy(heldOut, recipe.length);
    const loss = await meanLoss(model, weightsOf(trained), sample, oneThread);
    expect(loss).toBeLessThan(blind - 0.3);
  });

  it("does not depend on how a step is divided, but for the order of sums", async () => {
    const short = { ...recipe, steps: 5 };
    const results: Float32Array[] = [];
    for (const shards of [1, 2]) {
      // The same rows for both: a piece of 32 rows, or its halves.
      const pool = await localPool(model, halves(text, recipe.rows), { ...short, shards }, oneThread);
      await trainLanguageModel(model, { ...short, shards }, pool);
      await pool.close();
      results.push(pool.weights);
    }
    const gap = results[0]!.reduce((most, w, i) => Math.max(most, Math.abs(w - results[1]![i]!)), 0);
    expect(gap).toBeGreaterThan(0);
    expect(gap).toBeLessThan(1e-3);
  });

  it("comes out the same, bit by bit, when it is trained again", async () => {
    const weights: Float32Array[] = [];
    for (let i = 0; i < 2; i++) {
      const pool = await localPool(model, text, { ...recipe, steps: 3 }, oneThread);
      await trainLanguageModel(model, { ...recipe, steps: 3 }, pool);
      await pool.close();
      weights.push(pool.weights.slice());
    }
    expect(weights[0]).toEqual(weights[1]);
  });

  it("stops when it is told to", async () => {
    const pool = await localPool(model, text, recipe, oneThread);
    const controller = new AbortController();
    const run = trainLanguageModel(
      model,
      recipe,
      pool,
      ({ step }) => {
        if (step === 2) controller.abort();
      },
      controller.signal,
    );
    await expect(run).rejects.toThrow("Stopped; nothing was written.");
    await pool.close();
  });
});

describe("tiny SAEs", () => {
  it("explain more and more of the variance with the wanted number of active features", async () => {
    const sites = ["resid_post.0", "mlp_out.1"];
    const weights = weightsOf(trained);
    const measured = async (steps: number) => {
      const reader = await activationReader(model, weights, sites, text, recipe.length, oneThread);
      const source = activationBatches(model, sites, reader);
      const settings = { seed: 1, expansion: 8, steps, activeFeatures: 8, learningRate: 3e-3 };
      const saes = await trainDictionaries(source, settings, undefined, oneThread);
      await source.close();
      return evaluateDictionaries(model, weights, saes.map(held), heldOut, recipe.length, 4000, undefined, oneThread);
    };
    const [few, many] = [await measured(8), await measured(160)];
    expect(many.map(({ site }) => site)).toEqual(sites);
    many.forEach((after, i) => {
      const before = few[i]!;
      expect(after.varianceExplained).toBeGreaterThan(before.varianceExplained);
      expect(after.varianceExplained).toBeGreaterThan(0.75);
      expect(after.varianceExplained).toBeLessThan(1);
      expect(after.activeFeatures).toBeGreaterThan(5);
      expect(after.activeFeatures).toBeLessThan(11);
      expect(after.loss).toBeCloseTo(many[0]!.loss, 5);
    });
    // Blotting out the residual stream costs most of what was learned; its SAE gives it back.
    const residual = many[0]!;
    expect(residual.lossAblated - residual.loss).toBeGreaterThan(0.3);
    expect(residual.lossRecovered).toBeGreaterThan(0.8);
  });
});

function weightsOf(flat: Float32Array): Weights {
  const named = namedParameters(layoutOf(model.parameters), flat);
  return (name) => {
    const { shape, data } = named.get(name)!;
    return constant(data, "float32", shape, name);
  };
}

function unigramEntropy(source: TextSource, length: number): number {
  const counts = new Map<number, number>();
  const { tokens } = source.rows("sample", 2000, length);
  const targets = tokens.filter((_, i) => i % (length + 1) > 0);
  for (const token of targets) counts.set(token, (counts.get(token) ?? 0) + 1);
  return [...counts.values()].reduce((sum, n) => sum - (n / targets.length) * Math.log(n / targets.length), 0);
}

/** A text whose piece `<step>/0` of all rows is the same as its pieces `<step>/0` and `<step>/1` of half of them. */
function halves(source: TextSource, rows: number): TextSource {
  return {
    ...source,
    rows(piece, count, length) {
      const [step, shard] = String(piece).split("/");
      const whole = source.rows(step!, rows, length);
      const size = count * (length + 1);
      return { count, length, tokens: whole.tokens.slice(Number(shard) * size, (Number(shard) + 1) * size) };
    },
  };
}

function held(sae: JumpReluWeights): Dictionary {
  return {
    name: sae.site,
    reads: sae.site,
    writes: sae.site,
    inputWidth: sae.decoderBias.length,
    outputWidth: sae.decoderBias.length,
    featureCount: sae.encoderBias.length,
    kind: "jumprelu",
    encoder: async () => ({
      weight: sae.encoder,
      bias: sae.encoderBias,
      activation: { kind: "jumprelu", threshold: sae.threshold },
    }),
    decoder: async () => sae.decoder,
    decoderRows: async () => sae.decoder,
    decoderBias: async () => sae.decoderBias,
    sha256: async () => "",
    close: async () => {},
  };
}

/** A pool that computes the shards one after another, here. */
async function localPool(
  model: Model,
  text: TextSource,
  recipe: LanguageModelRecipe,
  options: SessionOptions = {},
): Promise<GradientPool> {
  const { size } = layoutOf(model.parameters);
  const { run, close } = await shardGradient(model, text, recipe, options);
  const weights = new Float32Array(size);
  const gradients = Array.from({ length: recipe.shards }, () => new Float32Array(size));
  return {
    weights,
    gradients,
    async run(step) {
      const losses: number[] = [];
      for (const [shard, gradient] of gradients.entries()) losses.push(await run(step, shard, weights, gradient));
      return losses;
    },
    close,
  };
}
