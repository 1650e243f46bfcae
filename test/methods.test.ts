import { describe, expect, it } from "vitest";
import { openFolder } from "../src/bytes/file.node.ts";
import { capture } from "../src/capture/capture.ts";
import type { Floats, Hook, Inputs } from "../src/capture/hooks.ts";
import { rankFeatures } from "../src/circuit/ranking.ts";
import type { Dictionary } from "../src/dictionaries/dictionary.ts";
import {
  codeReader,
  codeRule,
  encoderForm,
  encoderTensors,
  encoderValues,
  traceCodes,
} from "../src/dictionaries/encode.ts";
import { effectsOf } from "../src/effects/dispatch.ts";
import type { MethodInput, MethodName } from "../src/effects/method.ts";
import { type EffectRows, errorFeature } from "../src/effects/rows.ts";
import { patchStrongest } from "../src/effects/strongest.ts";
import { type Merge, prefixForest } from "../src/forest/forest.ts";
import { type Pack, planCapture } from "../src/forest/packs.ts";
import { constant, input, type Tensor } from "../src/graph/tensor.ts";
import { modelFromConfig } from "../src/models/architectures.ts";
import { openCheckpoint } from "../src/models/checkpoint.ts";
import { heldWeights } from "../src/models/weights.ts";
import type { TokenPair } from "../src/prompts/pairs.ts";
import { Random } from "../src/random.ts";
import { parseSite, type SiteName } from "../src/site.ts";
import { randomDictionary } from "./random-dictionary.ts";
import { packMetric, runPack } from "./run-pack.ts";

const seed = "20261124/methods";
const F = 96;
const shapes = ["llama-gqa", "qwen3", "gemma2", "gpt2", "gpt_neox"];
/** Several sites at once, one of every kind. */
const sites = ["attn_out.0", "resid_post.0", "attn_z.1", "mlp_act.1", "mlp_out.1", "resid_post.1"];

type Precision = "float32" | "float64";

async function open(name: string, dtype: Precision) {
  const checkpoint = await openCheckpoint(await openFolder(new URL(`fixtures/${name}`, import.meta.url).pathname));
  const model = modelFromConfig(checkpoint.config, name);
  const weights = await heldWeights(model, checkpoint, dtype);
  await checkpoint.close();
  return { config: checkpoint.config, model, weights };
}

/** Pairs of three lengths with shared prefixes, several partners and several pairs of answers. */
function somePairs(vocabulary: number, count: number): TokenPair[] {
  const random = new Random(`${seed}/pairs`);
  return Array.from({ length: count }, (_, i) => {
    const rest = Array.from({ length: 2 + (i % 3) }, () => 4 + random.below(count > 20 ? 12 : 3));
    const [clean, patch] = i % 2 === 0 ? [8, 9 + (i % 4 === 0 ? 0 : 1)] : [9, 8];
    const pair = { clean_prefix: "", patch_prefix: "", clean_answer: "", patch_answer: "", split: "train" as const };
    return {
      pair: { ...pair, case: i % 2 === 0 ? "one" : "two" },
      clean: [1, clean, ...rest],
      patch: [1, patch, ...rest],
      cleanAnswer: (20 + (i % 2)) % vocabulary,
      patchAnswer: (22 - (i % 3)) % vocabulary,
    };
  });
}

async function inputOf(
  name: string,
  dtype: Precision,
  {
    at = sites,
    merge = "all",
    pairs = 14,
    ...more
  }: { at?: readonly SiteName[]; merge?: Merge; pairs?: number } & Partial<MethodInput> = {},
): Promise<MethodInput> {
  const { model, weights } = await open(name, dtype);
  const dictionaries = new Map<SiteName, Dictionary>();
  for (const [i, site] of at.entries()) {
    const width = model.sites[parseSite(site).kind]!;
    dictionaries.set(site, randomDictionary(site, width, F, seed, { kind: i % 2 === 0 ? "jumprelu" : "relu" }));
  }
  const forest = prefixForest(somePairs(model.vocabulary, pairs), { merge });
  return { model, weights, forest, dictionaries, dtype, ...more };
}

