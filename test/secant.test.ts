import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { openFolder } from "../src/bytes/file.node.ts";
import { subfolder } from "../src/bytes/folder.ts";
import { closeDictionaries, openDictionaries } from "../src/dictionaries/open.ts";
import type { MethodInput } from "../src/effects/method.ts";
import { errorFeature } from "../src/effects/rows.ts";
import { secantMethod } from "../src/effects/secant.ts";
import { prefixForest } from "../src/forest/forest.ts";
import { openCheckpoint } from "../src/models/checkpoint.ts";
import { fittedModel } from "../src/models/fitted.ts";
import { heldWeights, loadedModel, streamedWeights } from "../src/models/weights.ts";
import { tokenizePairs } from "../src/prompts/check.ts";
import type { PromptPair, TokenPair } from "../src/prompts/pairs.ts";
import { loadTokenizer } from "../src/prompts/tokenizer.ts";
import { Random } from "../src/random.ts";
import { parseSite, type SiteName } from "../src/site.ts";
import { randomDictionary } from "./random-dictionary.ts";

const seed = "secant";

async function sums(given: MethodInput): Promise<Map<SiteName, { total: number; byFeature: Map<number, number> }>> {
  const found = new Map<SiteName, { total: number; byFeature: Map<number, number> }>();
  for await (const { rows } of secantMethod(given)) {
    const byFeature = new Map<number, number>();
    let total = 0;
    rows.feature.forEach((feature, i) => {
      total += rows.effect[i]!;
      byFeature.set(feature, (byFeature.get(feature) ?? 0) + rows.effect[i]!);
    });
    found.set(rows.site, { total, byFeature });
  }
  return found;
}

function somePairs(): TokenPair[] {
  const random = new Random(seed);
  return Array.from({ length: 5 }, (_, i) => {
    const rest = Array.from({ length: 2 + (i % 3) }, () => 4 + random.below(3));
    const texts = { clean_prefix: "", patch_prefix: "", clean_answer: "", patch_answer: "" };
    return {
      pair: { ...texts, case: "a", split: "train" as const },
      clean: [1, 8, ...rest],
      patch: [1, 9 + (i % 2), ...rest],
      cleanAnswer: 20,
      patchAnswer: 22 + (i % 3),
    };
  });
}

