import type { Capture } from "../capture/capture.ts";
import type { Floats } from "../capture/hooks.ts";
import type { Dictionary, Encoder } from "../dictionaries/dictionary.ts";
import { type CodeReader, codeRow } from "../dictionaries/encode.ts";
import { rowsOf } from "../effects/node-rows.ts";
import { cleanRow, patchRow } from "../effects/rest.ts";
import type { SiteName } from "../site.ts";
import { sum } from "../stats.ts";

/** The codes of a site at the clean and at the patch prefix of the nodes where something can differ. */
export interface NodeCodes {
  readonly site: SiteName;
  /** The site's active nodes, ascending. */
  readonly nodes: Int32Array;
  /** For each backward node its place in `nodes`; −1 for others. */
  readonly placeOf: Int32Array;
  /** Place p has the entries offsets[p] to offsets[p + 1]: features with a code at either prefix, ascending. */
  readonly offsets: Int32Array;
  readonly feature: Int32Array;
  readonly fClean: Float64Array;
  readonly fPatch: Float64Array;
  /** fPatch − fClean */
  readonly difference: Float64Array;
  /** Every feature that has an entry, ascending. */
  readonly live: Int32Array;
  /** Of each entry its feature's place in `live`. */
  readonly liveAt: Int32Array;
}

/** Reads the codes of a site. */
export async function nodeCodes(captured: Capture, dictionary: Dictionary, reader: CodeReader): Promise<NodeCodes> {
  const { writes: site, featureCount: F } = dictionary;
  const nodes = captured.activeNodes(site);
  const placeOf = new Int32Array(captured.plan.forest.backward.size).fill(-1);
  nodes.forEach((node, place) => {
    placeOf[node] = place;
  });
  const { rows, clean, patch } = rowsOf(captured, await captured.site(site), nodes);
  const sparse = await reader.encode(dictionary, rows);
  const offsets = new Int32Array(nodes.length + 1);
  const most = sum([...clean, ...patch].map((row) => sparse.offsets[row + 1]! - sparse.offsets[row]!));
  const [features, cleans, patches] = [new Int32Array(most), new Float64Array(most), new Float64Array(most)];
  let count = 0;
  nodes.forEach((_, place) => {
    const [a, b] = [codeRow(sparse, clean[place]!), codeRow(sparse, patch[place]!)];
    let [i, j] = [0, 0];
    while (i < a.features.length || j < b.features.length) {
      const [x, y] = [a.features[i] ?? F, b.features[j] ?? F];
      const at = Math.min(x, y);
      features[count] = at;
      cleans[count] = x === at ? a.values[i++]! : 0;
      patches[count++] = y === at ? b.values[j++]! : 0;
    }
    offsets[place + 1] = count;
  });
  const [feature, fClean, fPatch] = [features.slice(0, count), cleans.slice(0, count), patches.slice(0, count)];
  const liveOf = new Int32Array(F).fill(-1);
  for (const at of feature) liveOf[at] = 0;
  const live: number[] = [];
  liveOf.forEach((used, at) => {
    if (used === 0) liveOf[at] = live.push(at) - 1;
  });
  return {
    site,
    nodes,
    placeOf,
    offsets,
    feature,
    fClean,
    fPatch,
    difference: fPatch.map((patch, at) => patch - fClean[at]!),
    live: Int32Array.from(live),
    liveAt: feature.map((at) => liveOf[at]!),
  };
}

/** Δx[nodes,D] = patch − clean at the given backward nodes. */
export async function changesAt(captured: Capture, site: SiteName, nodes: Int32Array): Promise<Float64Array> {
  const { x, width: D } = await captured.site(site);
  const out = new Float64Array(nodes.length * D);
  nodes.forEach((node, i) => {
    const [clean, patch] = [cleanRow(captured, node) * D, patchRow(captured, node) * D];
    for (let d = 0; d < D; d++) out[i * D + d] = x[patch + d]! - x[clean + d]!;
  });
  return out;
}

/** What features read of an activation, as directions of x itself. */
export interface ReadDirections {
  /** e_j [n,D], of which the mean over D is taken out where the encoder takes out that of x. */
  readonly data: Float64Array;
  /** b_j − ⟨e_j, inputBias⟩, what a scale σ of the token is multiplied by in the pre-activation σ·z; of encoders that do not normalise, zeros. */
  readonly scaled: Float64Array;
}

/** The columns of an encoder that some features have. */
export function readDirections(
  { weight, bias, inputBias, normalization }: Encoder,
  features: ArrayLike<number>,
): ReadDirections {
  const F = bias.length;
  const D = weight.length / F;
  const data = new Float64Array(features.length * D);
  const scaled = new Float64Array(features.length);
  for (let j = 0; j < features.length; j++) {
    const feature = features[j]!;
    let [mean, offset] = [0, bias[feature]!];
    for (let d = 0; d < D; d++) {
      const w = weight[d * F + feature]!;
      data[j * D + d] = w;
      mean += w / D;
      if (inputBias) offset -= w * inputBias[d]!;
    }
    if (normalization === "layer_norm") for (let d = 0; d < D; d++) data[j * D + d]! -= mean;
    if (normalization !== undefined) scaled[j] = offset;
  }
  return { data, scaled };
}

/** σ of each row of x[rows,D] as the encoder takes it; zeros of one that does not normalise. */
export function scalesOf(x: Floats, D: number, { normalization }: Encoder): Float64Array {
  const rows = x.length / D;
  const scales = new Float64Array(rows);
  if (normalization === undefined) return scales;
  for (let row = 0; row < rows; row++) {
    let [mean, squares] = [0, 0];
    if (normalization === "layer_norm") for (let d = 0; d < D; d++) mean += x[row * D + d]! / D;
    for (let d = 0; d < D; d++) squares += (x[row * D + d]! - mean) ** 2;
    scales[row] = Math.sqrt(squares / (normalization === "layer_norm" ? D - 1 : D));
  }
  return scales;
}
