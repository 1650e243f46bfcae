import { describe, expect, it } from "vitest";
import { openFolder } from "../src/bytes/file.node.ts";
import { floatValue, type Hook, type Job } from "../src/capture/hooks.ts";
import { openRunner } from "../src/capture/run.ts";
import type { Dictionary } from "../src/dictionaries/dictionary.ts";
import { codeReader } from "../src/dictionaries/encode.ts";
import { prefixForest } from "../src/forest/forest.ts";
import { times } from "../src/graph/shape.ts";
import { input } from "../src/graph/tensor.ts";
import {
  type AblationKind,
  type AblationValue,
  ablationBase,
  type ErrorTreatment,
  evaluationForest,
  type Features,
  readActivations,
} from "../src/interventions/ablation.ts";
import { clusterNodes, clusterPairs, percentiles, ratioInterval, sumByCluster } from "../src/interventions/clusters.ts";
import { evaluateSubsets, forwardPacks, type Subset } from "../src/interventions/evaluate.ts";
import { areas } from "../src/interventions/evaluation.ts";
import { evenMasks, openMaskLoss } from "../src/interventions/masks.ts";
import { openCheckpoint } from "../src/models/checkpoint.ts";
import { fittedModel } from "../src/models/fitted.ts";
import { heldWeights, type LoadedModel, loadedModel, streamedWeights } from "../src/models/weights.ts";
import type { TokenPair } from "../src/prompts/pairs.ts";
import { Random } from "../src/random.ts";
import { parseSite, type SiteName } from "../src/site.ts";
import { apply } from "./apply-dictionary.ts";
import { randomDictionary } from "./random-dictionary.ts";

const seed = "evaluate";
const F = 24;
const sites: SiteName[] = ["attn_out.0", "resid_post.0", "mlp_out.1", "resid_post.1"];
const circuit: Features = new Map([
  ["attn_out.0", [0, 5]],
  ["resid_post.0", [1, 2, 3, 9, 17]],
  ["resid_post.1", [4, 8, 15, 16, 23]],
]);

function somePairs(): TokenPair[] {
  const random = new Random(seed);
  return Array.from({ length: 6 }, (_, i) => {
    const rest = Array.from({ length: 2 + (i % 2) }, () => 4 + random.below(3));
    const texts = { clean_prefix: "", patch_prefix: "", clean_answer: "", patch_answer: "" };
    return {
      pair: { ...texts, case: i < 4 ? "a" : "b", split: "test" as const },
      clean: [1, 8 + (i % 2), ...rest],
      patch: [1, 11 + (i % 2), ...rest],
      cleanAnswer: 20,
      patchAnswer: 22 + (i % 3),
    };
  });
}

interface Prompts {
  /** The activations of one prompt at the sites, where those before are replaced, and m of a pair's answers. */
  run(
    pair: TokenPair,
    tokens: readonly number[],
    replaced?: ReadonlyMap<SiteName, Float64Array>,
  ): Promise<{ m: number; x: Map<SiteName, Float64Array> }>;
  release(): Promise<void>;
}

function openPrompts(loaded: LoadedModel): Prompts {
  const { model, dtype } = loaded;
  const width = (site: SiteName) => model.sites[parseSite(site).kind]!;
  const numbers = (values: Float64Array) => (dtype === "float64" ? values : Float32Array.from(values));
  const hooks = new Map(
    sites.map((site): [SiteName, Hook] => [
      site,
      {
        trace(x, { context, named }) {
          const rows = input(named("instead"), dtype, [times(context.tileSize, "B"), width(site)]);
          return { y: x.add(rows.sub(x).mul(input(named("replaces"), dtype, [1, 1]))), values: { x } };
        },
      },
    ]),
  );
  const runner = openRunner(loaded, { hooks });
  return {
    async run({ pair, cleanAnswer, patchAnswer }, tokens, replaced = new Map()) {
      const pack = forwardPacks(prefixForest([{ pair, clean: tokens, patch: tokens, cleanAnswer, patchAnswer }]))[0]!;
      const N = pack.tokens.length;
      const x = new Map<SiteName, Float64Array>();
      let m = Number.NaN;
      const job: Job = {
        pack,
        metric: (values) => {
          m = values[0]!;
        },
        inputs(site) {
          const instead = new Float64Array(N * width(site));
          instead.set(replaced.get(site) ?? []);
          return {
            instead: floatValue(numbers(instead), N, width(site)),
            replaces: floatValue(numbers(Float64Array.of(replaced.has(site) ? 1 : 0)), 1, 1),
          };
        },
        found({ site, tensors }) {
          x.set(site, Float64Array.from(tensors.x!.subarray(0, tokens.length * width(site))));
          return undefined;
        },
      };
      await runner.run([job]);
      return { m, x };
    },
    release: () => runner.release(),
  };
}

