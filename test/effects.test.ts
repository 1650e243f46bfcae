import { beforeAll, describe, expect, it } from "vitest";
import { openFolder } from "../src/bytes/file.node.ts";
import { type Capture, capture } from "../src/capture/capture.ts";
import type { Floats, Hook } from "../src/capture/hooks.ts";
import { reads } from "../src/capture/hooks.ts";
import { areaUnderCurve, firing } from "../src/circuit/firing.ts";
import { groupsOf } from "../src/circuit/meaning.ts";
import { rankFeatures } from "../src/circuit/ranking.ts";
import type { Dictionary } from "../src/dictionaries/dictionary.ts";
import { codeReader } from "../src/dictionaries/encode.ts";
import { analyticEffects } from "../src/effects/analytic.ts";
import { type EffectRows, errorFeature } from "../src/effects/rows.ts";
import { gradientActivation, gradientSums } from "../src/effects/scores.ts";
import { prefixForest } from "../src/forest/forest.ts";
import { type Pack, type Plan, planCapture } from "../src/forest/packs.ts";
import { constant, type Tensor } from "../src/graph/tensor.ts";
import { intervenedMetrics } from "../src/interventions/intervene.ts";
import { modelFromConfig } from "../src/models/architectures.ts";
import { openCheckpoint } from "../src/models/checkpoint.ts";
import type { Model, Weights } from "../src/models/model.ts";
import { heldWeights, loadedModel } from "../src/models/weights.ts";
import type { TokenPair } from "../src/prompts/pairs.ts";
import { Random } from "../src/random.ts";
import { type SiteKind, type SiteName, siteName } from "../src/site.ts";
import { randomDictionary } from "./random-dictionary.ts";
import { packMetric, runPack } from "./run-pack.ts";

const seed = "20261122/effects";
const sites = ["attn_z.1", "attn_out.0", "mlp_out.1", "resid_post.0", "resid_post.2"];

let model: Model;
let weights: Weights;
let weights32: Weights;
let plan: Plan;
let captured: Capture;
const dictionaries = new Map<SiteName, Dictionary>();
const codes = codeReader({ dtype: "float64" });

beforeAll(async () => {
  const checkpoint = await openCheckpoint(await openFolder(new URL("fixtures/llama-gqa", import.meta.url).pathname));
  model = modelFromConfig(checkpoint.config, "llama-gqa");
  weights = await heldWeights(model, checkpoint, "float64");
  weights32 = await heldWeights(model, checkpoint);
  await checkpoint.close();
  const random = new Random(seed);
  const pairs: TokenPair[] = Array.from({ length: 12 }, (_, i) => {
    const rest = Array.from({ length: 3 }, () => 4 + random.below(3));
    const pair = { clean_prefix: "", patch_prefix: "", clean_answer: "", patch_answer: "" };
    const name = i % 2 === 0 ? "x_one" : "x_two";
    const [clean, patch] = i % 2 === 0 ? [8, 9] : [9, 8];
    return {
      pair: { ...pair, case: name, split: "train" },
      clean: [1, clean, ...rest],
      patch: [1, patch, ...rest],
      cleanAnswer: 20 + (i % 2),
      patchAnswer: 21 - (i % 2),
    };
  });
  plan = planCapture(prefixForest(pairs), { wanted: "changed" });
  captured = await capture(loadedModel(model, weights, { dtype: "float64" }), plan, { sites });
  for (const site of sites) {
    const width = model.sites[site.split(".")[0] as SiteKind]!;
    dictionaries.set(site, randomDictionary(site, width, 64, seed));
  }
});

/** M = Σ weight·m of the pack with `change`[N,D] added to a site's activation. */
async function totalMetric(pack: Pack, site: SiteName, change: Float64Array): Promise<number> {
  const D = model.sites[site.split(".")[0] as SiteKind]!;
  const n = plan.tileSize;
  const added: Tensor = constant(change, "float64", [n, D]);
  const hook: Hook = {
    trace: (x) => ({
      y: x
        .reshape("B", n, D)
        .add(added)
        .reshape(...x.shape),
    }),
  };
  return packMetric(loadedModel(model, weights, { dtype: "float64" }), pack, new Map([[site, hook]]));
}

