import type { Capture, SiteCapture } from "../capture/capture.ts";
import type { Dictionary } from "../dictionaries/dictionary.ts";
import { type CodeReader, codeReader, type SparseCodes } from "../dictionaries/encode.ts";
import { type Loops, openLoops } from "../graph/loops/loops.ts";
import { steps, type Watch } from "../progress.ts";
import { captureFor } from "./capture-for.ts";
import { dot, placeDirections, strideOf } from "./directions.ts";
import type { MethodInput, SiteEffects, SumCheck } from "./method.ts";
import { errorFeature, RowBuilder } from "./rows.ts";
import { fitNodes, type TakeOut, unexplainedOf } from "./unexplained.ts";

/** The method `analytic` (see `methodNames`). */
export async function* analyticMethod(given: MethodInput): AsyncGenerator<SiteEffects> {
  const captured = await captureFor(given, "changed");
  // Where there is no capture yet, its passes are what is told.
  const tell = given.captured && given.onProgress;
  const count = given.dictionaries.size;
  let site = 0;
  for await (const found of effectsFrom(captured, given, (done, total) => tell?.(site + done / total, count))) {
    yield found;
    tell?.(++site, count);
  }
}

/**
 * The effects of all given sites from one capture.
 *
 * @param onProgress told how far each site is
 */
