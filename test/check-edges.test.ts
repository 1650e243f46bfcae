import { describe, expect, it } from "vitest";
import { openFolder } from "../src/bytes/file.node.ts";
import { captureAll } from "../src/capture/capture.ts";
import { checkEdges, type EdgeEnds } from "../src/circuit/check-edges.ts";
import { type Jacobian, sitesOfEdges } from "../src/circuit/edges.ts";
import type { Activation, Dictionary, Normalization } from "../src/dictionaries/dictionary.ts";
import { secantGradients } from "../src/effects/secant.ts";
import { UserError } from "../src/errors.ts";
import { prefixForest } from "../src/forest/forest.ts";
import { planCapture } from "../src/forest/packs.ts";
import { openCheckpoint } from "../src/models/checkpoint.ts";
import { fittedModel } from "../src/models/fitted.ts";
import { heldWeights, type LoadedModel, loadedModel, streamedWeights } from "../src/models/weights.ts";
import type { TokenPair } from "../src/prompts/pairs.ts";
import { Random } from "../src/random.ts";
import { parseSite, type SiteName } from "../src/site.ts";
import { apply } from "./apply-dictionary.ts";
import { randomDictionary } from "./random-dictionary.ts";
import { type ByHand, type HandRunner, handRunner } from "./run-by-hand.ts";
import { tokenPair } from "./toy-model.ts";

const seed = "edges by intervention";
const F = 40;

/** Pairs that share prefixes, two of them the whole prompts. */
function somePairs(): TokenPair[] {
  const random = new Random(seed);
  const pairs = Array.from({ length: 4 }, (_, i) => {
    const rest = Array.from({ length: 2 + (i % 2) }, () => 4 + random.below(3));
    return tokenPair([1, 8, ...rest], [1, 9, ...rest], [20, 22], { case: i < 3 ? "a" : "b" });
  });
  const [first] = pairs as [TokenPair];
  return [...pairs, tokenPair(first.clean, first.patch, [20, 30])];
}

const layers = (...kinds: string[]) => kinds.flatMap((kind) => [`${kind}.0`, `${kind}.1`]);
const cases: [string, Activation["kind"], Normalization | undefined, SiteName[]][] = [
  ["llama-gqa", "jumprelu", undefined, layers("attn_out", "mlp_out", "resid_post")],
  ["gemma2", "jumprelu", undefined, layers("attn_out", "mlp_out", "resid_post")],
  ["gpt_neox-relu", "relu", "layer_norm", layers("mlp_out", "resid_post")],
  ["gpt2", "topk", undefined, ["attn_z.0", "attn_z.1", "mlp_out.0", "resid_post.1"]],
  ["gpt2", "jumprelu", "constant_norm_rescale", ["embed", ...layers("resid_post")]],
];

describe.each(cases)(
  `edges of %s with %s, normalised: %s, between %s (seed ${seed})`,
  (name, kind, normalization, sites) => {
    it.each<["held" | "streamed", Jacobian]>([
      ["held", "gradient"],
      ["held", "secant"],
      ["streamed", "secant"],
    ])("measured by intervention are those by hand, pair by pair, weights %s, %s", async (where, jacobian) => {
      const checkpoint = await openCheckpoint(await openFolder(new URL(`fixtures/${name}`, import.meta.url).pathname));
      const { model } = await fittedModel(checkpoint);
      const weights = await heldWeights(model, checkpoint, "float64");
      const loaded = loadedModel(model, where === "held" ? weights : streamedWeights(checkpoint), { dtype: "float64" });
      const dictionaries = new Map(
        sites.map((site) => [
          site,
          randomDictionary(site, model.sites[parseSite(site).kind]!, F, seed, {
            kind,
            threshold: 0.2,
            ...(normalization && { normalization }),
          }),
        ]),
      );
      const edges = someEdges(sites);
      const found = await checkEdges({ ...loaded, forest: prefixForest(somePairs()), dictionaries }, edges, {
        jacobian,
      });
      expect(found.map(({ source, target }) => ({ source, target }))).toEqual(edges);
      const hand = handRunner(model, weights);
      const right = edges.map(() => ({ intoClean: 0, outOfPatch: 0 }));
      for (const pair of somePairs()) {
        const byHand = await measuredByHand(
          loadedModel(model, weights, { dtype: "float64" }),
          hand,
          dictionaries,
          pair,
          edges,
          jacobian,
        );
        byHand.forEach(({ intoClean, outOfPatch }, i) => {
          right[i]!.intoClean += intoClean;
          right[i]!.outOfPatch += outOfPatch;
        });
      }
      await hand.release();
      await checkpoint.close();
      let moved = 0;
      found.forEach(({ source, target, intoClean, outOfPatch, measured }, i) => {
        const what = `${source.site}/${source.feature} → ${target.site}/${target.feature}`;
        expect(Math.abs(intoClean - right[i]!.intoClean), what).toBeLessThan(1e-9);
        expect(Math.abs(outOfPatch - right[i]!.outOfPatch), what).toBeLessThan(1e-9);
        expect(measured).toBe((intoClean + outOfPatch) / 2);
        if (Math.abs(measured) > 1e-4) moved++;
      });
      expect(moved).toBeGreaterThan(20);
    });
  },
);

