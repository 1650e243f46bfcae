import { describe, expect, it } from "vitest";
import { openFolder } from "../src/bytes/file.node.ts";
import { subfolder } from "../src/bytes/folder.ts";
import { runMetric } from "../src/capture/capture.ts";
import type { Hook } from "../src/capture/hooks.ts";
import { edges } from "../src/circuit/edges.ts";
import { identityDictionary } from "../src/dictionaries/basis.ts";
import type { Dictionary } from "../src/dictionaries/dictionary.ts";
import { codeReader, codeRow } from "../src/dictionaries/encode.ts";
import { closeDictionaries, openDictionaries } from "../src/dictionaries/open.ts";
import { pickFeatures } from "../src/dictionaries/pick.ts";
import { analyticMethod } from "../src/effects/analytic.ts";
import { captureFor } from "../src/effects/capture-for.ts";
import type { MethodInput } from "../src/effects/method.ts";
import { errorFeature } from "../src/effects/rows.ts";
import { secantMethod } from "../src/effects/secant.ts";
import { prefixForest } from "../src/forest/forest.ts";
import { planMetric } from "../src/forest/packs.ts";
import { constant } from "../src/graph/tensor.ts";
import { ablationBase, evaluationForest, type Features, readActivations } from "../src/interventions/ablation.ts";
import { activityOf, matchedByActivity } from "../src/interventions/baselines.ts";
import { chooseTop } from "../src/interventions/choose.ts";
import { evaluateSubsets, meanMetric } from "../src/interventions/evaluate.ts";
import { evenMasks, openMaskLoss } from "../src/interventions/masks.ts";
import { scoresOf } from "../src/interventions/scores.ts";
import { openCheckpoint } from "../src/models/checkpoint.ts";
import { fittedModel } from "../src/models/fitted.ts";
import { heldWeights, loadedModel, streamedWeights } from "../src/models/weights.ts";
import { tokenizePairs } from "../src/prompts/check.ts";
import { agreementPairs } from "../src/prompts/english/agreement.ts";
import type { Split, TokenPair } from "../src/prompts/pairs.ts";
import { loadTokenizer } from "../src/prompts/tokenizer.ts";
import { Random } from "../src/random.ts";
import { parseSite, type SiteName, siteName } from "../src/site.ts";
import { randomDictionary } from "./random-dictionary.ts";

const seed = "baselines";
const outside = { first: new Set([1]), padding: new Set<number>() };

/** Pairs of one case and length that begin with BOS, token 1. */
function somePairs(): TokenPair[] {
  const random = new Random(seed);
  return Array.from({ length: 6 }, (_, i) => {
    const rest = Array.from({ length: 3 }, () => 4 + random.below(4));
    const texts = { clean_prefix: "", patch_prefix: "", clean_answer: "", patch_answer: "" };
    return {
      pair: { ...texts, case: "a", split: "train" as const },
      clean: [1, 8 + (i % 3), ...rest],
      patch: [1, 11 + (i % 2), ...rest],
      cleanAnswer: 20,
      patchAnswer: 22 + (i % 3),
    };
  });
}

async function open(name: string, weights: "held" | "streamed" = "held", dtype: "float32" | "float64" = "float64") {
  const checkpoint = await openCheckpoint(await openFolder(new URL(`fixtures/${name}`, import.meta.url).pathname));
  const { model } = await fittedModel(checkpoint);
  const chosen = weights === "held" ? await heldWeights(model, checkpoint, dtype) : streamedWeights(checkpoint);
  const width = (site: SiteName) => model.sites[parseSite(site).kind]!;
  return { loaded: loadedModel(model, chosen, { dtype }), width, close: () => checkpoint.close() };
}

const basis = (sites: readonly SiteName[], width: (site: SiteName) => number) =>
  new Map(sites.map((site) => [site, identityDictionary(site, width(site))]));