/** Sequential, post-norms, layer norms, parallel blocks. */
describe.each(["llama-gqa", "gemma2", "gpt2", "gpt_neox"])(`secant effects on %s (seed ${seed})`, (name) => {
  const sites: SiteName[] = [
    "embed",
    "attn_z.0",
    "attn_out.0",
    "mlp_act.0",
    "mlp_out.0",
    "resid_post.0",
    "resid_post.1",
  ];
  const open = async (steps: number, weights: "held" | "streamed" = "held") => {
    const checkpoint = await openCheckpoint(await openFolder(new URL(`fixtures/${name}`, import.meta.url).pathname));
    const { model } = await fittedModel(checkpoint);
    const dtype = checkpoint.config.hidden_act === "gelu" ? ("float32" as const) : ("float64" as const);
    const chosen = weights === "held" ? await heldWeights(model, checkpoint, dtype) : streamedWeights(checkpoint);
    const dictionaries = new Map(
      sites.map((site) => [site, randomDictionary(site, model.sites[parseSite(site).kind]!, 40, seed)] as const),
    );
    let change = 0;
    const forest = prefixForest(somePairs());
    const given: MethodInput = {
      ...loadedModel(model, chosen, { dtype }),
      forest,
      dictionaries,
      steps,
      onMetric: (clean, patch) => {
        change = forest.ends.reduce((sum, { weight }, e) => sum + weight * (patch[e]! - clean[e]!), 0);
      },
    };
    const effects = await sums(given);
    await checkpoint.close();
    return { effects, change };
  };

  it("add up to m(patch) − m(clean) at every residual site, the better the more points", async () => {
    const gaps: number[] = [];
    for (const steps of [4, 16, 64]) {
      const { effects, change } = await open(steps);
      expect(Math.abs(change)).toBeGreaterThan(1e-3);
      const residual = ["embed", "resid_post.0", "resid_post.1"].map((site) => effects.get(site)!.total);
      gaps.push(Math.max(...residual.map((total) => Math.abs(total / change - 1))));
    }
    // The midpoint rule's error falls with the square of the points.
    expect(gaps[2]).toBeLessThan(5e-3);
    expect(gaps[2]).toBeLessThan(gaps[1]! / 4 + 1e-4);
  });

  it("at attn_z add up to those of attn_out, also where a norm comes behind attention", async () => {
    const { effects } = await open(32);
    const total = (site: SiteName) => effects.get(site)!.total;
    const scale = Math.max(...sites.map((site) => Math.abs(total(site))));
    expect(Math.abs(total("attn_z.0") - total("attn_out.0"))).toBeLessThan(1e-4 * scale);
  });

  it("at mlp_act add up to those of mlp_out, also where a norm comes behind the MLP", async () => {
    const { effects } = await open(64);
    const total = (site: SiteName) => effects.get(site)!.total;
    const scale = Math.max(...sites.map((site) => Math.abs(total(site))));
    expect(Math.abs(total("mlp_out.0"))).toBeGreaterThan(1e-2 * scale);
    expect(Math.abs(total("mlp_act.0") - total("mlp_out.0"))).toBeLessThan(1e-4 * scale);
  });

  it("are the same with streamed weights", async () => {
    const [held, streamed] = [(await open(3)).effects, (await open(3, "streamed")).effects];
    for (const [site, { total }] of held) expect(streamed.get(site)!.total).toBeCloseTo(total, 4);
  });
});

const data = join(process.env.SFC_TEST_DATA ?? "../shared/data", "circuits/expected.json");
describe.skipIf(!existsSync(data))("secant effects of the embedded model (SFC_TEST_DATA)", () => {
  it.each([4, 8])("are those that PyTorch gives in float64, %i points", async (steps) => {
    const expected = JSON.parse(readFileSync(data, "utf8")) as {
      pairs: PromptPair[];
      effects: Record<SiteName, { features: Record<string, number>[]; error: Record<string, number> }>;
    };
    const folder = await openFolder(new URL("../models/demo", import.meta.url).pathname);
    const checkpoint = await openCheckpoint(folder);
    const { model } = await fittedModel(checkpoint);
    const tokenizer = loadTokenizer(checkpoint.tokenizer, checkpoint.tokenizerConfig);
    const { kept } = tokenizePairs(
      expected.pairs.map((pair) => ({ ...pair, split: "train" })),
      tokenizer,
    );
    expect(kept.length).toBe(expected.pairs.length);
    const dictionaries = await openDictionaries(subfolder(folder, "saes"));
    const found = await sums({
      ...loadedModel(model, await heldWeights(model, checkpoint, "float64"), { dtype: "float64" }),
      forest: prefixForest(kept),
      dictionaries,
      steps,
    });
    await closeDictionaries(dictionaries);
    await checkpoint.close();
    const largest = Math.max(
      ...Object.values(expected.effects).flatMap(({ features }) =>
        features.map((f) => Math.abs(f[`secant${steps}`] ?? 0)),
      ),
    );
    for (const [site, { features, error }] of Object.entries(expected.effects)) {
      const { byFeature } = found.get(site)!;
      for (const feature of features) {
        const value = feature[`secant${steps}`];
        if (value === undefined) continue;
        const got = byFeature.get(feature.feature!)! / kept.length;
        expect(Math.abs(got - value) / largest, `${site}/${feature.feature}`).toBeLessThan(1e-6);
      }
      const of = error[`secant${steps}`];
      if (of !== undefined) {
        const got = byFeature.get(errorFeature)! / kept.length;
        expect(Math.abs(got - of) / largest, `${site} error`).toBeLessThan(1e-6);
      }
    }
  });
});
