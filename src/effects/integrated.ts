import type { Capture } from "../capture/capture.ts";
import type { Floats } from "../capture/passes.ts";
import type { Dictionary } from "../dictionaries/dictionary.ts";
import { type CodeReader, type CodeRow, codeReader, codeRow, type SparseCodes } from "../dictionaries/encode.ts";
import { StoppedError } from "../errors.ts";
import type { Pack } from "../forest/packs.ts";
import { times } from "../graph/shape.ts";
import { input } from "../graph/tensor.ts";
import type { SiteName } from "../site.ts";
import { effectsFrom } from "./analytic.ts";
import { captureFor } from "./capture-for.ts";
import { type CodePair, codeEffects, forEachDifference } from "./code-effects.ts";
import { dot } from "./directions.ts";
import { defaultSteps, type Method, type MethodSetting, type Rule, type SiteEffects } from "./method.ts";
import { cleanRow, gatherRows, openRest, patchRow, rowsValue, sitesOfRest } from "./rest.ts";

/** α of the K points on the way from the clean activation, 0, to the patch activation, 1. */
export function pointsOf(steps: number, rule: Rule): number[] {
  return Array.from({ length: steps }, (_, k) => (k + (rule === "midpoint" ? 0.5 : 0)) / steps);
}

/**
 * The method `analytic-ig`: Δf·⟨ḡ, d⟩ with ḡ the mean of ∂M/∂x over the points x_clean + α(x_patch − x_clean), all positions of one site together and
 * the rest of the model plain. The decoder is affine, so this is the way on which code and error move together, without an SAE in any pass.
 */
export const analyticIgMethod: Method = async function* (setting) {
  yield* effectsFrom(integrated(setting, await captureForRest(setting), progressOf(setting)), setting);
};

/** A capture of all activations that a method needs which begins at the setting's sites. */
export function captureForRest(setting: MethodSetting): Promise<Capture> {
  return captureFor(setting, "both", sitesOfRest([...setting.dictionaries.keys()]));
}

/** Counts the runs of the integrated methods: the setting's sites × backward packs × steps. */
function progressOf({ dictionaries, steps = defaultSteps, onProgress, stopped }: MethodSetting) {
  let done = 0;
  return (packs: number) => {
    if (stopped?.()) throw new StoppedError();
    onProgress?.(++done, dictionaries.size * packs * steps);
  };
}

/**
 * A capture with mean gradients in place of those at the clean prompts. They do not depend on the dictionary: asked for once, they serve all of a
 * site's.
 */
function integrated(setting: MethodSetting, captured: Capture, step: (packs: number) => void): Capture {
  return {
    ...captured,
    site: async (site) => ({ ...(await captured.site(site)), g: await meanGradient(setting, captured, site, step) }),
  };
}

/** ḡ[backward nodes,D] at a site. */
async function meanGradient(
  setting: MethodSetting,
  captured: Capture,
  site: SiteName,
  step: (packs: number) => void,
): Promise<Floats> {
  const { steps = defaultSteps, rule = "midpoint", dtype = "float32" } = setting;
  const D = (await captured.site(site)).width;
  const {
    part,
    captured: at,
    inputs,
  } = await openRest(setting, captured, site, ({ block }) => {
    const x = input("x", dtype, [times(block, "B"), D]);
    return { y: x, wrt: { x } };
  });
  const mean = new Float64Array(captured.plan.forest.backward.size * D);
  const packs = captured.plan.packs.filter(({ kind }) => kind === "backward");
  try {
    for (const pack of packs) {
      const nodeOf = (row: number) => pack.node[row]!;
      const fixed = inputs(pack, nodeOf);
      const clean = gatherRows(pack, at, (row) => cleanRow(captured, nodeOf(row)));
      const patch = gatherRows(pack, at, (row) => patchRow(captured, nodeOf(row)));
      const x = clean.slice();
      for (const α of pointsOf(steps, rule)) {
        for (let i = 0; i < x.length; i++) x[i] = clean[i]! + α * (patch[i]! - clean[i]!);
        const { gradients } = await part.run(pack, { ...fixed, x: rowsValue(x, D) });
        addNodeRows(mean, pack, gradients.get(`x/${site}`)!, D, 1 / steps);
        step(packs.length);
      }
    }
  } finally {
    await part.release();
  }
  return dtype === "float64" ? mean : Float32Array.from(mean);
}

/** sum[node] += weight·rows[row] for the nodes of a pack, D numbers each. A node whose block was cut is in several packs. */
function addNodeRows(sum: Float64Array, pack: Pack, rows: Floats, D: number, weight: number): void {
  pack.node.forEach((node, row) => {
    if (node < 0) return;
    for (let d = 0; d < D; d++) sum[node * D + d]! += weight * rows[row * D + d]!;
  });
}

/**
 * The method `sfc-ig`: at one site at a time x̂ = f W_dec + b_dec + ε with f and ε on the way from clean to patch; effect = Δf times the mean of ∂M/∂f,
 * the error's Δε times that of ∂M/∂ε.
 */
