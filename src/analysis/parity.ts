import { type Capture, type CaptureOptions, captureAll } from "../capture/capture.ts";

import { type Check, check } from "../circuit/checks.ts";
import type { Dictionary } from "../dictionaries/dictionary.ts";
import { codeReader } from "../dictionaries/encode.ts";
import { analyticEffects } from "../effects/analytic.ts";
import { type EffectRows, errorFeature } from "../effects/rows.ts";
import { UserError } from "../errors.ts";
import { prefixForest } from "../forest/forest.ts";
import { planCapture } from "../forest/packs.ts";
import { openLoops } from "../graph/loops/loops.ts";
import { constant, numbers, type Tensor } from "../graph/tensor.ts";
import type { Weights } from "../models/model.ts";
import { isStreamed, type LoadedModel, loadedModel } from "../models/weights.ts";
import type { TokenPair } from "../prompts/pairs.ts";
import type { SiteName } from "../site.ts";
import { parityTolerance } from "./options.ts";

/** Pairs on which a device is compared with the CPU. */
const comparedPairs = 4;

/** Share of the features with effects that may be switched at their thresholds. */
const mostSwitched = 0.01;

/** The largest difference of two lists of numbers, and the largest number of the one that is right. */
export interface Gap {
  readonly gap: number;
  readonly scale: number;
}

/** The largest |got − expected|, infinite where a number is none, and the largest |expected|. */
export function largestGap(got: ArrayLike<number>, expected: ArrayLike<number>): Gap {
  let [gap, scale] = [got.length === expected.length ? 0 : Number.POSITIVE_INFINITY, 0];
  for (let i = 0; i < expected.length; i++) {
    gap = Math.max(gap, distance(got[i]!, expected[i]!));
    scale = Math.max(scale, Math.abs(expected[i]!));
  }
  return { gap, scale };
}

function distance(a: number, b: number): number {
  const difference = Math.abs(a - b);
  return Number.isNaN(difference) ? Number.POSITIVE_INFINITY : difference;
}

/** Two computations of one site's effects side by side. */
export interface EffectsGap extends Gap {
  /** Rows of features on either side, and those of them in which a code is active on one side only. */
  readonly rows: number;
  readonly switched: number;
}

/**
 * The largest difference of a site's effects, features' and errors', in logits. A code at its threshold is active or not by rounding alone, and jumps
 * by as much as the threshold: the row of such a feature and that of its node's error are counted, and not compared.
 */
export function effectsGap(got: EffectRows, expected: EffectRows): EffectsGap {
  const [a, b] = [rowByKey(got), rowByKey(expected)];
  const keys = [...new Set([...a.keys(), ...b.keys()])];
  const features = keys.filter((key) => key % featureRoom !== 0);
  // Where a row is missing both codes are equal: of one active code on the other side, one is then switched.
  const active = (rows: EffectRows, row: number | undefined) => (row === undefined ? "both" : activeCodes(rows, row));
  const switched = features.filter((key) => active(got, a.get(key)) !== active(expected, b.get(key)));
  const left = new Set(switched.flatMap((key) => [key, key - (key % featureRoom)]));
  const effect = (rows: EffectRows, row: number | undefined) => (row === undefined ? 0 : rows.effect[row]!);
  let [gap, scale] = [0, 0];
  for (const key of keys) {
    const expectedEffect = effect(expected, b.get(key));
    scale = Math.max(scale, Math.abs(expectedEffect));
    if (!left.has(key)) gap = Math.max(gap, distance(effect(got, a.get(key)), expectedEffect));
  }
  return { gap, scale, rows: features.length, switched: switched.length };
}

/** More than any dictionary has features. */
const featureRoom = 2 ** 26;

/** The rows of effects by a number for node and feature, a multiple of `featureRoom` for errors. */
const rowByKey = ({ node, feature }: EffectRows) =>
  new Map(Array.from(node, (n, row) => [n * featureRoom + feature[row]! - errorFeature, row]));

const activeCodes = ({ fClean, fPatch }: EffectRows, row: number) =>
  fClean[row] === 0 ? (fPatch[row] === 0 ? "none" : "patch") : fPatch[row] === 0 ? "clean" : "both";

/** What a device is compared on. */
export interface ParitySubject {
  /** The model on the device. */
  readonly loaded: LoadedModel;
  /** The SAEs by site, in order of computation. */
  readonly dictionaries: ReadonlyMap<SiteName, Dictionary>;
  /** Of which a few are taken. */
  readonly pairs: readonly TokenPair[];
}