describe(`the basis as a dictionary (seed ${seed})`, () => {
  it.each(["float32", "float64"] as const)(
    "has the activation's numbers for codes, signs included, in %s",
    async (dtype) => {
      const random = new Random(seed);
      const dictionary = identityDictionary("resid_post.0", 32);
      const x = new (dtype === "float32" ? Float32Array : Float64Array)(300 * 32).map(() => random.normal());
      x[5] = 0;
      const codes = codeReader({ dtype });
      const sparse = await codes.encode(dictionary, x);
      await codes.release();
      expect(codeRow(sparse, 0).features).toHaveLength(31);
      for (let row = 0; row < 300; row++) {
        const { features, values } = codeRow(sparse, row);
        for (const [at, i] of features.entries()) expect(values[at]).toBe(x[row * 32 + i]);
      }
    },
  );

  it("picks unit vectors, and refuses a number that there is not", async () => {
    const { encoder, rows } = await pickFeatures(identityDictionary("mlp_out.1", 4), [3, 0]);
    expect([...rows]).toEqual([0, 0, 0, 1, 1, 0, 0, 0]);
    expect([...encoder.weight]).toEqual([0, 1, 0, 0, 0, 0, 1, 0]);
    await expect(identityDictionary("mlp_out.1", 4).decoderRows([4])).rejects.toThrow("expected 0 to 3, got 4");
  });

  it.each([
    ["gemma2", "held"],
    ["gpt_neox", "streamed"],
    ["llama-gqa", "held"],
  ] as const)("of %s (%s): circuits keep their numbers, all others become means by position", async (name, weights) => {
    const sites: SiteName[] = ["mlp_act.0", "resid_post.0", "mlp_out.1", "resid_post.1"];
    const { loaded, width, close } = await open(name, weights, name === "gpt_neox" ? "float32" : "float64");
    const dictionaries = basis(sites, width);
    const pairs = somePairs();
    const forest = evaluationForest(pairs);
    const codes = codeReader(loaded);
    const activations = await readActivations(loaded, forest, sites);
    const random = new Random(`${seed}/${name}`);
    const features: Features = new Map(
      sites.map((site) => [site, [...Array(width(site)).keys()].filter(() => random.chance(0.3))]),
    );
    const kind = { values: "mean", errors: "ablated" } as const;
    const base = await ablationBase(activations, dictionaries, codes, features, kind, { whole: true });
    const setting = { loaded, forest, dictionaries, outside };
    const [circuit, whole, complement] = await evaluateSubsets(setting, base, [
      { kind: "circuit", features },
      { kind: "whole" },
      { kind: "complement", features },
    ]);
    const loss = await openMaskLoss(setting, base, circuit!);
    expect((await loss.at(evenMasks(base, 1))).loss).toBeLessThan(1e-9);
    await loss.release();
    await codes.release();

    /** Puts the mean over pairs and both prompts in place of the numbers that are not kept, at every position but the first. */
    const ablating = (site: SiteName, kept: readonly number[]): Hook => {
      const D = width(site);
      const { plan } = activations;
      const x = activations.x.get(site)!;
      const means = new Float64Array(pairs[0]!.clean.length * D);
      const stays = Float64Array.from({ length: means.length }, (_, i) => (i < D || kept.includes(i % D) ? 1 : 0));
      for (let node = 0; node < forest.backward.size; node++) {
        for (const forward of [forest.backward.clean[node]!, forest.backward.patch[node]!]) {
          for (let d = 0; d < D; d++) {
            means[forest.backward.position[node]! * D + d]! +=
              (forest.backward.weight[node]! * x[plan.row[forward]! * D + d]!) / (2 * pairs.length);
          }
        }
      }
      const { dtype } = loaded;
      const table = (data: Float64Array) =>
        constant(dtype === "float64" ? data : Float32Array.from(data), dtype, [data.length / D, D]);
      return {
        trace: (value, { context: { positions } }) => ({
          y: value
            .mul(table(stays).gather(positions))
            .add(table(means.map((mean, i) => mean * (1 - stays[i]!))).gather(positions)),
        }),
      };
    };
    const direct = (keep: (site: SiteName) => readonly number[]) =>
      runMetric(loaded, planMetric(forest), {
        hooks: new Map(sites.map((site) => [site, ablating(site, keep(site))])),
      });
    const others = (site: SiteName) => [...Array(width(site)).keys()].filter((i) => !features.get(site)!.includes(i));
    const expected = {
      circuit: await direct((site) => features.get(site)!),
      whole: activations.cleanMetric,
      complement: await direct(others),
    };
    const scale = Math.max(...expected.whole.map(Math.abs));
    const tolerance = (loaded.dtype === "float64" ? 1e-9 : 1e-4) * scale;
    const got = { circuit, whole, complement };
    for (const subset of ["circuit", "whole", "complement"] as const) {
      for (const [end, m] of got[subset]!.entries()) {
        expect(Math.abs(m - expected[subset][end]!), `${subset} ${end}`).toBeLessThan(tolerance);
      }
    }
    expect(Math.max(...expected.circuit.map((m, end) => Math.abs(m - expected.whole[end]!)))).toBeGreaterThan(
      0.01 * scale,
    );
    await close();
  });

  it.each(["analytic", "secant"] as const)(
    "%s: the effect of a number is its change times its gradient, and no error is left",
    async (method) => {
      const sites: SiteName[] = ["attn_z.0", "mlp_act.0", "mlp_out.0", "resid_post.0"];
      const { loaded, width, close } = await open("llama-gqa");
      const forest = prefixForest(somePairs());
      const given: MethodInput = { ...loaded, forest, dictionaries: basis(sites, width), steps: 2 };
      const captured = await captureFor(given, "changed");
      const [run, effects] = [method === "analytic" ? analyticMethod : secantMethod, new Map<SiteName, number>()];
      for await (const { rows } of run(given)) {
        const { x, g } = await captured.site(rows.site);
        const D = width(rows.site);
        for (const [i, feature] of rows.feature.entries()) {
          if (feature === errorFeature) {
            expect(rows.effect[i]).toBe(0);
            continue;
          }
          const [clean, patch] = [forest.backward.clean, forest.backward.patch].map(
            (of) => x[captured.plan.row[of[rows.node[i]!]!]! * D + feature]!,
          );
          expect([rows.fClean[i], rows.fPatch[i]]).toEqual([Math.fround(clean!), Math.fround(patch!)]);
          if (method === "analytic") {
            expect(rows.effect[i]).toBeCloseTo((patch! - clean!) * g[rows.node[i]! * D + feature]!, 12);
          }
          effects.set(rows.site, (effects.get(rows.site) ?? 0) + rows.effect[i]!);
        }
      }
      expect([...effects.keys()]).toEqual(sites);
      for (const sum of effects.values()) expect(Math.abs(sum)).toBeGreaterThan(1e-4);
      await close();
    },
  );
});

