import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { openFolder } from "../src/bytes/file.node.ts";
import { subfolder } from "../src/bytes/folder.ts";
import type { Jacobian, Slope } from "../src/circuit/edges.ts";
import { closeDictionaries, openDictionaries } from "../src/dictionaries/open.ts";
import { prefixForest } from "../src/forest/forest.ts";
import { openCheckpoint } from "../src/models/checkpoint.ts";
import { fittedModel } from "../src/models/fitted.ts";
import { heldWeights, loadedModel } from "../src/models/weights.ts";
import { tokenizePairs } from "../src/prompts/check.ts";
import type { PromptPair } from "../src/prompts/pairs.ts";
import { loadTokenizer } from "../src/prompts/tokenizer.ts";
import type { SiteName } from "../src/site.ts";
import { edgesOf } from "./edges-of.ts";

const data = join(process.env.SFC_TEST_DATA ?? "../shared/data", "circuits/expected.json");

interface ExpectedEdges {
  jacobian: Jacobian;
  slope: Slope;
  target: string;
  sources: Record<
    SiteName,
    { token?: number; error?: number; sum_features?: number; strongest?: { feature: number; edge: number }[] }
  >;
  inflow: number;
}

describe.skipIf(!existsSync(data))("edges of the embedded model (SFC_TEST_DATA)", () => {
  const expected = (existsSync(data) ? JSON.parse(readFileSync(data, "utf8")) : { pairs: [], edges: [] }) as {
    pairs: PromptPair[];
    edges: ExpectedEdges[];
  };
  const open = async (dtype: "float32" | "float64") => {
    const folder = await openFolder(new URL("../models/demo", import.meta.url).pathname);
    const checkpoint = await openCheckpoint(folder);
    const { model } = await fittedModel(checkpoint);
    const tokenizer = loadTokenizer(checkpoint.tokenizer, checkpoint.tokenizerConfig);
    const { kept } = tokenizePairs(
      expected.pairs.map((pair) => ({ ...pair, split: "train" })),
      tokenizer,
    );
    const dictionaries = await openDictionaries(subfolder(folder, "saes"));
    const setting = {
      ...loadedModel(model, await heldWeights(model, checkpoint, dtype), { dtype }),
      forest: prefixForest(kept),
      dictionaries,
    };
    const close = async () => {
      await closeDictionaries(dictionaries);
      await checkpoint.close();
    };
    return { setting, pairs: kept.length, close };
  };

  it.each([
    ["gradient", "clean", "float64", 1e-6],
    ["gradient", "secant", "float64", 1e-6],
    ["secant", "secant", "float64", 1e-6],
    ["gradient", "clean", "float32", 1e-4],
    ["secant", "secant", "float32", 1e-4],
  ] as const)("%s, slopes %s, are those that PyTorch gives, in %s", async (jacobian, slope, dtype, tolerance) => {
    const { setting, pairs, close } = await open(dtype);
    const wanted = expected.edges.filter((one) => one.jacobian === jacobian && one.slope === slope);
    expect(wanted.length).toBe(32);
    const targets = new Map<SiteName, (number | "error")[]>();
    for (const { target } of wanted) {
      const [site, feature] = target.split("/") as [string, string];
      targets.set(site, [...(targets.get(site) ?? []), feature === "error" ? "error" : Number(feature)]);
    }
    const { found, checks } = await edgesOf(setting, { targets, jacobian, slope, cap: Number.POSITIVE_INFINITY });
    await close();
    const largest = Math.max(
      ...wanted.flatMap(({ sources }) =>
        Object.values(sources).flatMap(({ token = 0, error = 0, strongest = [] }) => [
          Math.abs(token),
          Math.abs(error),
          ...strongest.map(({ edge }) => Math.abs(edge)),
        ]),
      ),
    );
    let worst: [number, string] = [0, ""];
    for (const { target, sources } of wanted) {
      for (const [source, { token, error, sum_features, strongest }] of Object.entries(sources)) {
        const of = found.get(target)?.get(source);
        const compare = (name: string, got: number, value: number) => {
          const gap = Math.abs(got / pairs - value) / largest;
          if (gap > worst[0]) worst = [gap, `${source}/${name} → ${target}: ${got / pairs}, expected ${value}`];
        };
        if (token !== undefined) compare("token", of?.get("token") ?? 0, token);
        if (error !== undefined) compare("error", of?.get("error") ?? 0, error);
        for (const { feature, edge } of strongest ?? []) compare(String(feature), of?.get(feature) ?? 0, edge);
        if (sum_features !== undefined) {
          let sum = 0;
          for (const [name, value] of of ?? []) if (typeof name === "number") sum += value;
          compare("sum", sum, sum_features);
        }
      }
    }
    expect(worst[0], worst[1]).toBeLessThan(tolerance);
    const count = (start: string, of: readonly { name: string }[]) =>
      of.filter(({ name }) => name.startsWith(start)).length;
    const exact = checks.filter(({ tolerance: asked }) => asked <= 1e-4);
    expect(count("edges from all sources", exact)).toBe(1);
    expect(count("edges out of a source", exact)).toBe(19);
    // The three residual sites and the metric, of which edges carry all; by secants also into sublayers, up to the rule of four points.
    expect(count("edges into targets", exact)).toBe(slope === "clean" ? 0 : 4);
    expect(count("edges into targets", checks)).toBeGreaterThan(jacobian === "secant" ? 4 : -1);
    // At one of the residual sites no target is on in clean prompts.
    expect(count("edges in closed form", exact)).toBe(slope === "clean" ? 2 : 3);
    for (const { name, site, gap, scale } of exact) {
      expect(gap / scale, `${name} (${site})`).toBeLessThan(dtype === "float64" ? 1e-10 : 1e-5);
    }
  });
});
