import { readFile } from "node:fs/promises";
import { describe, expect, it } from "vitest";
import { openFile, openFolder } from "../src/bytes/file.node.ts";
import { openSafetensors } from "../src/bytes/safetensors.ts";
import { openDictionaries } from "../src/dictionaries/open.ts";
import { compile } from "../src/graph/session.ts";
import { modelFromConfig } from "../src/models/architectures.ts";
import { openCheckpoint } from "../src/models/checkpoint.ts";
import { contextInputs, forward } from "../src/models/model.ts";
import { heldWeights } from "../src/models/weights.ts";
import { tokenizePairs } from "../src/prompts/check.ts";
import { agreementPairs } from "../src/prompts/english/agreement.ts";
import { demoLexicon } from "../src/prompts/english/lexicon-demo.ts";
import { loadTokenizer } from "../src/prompts/tokenizer.ts";
import { accuracyByCase } from "../src/training/accuracy.ts";
import { evaluateDictionaries } from "../src/training/evaluate.ts";
import { rowContext } from "../src/training/loss.ts";
import { generatedText } from "../src/training/text.ts";

const root = new URL("..", import.meta.url).pathname;

/** From transformers (test/oracles/check_demo.py). */
interface Expected {
  readonly parameters: number;
  readonly prompts: readonly { readonly prompt: string; readonly tokens: number[]; readonly top: string[] }[];
}

describe("the embedded model", async () => {
  const checkpoint = await openCheckpoint(await openFolder(`${root}models/demo`));
  const model = modelFromConfig(checkpoint.config, "models/demo");
  const weights = await heldWeights(model, checkpoint);
  await checkpoint.close();
  const tokenizer = loadTokenizer(checkpoint.tokenizer, checkpoint.tokenizerConfig);

  it("gives the logits that transformers gives", async () => {
    const expected = JSON.parse(await readFile(`${root}test/fixtures/demo/expected.json`, "utf8")) as Expected;
    const sizes = [...model.parameters.values()].map((shape) => shape.reduce((product, n) => product * n, 1));
    expect(sizes.reduce((sum, n) => sum + n, 0)).toBe(expected.parameters);
    const oracle = await openSafetensors(await openFile(`${root}test/fixtures/demo/logits.safetensors`));
    for (const [p, { prompt, tokens, top }] of expected.prompts.entries()) {
      expect(tokenizer.encode(prompt)).toEqual(tokens);
      const [length, context] = [tokens.length, contextInputs(tokens.length, "float32", true)];
      const logits = model.logits(
        weights,
        forward(model, weights, context, (_, x) => x),
      );
      const session = await compile({ logits }, { threads: 1 });
      const results = await session.run(rowContext({ count: 1, length, tokens: Int32Array.from([...tokens, 0]) }));
      await session.release();
      const ours = (results.logits.data as Float32Array).slice((length - 1) * model.vocabulary);
      const theirs = await oracle.read(`p${p}`);
      const gap = ours.reduce((most, x, i) => Math.max(most, Math.abs(x - theirs[i]!)), 0);
      expect(gap, prompt).toBeLessThan(1e-4);
      const order = [...ours.keys()].sort((a, b) => ours[b]! - ours[a]!);
      expect(order.slice(0, top.length).map((id) => tokenizer.token(id))).toEqual(top);
    }
    await oracle.source.close();
  });

  it("agrees in at least 97 % of a few new pairs of every case", async () => {
    const options = { lexicon: demoLexicon, seed: "test", perCase: 40, combinations: "held-out" } as const;
    const pairs = agreementPairs({ ...options, split: "test" });
    const cases = await accuracyByCase(model, weights, tokenizePairs(pairs, tokenizer).kept, { threads: 1 });
    expect(cases).toHaveLength(16);
    for (const { case: name, pairs: count, correct } of cases) {
      expect(count).toBe(40);
      expect(correct / count, name).toBeGreaterThanOrEqual(0.97);
    }
  });

  it("has SAEs at 18 sites that keep what it does", async () => {
    const found = await openDictionaries(await openFolder(`${root}models/demo/saes`));
    expect(found.size).toBe(18);
    const text = generatedText(tokenizer, demoLexicon, "test");
    const some = ["attn_out.0", "mlp_out.2", "resid_post.3", "resid_post.5"].map((site) => found.get(site)!);
    const quality = await evaluateDictionaries(model, weights, some, text, 32, 4000, undefined, {
      threads: 1,
      lossTokens: 2000,
    });
    for (const q of quality) {
      expect(q.features, q.site).toBeGreaterThanOrEqual(8 * model.width);
      expect(q.varianceExplained, q.site).toBeGreaterThan(0.965);
      expect(q.activeFeatures, q.site).toBeLessThan(24.5);
      const cost = q.lossReconstructed - q.loss;
      if (q.lossAblated - q.loss < 0.1) expect(cost, q.site).toBeLessThan(0.012);
      else expect(q.lossRecovered, q.site).toBeGreaterThan(0.975);
    }
    for (const dictionary of found.values()) await dictionary.close();
  });
});