it("edges of neurons are refused by name", async () => {
  const { loaded, width, close } = await open("gpt2");
  const given: MethodInput = {
    ...loaded,
    forest: prefixForest(somePairs()),
    dictionaries: basis(["mlp_act.1", "resid_post.1"], width),
  };
  await expect(edges(given, { targets: new Map() }).next()).rejects.toThrow(
    "expected sites without mlp_act, got mlp_act.1",
  );
  await close();
});

describe(`random circuits matched by activity (seed ${seed})`, () => {
  const random = new Random(seed);
  const share = Float64Array.from({ length: 400 }, () => random.uniform() ** 3);
  const activity = new Map([
    ["resid_post.0", share],
    ["resid_post.1", share],
  ]);
  const circuit: Features = new Map([
    ["resid_post.0", [3, 17, 40, 41, 42, 99, 250, 399]],
    ["resid_post.1", [3, 17]],
  ]);

  it("have as many features at each site, none of the circuit's, active about as often", () => {
    for (const seed of [1, 2, 3]) {
      const matched = matchedByActivity(circuit, activity, seed);
      expect([...matched.keys()]).toEqual([...circuit.keys()]);
      for (const [site, own] of circuit) {
        const found = matched.get(site)!;
        expect(new Set(found).size).toBe(own.length);
        expect(found.filter((feature) => own.includes(feature))).toEqual([]);
        expect(found).toEqual(found.toSorted((a, b) => a - b));
        const shares = (features: readonly number[]) => features.map((f) => share[f]!).sort((a, b) => a - b);
        const expected = shares(own);
        for (const [i, s] of shares(found).entries()) expect(Math.abs(s - expected[i]!)).toBeLessThan(0.06);
      }
    }
  });

  it("follow from the seed, each site from its own stream", () => {
    expect(matchedByActivity(circuit, activity, 7)).toEqual(matchedByActivity(circuit, activity, 7));
    expect(matchedByActivity(circuit, activity, 7)).not.toEqual(matchedByActivity(circuit, activity, 8));
    const one = matchedByActivity(new Map([["resid_post.1", [3, 17]]]), activity, 7);
    expect(one.get("resid_post.1")).toEqual(matchedByActivity(circuit, activity, 7).get("resid_post.1"));
  });

  it("take each of the features that are equally often active with the same chance", () => {
    const even = new Map([["embed", new Float64Array(21).fill(0.5)]]);
    const times = new Int32Array(21);
    for (let s = 0; s < 2000; s++) times[matchedByActivity(new Map([["embed", [20]]]), even, s).get("embed")![0]!]!++;
    expect(times[20]).toBe(0);
    for (const count of times.subarray(0, 20)) expect(Math.abs(count - 100)).toBeLessThan(45);
  });

  it("take all others where they do not suffice", () => {
    const few = new Map([["embed", Float64Array.of(0.1, 0.2, 0.3, 0.4)]]);
    expect(matchedByActivity(new Map([["embed", [0, 2, 3]]]), few, 1)).toEqual(new Map([["embed", [1]]]));
  });

  it("get their activity from codes at the tokens of all prompts but BOS, by pairs", async () => {
    const { loaded, width, close } = await open("llama-gqa");
    const sites: SiteName[] = ["resid_post.0", "attn_z.1"];
    const dictionaries = new Map(sites.map((site) => [site, randomDictionary(site, width(site), 40, seed)]));
    const pairs = somePairs();
    const codes = codeReader(loaded);
    const activations = await readActivations(loaded, evaluationForest(pairs), sites);
    const activity = await activityOf(activations, dictionaries, codes, outside);
    const alone = new Map(sites.map((site) => [site, new Float64Array(40)]));
    for (const pair of pairs) {
      const { plan, x } = await readActivations(loaded, prefixForest([pair], { merge: "none" }), sites);
      const { token, position } = plan.forest.forward;
      for (const site of sites) {
        const sparse = await codes.encode(dictionaries.get(site)!, x.get(site)!);
        for (let node = 0; node < token.length; node++) {
          if (position[node] === 0) continue;
          // A prompt's nodes that both prompts share count for both.
          const { clean, patch } = plan.forest.backward;
          const times = clean.filter((at) => at === node).length + patch.filter((at) => at === node).length;
          for (const feature of codeRow(sparse, plan.row[node]!).features) {
            alone.get(site)![feature]! += times / (2 * pairs.length * (pair.clean.length - 1));
          }
        }
      }
    }
    await codes.release();
    for (const site of sites) {
      expect(Math.max(...alone.get(site)!)).toBeGreaterThan(0.3);
      for (const [i, share] of activity.get(site)!.entries()) expect(share).toBeCloseTo(alone.get(site)![i]!, 12);
    }
    await close();
  });
});