describe(`analytic effects (seed ${seed})`, () => {
  it.each(sites)("have the gradient that moving x along a decoder direction shows, at %s", async (site) => {
    const dictionary = dictionaries.get(site)!;
    const { rows } = await analyticEffects(captured, dictionary, codes);
    const decoder = await dictionary.decoder();
    const D = dictionary.inputWidth;
    const [pack] = plan.packs as [Pack];
    const features = rows.feature.map((f, i) => (f === errorFeature ? -1 : i)).filter((i) => i >= 0);
    const random = new Random(`${seed}/${site}`);
    const scale = Math.max(...rows.gradient.map((g) => (Number.isNaN(g) ? 0 : Math.abs(g))));
    for (let trial = 0; trial < 4; trial++) {
      const i = random.pick([...features]);
      const at = pack.node.indexOf(rows.node[i]!);
      const h = 1e-4;
      const change = new Float64Array(pack.tokens.length * D);
      const move = (size: number) => {
        for (let d = 0; d < D; d++) change[at * D + d] = size * decoder[rows.feature[i]! * D + d]!;
        return totalMetric(pack, site, change);
      };
      const difference = ((await move(h)) - (await move(-h))) / (2 * h);
      expect(Math.abs(difference - rows.gradient[i]!) / scale).toBeLessThan(1e-6);
      expect(rows.effect[i]).toBeCloseTo((rows.fPatch[i]! - rows.fClean[i]!) * difference, 4);
    }
  });

  it("have codes and errors that follow from the dictionary's formula", async () => {
    const site = "resid_post.0";
    const dictionary = dictionaries.get(site)!;
    const { rows } = await analyticEffects(captured, dictionary, codes);
    const { x, g, width: D } = await captured.site(site);
    const { backward } = plan.forest;
    for (const node of new Set(rows.node)) {
      const [clean, patch] = [backward.clean[node]!, backward.patch[node]!].map((f) => plan.row[f]!);
      const [a, b] = [await codesOf(dictionary, x, clean!), await codesOf(dictionary, x, patch!)];
      const differing = a.map((f, i) => (f !== b[i] ? i : -1)).filter((i) => i >= 0);
      const own = rowsOf(rows, node);
      expect(own.map((i) => rows.feature[i])).toEqual([errorFeature, ...differing]);
      const decoder = await dictionary.decoder();
      let error = 0;
      for (let d = 0; d < D; d++) {
        let delta = x[patch! * D + d]! - x[clean! * D + d]!;
        for (let i = 0; i < 64; i++) delta -= (b[i]! - a[i]!) * decoder[i * D + d]!;
        error += g[node * D + d]! * delta;
      }
      expect(rows.effect[own[0]!]).toBeCloseTo(error, 9);
      for (const i of own.slice(1)) expect(rows.fClean[i]).toBeCloseTo(a[rows.feature[i]!]!, 5);
    }
  });

  it("have no rows where clean and patch prefix are equal, nor before the end after the last block", async () => {
    const last = siteName({ kind: "resid_post", layer: model.layers - 1 });
    const ends = new Set(plan.forest.ends.map((e) => e.node));
    const nodesAt = async (site: SiteName) =>
      new Set((await analyticEffects(captured, dictionaries.get(site)!, codes)).rows.node);
    for (const node of await nodesAt(last)) expect(ends.has(node)).toBe(true);
    for (const node of await nodesAt("resid_post.0")) {
      expect(plan.forest.backward.clean[node]).not.toBe(plan.forest.backward.patch[node]);
    }
  });

  it("are ranked by |sum|, without the error", () => {
    const rows = { feature: Int32Array.of(-1, 4, 2, 4, 7), effect: Float64Array.of(9, 1, -3, 1, 2) };
    expect(rankFeatures(rows)).toEqual([
      { feature: 2, effect: -3 },
      { feature: 4, effect: 2 },
      { feature: 7, effect: 2 },
    ]);
  });
});