/** A token's codes and error, by the definitions in float64. */
interface Parts {
  readonly codes: readonly number[];
  readonly error: Float64Array;
}

async function partsOf(dictionary: Dictionary, x: Float64Array, t: number): Promise<Parts> {
  const D = dictionary.inputWidth;
  const token = x.slice(t * D, (t + 1) * D);
  const { codes } = await apply(dictionary, token);
  const [decoder, bias] = [await dictionary.decoder(), await biasOf(dictionary)];
  const error = token.map((v, d) => v - bias[d]! - codes.reduce((sum, f, i) => sum + f * decoder[i * D + d]!, 0));
  return { codes, error };
}

/** b_dec; of an SAE that is normalised per token it counts as error. */
const biasOf = async (dictionary: Dictionary) =>
  (await dictionary.encoder()).normalization === undefined
    ? dictionary.decoderBias()
    : new Float32Array(dictionary.outputWidth);

/** What ablated features and errors are, at each site and position of each pair. */
async function ablated(
  plain: readonly Record<"clean" | "patch", Map<SiteName, Parts[]>>[],
  pairs: readonly TokenPair[],
  values: AblationValue,
): Promise<(p: number, site: SiteName, t: number) => Parts> {
  const groupOf = (pair: TokenPair) => `${pair.pair.case}/${pair.clean.length}`;
  return (p, site, t) => {
    const alike = plain.filter((_, q) => groupOf(pairs[q]!) === groupOf(pairs[p]!));
    const sources =
      values === "zero"
        ? []
        : values === "patch"
          ? [plain[p]!.patch]
          : alike.flatMap(({ clean, patch }) => [clean, patch]);
    const all = sources.map((source) => source.get(site)![t]!);
    const mean = (of: (parts: Parts) => ArrayLike<number>, n: number) =>
      Float64Array.from({ length: n }, (_, i) => all.reduce((sum, parts) => sum + of(parts)[i]! / all.length, 0));
    const D = plain[p]!.clean.get(site)![t]!.error.length;
    return { codes: [...mean(({ codes }) => codes, F)], error: mean(({ error }) => error, D) };
  };
}

/** The metric of each pair by the definition: prompt after prompt, site after site, in plain JavaScript with whole dictionaries. */
async function byHand(
  prompts: Prompts,
  dictionaries: ReadonlyMap<SiteName, Dictionary>,
  pairs: readonly TokenPair[],
  { values, errors }: AblationKind,
  subsets: readonly Subset[],
): Promise<number[][]> {
  const plainOf = async (pair: TokenPair, tokens: readonly number[]) => {
    const found = new Map<SiteName, Parts[]>();
    for (const [site, x] of (await prompts.run(pair, tokens)).x) {
      found.set(site, await Promise.all(tokens.map((_, t) => partsOf(dictionaries.get(site)!, x, t))));
    }
    return found;
  };
  const plain: Record<"clean" | "patch", Map<SiteName, Parts[]>>[] = [];
  for (const pair of pairs)
    plain.push({ clean: await plainOf(pair, pair.clean), patch: await plainOf(pair, pair.patch) });
  const instead = await ablated(plain, pairs, values);
  const metricOf = async (p: number, subset: Subset) => {
    const pair = pairs[p]!;
    const replaced = new Map<SiteName, Float64Array>();
    for (const site of sites) {
      const dictionary = dictionaries.get(site)!;
      const D = dictionary.outputWidth;
      const [decoder, bias] = [await dictionary.decoder(), await biasOf(dictionary)];
      const own = (await prompts.run(pair, pair.clean, replaced)).x.get(site)!;
      const out = own.slice();
      for (let t = 1; t < pair.clean.length; t++) {
        const { codes, error } = await partsOf(dictionary, own, t);
        const a = instead(p, site, t);
        const chosen = subset.kind === "whole" ? undefined : new Set(subset.features.get(site) ?? []);
        const keeps = (i: number) => chosen === undefined || chosen.has(i) !== (subset.kind === "complement");
        const kinds = {
          ablated: a.error,
          clean: plain[p]!.clean.get(site)![t]!.error,
          removed: new Float64Array(D),
          kept: error,
        };
        const rest = kinds[subset.kind === "complement" ? "kept" : errors];
        for (let d = 0; d < D; d++) {
          let sum = bias[d]! + rest[d]!;
          for (let i = 0; i < F; i++) sum += (keeps(i) ? codes[i]! : a.codes[i]!) * decoder[i * D + d]!;
          out[t * D + d] = sum;
        }
      }
      replaced.set(site, out);
    }
    return (await prompts.run(pair, pair.clean, replaced)).m;
  };
  const found: number[][] = [];
  for (const subset of subsets) {
    const metrics: number[] = [];
    for (const p of pairs.keys()) metrics.push(await metricOf(p, subset));
    found.push(metrics);
  }
  return found;
}

