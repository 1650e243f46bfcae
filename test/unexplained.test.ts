import { beforeAll, describe, expect, it } from "vitest";
import { openFolder } from "../src/bytes/file.node.ts";
import { type Capture, capture } from "../src/capture/capture.ts";
import type { Dictionary, Normalization } from "../src/dictionaries/dictionary.ts";
import { codeReader } from "../src/dictionaries/encode.ts";
import { analyticEffects } from "../src/effects/analytic.ts";
import { unexplainedShare } from "../src/effects/unexplained.ts";
import { prefixForest } from "../src/forest/forest.ts";
import { planCapture } from "../src/forest/packs.ts";
import { openLoops } from "../src/graph/loops/loops.ts";
import { modelFromConfig } from "../src/models/architectures.ts";
import { openCheckpoint } from "../src/models/checkpoint.ts";
import { heldWeights, loadedModel } from "../src/models/weights.ts";
import { Random } from "../src/random.ts";

const site = "resid_post.0";
const seed = "unexplained";
const codes = codeReader({ dtype: "float64" });
let captured: Capture;
let D: number;
/** Activations [n][D] of all kept nodes but the first tokens. */
let rows: number[][];

beforeAll(async () => {
  const checkpoint = await openCheckpoint(await openFolder(new URL("fixtures/llama-gqa", import.meta.url).pathname));
  const model = modelFromConfig(checkpoint.config, "llama-gqa");
  const weights = await heldWeights(model, checkpoint, "float64");
  await checkpoint.close();
  const random = new Random(seed);
  const pairs = Array.from({ length: 12 }, () => {
    const draw = () => [1, ...Array.from({ length: 5 }, () => 4 + random.below(40))];
    const texts = { clean_prefix: "", patch_prefix: "", clean_answer: "", patch_answer: "" };
    const pair = { ...texts, case: "a", split: "train" as const };
    return { pair, clean: draw(), patch: draw(), cleanAnswer: 20, patchAnswer: 21 };
  });
  const plan = planCapture(prefixForest(pairs), { wanted: "changed" });
  captured = await capture(loadedModel(model, weights, { dtype: "float64" }), plan, { sites: [site] });
  D = model.width;
  const { x } = await captured.site(site);
  const { row, forest } = plan;
  rows = [...row.keys()]
    .filter((node) => row[node]! >= 0 && forest.forward.position[node]! > 0)
    .map((node) => Array.from(x.subarray(row[node]! * D, (row[node]! + 1) * D)));
  expect(rows.length).toBeGreaterThan(20);
  expect(rows.length).toBeLessThanOrEqual(256);
});

/** A ReLU dictionary: features ±e_d of the first `known` dimensions, in the encoder and the decoder. */
function signed(known: number, bias: Float32Array, normalization?: Normalization): Dictionary {
  const F = 2 * D;
  const [weight, decoder] = [new Float32Array(D * F), new Float32Array(F * D)];
  for (let d = 0; d < known; d++) {
    for (const [feature, sign] of [
      [2 * d, 1],
      [2 * d + 1, -1],
    ] as const) {
      weight[d * F + feature] = sign;
      decoder[feature * D + d] = sign;
    }
  }
  return {
    name: "signed",
    reads: site,
    writes: site,
    inputWidth: D,
    outputWidth: D,
    featureCount: F,
    kind: "relu",
    ...(normalization && { normalization }),
    encoder: async () => ({
      weight,
      bias: new Float32Array(F),
      activation: { kind: "relu" },
      inputBias: bias,
      ...(normalization && { normalization }),
    }),
    decoder: async () => decoder,
    decoderRows: async (features) =>
      Float32Array.from(Array.from(features).flatMap((i) => [...decoder.subarray(i * D, (i + 1) * D)])),
    decoderBias: async () => bias,
    sha256: async () => "",
    close: async () => {},
  };
}

const meanOf = () => Float32Array.from({ length: D }, (_, d) => rows.reduce((sum, x) => sum + x[d]!, 0) / rows.length);

describe(`the share of the variance that a dictionary leaves unexplained (seed ${seed})`, () => {
  it("is 0 for one that gives back everything, whatever its bias", async () => {
    const bias = Float32Array.from({ length: D }, (_, d) => 0.1 * d);
    expect(await unexplainedShare(captured, signed(D, bias), codes)).toBeLessThan(1e-12);
  });

  it("is 1 for one that knows the mean alone", async () => {
    expect(await unexplainedShare(captured, signed(0, meanOf()), codes)).toBeCloseTo(1, 5);
  });

  it("is the variance in the dimensions that it does not know", async () => {
    const mean = meanOf();
    const variance = (from: number) =>
      rows.reduce((sum, x) => sum + x.slice(from).reduce((s, value, d) => s + (value - mean[from + d]!) ** 2, 0), 0);
    const share = await unexplainedShare(captured, signed(5, mean), codes);
    expect(share).toBeCloseTo(variance(5) / variance(0), 5);
  });

  it.each(["layer_norm", "constant_norm_rescale"] as const)(
    "is 0 for a perfect one that normalises (%s)",
    async (kind) => {
      // The normalised token is given back as it is; layer_norm divides by σ + 1e-5, which leaves a trace.
      const share = await unexplainedShare(captured, signed(D, new Float32Array(D), kind), codes);
      expect(share).toBeLessThan(1e-6);
    },
  );

  it("is told by analytic effects too, which encode these activations anyway", async () => {
    for (const kind of [undefined, "layer_norm", "constant_norm_rescale"] as const) {
      const dictionary = signed(5, meanOf(), kind);
      const told = new Map<string, number | null>();
      await analyticEffects(captured, dictionary, codes, openLoops(), {
        onFit: (name, share) => told.set(name, share),
      });
      const share = await unexplainedShare(captured, dictionary, codes);
      expect(share).toBeGreaterThan(0.01);
      expect([...told.keys()]).toEqual([site]);
      expect(told.get(site)).toBeCloseTo(share!, 12);
    }
  });
});