/** bench/baselines.mjs has the least numbers: 13 neurons by analytic, 14 by secant. */
it("of the embedded model's MLPs 20 neurons keep most of agreement, ten times as many random ones or features nothing", async () => {
  const folder = await openFolder(new URL("../models/demo", import.meta.url).pathname);
  const checkpoint = await openCheckpoint(folder);
  const { model } = await fittedModel(checkpoint);
  const loaded = loadedModel(model, await heldWeights(model, checkpoint));
  const tokenizer = loadTokenizer(checkpoint.tokenizer, checkpoint.tokenizerConfig);
  const cases = ["nounpp_singular", "nounpp_plural"] as const;
  const { kept } = tokenizePairs(agreementPairs({ cases, perCase: 30 }), tokenizer);
  const of = (split: Split) => kept.filter(({ pair }) => pair.split === split);
  const forest = evaluationForest(of("test"), () => "nounpp");
  const codes = codeReader();
  const worth = async (dictionaries: ReadonlyMap<SiteName, Dictionary>, circuits: readonly Features[]) => {
    const activations = await readActivations(loaded, forest, [...dictionaries.keys()]);
    const all = new Map(
      [...dictionaries.keys()].map((site) => [site, [...new Set(circuits.flatMap((c) => c.get(site) ?? []))]]),
    );
    const base = await ablationBase(activations, dictionaries, codes, all, { values: "mean", errors: "ablated" });
    const found = await evaluateSubsets(
      { loaded, forest, dictionaries, outside: tokenizer.outside },
      base,
      [new Map(), ...circuits].map((features) => ({ kind: "circuit", features })),
    );
    const [empty, ...values] = found.map((m) => meanMetric(forest, m));
    const whole = meanMetric(forest, activations.cleanMetric);
    return values.map((f) => (f - empty!) / (whole - empty!));
  };
  const layers = Array.from({ length: model.layers }, (_, layer) => layer);
  const neurons = basis(
    layers.map((layer) => siteName({ kind: "mlp_act", layer })),
    (site) => model.sites[parseSite(site).kind]!,
  );
  const given = { loaded, dictionaries: neurons, outside: tokenizer.outside };
  const { scores } = await scoresOf("secant", given, of("train"));
  const activity = (dictionaries: ReadonlyMap<SiteName, Dictionary>) =>
    readActivations(
      loaded,
      evaluationForest(of("train"), () => "nounpp"),
      [...dictionaries.keys()],
    ).then((found) => activityOf(found, dictionaries, codes, tokenizer.outside));
  const matched = async (circuit: Features, dictionaries: ReadonlyMap<SiteName, Dictionary>) =>
    matchedByActivity(circuit, await activity(dictionaries), seed);
  const [few, random] = await worth(neurons, [chooseTop(scores, 20), await matched(chooseTop(scores, 200), neurons)]);
  expect(few).toBeGreaterThan(0.8);
  expect(Math.abs(random!)).toBeLessThan(0.1);

  const all = await openDictionaries(subfolder(folder, "saes"));
  const saes = new Map([...all].filter(([site]) => parseSite(site).kind === "mlp_out"));
  const features = (await scoresOf("secant", { ...given, dictionaries: saes }, of("train"))).scores;
  const circuit = chooseTop(features, 200);
  const [strong, weak] = await worth(saes, [circuit, await matched(circuit, saes)]);
  expect(strong).toBeGreaterThan(0.8);
  expect(Math.abs(weak!)).toBeLessThan(0.1);
  await codes.release();
  await closeDictionaries(all);
  await checkpoint.close();
});