async function all(method: MethodName, of: MethodInput): Promise<Map<SiteName, EffectRows>> {
  const found = new Map<SiteName, EffectRows>();
  for await (const { rows } of effectsOf(method, of)) found.set(rows.site, rows);
  return found;
}

/** Effects by node and feature. */
const keyed = ({ node, feature, effect }: EffectRows) =>
  new Map([...node].map((n, i) => [`${n}/${feature[i]}`, effect[i]!]));

/** Largest difference of two methods' effects, of the largest effect there is, over all sites. */
function gap(a: ReadonlyMap<SiteName, EffectRows>, b: ReadonlyMap<SiteName, EffectRows>): number {
  expect([...a.keys()].sort()).toEqual([...b.keys()].sort());
  let [difference, largest] = [0, 0];
  for (const [site, rows] of a) {
    const [x, y] = [keyed(rows), keyed(b.get(site)!)];
    for (const key of new Set([...x.keys(), ...y.keys()])) {
      difference = Math.max(difference, Math.abs((x.get(key) ?? 0) - (y.get(key) ?? 0)));
      largest = Math.max(largest, Math.abs(x.get(key) ?? 0));
    }
  }
  return difference / largest;
}

/** Σ effects by feature over the nodes, to compare forests that differ in what they merge. */
function summed(found: ReadonlyMap<SiteName, EffectRows>): Map<SiteName, EffectRows> {
  return new Map(
    [...found].map(([site, rows]) => {
      const sums = new Map<number, number>();
      rows.feature.forEach((f, i) => {
        sums.set(f, (sums.get(f) ?? 0) + rows.effect[i]!);
      });
      const feature = Int32Array.from(sums.keys());
      return [site, { ...rows, node: feature.map(() => 0), feature, effect: Float64Array.from(sums.values()) }];
    }),
  );
}

const exactGelu = (config: Readonly<Record<string, unknown>>) => config.hidden_act === "gelu";

describe.each(shapes)(`%s, six sites at once (seed ${seed})`, (name) => {
  it.each([
    ["analytic", "sfc"],
    ["analytic-ig", "sfc-ig"],
  ] as const)("%s is %s, to rounding", async (ours, theirs) => {
    // onnxruntime has no erf in float64.
    const dtype = exactGelu((await open(name, "float32")).config) ? "float32" : "float64";
    const tolerance = dtype === "float32" ? 1e-4 : 1e-10;
    const of = await inputOf(name, dtype, { steps: 3 });
    const [a, b] = [await all(ours, of), await all(theirs, of)];
    expect(a.size).toBe(sites.length);
    for (const rows of a.values()) expect(rows.node.length).toBeGreaterThan(20);
    expect(gap(a, b)).toBeLessThan(tolerance);
  });
});

it.each([
  ["analytic", "sfc"],
  ["analytic-ig", "sfc-ig"],
] as const)("%s is %s in float32 too, to its rounding", async (ours, theirs) => {
  const of = await inputOf("llama-gqa", "float32");
  expect(gap(await all(ours, of), await all(theirs, of))).toBeLessThan(1e-4);
});

// Sequential blocks, windows, and blocks of parallel parts.
describe.each(["llama-gqa", "gemma2", "gpt_neox"])("%s without a forest", (name) => {
  it.each(["analytic", "sfc", "spliced", "analytic-ig"] as const)(
    "%s in padded batches, and one by one, sums to what the forest gives",
    async (method) => {
      const few = { pairs: 7, steps: 2 };
      const merged = summed(await all(method, await inputOf(name, "float32", few)));
      for (const batch of [1, 4]) {
        const batches = summed(await all(method, await inputOf(name, "float32", { ...few, merge: "none", batch })));
        expect(gap(merged, batches)).toBeLessThan(2e-5);
      }
    },
  );
});

