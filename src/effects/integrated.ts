import type { Capture, SiteCapture } from "../capture/capture.ts";
import { type Floats, floatValue, type Job } from "../capture/hooks.ts";
import type { Dictionary } from "../dictionaries/dictionary.ts";
import { type CodeReader, type CodeRow, codeReader, codeRow, type SparseCodes } from "../dictionaries/encode.ts";
import { type Pack, tightPacks } from "../forest/packs.ts";
import { times } from "../graph/shape.ts";
import { input } from "../graph/tensor.ts";
import type { Watch } from "../progress.ts";
import type { SiteName } from "../site.ts";
import { effectsFrom } from "./analytic.ts";
import { captureFor } from "./capture-for.ts";
import { type CodePair, codeEffects, forEachDifference } from "./code-effects.ts";
import { dot } from "./directions.ts";
import { defaultSteps, type Method, type MethodInput, type Rule, type SiteEffects } from "./method.ts";
import {
  type Continuation,
  cleanRow,
  gatherRows,
  openContinuation,
  patchRow,
  rowsValue,
  sitesToContinueFrom,
} from "./rest.ts";

/** α of the K points on the way from the clean activation, 0, to the patch activation, 1. */
export function pointsOf(steps: number, rule: Rule): number[] {
  return Array.from({ length: steps }, (_, k) => (k + (rule === "midpoint" ? 0.5 : 0)) / steps);
}

/**
 * The method `analytic-ig`: Δf·⟨ḡ, d⟩ with ḡ the mean of ∂M/∂x over the points x_clean + α(x_patch − x_clean), all positions of one site together and
 * the rest of the model plain. The decoder is affine, so this is the way on which code and error move together, without an SAE in any pass.
 */
export const analyticIgMethod: Method = async function* (given) {
  yield* effectsFrom(integrated(given, await captureForRest(given), progressOf(given)), given);
};

/** A capture of all activations that a method needs which begins at the given sites. */
export function captureForRest(given: MethodInput): Promise<Capture> {
  return captureFor(given, "both", sitesToContinueFrom([...given.dictionaries.keys()]));
}

/** Shows the work of one site after another as a share of that of all of them. */
function progressOf({ dictionaries, onProgress, stopped }: MethodInput): () => Watch {
  let sites = 0;
  return () => {
    const before = sites++;
    return {
      stopped,
      onProgress: (done, total) => onProgress?.(before * total + done, dictionaries.size * total),
    };
  };
}

/** The backward packs that the integrated methods run again and again. */
const packsOf = ({ batch }: MethodInput, { plan }: Capture): readonly Pack[] =>
  batch === undefined ? tightPacks(plan) : plan.packs.filter(({ kind }) => kind === "backward");

/**
 * A capture with mean gradients in place of those at the clean prompts. They do not depend on the dictionary: asked for once, they serve all of a
 * site's.
 */
function integrated(given: MethodInput, captured: Capture, watchSite: () => Watch): Capture {
  return {
    ...captured,
    site: async (site) => ({
      ...(await captured.site(site)),
      g: await meanGradient(given, captured, site, watchSite),
    }),
  };
}

/** ḡ[backward nodes,D] at a site. */
async function meanGradient(
  given: MethodInput,
  captured: Capture,
  site: SiteName,
  watchSite: () => Watch,
): Promise<Floats> {
  const { steps = defaultSteps, dtype } = given;
  const continuation = await openContinuation(given, captured, { site });
  const { captured: at } = continuation;
  const D = at.width;
  const mean = new Float64Array(captured.plan.forest.backward.size * D);
  await runAtPoints(given, captured, continuation, watchSite(), (pack, α) => ({
    inputs: () => ({ x: rowsValue(between(pack, at, captured, α), D) }),
    found({ tensors }) {
      addNodeRows(mean, pack, tensors.x!, D, 1 / steps);
      return undefined;
    },
  }));
  return dtype === "float64" ? mean : Float32Array.from(mean);
}