describe("scores without patch prompts", () => {
  it("gradient-activation is f·⟨g, d⟩ at every clean prefix", async () => {
    const all = planCapture(plan.forest, { wanted: "clean" });
    const cleaned = await capture(loadedModel(model, weights, { dtype: "float64" }), all, { sites });
    const dictionary = dictionaries.get("mlp_out.1")!;
    const rows = await gradientActivation(cleaned, dictionary, codes);
    const { x, g, width: D } = await cleaned.site("mlp_out.1");
    const decoder = await dictionary.decoder();
    expect(new Set(rows.node).size).toBe(plan.forest.backward.size);
    for (let i = 0; i < rows.node.length; i += 7) {
      const [node, feature] = [rows.node[i]!, rows.feature[i]!];
      const f = await codesOf(dictionary, x, all.row[plan.forest.backward.clean[node]!]!);
      let gradient = 0;
      for (let d = 0; d < D; d++) gradient += g[node * D + d]! * decoder[feature * D + d]!;
      expect(rows.effect[i]).toBeCloseTo(f[feature]! * gradient, 9);
      expect(rows.fPatch[i]).toBeNaN();
    }
  });

  it("gradient sums ⟨g, d⟩ by split and case, without the excluded nodes", async () => {
    const dictionary = dictionaries.get("attn_z.1")!;
    const { backward } = plan.forest;
    const sums = await gradientSums(captured, dictionary, (node) => backward.token[node] === 1);
    const { g, width: D } = await captured.site("attn_z.1");
    const decoder = await dictionary.decoder();
    expect(sums.length).toBe(2);
    sums.forEach((sum, group) => {
      let expected = 0;
      for (let node = 0; node < backward.size; node++) {
        if (backward.group[node] !== group || backward.token[node] === 1) continue;
        for (let d = 0; d < D; d++) expected += g[node * D + d]! * decoder[5 * D + d]!;
      }
      expect(sum[5]).toBeCloseTo(expected, 9);
    });
  });
});