/**
 * Compares what a device computes of some pairs with what the CPU computes in float64: the metric, activations and gradients at the sites of the SAEs,
 * and effects of their features by `analytic`. Activations, gradients and effects are told for the site at which they differ most.
 *
 * @param tolerance share of the largest number by which they may differ
 */
export async function compareWithCpu(
  { loaded, dictionaries, pairs }: ParitySubject,
  tolerance = parityTolerance,
  watch: Pick<CaptureOptions, "onProgress" | "stopped"> = {},
): Promise<Check[]> {
  const { device = "cpu", model } = loaded;
  const sites = [...dictionaries.keys()];
  const every = Math.max(1, Math.floor(pairs.length / comparedPairs));
  const sample = pairs.filter((_, i) => i % every === 0).slice(0, comparedPairs);
  const hasEffects = sample.every(({ pair }) => pair.patch_prefix !== null);
  const plan = planCapture(prefixForest(sample), { wanted: hasEffects ? "changed" : "clean", model });
  const reference = inFloat64(loaded);
  const run = async (on: LoadedModel) => (await captureAll(on, [plan], { ...watch, sites }))[0]!;
  const [got, expected] = [await run(loaded), await run(reference)];
  const line = (what: string, site: SiteName | null, { gap, scale }: Gap, most = tolerance) =>
    check(`${what} on ${device} equal the CPU's`, site, gap, scale, most);
  const worst: Partial<Record<"activations" | "gradients" | "effects", Check>> = {};
  const note = (what: keyof typeof worst, site: SiteName, gap: Gap) => {
    const one = line(what, site, gap);
    if (worst[what] === undefined || shareOf(one) > shareOf(worst[what])) worst[what] = one;
  };
  let [rows, switched] = [0, 0];
  const [codes, exactCodes, loops] = [codeReader(loaded), codeReader(reference), openLoops()];
  try {
    for (const [site, dictionary] of dictionaries) {
      const [x, y] = [await got.site(site), await expected.site(site)];
      note("activations", site, largestGap(x.x, y.x));
      note("gradients", site, largestGap(x.g, y.g));
      if (!hasEffects) continue;
      const { rows: effects } = await analyticEffects(got, dictionary, codes, loops);
      const found = effectsGap(effects, (await analyticEffects(expected, dictionary, exactCodes, loops)).rows);
      note("effects", site, found);
      rows += found.rows;
      switched += found.switched;
    }
  } finally {
    await codes.release();
    await exactCodes.release();
  }
  return [
    line("metrics", null, largestGap(metricsOf(got), metricsOf(expected))),
    ...Object.values(worst),
    // One may always be at its threshold.
    ...(rows > 0 ? [line("active codes", null, { gap: Math.max(0, switched - 1), scale: rows }, mostSwitched)] : []),
  ];
}

const metricsOf = ({ cleanMetric, patchMetric }: Capture) => [...cleanMetric, ...patchMetric];

/** A check's gap as a share of its scale; infinite where there is none. */
export const shareOf = ({ gap, scale }: Gap): number =>
  gap === 0 ? 0 : scale > 0 ? gap / scale : Number.POSITIVE_INFINITY;

/** The same model on the CPU in float64. */
function inFloat64({ model, weights }: LoadedModel): LoadedModel {
  return loadedModel(model, isStreamed(weights) ? weights : widened(weights), { dtype: "float64" });
}

function widened(weights: Weights): Weights {
  const made = new Map<string, Tensor>();
  return (name) => {
    const known = made.get(name) ?? widen(weights(name));
    made.set(name, known);
    return known;
  };
}

/** A held weight in float64. */
function widen(weight: Tensor): Tensor {
  const { source, shape } = weight;
  if (weight.dtype === "float64") return weight;
  if (source.kind !== "constant") throw new Error("internal: a held weight that is no constant");
  return constant(numbers(source.data as Float32Array, "float64"), "float64", shape, source.name);
}

/**
 * Refuses a device whose numbers are too far from the CPU's.
 *
 * @throws UserError that says what differs by how much
 */
export function refuseDifferent(device: string, checks: readonly Check[]): void {
  const failed = checks.filter(({ passed }) => !passed);
  if (failed.length === 0) return;
  const parts = failed.map((one) => {
    const where = one.site === null ? "" : ` at ${one.site}`;
    return `${one.name.split(" on ")[0]}${where} that differ by ${shareText(shareOf(one))}`;
  });
  throw new UserError(
    `--device ${device}: expected numbers within ${failed[0]!.tolerance} of the CPU's in float64, as a share of the largest, got ${parts.join(", ")}. Use --device cpu, or allow more with --device_tolerance.`,
  );
}

const shareText = (share: number) => (share > 1e6 ? "more than a million times that" : share.toPrecision(2));