export const sfcIgMethod: Method = async function* (setting) {
  const captured = await captureForRest(setting);
  const codes = codeReader(setting);
  const step = progressOf(setting);
  try {
    for (const dictionary of setting.dictionaries.values()) {
      yield await sfcIgEffects(setting, captured, dictionary, codes, step);
    }
  } finally {
    await codes.release();
  }
};

async function sfcIgEffects(
  setting: MethodSetting,
  captured: Capture,
  dictionary: Dictionary,
  reader: CodeReader,
  step: (packs: number) => void,
): Promise<SiteEffects> {
  const { steps = defaultSteps, rule = "midpoint", dtype = "float32" } = setting;
  const { site, inputWidth: D, width: F } = dictionary;
  const { normalization } = await dictionary.encoder();
  const [decoder, bias] = [await dictionary.decoder(), await dictionary.decoderBias()];
  const {
    part,
    captured: at,
    inputs,
  } = await openRest(setting, captured, site, ({ block }) => {
    const f = input("f", dtype, [times(block, "B"), F]);
    const error = input("error", dtype, [times(block, "B"), D]);
    const decoded = f.matmul(input("decoder", dtype, [F, D]));
    // Of an SAE that is normalised per token, mean and scaled bias count as error (METHOD).
    const reconstruction = normalization ? decoded : decoded.add(input("decoder_bias", dtype, [D]));
    return { y: reconstruction.add(error), wrt: { f, error } };
  });
  const sparse = await reader.encode(dictionary, at.x);
  const errors = { ...at, x: errorsOf(at.x, sparse, decoder, normalization ? undefined : bias) };
  const pairOf = (node: number): CodePair => ({
    clean: codeRow(sparse, cleanRow(captured, node)),
    patch: codeRow(sparse, patchRow(captured, node)),
  });
  const nodes = captured.activeNodes(site);
  const slopes = new Map<number, Map<number, number>>();
  for (const node of nodes) {
    const of = new Map<number, number>();
    forEachDifference(pairOf(node), (feature) => of.set(feature, 0));
    slopes.set(node, of);
  }
  const errorGradient = new Float64Array(captured.plan.forest.backward.size * D);
  const make = dtype === "float64" ? Float64Array : Float32Array;
  const weights = {
    decoder: rowsValue(make.from(decoder), D),
    decoder_bias: { dtype, data: make.from(bias), shape: [D] },
  };
  const packs = captured.plan.packs.filter(({ kind }) => kind === "backward");
  try {
    for (const pack of packs) {
      const nodeOf = (row: number) => pack.node[row]!;
      const fixed = { ...weights, ...inputs(pack, nodeOf) };
      const clean = gatherRows(pack, errors, (row) => cleanRow(captured, nodeOf(row)));
      const patch = gatherRows(pack, errors, (row) => patchRow(captured, nodeOf(row)));
      const error = clean.slice();
      const f = new make(pack.tokens.length * F);
      for (const α of pointsOf(steps, rule)) {
        for (let i = 0; i < error.length; i++) error[i] = clean[i]! + α * (patch[i]! - clean[i]!);
        f.fill(0);
        pack.node.forEach((node, row) => {
          if (node < 0) return;
          const codes = pairOf(node);
          addCodes(f, row * F, codes.clean, 1 - α);
          addCodes(f, row * F, codes.patch, α);
        });
        const { gradients } = await part.run(pack, { ...fixed, f: rowsValue(f, F), error: rowsValue(error, D) });
        const gf = gradients.get(`f/${site}`)!;
        pack.node.forEach((node, row) => {
          const of = slopes.get(node);
          for (const [feature, slope] of of ?? []) of!.set(feature, slope + gf[row * F + feature]! / steps);
        });
        addNodeRows(errorGradient, pack, gradients.get(`error/${site}`)!, D, 1 / steps);
        step(packs.length);
      }
    }
  } finally {
    await part.release();
  }
  const change = new Float64Array(D);
  return {
    rows: codeEffects(
      site,
      nodes,
      pairOf,
      (node) => (feature) => slopes.get(node)!.get(feature)!,
      (node) => {
        const [c, p] = [cleanRow(captured, node) * D, patchRow(captured, node) * D];
        for (let d = 0; d < D; d++) change[d] = errors.x[p + d]! - errors.x[c + d]!;
        return dot(errorGradient, node * D, change, 0, D);
      },
    ),
  };
}

function addCodes(f: Floats, at: number, { features, values }: CodeRow, weight: number): void {
  for (let i = 0; i < features.length; i++) f[at + features[i]!]! += weight * values[i]!;
}

/** ε[rows,D] = x − f W_dec − b_dec, each row in float64. */
function errorsOf(x: Floats, codes: SparseCodes, decoder: Float32Array, bias: Float32Array | undefined): Floats {
  const D = x.length / codes.rows;
  const errors = x.slice();
  const error = new Float64Array(D);
  for (let row = 0; row < codes.rows; row++) {
    const { features, values } = codeRow(codes, row);
    for (let d = 0; d < D; d++) error[d] = x[row * D + d]! - (bias?.[d] ?? 0);
    features.forEach((feature, i) => {
      for (let d = 0; d < D; d++) error[d]! -= values[i]! * decoder[feature * D + d]!;
    });
    errors.set(error, row * D);
  }
  return errors;
}
