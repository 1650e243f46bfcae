import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openFolder } from "../src/bytes/file.node.ts";
import { compile } from "../src/graph/session.ts";
import { constant } from "../src/graph/tensor.ts";
import { modelFromConfig } from "../src/models/architectures.ts";
import { openCheckpoint } from "../src/models/checkpoint.ts";
import { contextInputs, forward, type Model, type Weights } from "../src/models/model.ts";
import { heldWeights } from "../src/models/weights.ts";
import { tokenizePairs } from "../src/prompts/check.ts";
import { agreementPairs } from "../src/prompts/english/agreement.ts";
import { demoLexicon } from "../src/prompts/english/lexicon-demo.ts";
import { determinerPairs, pronounPairs } from "../src/prompts/english/tasks.ts";
import { loadTokenizer, type Tokenizer } from "../src/prompts/tokenizer.ts";
import { Random } from "../src/random.ts";
import { accuracyByCase } from "../src/training/accuracy.ts";
import { type Rows, rowContext } from "../src/training/loss.ts";
import { initialise, layoutOf, namedParameters } from "../src/training/parameters.ts";
import { generatedText, heldOutText } from "../src/training/text.ts";
import { succeeds } from "./cli-harness.ts";

/** −log p of the next token from the model's own logits, in float64: the mean over all tokens of some rows. */
async function lossOf(model: Model, weights: Weights, { count, length, tokens }: Rows): Promise<number> {
  const context = contextInputs(length, "float32", true);
  const logits = model.logits(
    weights,
    forward(model, weights, context, (_, x) => x),
  );
  const session = await compile({ logits }, { threads: 1 });
  const V = model.vocabulary;
  let sum = 0;
  for (let row = 0; row < count; row++) {
    const own = tokens.subarray(row * (length + 1), (row + 1) * (length + 1));
    const data = (await session.run(rowContext({ count: 1, length, tokens: own }))).logits!.data as Float32Array;
    for (let t = 0; t < length; t++) {
      const z = data.subarray(t * V, (t + 1) * V);
      const total = z.reduce((all, value) => all + Math.exp(value), 0);
      sum += Math.log(total) - z[own[t + 1]!]!;
    }
  }
  await session.release();
  return sum / (count * length);
}

describe("sfc train lm, one step", () => {
  let folder: string;
  let model: Model;
  let weights: Weights;
  let tokenizer: Tokenizer;
  let line: Record<string, number | string>;

  beforeAll(async () => {
    folder = join(await mkdtemp(join(tmpdir(), "sfc-lm-")), "model");
    await succeeds(["train", "lm", "--output_dir", folder, "--seed", "3", "--steps", "1", "--rows", "4"]);
    const checkpoint = await openCheckpoint(await openFolder(folder));
    model = modelFromConfig(checkpoint.config, folder);
    weights = await heldWeights(model, checkpoint);
    tokenizer = loadTokenizer(checkpoint.tokenizer, checkpoint.tokenizerConfig);
    await checkpoint.close();
    line = JSON.parse(await readFile(join(folder, "training/lm.jsonl"), "utf8"));
  });
  afterAll(() => rm(join(folder, ".."), { recursive: true, force: true }));

  it("records what it was: parameters, tokens, learning rate", async () => {
    const record = JSON.parse(await readFile(join(folder, "training/lm.json"), "utf8"));
    const V = tokenizer.vocabularySize;
    // Queries and outputs 192 × 192, keys and values 64 × 192, three matrices of 512 × 192, two norms.
    const block = 2 * 192 * 192 + 2 * 64 * 192 + 3 * 512 * 192 + 2 * 192;
    expect(record).toMatchObject({ parameters: V * 192 + 6 * block + 192, tokens: 4 * 32, threads: 2 });
    expect(record.recipe).toMatchObject({ seed: 3, steps: 1, rows: 4, length: 32 });
    // One step is all of the warm-up.
    expect(line).toMatchObject({ step: 1, tokens: 4 * 32, learning_rate: 0.003 });
  });

  it("has the loss of the untrained model on the first rows of its text", async () => {
    const layout = layoutOf(model.parameters);
    const named = namedParameters(layout, initialise(layout, model.layers, 0.05, new Random("3/weights")));
    const first: Weights = (name) => constant(named.get(name)!.data, "float32", named.get(name)!.shape, name);
    const text = generatedText(tokenizer, demoLexicon, 3);
    const parts = [
      await lossOf(model, first, text.rows("0/0", 2, 32)),
      await lossOf(model, first, text.rows("0/1", 2, 32)),
    ];
    expect(line.loss).toBeCloseTo((parts[0]! + parts[1]!) / 2, 3);
    // It knows nothing: about as good as choosing among all tokens.
    expect(Math.abs((line.loss as number) - Math.log(model.vocabulary))).toBeLessThan(0.5);
  });

  it("has the trained model's loss on held-out text, and it has learned something", async () => {
    const rows = generatedText(tokenizer, demoLexicon, heldOutText(3)).rows(0, 128, 32);
    // The file has 16 bits a number.
    expect(Math.abs((line.held_out_loss as number) - (await lossOf(model, weights, rows)))).toBeLessThan(2e-3);
    expect(line.held_out_loss).toBeLessThan(line.loss as number);
  });

  it("has the mean of the shares of cases that the model gets right, and the least of them", async () => {
    const some = (["train", "test"] as const).flatMap((split) => {
      const options = { lexicon: demoLexicon, seed: 3, split, combinations: "held-out", pool: 10_000 } as const;
      const seen = new Map<string, number>();
      return agreementPairs({ ...options, perCase: 30 }).filter(({ case: name }) => {
        seen.set(name, (seen.get(name) ?? 0) + 1);
        return seen.get(name)! <= 20;
      });
    });
    const tasks = { lexicon: demoLexicon, seed: 1, perCase: 20 };
    const others = [...determinerPairs(tasks), ...pronounPairs(tasks)];
    const { kept } = tokenizePairs([...some, ...others], tokenizer);
    const shares = (await accuracyByCase(model, weights, kept, { threads: 1 })).map((c) => c.correct / c.pairs);
    const mean = shares.reduce((sum, share) => sum + share, 0) / shares.length;
    // A logit that 16 bits move across the other's may turn a pair or two.
    expect(Math.abs((line.accuracy as number) - mean)).toBeLessThan(0.01);
    expect(Math.abs((line.least_accuracy as number) - Math.min(...shares))).toBeLessThan(0.06);
  });
});