describe("taking features out", () => {
  it("changes nothing when there are none, and equals subtracting f·d by hand otherwise", async () => {
    const site = "resid_post.0";
    const dictionary = dictionaries.get(site)!;
    const cut = [3, 11, 30];
    const [plain, got] = await intervenedMetrics(
      {
        loaded: loadedModel(model, weights32),
        forest: plan.forest,
        dictionaries,
        outside: { first: new Set([1]), padding: new Set() },
      },
      [[], cut.map((feature) => ({ site, feature, factor: 0, value: 0 }))],
    );
    plain!.forEach((m, e) => {
      expect(m).toBeCloseTo(captured.cleanMetric[e]!, 3);
    });
    // By hand: every row of the pack loses f_i·d_i of the clean activations there.
    const [pack] = plan.packs as [Pack];
    const loaded = loadedModel(model, weights, { dtype: "float64" });
    const x = (await runPack(loaded, pack, new Map([[site, reads]]))).found.get(`value/${site}/x`)!;
    const decoder = await dictionary.decoder();
    const D = dictionary.inputWidth;
    const change = new Float64Array(x.length);
    for (let row = 0; row < pack.tokens.length; row++) {
      // Token 1 is BOS: what fires there stays.
      if (pack.tokens[row] === 1) continue;
      const f = await codesOf(dictionary, x, row);
      for (const i of cut) for (let d = 0; d < D; d++) change[row * D + d]! -= f[i]! * decoder[i * D + d]!;
    }
    const expected = await totalMetric(pack, site, change);
    const total = plan.forest.ends.reduce((sum, { weight }, e) => sum + weight * got![e]!, 0);
    const before = plan.forest.ends.reduce((sum, { weight }, e) => sum + weight * plain![e]!, 0);
    expect(Math.abs(total - before)).toBeGreaterThan(0.1);
    expect(total).toBeCloseTo(expected, 2);
  });

  it("the area under the curve counts pairs, ties half, and is not told of fewer than five members", () => {
    // Of 25 pairs 9 wins 5; 8 wins 2 and ties with 3; each 2 wins 1.
    expect(areaUnderCurve([9, 8, 2, 2, 2], [1, 3, 8, 8, 8])).toBe((5 + (2 + 1.5) + 3 * 1) / 25);
    expect(areaUnderCurve([2, 2, 2, 2, 2], [1, 1, 1, 1, 1])).toBe(1);
    expect(areaUnderCurve([2, 2, 2, 2], [1, 1, 1, 1, 1, 1])).toBeNaN();
    expect(areaUnderCurve([2, 2, 2, 2, 2], [1])).toBeNaN();
  });

  it("groups of cases are the subject's number, also where the name tells the distractor's as well", () => {
    const public_ = groupsOf(["singular_singular", "singular_plural", "plural_singular", "plural_plural"]);
    expect(public_("plural_singular")).toBe("plural");
    expect(groupsOf(["nounpp_plural", "nounpp_singular", "simple_plural"])("nounpp_plural")).toBe("plural");
    expect(groupsOf(["she", "he"])("she")).toBe("she");
    expect(groupsOf(["a_one", "a_two"])("a_two")).toBe("a_two");
  });

  it("firing gives share and mean code over the distinct first tokens that differ, group by group", async () => {
    const dictionary = dictionaries.get("resid_post.0")!;
    const { backward } = plan.forest;
    const { x } = await captured.site("resid_post.0");
    const features = Array.from({ length: 64 }, (_, i) => i);
    // Tokens 8 and 9 stand at position 1; in the group "both" each clean prefix counts once, though both cases have it.
    const byCase = await firing(
      captured,
      dictionary,
      codes,
      features,
      (node) => backward.groups[backward.group[node]!]!.case,
    );
    const both = await firing(captured, dictionary, codes, features, () => "both");
    const member = (token: number) => {
      const node = [...backward.token.keys()].find((n) => backward.token[n] === token && backward.position[n] === 1)!;
      return codesOf(dictionary, x, plan.row[backward.clean[node]!]!);
    };
    const [one, two] = [await member(8), await member(9)];
    for (const i of features) {
      expect(byCase[i]!.get("x_one")!.mean).toBeCloseTo(one[i]!, 6);
      expect(byCase[i]!.get("x_two")!.mean).toBeCloseTo(two[i]!, 6);
      // One member each: whichever is larger, it says nothing.
      expect(byCase[i]!.get("x_one")!.auc).toBeNaN();
      expect(byCase[i]!.get("x_two")!.auc).toBeNaN();
      expect(both[i]!.get("both")!.auc).toBeNaN();
      expect(both[i]!.get("both")).toMatchObject({ n: 2, share: ((one[i]! > 0 ? 1 : 0) + (two[i]! > 0 ? 1 : 0)) / 2 });
    }
  });

  it("firing takes more members than there are prefixes where several groups share one", async () => {
    const names = new Map([...plan.forest.backward.token.keys()].map((node, i) => [node, `group ${i}`]));
    const shares = await firing(captured, dictionaries.get("resid_post.0")!, codes, [0], (node) => names.get(node));
    expect(shares[0]!.size).toBeGreaterThan(1);
  });
});

function rowsOf(rows: EffectRows, node: number): number[] {
  return [...rows.node.keys()].filter((i) => rows.node[i] === node);
}

/** f = z·1[z > θ] with z = (x − b_dec)·W_enc + b_enc, for one row of x, by plain loops. */
async function codesOf(dictionary: Dictionary, x: Floats, row: number): Promise<number[]> {
  const { weight, bias, inputBias, activation } = await dictionary.encoder();
  const [D, F] = [dictionary.inputWidth, dictionary.featureCount];
  return Array.from({ length: F }, (_, i) => {
    let z = bias[i]!;
    for (let d = 0; d < D; d++) z += (x[row * D + d]! - (inputBias?.[d] ?? 0)) * weight[d * F + i]!;
    if (activation.kind !== "jumprelu") return Math.max(0, z);
    return z > activation.threshold[i]! ? z : 0;
  });
}