describe("dictionaries of other kinds, three sites at once", () => {
  it.each([
    ["TopK", { kind: "topk" }],
    ["normalised per token to a length", { normalization: "constant_norm_rescale" }],
    ["normalised per token like a layer norm", { normalization: "layer_norm" }],
  ] as const)("%s: the identity holds", async (_, kind) => {
    for (const name of ["llama-gqa", "gpt2"]) {
      const of = await inputOf(name, "float64", { at: ["attn_out.0", "resid_post.0", "mlp_out.1"], steps: 2 });
      const dictionaries = new Map(
        [...of.dictionaries].map(([site, { inputWidth }]) => [site, randomDictionary(site, inputWidth, F, seed, kind)]),
      );
      const other = { ...of, dictionaries };
      expect(gap(await all("analytic", other), await all("analytic", of))).toBeGreaterThan(1e-2);
      expect(gap(await all("analytic", other), await all("sfc", other))).toBeLessThan(1e-10);
      expect(gap(await all("analytic-ig", other), await all("sfc-ig", other))).toBeLessThan(1e-10);
    }
  });
});

describe("a forest that has to be cut", () => {
  it.each(["analytic", "sfc", "spliced", "analytic-ig", "sfc-ig"] as const)("changes nothing in %s", async (method) => {
    const forest = await inputOf("llama-gqa", "float32", { pairs: 400, steps: 2 });
    // Three packs at least: gradients of shared prefixes come from several, and codes of patch prompts before and after them.
    expect(planCapture(forest.forest, { wanted: "changed" }).packs.length).toBeGreaterThan(2);
    const separate = await inputOf("llama-gqa", "float32", { pairs: 400, steps: 2, merge: "none", batch: 32 });
    expect(gap(summed(await all(method, forest)), summed(await all(method, separate)))).toBeLessThan(2e-5);
  });

  it("changes nothing in exact", async () => {
    // The subtrees of the first nodes do not fit into a tile, and prompts end within them.
    const [at, pairs] = [["mlp_out.0"], 300];
    const merged = await inputOf("llama-gqa", "float64", { at, pairs });
    const { parent, size } = merged.forest.backward;
    const below = new Float64Array(size).fill(1);
    for (let node = size - 1; node >= 0; node--) if (parent[node]! >= 0) below[parent[node]!]! += below[node]!;
    expect(Math.max(...below)).toBeGreaterThan(2 * planCapture(merged.forest, { wanted: "both" }).tileSize);
    const [site] = at as [string];
    const top = { features: new Map([[site, [3, 11, 30]]]) };
    const apart = await inputOf("llama-gqa", "float64", { at, pairs, merge: "none", ...top });
    expect(gap(summed(await all("exact", { ...merged, ...top })), summed(await all("exact", apart)))).toBeLessThan(
      1e-9,
    );
  });
});

describe("what goes wrong silently elsewhere is refused or safe here", () => {
  it("batches of a merged forest", async () => {
    const of = await inputOf("llama-gqa", "float32", { pairs: 30, batch: 4 });
    await expect(all("analytic", of)).rejects.toThrow("nothing is merged");
  });

  it("codes of several dictionaries at once", async () => {
    const random = new Random(`${seed}/at once`);
    const reader = codeReader();
    const jobs = [64, 96, 32].map((width, i) => ({
      dictionary: randomDictionary(`resid_post.${i}`, 32, width, seed),
      x: Float32Array.from({ length: 32 * (300 + 200 * i) }, () => random.normal()),
    }));
    const together = await Promise.all(jobs.map(({ dictionary, x }) => reader.encode(dictionary, x)));
    for (const [i, { dictionary, x }] of jobs.entries()) {
      expect(together[i]).toEqual(await reader.encode(dictionary, x));
      expect(together[i]!.features.length).toBeGreaterThan(100);
    }
    await reader.release();
  });
});

