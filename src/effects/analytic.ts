import type { Capture, SiteCapture } from "../capture/capture.ts";
import type { Dictionary } from "../dictionaries/dictionary.ts";
import { type CodeReader, codeReader, type SparseCodes } from "../dictionaries/encode.ts";
import { type Loops, openLoops } from "../graph/loops.ts";
import { captureFor } from "./capture-for.ts";
import { dot, placeDirections, strideOf } from "./directions.ts";
import type { MethodSetting, SiteEffects, SumCheck } from "./method.ts";
import { errorFeature, RowBuilder } from "./rows.ts";

/** The method `analytic` (see `methodNames`). */
export async function* analyticMethod(setting: MethodSetting): AsyncGenerator<SiteEffects> {
  const captured = await captureFor(setting, "changed");
  const [codes, loops] = [codeReader(setting), openLoops()];
  try {
    for (const dictionary of setting.dictionaries.values()) {
      yield await analyticEffects(captured, dictionary, codes, loops);
    }
  } finally {
    await codes.release();
  }
}

/**
 * Effect of each feature of one site, to first order (attribution patching).
 *
 * effect[n,i] = (f_patch − f_clean)[n,i] · ⟨g[n], W_dec[i]⟩, in logits: the change of the metric if feature i alone took its patch value, summed
 * over the pairs that share node n. Equal to a spliced SAE that passes gradients through (arXiv:2403.19647); see METHOD. The error's effect is
 * ⟨g, Δε⟩ with Δε = Δx − Δf·W_dec computed as a vector. There are rows for the features whose codes differ, at the nodes where Δ and g can.
 */
export async function analyticEffects(
  capture: Capture,
  dictionary: Dictionary,
  codes: CodeReader,
  loops: Loops = openLoops(),
): Promise<Required<SiteEffects>> {
  const captured = await capture.site(dictionary.site);
  const nodes = capture.activeNodes(dictionary.site);
  const { rows, clean, patch } = rowsOf(capture, captured, nodes);
  const sparse = await codes.encode(dictionary, rows);
  // First g and the error of a node, then the directions: nearly all of the time goes into fetching and multiplying these.
  const start = await placeDirections(dictionary, sparse.features, loops, 16 * strideOf(captured.width));
  return nodeEffects(captured, nodes, { clean, patch }, rows, sparse, start, loops);
}

/** The activations that a site's nodes need, each forward node once: rows[n,D], and for each node the row of its clean and of its patch prefix. */
function rowsOf({ plan }: Capture, { x, width: D }: SiteCapture, nodes: Int32Array) {
  const { backward } = plan.forest;
  const place = new Map<number, number>();
  const find = (forward: number) => {
    const row = plan.row[forward]!;
    if (row < 0) throw new Error("internal: activations of a changed prefix were not kept");
    const known = place.get(row);
    if (known !== undefined) return known;
    place.set(row, place.size);
    return place.size - 1;
  };
  const clean = nodes.map((node) => find(backward.clean[node]!));
  const patch = nodes.map((node) => find(backward.patch[node]!));
  const rows = x.slice(0, place.size * D);
  for (const [row, at] of place) rows.set(x.subarray(row * D, (row + 1) * D), at * D);
  return { rows, clean, patch };
}

/** Larger than any feature. */
const noFeature = 2 ** 30;

function nodeEffects(
  { site, width: D, g }: SiteCapture,
  nodes: Int32Array,
  { clean, patch }: { readonly clean: Int32Array; readonly patch: Int32Array },
  x: ArrayLike<number>,
  { offsets, features, values }: SparseCodes,
  start: Int32Array,
  loops: Loops,
): Required<SiteEffects> {
  const rows = new RowBuilder(site, features.length);
  const stride = strideOf(D);
  const [gAt, errorAt] = [0, 8 * stride];
  const gNode = new Float64Array(loops.memory.buffer, gAt, stride).fill(0);
  const deltaError = new Float64Array(loops.memory.buffer, errorAt, stride).fill(0);
  let check: SumCheck = { node: -1, gap: 0, scale: 0 };
  nodes.forEach((node, n) => {
    const [c, p] = [clean[n]!, patch[n]!];
    const at = node * D;
    for (let d = 0; d < D; d++) {
      gNode[d] = g[at + d]!;
      deltaError[d] = x[p * D + d]! - x[c * D + d]!;
    }
    const expected = dot(gNode, 0, deltaError, 0, D);
    let [i, j] = [offsets[c]!, offsets[p]!];
    const [iEnd, jEnd] = [offsets[c + 1]!, offsets[p + 1]!];
    let [sum, scale] = [0, 0];
    const errorRow = rows.reserve();
    while (i < iEnd || j < jEnd) {
      const ci = i < iEnd ? features[i]! : noFeature;
      const pj = j < jEnd ? features[j]! : noFeature;
      const feature = Math.min(ci, pj);
      const fClean = ci === feature ? values[i++]! : 0;
      const fPatch = pj === feature ? values[j++]! : 0;
      const delta = fPatch - fClean;
      if (delta === 0) continue;
      const gradient = loops.takeOut(errorAt, gAt, start[feature]!, delta, stride);
      const effect = delta * gradient;
      rows.add(node, feature, fClean, fPatch, gradient, effect);
      sum += effect;
      scale += Math.abs(effect);
    }
    const error = dot(gNode, 0, deltaError, 0, D);
    rows.set(errorRow, node, errorFeature, Number.NaN, Number.NaN, Number.NaN, error);
    scale += Math.abs(error);
    const gap = Math.abs(sum + error - expected);
    if (scale > 0 && (check.node < 0 || gap * check.scale > check.gap * scale)) check = { node, gap, scale };
  });
  return { rows: rows.finish(), check };
}
