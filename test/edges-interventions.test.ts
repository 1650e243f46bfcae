import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import { openFolder } from "../src/bytes/file.node.ts";
import { subfolder } from "../src/bytes/folder.ts";
import { capture } from "../src/capture/capture.ts";
import { checkEdges, type EdgeEnds } from "../src/circuit/check-edges.ts";
import { edges, type Jacobian, sitesOfEdges } from "../src/circuit/edges.ts";
import { closeDictionaries, openDictionaries } from "../src/dictionaries/open.ts";
import { effectsOf } from "../src/effects/dispatch.ts";
import type { MethodInput } from "../src/effects/method.ts";
import { prefixForest } from "../src/forest/forest.ts";
import { planCapture } from "../src/forest/packs.ts";
import { openCheckpoint } from "../src/models/checkpoint.ts";
import { fittedModel } from "../src/models/fitted.ts";
import { heldWeights, loadedModel } from "../src/models/weights.ts";
import { tokenizePairs } from "../src/prompts/check.ts";
import type { PromptPair } from "../src/prompts/pairs.ts";
import { loadTokenizer } from "../src/prompts/tokenizer.ts";
import { parseSite, type SiteName } from "../src/site.ts";

const data = join(process.env.SFC_TEST_DATA ?? "../shared/data", "circuits/expected.json");

interface Edge extends EdgeEnds {
  value: number;
}

/** The features of each site with the largest |effect|. */
async function strongest(given: MethodInput, jacobian: Jacobian, count: number): Promise<Map<SiteName, number[]>> {
  const found = new Map<SiteName, number[]>();
  for await (const { rows } of effectsOf(jacobian === "secant" ? "secant" : "analytic", given)) {
    const sums = new Map<number, number>();
    rows.feature.forEach((feature, i) => {
      if (feature >= 0) sums.set(feature, (sums.get(feature) ?? 0) + rows.effect[i]!);
    });
    const order = [...sums].sort((a, b) => Math.abs(b[1]) - Math.abs(a[1])).slice(0, count);
    found.set(
      rows.site,
      order.map(([feature]) => feature),
    );
  }
  return found;
}

/** The strongest edges between features into sites of each kind, over all pairs. */
async function strongestEdges(given: MethodInput, jacobian: Jacobian, count: number): Promise<Map<string, Edge[]>> {
  const sums = new Map<string, Edge>();
  for await (const { target, source, blocks } of edges(given, {
    targets: await strongest(given, jacobian, 40),
    jacobian,
  })) {
    if (target === "metric") continue;
    for (const { target: to, features, values } of blocks) {
      features.forEach((feature, i) => {
        const key = `${source}/${feature}/${target}/${to.feature}`;
        const ends = { source: { site: source, feature }, target: { site: target, feature: to.feature as number } };
        const edge = sums.get(key) ?? { ...ends, value: 0 };
        sums.set(key, edge);
        edge.value += values[i]!;
      });
    }
  }
  const order = [...sums.values()].sort((a, b) => Math.abs(b.value) - Math.abs(a.value));
  return new Map(
    ["resid_post", "mlp_out", "attn_out"].map((kind) => [
      kind,
      order.filter(({ target }) => parseSite(target.site).kind === kind).slice(0, count),
    ]),
  );
}

function pearson(x: readonly number[], y: readonly number[]): number {
  const mean = (values: readonly number[]) => values.reduce((a, b) => a + b, 0) / values.length;
  const [a, b] = [mean(x), mean(y)];
  const product = (p: readonly number[], m: number, q: readonly number[], n: number) =>
    p.reduce((sum, v, i) => sum + (v - m) * (q[i]! - n), 0);
  return product(x, a, y, b) / Math.sqrt(product(x, a, x, a) * product(y, b, y, b));
}

it.skipIf(!existsSync(data))(
  "edges predict what interventions do to their targets, with secants better than with gradients (SFC_TEST_DATA)",
  async () => {
    const { pairs } = JSON.parse(readFileSync(data, "utf8")) as { pairs: PromptPair[] };
    const folder = await openFolder(new URL("../models/demo", import.meta.url).pathname);
    const checkpoint = await openCheckpoint(folder);
    const { model } = await fittedModel(checkpoint);
    const tokenizer = loadTokenizer(checkpoint.tokenizer, checkpoint.tokenizerConfig);
    const { kept } = tokenizePairs(
      pairs.map((pair) => ({ ...pair, split: "train" })),
      tokenizer,
    );
    const dictionaries = await openDictionaries(subfolder(folder, "saes"));
    const loaded = loadedModel(model, await heldWeights(model, checkpoint));
    const forest = prefixForest(kept);
    const captured = await capture(loaded, planCapture(forest, { wanted: "both" }), {
      sites: sitesOfEdges([...dictionaries.keys()], model.layers),
    });
    const given: MethodInput = { ...loaded, forest, dictionaries, captured };
    const found = new Map<string, number>();
    for (const jacobian of ["gradient", "secant"] as const) {
      for (const [kind, list] of await strongestEdges(given, jacobian, 50)) {
        const checked = await checkEdges(given, list, { jacobian });
        found.set(
          `${jacobian} → ${kind}`,
          pearson(
            checked.map(({ value }) => value),
            checked.map(({ measured }) => measured),
          ),
        );
      }
    }
    await closeDictionaries(dictionaries);
    await checkpoint.close();
    const r = (name: string) => found.get(name)!;
    expect(r("secant → resid_post")).toBeGreaterThan(0.95);
    expect(r("secant → attn_out")).toBeGreaterThan(0.95);
    expect(r("secant → mlp_out")).toBeGreaterThan(0.85);
    for (const kind of ["resid_post", "mlp_out", "attn_out"]) {
      expect(r(`secant → ${kind}`)).toBeGreaterThan(r(`gradient → ${kind}`));
    }
  },
  120_000,
);