describe("against what changing the passes shows", () => {
  /** M = Σ weight·m at the clean prompts of the one pack, with f[N,F] + change at one site, and errors held. */
  async function withHeldErrors(of: MethodInput, pack: Pack) {
    const [moved, errors] = [new Map<SiteName, Hook>(), new Map<SiteName, Hook>()];
    const inputs = new Map<SiteName, Record<string, Inputs[string]>>();
    const N = pack.tokens.length;
    for (const [site, dictionary] of of.dictionaries) {
      const encoder = await dictionary.encoder();
      const D = dictionary.inputWidth;
      const weights = async () => encoderValues(encoder, "float64");
      const decoder = constant(Float64Array.from(await dictionary.decoder()), "float64", [F, D]);
      const codesOf = (x: Tensor, named: (name: string) => string) =>
        traceCodes(x, encoderTensors(encoderForm(encoder), D, F, "float64", named), codeRule(encoder));
      moved.set(site, {
        weights,
        trace(x, { named }) {
          const f = codesOf(x, named).add(input(named("change"), "float64", x.shape.with(1, F)));
          return { y: f.matmul(decoder).add(input(named("error"), "float64", x.shape)) };
        },
      });
      errors.set(site, {
        weights,
        trace: (x, { named }) => ({ y: x, values: { error: x.sub(codesOf(x, named).matmul(decoder)) } }),
      });
      inputs.set(site, { change: { dtype: "float64", data: new Float64Array(N * F), shape: [N, F] } });
    }
    const { found } = await runPack(of, { ...pack, kind: "forward" }, errors);
    for (const [site, own] of inputs) {
      const data = found.get(`value/${site}/error`)!;
      own.error = { dtype: "float64", data: data as Float64Array, shape: [N, data.length / N] };
    }
    return async (site: SiteName, row: number, feature: number, size: number) => {
      const change = inputs.get(site)!.change!.data as Float64Array;
      change[row * F + feature] = size;
      const metric = await packMetric(of, pack, moved, (at) => inputs.get(at)!);
      change[row * F + feature] = 0;
      return metric;
    };
  }

  it("spliced has the gradients that moving a code shows, through the encoders of later sites", async () => {
    const of = await inputOf("llama-gqa", "float64");
    const found = await all("spliced", of);
    const [pack] = planCapture(of.forest, { wanted: "changed" }).packs as [Pack];
    const metric = await withHeldErrors(of, pack);
    const random = new Random(`${seed}/spliced`);
    let through = 0;
    for (const site of sites) {
      const rows = found.get(site)!;
      const scale = Math.max(...rows.gradient.map((g) => (Number.isNaN(g) ? 0 : Math.abs(g))));
      for (let trial = 0; trial < 4; trial++) {
        let i = random.below(rows.node.length);
        while (rows.feature[i] === errorFeature) i = random.below(rows.node.length);
        const at = pack.node.indexOf(rows.node[i]!);
        const h = 1e-5;
        const up = await metric(site, at, rows.feature[i]!, h);
        const slope = (up - (await metric(site, at, rows.feature[i]!, -h))) / (2 * h);
        expect(Math.abs(slope - rows.gradient[i]!) / scale, `${site}/${rows.feature[i]}`).toBeLessThan(1e-5);
      }
      through += gap(new Map([[site, rows]]), new Map([[site, (await all("sfc", of)).get(site)!]]));
    }
    // Here the analytical gradient is an approximation, not the same thing.
    expect(through).toBeGreaterThan(0.1);
  });

  it.each(["resid_post.0", "attn_z.1", "mlp_out.0"])(
    "exact is the change of the metric when one node is patched, at %s",
    async (site) => {
      const of = await inputOf("llama-gqa", "float64", { at: [site] });
      const rows = (await all("exact", of)).get(site)!;
      const { dictionaries, forest } = of;
      const dictionary = dictionaries.get(site)!;
      const [decoder, D] = [await dictionary.decoder(), dictionary.inputWidth];
      // One tile, so that one pack has all of the forest.
      const plan = planCapture(forest, { wanted: "both", tileSize: forest.backward.size });
      const captured = await capture(of, plan, { sites: [site] });
      const { x } = await captured.site(site);
      const [pack] = plan.packs as [Pack];
      const n = pack.tokens.length / pack.tiles;
      const total = (change: Floats) => {
        const moved = constant(change, "float64", [n, D]);
        const trace: Hook["trace"] = (y) => ({
          y: y
            .reshape("B", n, D)
            .add(moved)
            .reshape(...y.shape),
        });
        return packMetric(of, pack, new Map([[site, { trace }]]));
      };
      const before = await total(new Float64Array(pack.tokens.length * D));
      const random = new Random(`${seed}/exact/${site}`);
      const chosen = [
        rows.feature.indexOf(errorFeature),
        ...Array.from({ length: 8 }, () => random.below(rows.node.length)),
      ];
      const largest = Math.max(...rows.effect.map(Math.abs));
      for (const i of chosen) {
        const node = rows.node[i]!;
        const [c, p] = [forest.backward.clean[node]!, forest.backward.patch[node]!].map((f) => plan.row[f]! * D);
        const own = [...rows.node.keys()].filter((j) => rows.node[j] === node && rows.feature[j] !== errorFeature);
        const change = new Float64Array(pack.tokens.length * D);
        const at = pack.node.indexOf(node) * D;
        for (let d = 0; d < D; d++) {
          const part = (j: number) => (rows.fPatch[j]! - rows.fClean[j]!) * decoder[rows.feature[j]! * D + d]!;
          change[at + d] =
            rows.feature[i] === errorFeature
              ? x[p! + d]! - x[c! + d]! - own.reduce((sum, j) => sum + part(j), 0)
              : part(i);
        }
        const effect = (await total(change)) - before;
        // Codes in the rows are float32.
        expect(Math.abs(effect - rows.effect[i]!) / largest).toBeLessThan(1e-6);
      }
    },
  );

  it("exact patches the features that are asked for, or the strongest of analytic, and tells the work first", async () => {
    const of = await inputOf("llama-gqa", "float64", { at: ["resid_post.0"] });
    const everything = (await all("exact", of)).get("resid_post.0")!;
    const told: number[] = [];
    const onWork = ({ patches, flops }: { patches: number; flops: number }) => told.push(patches, flops);
    const some = (await all("exact", { ...of, features: new Map([["resid_post.0", [5, 40]]]), onWork })).get(
      "resid_post.0",
    )!;
    expect(new Set(some.feature)).toEqual(new Set([errorFeature, 5, 40]));
    const full = keyed(everything);
    for (const [key, effect] of keyed(some)) expect(effect).toBeCloseTo(full.get(key)!, 9);
    expect(told[0]).toBe(some.node.length);
    expect(told[1]).toBeGreaterThan(0);
    const top = (await all("exact", { ...of, features: { top: 3 } })).get("resid_post.0")!;
    const sums = summed(await all("analytic", of)).get("resid_post.0")!;
    const strongest = [...sums.feature.keys()]
      .filter((i) => sums.feature[i] !== errorFeature)
      .sort((a, b) => Math.abs(sums.effect[b]!) - Math.abs(sums.effect[a]!))
      .slice(0, 3)
      .map((i) => sums.feature[i]!);
    expect(new Set(top.feature)).toEqual(new Set([errorFeature, ...strongest]));
  });
});