export async function* effectsFrom(
  captured: Capture,
  given: MethodInput,
  onProgress?: Watch["onProgress"],
): AsyncGenerator<SiteEffects> {
  const [codes, loops] = [codeReader(given), openLoops()];
  const { onFit, stopped } = given;
  try {
    for (const dictionary of given.dictionaries.values()) {
      yield await analyticEffects(captured, dictionary, codes, loops, { ...(onFit && { onFit }), onProgress, stopped });
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
 *
 * @throws StoppedError if asked to stop
 */
export async function analyticEffects(
  capture: Capture,
  dictionary: Dictionary,
  codes: CodeReader,
  loops: Loops = openLoops(),
  { onFit, onProgress, stopped }: Pick<MethodInput, "onFit"> & Watch = {},
): Promise<Required<SiteEffects>> {
  const { writes: site } = dictionary;
  const captured = await capture.site(site, { stopped });
  const nodes = capture.activeNodes(site);
  const judged = onFit ? fitNodes(capture) : [];
  const { rows, clean, patch, others } = rowsOf(capture, captured, nodes, judged);
  // Encoding takes about as long as the nodes.
  const sparse = await codes.encode(dictionary, rows, {
    onProgress: (done, total) => onProgress?.(done, 2 * total),
    stopped,
  });
  const room = roomOf(captured.width, sparse);
  const [start, bias] = await Promise.all([
    placeDirections(dictionary, sparse.features, loops, room.bytes),
    onFit && dictionary.decoderBias(),
  ]);
  if (onFit && bias) {
    const left = new Float64Array(loops.memory.buffer, room.error, strideOf(captured.width)).fill(0);
    const encoded = { x: rows, codes: sparse, rows: others };
    onFit(site, unexplainedOf(dictionary, encoded, takeOutCodes(start, loops, room, captured.width), bias, left));
  }
  const step = steps({ onProgress: (done, total) => onProgress?.(total + done, 2 * total), stopped }, nodes.length);
  return nodeEffects(captured, nodes, { clean, patch }, rows, sparse, start, loops, room, step);
}

/** Where a node's vectors lie in the memory of loops, in bytes; the directions come behind them. */
interface Room {
  readonly g: number;
  readonly error: number;
  /** A direction of zeros, and the list of the directions that are taken out of a node's error. */
  readonly zeros: number;
  readonly list: number;
  readonly bytes: number;
}

function roomOf(D: number, { offsets }: SparseCodes): Room {
  const vector = 8 * strideOf(D);
  let most = 0;
  for (let row = 0; row + 1 < offsets.length; row++) most = Math.max(most, offsets[row + 1]! - offsets[row]!);
  // The codes of two prompts, filled up to a multiple of four.
  const entries = 2 * most + 4;
  return { g: 0, error: vector, zeros: 2 * vector, list: 3 * vector, bytes: 3 * vector + 16 * entries };
}

/** Takes codes times directions out of the error's place in the memory of loops. */
function takeOutCodes(start: Int32Array, loops: Loops, room: Room, D: number): TakeOut {
  const { buffer } = loops.memory;
  const entries = (room.bytes - room.list) / 16;
  const deltas = new Float64Array(buffer, room.list, 2 * entries);
  const places = new Int32Array(buffer, room.list, 4 * entries);
  new Float64Array(buffer, room.g, strideOf(D)).fill(0);
  new Float32Array(buffer, room.zeros, strideOf(D)).fill(0);
  return (_, { features, values }) => {
    const count = 4 * Math.ceil(features.length / 4);
    for (let k = 0; k < count; k++) {
      const isThere = k < features.length;
      deltas[2 * k] = isThere ? values[k]! : 0;
      places[4 * k + 2] = isThere ? start[features[k]!]! : room.zeros;
    }
    if (count > 0) loops.takeOut(room.error, room.g, strideOf(D), room.list, count);
  };
}

/**
 * The activations that a site's nodes need, and those of some other forward nodes, each once: rows[R,D], for each node the row of its clean and of its
 * patch prefix, and the rows of the others.
 */
export function rowsOf(
  { plan }: Capture,
  { x, width: D }: SiteCapture,
  nodes: Int32Array,
  forwardNodes: readonly number[] = [],
) {
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
  const others = forwardNodes.map(find);
  const rows = x.slice(0, place.size * D);
  for (const [row, at] of place) rows.set(x.subarray(row * D, (row + 1) * D), at * D);
  return { rows, clean, patch, others };
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
  room: Room,
  step: (done: number) => void,
): Required<SiteEffects> {
  const rows = new RowBuilder(site, features.length);
  const stride = strideOf(D);
  const { buffer } = loops.memory;
  const [gNode, deltaError] = [room.g, room.error].map((at) => new Float64Array(buffer, at, stride).fill(0)) as [
    Float64Array,
    Float64Array,
  ];
  new Float32Array(buffer, room.zeros, stride).fill(0);
  const entries = (room.bytes - room.list) / 16;
  /** Entry i: delta, then the gradient, at 2i of the one, the direction's place at 4i + 2 of the other. */
  const [deltas, places] = [
    new Float64Array(buffer, room.list, 2 * entries),
    new Int32Array(buffer, room.list, 4 * entries),
  ];
  const [changed, fClean, fPatch] = [new Int32Array(entries), new Float64Array(entries), new Float64Array(entries)];
  let check: SumCheck = { node: -1, gap: 0, scale: 0 };
  nodes.forEach((node, n) => {
    step(n);
    const [c, p] = [clean[n]!, patch[n]!];
    const at = node * D;
    for (let d = 0; d < D; d++) {
      gNode[d] = g[at + d]!;
      deltaError[d] = x[p * D + d]! - x[c * D + d]!;
    }
    const expected = dot(gNode, 0, deltaError, 0, D);
    let count = 0;
    let [i, j] = [offsets[c]!, offsets[p]!];
    const [iEnd, jEnd] = [offsets[c + 1]!, offsets[p + 1]!];
    while (i < iEnd || j < jEnd) {
      const ci = i < iEnd ? features[i]! : noFeature;
      const pj = j < jEnd ? features[j]! : noFeature;
      const feature = Math.min(ci, pj);
      const before = ci === feature ? values[i++]! : 0;
      const after = pj === feature ? values[j++]! : 0;
      if (after === before) continue;
      changed[count] = feature;
      fClean[count] = before;
      fPatch[count] = after;
      deltas[2 * count] = after - before;
      places[4 * count++ + 2] = start[feature]!;
    }
    for (let k = count; k % 4 !== 0; k++) {
      deltas[2 * k] = 0;
      places[4 * k + 2] = room.zeros;
    }
    if (count > 0) loops.takeOut(room.error, room.g, stride, room.list, Math.ceil(count / 4) * 4);
    const error = dot(gNode, 0, deltaError, 0, D);
    rows.add(node, errorFeature, Number.NaN, Number.NaN, Number.NaN, error);
    let [sum, scale] = [0, Math.abs(error)];
    for (let k = 0; k < count; k++) {
      const gradient = deltas[2 * k]!;
      const effect = (fPatch[k]! - fClean[k]!) * gradient;
      rows.add(node, changed[k]!, fClean[k]!, fPatch[k]!, gradient, effect);
      sum += effect;
      scale += Math.abs(effect);
    }
    const gap = Math.abs(sum + error - expected);
    if (scale > 0 && (check.node < 0 || gap * check.scale > check.gap * scale)) check = { node, gap, scale };
  });
  return { rows: rows.finish(), check };
}