/** Runs what is left of the model at every point on the way from clean to patch, and gives it back. */
async function runAtPoints(
  given: MethodInput,
  captured: Capture,
  { runner, before }: Continuation,
  watch: Watch,
  at: (pack: Pack, α: number) => Pick<Job, "inputs" | "found">,
): Promise<void> {
  const { steps = defaultSteps, rule = "midpoint" } = given;
  const jobs = packsOf(given, captured).flatMap((pack) =>
    pointsOf(steps, rule).map((α): Job => ({ pack, ...before(pack, (row) => pack.node[row]!), ...at(pack, α) })),
  );
  try {
    await runner.run(jobs, watch);
  } finally {
    await runner.release();
  }
}

/** x_clean + α(x_patch − x_clean) [N,D] at the nodes of a pack's rows. */
function between(pack: Pack, at: SiteCapture, captured: Capture, α: number): Floats {
  const x = gatherRows(pack, at, (row) => cleanRow(captured, pack.node[row]!));
  const patch = gatherRows(pack, at, (row) => patchRow(captured, pack.node[row]!));
  for (let i = 0; i < x.length; i++) x[i] = x[i]! + α * (patch[i]! - x[i]!);
  return x;
}

/** sum[node] += weight·rows[row] for the nodes of a pack, D numbers each. A node that several tiles repeat is in several packs. */
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
export const sfcIgMethod: Method = async function* (given) {
  const captured = await captureForRest(given);
  const codes = codeReader(given);
  const watchSite = progressOf(given);
  try {
    for (const dictionary of given.dictionaries.values()) {
      yield await sfcIgEffects(given, captured, dictionary, codes, watchSite);
    }
  } finally {
    await codes.release();
  }
};

async function sfcIgEffects(
  given: MethodInput,
  captured: Capture,
  dictionary: Dictionary,
  reader: CodeReader,
  watchSite: () => Watch,
): Promise<SiteEffects> {
  const { steps = defaultSteps, dtype } = given;
  const { writes: site, outputWidth: D, featureCount: F, normalization } = dictionary;
  const [decoder, bias] = [await dictionary.decoder(), await dictionary.decoderBias()];
  // Of an SAE that is normalised per token, mean and scaled bias count as error (METHOD).
  const codeBias = normalization ? undefined : bias;
  const make = dtype === "float64" ? Float64Array : Float32Array;
  const continuation = await openContinuation(given, captured, {
    site,
    trace({ context: { tileSize }, named }) {
      const f = input(named("f"), dtype, [times(tileSize, "B"), F]);
      const error = input(named("error"), dtype, [times(tileSize, "B"), D]);
      const decoded = f.matmul(input(named("decoder"), dtype, [F, D]));
      const reconstruction = codeBias ? decoded.add(input(named("decoder_bias"), dtype, [D])) : decoded;
      return { y: reconstruction.add(error), wrt: { f, error } };
    },
    weights: async () => ({
      decoder: floatValue(make.from(decoder), F, D),
      ...(codeBias && { decoder_bias: floatValue(make.from(codeBias), D) }),
    }),
  });
  const { captured: at } = continuation;
  const sparse = await reader.encode(dictionary, at.x);
  const errors = { ...at, x: errorsOf(at.x, sparse, decoder, codeBias) };
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
  await runAtPoints(given, captured, continuation, watchSite(), (pack, α) => ({
    inputs() {
      const f = new make(pack.tokens.length * F);
      pack.node.forEach((node, row) => {
        if (node < 0) return;
        const codes = pairOf(node);
        addCodes(f, row * F, codes.clean, 1 - α);
        addCodes(f, row * F, codes.patch, α);
      });
      return { f: rowsValue(f, F), error: rowsValue(between(pack, errors, captured, α), D) };
    },
    found({ kind, tensors: { f, error } }) {
      if (kind === "value") return undefined;
      pack.node.forEach((node, row) => {
        const of = slopes.get(node);
        for (const [feature, slope] of of ?? []) of!.set(feature, slope + f![row * F + feature]! / steps);
      });
      addNodeRows(errorGradient, pack, error!, D, 1 / steps);
      return undefined;
    },
  }));
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