describe("the strongest features patched by themselves", () => {
  const outside = { first: new Set([1]), padding: new Set<number>() };
  const rankedBy = (found: ReadonlyMap<SiteName, EffectRows>) =>
    new Map([...found].map(([site, rows]) => [site, rankFeatures(rows)]));
  type SumsBySite = ReturnType<typeof summed>;

  it("have the means of exact, of the run's method, of analytic and of secant over the same pairs", async () => {
    for (const method of ["analytic", "analytic-ig", "secant"] as const) {
      const of = await inputOf("llama-gqa", "float64");
      const [own, exact] = [await all(method, of), await all("exact", of)];
      const [first, secant] = [await all("analytic", of), await all("secant", of)];
      const ranked = rankedBy(own);
      const sample = await patchStrongest(of, method, of.forest.pairs, ranked, outside, Number.POSITIVE_INFINITY);
      expect(sample?.pairs).toBe(14);
      const largest = Math.max(...[...ranked.values()].map(([first]) => Math.abs(first!.effect)));
      const strong = [...ranked].flatMap(([site, list]) =>
        list
          .slice(0, 3)
          .filter(({ effect }) => Math.abs(effect) >= largest / 10)
          .map(({ feature }) => `${site}/${feature}`),
      );
      expect(sample?.features.map(({ site, feature }) => `${site}/${feature}`).sort()).toEqual(strong.sort());
      const [ownSums, exactSums, firstSums, secantSums] = [own, exact, first, secant].map(summed) as SumsBySite[];
      const mean = (sums: SumsBySite | undefined, site: SiteName, feature: number) => {
        const { feature: features, effect } = sums!.get(site)!;
        return effect[features.indexOf(feature)]! / 14;
      };
      for (const { site, feature, ...found } of sample!.features) {
        expect(found.exact).toBeCloseTo(mean(exactSums, site, feature), 9);
        expect(found.method).toBeCloseTo(mean(ownSums, site, feature), 9);
        expect(found.firstOrder).toBeCloseTo(mean(firstSums, site, feature), 9);
        expect(found.secant).toBeCloseTo(mean(secantSums, site, feature), 9);
      }
      // Otherwise the two columns could be swapped.
      expect(sample!.features.some(({ exact: a, method: b }) => Math.abs(a - b) > 1e-3)).toBe(true);
      expect(sample!.features.some(({ firstOrder: a, secant: b }) => Math.abs(a - b!) > 1e-3)).toBe(true);
    }
  });

  /** Means over the pairs of what a feature has at nodes whose tokens are no padding, beside what the sample says. */
  async function withPadding(pad: number) {
    const site = "mlp_out.0";
    const of = await inputOf("llama-gqa", "float64", { at: [site] });
    const found = await all("analytic", of);
    const rows = found.get(site)!;
    const { token, patchToken } = of.forest.backward;
    const mean = (feature: number, counts: (node: number) => boolean) =>
      rows.effect.reduce((sum, effect, i) => {
        return rows.feature[i] === feature && counts(rows.node[i]!) ? sum + effect : sum;
      }, 0) / 14;
    const left = { first: new Set<number>(), padding: new Set([pad]) };
    const { pairs } = of.forest;
    const sample = (await patchStrongest(of, "analytic", pairs, rankedBy(found), left, Number.POSITIVE_INFINITY))!;
    return sample.features.map(({ feature, method }) => ({
      method,
      counted: mean(feature, (node) => token[node] !== pad && patchToken[node] !== pad),
      all: mean(feature, () => true),
    }));
  }

  it("have no part of nodes at which the prompts have padding", async () => {
    const features = await withPadding(5);
    for (const { method, counted } of features) expect(method).toBeCloseTo(counted, 9);
    expect(features.some(({ counted, all }) => Math.abs(counted - all) > 1e-3)).toBe(true);
  });

  // The ranking leaves these nodes out, the sample looks at the clean token alone.
  it("have no part of nodes at which the patch prompt alone has padding", async () => {
    for (const { method, counted } of await withPadding(10)) expect(method).toBeCloseTo(counted, 9);
  });

  it("are fewer, on fewer pairs, where the budget is small, and none without a budget", async () => {
    const of = await inputOf("llama-gqa", "float32", { pairs: 80 });
    const ranked = rankedBy(await all("analytic", of));
    const within = (budget: number) => patchStrongest(of, "analytic", of.forest.pairs, ranked, outside, budget);
    const whole = (await within(Number.POSITIVE_INFINITY))!;
    expect(whole.pairs).toBe(64);
    // They are spread over all of them: every fourth is followed by one that is left out.
    const spread = of.forest.pairs.filter((_, i) => i % 5 < 4);
    const first = of.forest.pairs.slice(0, 64);
    const [means, others] = [spread, first].map(async (pairs) =>
      summed(await all("analytic", { ...of, forest: prefixForest(pairs) })),
    );
    const [here, elsewhere] = [await means!, await others!];
    const meanOf = (sums: typeof here, { site, feature }: { site: SiteName; feature: number }) => {
      const rows = sums.get(site)!;
      return rows.effect[rows.feature.indexOf(feature)]! / 64;
    };
    for (const one of whole.features) expect(one.method).toBeCloseTo(meanOf(here, one), 4);
    expect(whole.features.some((one) => Math.abs(one.method - meanOf(elsewhere, one)) > 1e-3)).toBe(true);
    expect(await within(0)).toBeUndefined();
    let least = { pairs: 64, features: whole.features.length };
    let withoutSecant = false;
    for (let budget = 1e9; budget > 1e4; budget /= 4) {
      const sample = await within(budget);
      if (!sample) break;
      expect(sample.pairs).toBeLessThanOrEqual(least.pairs);
      expect(sample.features.length).toBeLessThanOrEqual(least.features);
      least = { pairs: sample.pairs, features: sample.features.length };
      withoutSecant ||= sample.features.every(({ secant }) => secant === null);
    }
    expect(least.pairs).toBeLessThan(64);
    // Secant takes more than patching few features on few pairs.
    expect(whole.features.every(({ secant }) => secant !== null)).toBe(true);
    expect(withoutSecant).toBe(true);
  });
});