/** Post-norms with JumpReLU, layer norms with TopK, parallel blocks with SAEs normalised per token. */
describe.each([
  ["gemma2", { kind: "jumprelu", threshold: 0.1 }],
  ["gpt2", { kind: "topk" }],
  ["gpt_neox-sequential", { kind: "relu" }],
  ["gpt_neox", { kind: "jumprelu", threshold: 0.1, normalization: "layer_norm" }],
] as const)(`evaluation on %s (seed ${seed})`, (name, kind) => {
  it("is what the definition gives, prompt by prompt with whole dictionaries", async () => {
    const checkpoint = await openCheckpoint(await openFolder(new URL(`fixtures/${name}`, import.meta.url).pathname));
    const { model } = await fittedModel(checkpoint);
    // The runtime has no float64 kernel for the error function.
    const dtype = checkpoint.config.hidden_act === "gelu" ? "float32" : "float64";
    const loaded = loadedModel(model, await heldWeights(model, checkpoint, dtype), { dtype });
    const prompts = openPrompts(loaded);
    const dictionaries = new Map(
      sites.map((site) => [site, randomDictionary(site, model.sites[parseSite(site).kind]!, F, seed, kind)]),
    );
    const pairs = somePairs();
    const forest = evaluationForest(pairs);
    const setting = { loaded, forest, dictionaries, outside: { first: new Set([1]), padding: new Set<number>() } };
    const codes = codeReader(loaded);
    const activations = await readActivations(loaded, forest, sites);
    const subsets: Subset[] = [
      { kind: "circuit", features: circuit },
      { kind: "circuit", features: new Map() },
      { kind: "complement", features: circuit },
      { kind: "whole" },
    ];
    const kinds: [AblationValue, ErrorTreatment][] = [
      ["mean", "ablated"],
      ["mean", "kept"],
      ["patch", "clean"],
      ["zero", "removed"],
    ];
    for (const [values, errors] of kinds) {
      const base = await ablationBase(activations, dictionaries, codes, circuit, { values, errors }, { whole: true });
      const got = await evaluateSubsets(setting, base, subsets);
      const all = await byHand(prompts, dictionaries, pairs, { values, errors }, subsets);
      for (const [i, subset] of subsets.entries()) {
        const right = all[i]!;
        const largest = Math.max(...right.map(Math.abs));
        right.forEach((m, p) => {
          const gap = Math.abs(got[i]![forest.endIndexOfPair[p]!]! - m) / largest;
          expect(gap, `${values}, errors ${errors}, ${subset.kind}, pair ${p}`).toBeLessThan(
            dtype === "float64" ? 1e-9 : 1e-4,
          );
        });
      }
    }
    await codes.release();
    await prompts.release();
    await checkpoint.close();
  });
});

describe("an evaluation", () => {
  it("reads the decoder rows of the circuit's candidates alone", async () => {
    const checkpoint = await openCheckpoint(await openFolder(new URL("fixtures/llama-gqa", import.meta.url).pathname));
    const { model } = await fittedModel(checkpoint);
    const loaded = loadedModel(model, await heldWeights(model, checkpoint));
    const read: number[] = [];
    const fed: number[] = [];
    const dictionaries = new Map(
      ["resid_post.0", "resid_post.1"].map((site) => {
        const plain = randomDictionary(site, model.sites.resid_post!, 400, seed);
        const counted: Dictionary = {
          ...plain,
          decoder() {
            throw new Error("the whole decoder was read");
          },
          decoderRows(features) {
            read.push(features.length);
            return plain.decoderRows(features);
          },
        };
        return [site, counted] as const;
      }),
    );
    const forest = evaluationForest(somePairs());
    const codes = codeReader(loaded);
    const own: Features = new Map([
      ["resid_post.0", [1, 399]],
      ["resid_post.1", [7]],
    ]);
    const activations = await readActivations(loaded, forest, [...dictionaries.keys()]);
    const base = await ablationBase(activations, dictionaries, codes, own, { values: "mean", errors: "ablated" });
    const setting = { loaded, forest, dictionaries, outside: { first: new Set<number>(), padding: new Set<number>() } };
    const [m] = await evaluateSubsets(setting, base, [{ kind: "circuit", features: own }]);
    for (const { picked } of base.sites.values())
      fed.push(picked.encoder.weight.length / model.width, picked.rows.length / model.width);
    expect(read).toEqual([2, 1]);
    expect(fed).toEqual([2, 2, 1, 1]);
    expect(m!.every(Number.isFinite)).toBe(true);
    await codes.release();
    await checkpoint.close();
  });
});

