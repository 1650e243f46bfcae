import type { Capture, SiteCapture } from "../capture/capture.ts";
import type { Dictionary } from "../dictionaries/dictionary.ts";
import { type CodeReader, codeReader, type SparseCodes } from "../dictionaries/encode.ts";
import { type Loops, openLoops } from "../graph/loops/loops.ts";
import { steps, type Watch } from "../progress.ts";
import { captureFor } from "./capture-for.ts";
import { dot, placeDirections, strideOf } from "./directions.ts";
import type { MethodInput, SiteEffects, SumCheck } from "./method.ts";
import { rowsOf } from "./node-rows.ts";
import { errorFeature, RowBuilder } from "./rows.ts";
import { fitNodes, type TakeOut, unexplainedOf } from "./unexplained.ts";

/** The method `analytic` (see `methodNames`). */
export async function* analyticMethod(given: MethodInput): AsyncGenerator<SiteEffects> {
  const captured = await captureFor(given, "changed");
  // Where there is no capture yet, its passes are what is told.
  yield* effectsFrom(captured, given, given.captured && given.onProgress);
}

/**
 * The effects of all given sites from one capture. Those of a site are computed while whoever asks writes those of the site before.
 *
 * @param onProgress told how many sites are done, those at work by their share
 */
export async function* effectsFrom(
  captured: Capture,
  given: MethodInput,
  onProgress?: Watch["onProgress"],
): AsyncGenerator<SiteEffects> {
  const [codes, loops] = [codeReader(given), openLoops()];
  const { onFit, keptCodes, stopped } = given;
  const dictionaries = [...given.dictionaries.values()];
  let told = 0;
  const tell = (done: number) => {
    // The next site may be further than the one that is being written.
    if (done > told) onProgress?.(done, dictionaries.length);
    told = Math.max(told, done);
  };
  const begin = (at: number) => {
    const dictionary = dictionaries[at];
    if (dictionary === undefined) return undefined;
    const fits: Parameters<NonNullable<typeof onFit>>[] = [];
    const work = analyticEffects(captured, dictionary, codes, loops, {
      ...(onFit && { onFit: (...fit) => void fits.push(fit) }),
      ...(keptCodes && { keptCodes }),
      onProgress: (done, total) => tell(at + done / total),
      stopped,
    });
    // Whoever asks for it has the error.
    work.catch(() => {});
    return { work, fits };
  };
  let next = begin(0);
  try {
    for (let at = 1; next !== undefined; at++) {
      const { work, fits } = next;
      const found: SiteEffects = await work;
      next = begin(at);
      for (const fit of fits) onFit?.(...fit);
      yield found;
      tell(at);
    }
  } finally {
    await next?.work.catch(() => {});
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
  { onFit, keptCodes, onProgress, stopped }: Pick<MethodInput, "onFit" | "keptCodes"> & Watch = {},
): Promise<Required<SiteEffects>> {
  const { writes: site } = dictionary;
  const captured = await capture.site(site, { stopped });
  const nodes = capture.activeNodes(site);
  const judged = onFit ? fitNodes(capture) : [];
  const { rows, place, clean, patch, others } = rowsOf(capture, captured, nodes, judged);
  // Encoding takes about as long as the nodes.
  const sparse =
    keptCodes?.at(site, capture.plan, [...place.keys()]) ??
    (await codes.encode(dictionary, rows, {
      onProgress: (done, total) => onProgress?.(done, 2 * total),
      stopped,
    }));
  keptCodes?.keep(site, capture.plan, sparse, place.keys());
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

/** Larger than any feature. */
const noFeature = 2 ** 30;

function nodeEffects(
  { site, width: D, g }: SiteCapture,
  nodes: Int32Array,
  { clean, patch }: { readonly clean: Int32Array; readonly patch: Int32Array },
  x: ArrayLike<number>,
  codes: SparseCodes,
  start: Int32Array,
  loops: Loops,
  room: Room,
  step: (done: number) => void,
): Required<SiteEffects> {
  const rows = new RowBuilder(site, codes.features.length);
  const stride = strideOf(D);
  const { buffer } = loops.memory;
  const vectors = { g: new Float64Array(buffer, room.g, stride), error: new Float64Array(buffer, room.error, stride) };
  vectors.g.fill(0);
  vectors.error.fill(0);
  new Float32Array(buffer, room.zeros, stride).fill(0);
  const entries = (room.bytes - room.list) / 16;
  const list: ChangeList = {
    deltas: new Float64Array(buffer, room.list, 2 * entries),
    places: new Int32Array(buffer, room.list, 4 * entries),
    feature: new Int32Array(entries),
    fClean: new Float64Array(entries),
    fPatch: new Float64Array(entries),
  };
  let check: SumCheck = { node: -1, gap: 0, scale: 0 };
  for (let n = 0; n < nodes.length; n++) {
    step(n);
    const node = nodes[n]!;
    takeVectors(vectors, g, node * D, x, clean[n]! * D, patch[n]! * D, D);
    const expected = dot(vectors.g, 0, vectors.error, 0, D);
    const count = listChanges(list, codes, clean[n]!, patch[n]!, start);
    const filled = 4 * Math.ceil(count / 4);
    for (let k = count; k < filled; k++) {
      list.deltas[2 * k] = 0;
      list.places[4 * k + 2] = room.zeros;
    }
    if (count > 0) loops.takeOut(room.error, room.g, stride, room.list, filled);
    const error = dot(vectors.g, 0, vectors.error, 0, D);
    rows.add(node, errorFeature, Number.NaN, Number.NaN, Number.NaN, error);
    const { sum, scale } = addChanges(rows, node, list, count, Math.abs(error));
    const gap = Math.abs(sum + error - expected);
    if (scale > 0 && (check.node < 0 || gap * check.scale > check.gap * scale)) check = { node, gap, scale };
  }
  return { rows: rows.finish(), check };
}

/** What differs between the codes of a node's two prompts: columns, of which the first few entries count. */
interface ChangeList {
  /** Entry i: at 2i delta, then the gradient. */
  readonly deltas: Float64Array;
  /** Entry i: at 4i + 2 the place of the feature's direction. */
  readonly places: Int32Array;
  readonly feature: Int32Array;
  readonly fClean: Float64Array;
  readonly fPatch: Float64Array;
}

// The loops are functions of their own: in a closure each site would have them compiled anew.

/** A node's gradient, and Δx at the place of its error. */
function takeVectors(
  to: { readonly g: Float64Array; readonly error: Float64Array },
  g: ArrayLike<number>,
  at: number,
  x: ArrayLike<number>,
  clean: number,
  patch: number,
  D: number,
): void {
  for (let d = 0; d < D; d++) {
    to.g[d] = g[at + d]!;
    to.error[d] = x[patch + d]! - x[clean + d]!;
  }
}

/** Lists the features whose codes differ between two rows, in ascending order. @returns how many there are */
function listChanges(
  list: ChangeList,
  { offsets, features, values }: SparseCodes,
  clean: number,
  patch: number,
  start: Int32Array,
): number {
  let count = 0;
  let [i, j] = [offsets[clean]!, offsets[patch]!];
  const [iEnd, jEnd] = [offsets[clean + 1]!, offsets[patch + 1]!];
  while (i < iEnd || j < jEnd) {
    const ci = i < iEnd ? features[i]! : noFeature;
    const pj = j < jEnd ? features[j]! : noFeature;
    const feature = Math.min(ci, pj);
    const before = ci === feature ? values[i++]! : 0;
    const after = pj === feature ? values[j++]! : 0;
    if (after === before) continue;
    list.feature[count] = feature;
    list.fClean[count] = before;
    list.fPatch[count] = after;
    list.deltas[2 * count] = after - before;
    list.places[4 * count++ + 2] = start[feature]!;
  }
  return count;
}

/** Adds a row for each entry of the list. @returns Σ effect, and Σ|effect| in addition to `least` */
function addChanges(
  rows: RowBuilder,
  node: number,
  { deltas, feature, fClean, fPatch }: ChangeList,
  count: number,
  least: number,
): { readonly sum: number; readonly scale: number } {
  let [sum, scale] = [0, least];
  for (let k = 0; k < count; k++) {
    const gradient = deltas[2 * k]!;
    const effect = (fPatch[k]! - fClean[k]!) * gradient;
    rows.add(node, feature[k]!, fClean[k]!, fPatch[k]!, gradient, effect);
    sum += effect;
    scale += Math.abs(effect);
  }
  return { sum, scale };
}