describe("integrated gradients", () => {
  /** Σ effects of a residual site less the total effect Σ(m_patch − m_clean), of the latter. */
  async function shortfall(more: Partial<MethodInput>): Promise<number[]> {
    let total = 0;
    const of = await inputOf("llama-gqa", "float64", { at: ["resid_post.0", "resid_post.1"], ...more });
    const onMetric = (clean: Float64Array, patch: Float64Array) => {
      total = of.forest.ends.reduce((sum, { weight }, e) => sum + weight * (patch[e]! - clean[e]!), 0);
    };
    const found = await all("analytic-ig", { ...of, onMetric });
    return [...found.values()].map(
      (rows) => Math.abs(rows.effect.reduce((a, b) => a + b, 0) - total) / Math.abs(total),
    );
  }

  it("sum to what patching the whole site gives: the midpoint rule's gap falls with the square of the steps, the left rule's with the steps", async () => {
    const [at10, at40, left10, left40] = [
      await shortfall({ steps: 10 }),
      await shortfall({ steps: 40 }),
      await shortfall({ steps: 10, rule: "left" }),
      await shortfall({ steps: 40, rule: "left" }),
    ];
    for (const i of [0, 1]) {
      expect(at40[i]!).toBeLessThan(at10[i]! / 8);
      expect(left40[i]! / left10[i]!).toBeGreaterThan(0.15);
      expect(left40[i]! / left10[i]!).toBeLessThan(0.4);
      expect(at40[i]!).toBeLessThan(5e-3);
      expect(left10[i]!).toBeGreaterThan(10 * at10[i]!);
    }
  });

  it("with one step are the gradients at the middle, or with the left rule those of analytic", async () => {
    const of = await inputOf("llama-gqa", "float64");
    const left = await all("analytic-ig", { ...of, steps: 1, rule: "left" });
    expect(gap(await all("analytic", of), left)).toBeLessThan(1e-12);
    expect(gap(left, await all("analytic-ig", { ...of, steps: 1 }))).toBeGreaterThan(1e-3);
  });
});