describe("runs with ablated sites", () => {
  it("begin at the first of them where it is of the residual stream: earlier blocks' weights are not asked for", async () => {
    const checkpoint = await openCheckpoint(await openFolder(new URL("fixtures/llama-gqa", import.meta.url).pathname));
    const { model } = await fittedModel(checkpoint);
    const weights = await heldWeights(model, checkpoint);
    const forest = evaluationForest(somePairs());
    const codes = codeReader();
    const blocksFor = async (all: readonly SiteName[]) => {
      const dictionaries = new Map(
        all.map((site) => [site, randomDictionary(site, model.sites[parseSite(site).kind]!, 40, seed)]),
      );
      const activations = await readActivations(loadedModel(model, weights), forest, all);
      const features: Features = new Map(all.map((site) => [site, [1, 7]]));
      const base = await ablationBase(activations, dictionaries, codes, features, {
        values: "mean",
        errors: "ablated",
      });
      const blocks = { circuit: new Set<string>(), masks: new Set<string>() };
      const setting = (asked: Set<string>) => ({
        loaded: loadedModel(model, (name) => {
          asked.add(/layers\.(\d+)/.exec(name)?.[1] ?? "");
          return weights(name);
        }),
        forest,
        dictionaries,
        outside: { first: new Set<number>(), padding: new Set<number>() },
      });
      const circuit: Subset = { kind: "circuit", features };
      const [held] = await evaluateSubsets(setting(blocks.circuit), base, [circuit]);
      const streamed = { ...setting(new Set()), loaded: loadedModel(model, streamedWeights(checkpoint)) };
      const [other] = await evaluateSubsets(streamed, base, [circuit]);
      held!.forEach((m, end) => {
        expect(other![end]!).toBeCloseTo(m, 4);
      });
      const loss = await openMaskLoss(setting(blocks.masks), base, activations.cleanMetric);
      await loss.at(evenMasks(base, 1));
      await loss.release();
      return [blocks.circuit, blocks.masks].map((asked) => [...asked].filter((block) => block !== "").sort());
    };
    expect(model.layers).toBe(3);
    expect(await blocksFor(["resid_post.0", "mlp_out.1", "resid_post.1"])).toEqual([
      ["1", "2"],
      ["1", "2"],
    ]);
    expect(await blocksFor(["mlp_out.0", "resid_post.0"])).toEqual([
      ["0", "1", "2"],
      ["0", "1", "2"],
    ]);
    await codes.release();
    await checkpoint.close();
  });
});

describe("intervals", () => {
  const pairs = somePairs();

  it("are over the words that pairs share: both forms of a word are one cluster, of pairs and of nodes alike", () => {
    // The clean and the patch prompt swapped.
    const swapped = pairs.map((pair) => ({ ...pair, clean: pair.patch, patch: pair.clean }));
    const all = [...pairs, ...swapped];
    const { of, count } = clusterPairs(all);
    expect(count).toBe(2);
    expect([...of.slice(0, 6)]).toEqual([...of.slice(6)]);
    const forest = prefixForest(all);
    const nodes = clusterNodes(forest);
    expect([...forest.endNodeOfPair].map((node) => nodes.of[node])).toEqual([...of]);
    expect([...sumByCluster({ of, count }, [1, 2, 3, 4, 5, 6, 0, 0, 0, 0, 0, 0])]).toEqual([9, 12]);
  });

  it("hold the ratio, are wider for clusters that differ more, and null for a single one", () => {
    const even = Float64Array.from({ length: 30 }, () => 10);
    const near = ratioInterval(
      even.map((v, i) => v * 0.5 + (i % 2) * 0.1),
      even,
    )!;
    const far = ratioInterval(
      even.map((v, i) => v * 0.5 + (i % 2) * 5),
      even,
    )!;
    expect(near.low).toBeLessThan(0.505);
    expect(near.high).toBeGreaterThan(0.505);
    expect(far.high - far.low).toBeGreaterThan(10 * (near.high - near.low));
    // A mean of 30 draws of 0.5 or 1 has a standard error of 0.25/√30.
    expect(far.high - far.low).toBeCloseTo(2 * 1.96 * (0.25 / Math.sqrt(30)), 1);
    expect(ratioInterval([1], [2])).toBeNull();
    expect(percentiles([3, 1, 2], 1)).toEqual({ low: 1, high: 3 });
  });
});

describe("areas", () => {
  it("are those of the lines through (0, 0), the points and (1, whole)", () => {
    const { cpr, cmd } = areas([{ size: 50, faithfulness: 1 }], 100, 1);
    expect(cpr).toBeCloseTo(0.75, 12);
    expect(cmd).toBeCloseTo(0.25, 12);
    // From 0 at 0 to 2 at 1: the line crosses 1 in the middle.
    expect(areas([], 100, 2)).toEqual({ cpr: 1, cmd: 0.5 });
  });
});