/** From two features and the error of each site, and from the tokens where they are a source, into six features of each later site and into the metric. */
function someEdges(sites: readonly SiteName[]): EdgeEnds[] {
  const random = new Random(`${seed}/${sites}`);
  const sources = sites.flatMap((site) =>
    ([random.below(F / 2), F / 2 + random.below(F / 2), "error"] as const).map((feature) => ({ site, feature })),
  );
  const tokens = sites.includes("embed") ? [] : [{ site: "embed", feature: "token" as const }];
  return [...tokens, ...sources].flatMap((source): EdgeEnds[] => [
    ...sites
      .slice(source.site === "embed" ? 0 : sites.indexOf(source.site) + 1)
      .filter((site) => site !== source.site)
      .flatMap((site) => Array.from({ length: 6 }, () => ({ source, target: { site, feature: random.below(F) } }))),
    { source, target: { site: "metric", feature: "metric" } },
  ]);
}

/** Of one pair: activations of all chosen sites and the embedding put in place, the source's moved, the target's code by plain loops. */
async function measuredByHand(
  loaded: LoadedModel,
  hand: HandRunner,
  dictionaries: ReadonlyMap<SiteName, Dictionary>,
  pair: TokenPair,
  edges: readonly EdgeEnds[],
  jacobian: Jacobian,
): Promise<{ intoClean: number; outOfPatch: number }[]> {
  const { model } = loaded;
  const chosen = [...dictionaries.keys()];
  const forest = prefixForest([pair]);
  const all = sitesOfEdges(chosen, model.layers);
  const [captured] = await captureAll(loaded, [planCapture(forest, { wanted: "both" })], { sites: all });
  const given = { ...loaded, forest, dictionaries, steps: chosen.includes("embed") ? 8 : 4 };
  const linear = jacobian === "secant" ? await secantGradients(given, captured!, chosen) : captured!;
  const T = pair.clean.length;
  const own = {
    clean: await hand.run(pair.clean),
    patch: await hand.run(pair.patch),
  };
  const frozen = (which: "clean" | "patch") =>
    new Map(["embed", ...chosen].map((site) => [site, own[which].x.get(site)!] as const));
  const codesAt = async (site: SiteName, x: Float64Array) => (await apply(dictionaries.get(site)!, x)).codes;
  /** The change of a source from clean to patch, [T,D]. */
  const changeOf = async ({ site, feature }: EdgeEnds["source"]) => {
    const [x, y] = [own.clean.x.get(site)!, own.patch.x.get(site)!];
    const change = x.map((v, i) => y[i]! - v);
    if (feature === "token") return change;
    const [a, b, rows] = [await codesAt(site, x), await codesAt(site, y), await dictionaries.get(site)!.decoder()];
    const D = change.length / T;
    const part = (features: readonly number[]) =>
      change.map((_, at) => {
        const [t, d] = [Math.floor(at / D), at % D];
        return features.reduce((sum, i) => sum + (b[t * F + i]! - a[t * F + i]!) * rows[i * D + d]!, 0);
      });
    if (feature !== "error") return part([feature]);
    const features = part([...Array(F).keys()]);
    return change.map((v, i) => v - features[i]!);
  };
  const m = (logits: Float64Array) => logits[pair.patchAnswer]! - logits[pair.cleanAnswer]!;
  const known = new Map<string, ByHand>();
  const run = async (which: "clean" | "patch", source?: EdgeEnds["source"]) => {
    const key = JSON.stringify([which, source]);
    const before = known.get(key);
    if (before) return before;
    const put = frozen(which);
    if (source) {
      const by = await changeOf(source);
      put.set(
        source.site,
        put.get(source.site)!.map((v, i) => v + (which === "clean" ? by[i]! : -by[i]!)),
      );
    }
    const found = await hand.run(pair[which], put);
    known.set(key, found);
    return found;
  };
  const measured: { intoClean: number; outOfPatch: number }[] = [];
  for (const { source, target } of edges) {
    const difference = async (which: "clean" | "patch") => {
      const [before, after] = [await run(which), await run(which, source)];
      if (target.site === "metric") return m(after.logits) - m(before.logits);
      const j = target.feature as number;
      const [f, changed] = [
        await codesAt(target.site, before.x.get(target.site)!),
        await codesAt(target.site, after.x.get(target.site)!),
      ];
      const { g, width: D } = await linear.site(target.site);
      const rows = await dictionaries.get(target.site)!.decoder();
      let sum = 0;
      // The nodes of one pair's forest are its positions.
      for (let t = 0; t < T; t++) {
        let left = 0;
        for (let d = 0; d < D; d++) left += g[t * D + d]! * rows[j * D + d]!;
        sum += left * (changed[t * F + j]! - f[t * F + j]!);
      }
      return sum;
    };
    measured.push({ intoClean: await difference("clean"), outOfPatch: -(await difference("patch")) });
  }
  return measured;
}

it("edges from or into what there is not are refused", async () => {
  const checkpoint = await openCheckpoint(await openFolder(new URL("fixtures/llama-gqa", import.meta.url).pathname));
  const { model } = await fittedModel(checkpoint);
  const loaded = loadedModel(model, await heldWeights(model, checkpoint));
  await checkpoint.close();
  const dictionaries = new Map(
    layers("resid_post").map((site) => [site, randomDictionary(site, model.width, F, seed)] as const),
  );
  const given = { ...loaded, forest: prefixForest(somePairs()), dictionaries };
  const refused = async (source: EdgeEnds["source"], target: EdgeEnds["target"]) =>
    expect(checkEdges(given, [{ source, target }])).rejects.toThrow(UserError);
  const [source, target] = [
    { site: "resid_post.0", feature: 1 },
    { site: "resid_post.1", feature: 2 },
  ];
  expect(await checkEdges(given, [{ source, target }])).toMatchObject([{ source, target }]);
  await refused({ site: "mlp_out.0", feature: 1 }, target);
  await refused({ site: "mlp_out.0", feature: "error" }, target);
  await refused(source, { site: "mlp_out.1", feature: 1 });
  await refused(source, { site: "resid_post.1", feature: F });
});
