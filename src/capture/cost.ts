import type { Pack, Plan } from "../forest/packs.ts";
import { sameBytes } from "../graph/kept-sessions.ts";
import { type RunMemory, runMemory } from "../graph/memory.ts";
import { writeOnnx } from "../graph/onnx.ts";
import type { WeightsWay } from "../graph/session.ts";
import { input, type Tensor } from "../graph/tensor.ts";
import { type StoredType, storedBytes } from "../models/checkpoint.ts";
import type { Model } from "../models/model.ts";
import { isStreamed, type LoadedModel } from "../models/weights.ts";
import { parseSite, type SiteName } from "../site.ts";
import { gradientRows } from "./capture.ts";
import { passOutputs, sizedSessions } from "./held.ts";
import { readingHooks } from "./hooks.ts";
import { besideSizeOf, tileSizeOf, wholePack } from "./pack-inputs.ts";
import { pieceGraphs } from "./piece-graphs.ts";
import { lowestBlock } from "./stream-sites.ts";
import { defaultWaveRows, memoryWaveRows } from "./streamed.ts";
import { type Work, workOf } from "./work.ts";

/** What running plans takes, told from shapes alone. */
export interface CaptureCost {
  /** Floating-point operations, padding and what is computed again included. */
  readonly flops: number;
  /** Bytes of weights that are read from files. */
  readonly read: number;
  /** Bytes of memory at the peak, besides the program itself; traces the graphs that will run. */
  memory(): number;
  /** Those of them that stay until the end: weights that are held. */
  readonly held: number;
  /** Bytes in the store: at the peak, and of the rows that stay until the effects are computed. */
  readonly stored: { readonly peak: number; readonly end: number };
  /** Bytes of memory of a device that runs the sessions: held weights, once or for each session, or those of blocks, and the largest run. */
  onDevice(): number;
  /** Bytes of graphs with weights inside that have to be compiled; 0 where sessions are given them. */
  readonly compiled: number;
}

/**
 * Copies of held weights that are in memory: one where sessions are given them; otherwise also, for each of the two graphs, as the graph's file and in
 * the session, there also packed for the matrix products. Measured on models of 4 to 135 million parameters.
 */
const heldCopies = { given: 1, inGraphs: 5.6 };

/**
 * Memory of a session as multiples of what its run needs at the peak and of the results: the runtime keeps memory in pieces that do not fit together
 * without gaps, and results of runs before wait to be collected. Measured on passes and blocks of the shapes of Llama, Gemma 2, GPT-2 and NeoX.
 */
const sessionShare = { peak: 1.4, results: 1.5 };
/** Bytes of a session per operation of its graph. */
const operationBytes = 13_000;

/** The arrays of a wave's stream that are in memory at a time: what goes in and comes out, what is saved, and what waits to be collected. */
const liveStreams = 5;

/**
 * The cost of a capture of several plans with weights held or streamed.
 *
 * @param number bytes of a number that is computed with
 * @param way how sessions get held weights
 */
export function captureCost(
  model: Model,
  plans: readonly Plan[],
  sites: readonly SiteName[],
  weights: "held" | "streamed",
  storedType: (name: string) => StoredType,
  number: 4 | 8 = 4,
  way: WeightsWay = "in place",
): CaptureCost {
  const packs = plans.flatMap((plan) => plan.packs.map((pack) => ({ plan, pack })));
  const besides = packs.flatMap(({ pack }) => (pack.beside ? [pack.beside] : []));
  const rowsOf = (kind: "forward" | "backward") =>
    [...packs.map(({ pack }) => pack), ...besides].reduce(
      (sum, pack) => sum + (pack.kind === kind ? pack.tokens.length : 0),
      0,
    );
  const [forward, backward] = [rowsOf("forward"), rowsOf("backward")];
  /** Rows that each row sees, itself and padding included, over all rows of a kind. */
  const seenBy = (kind: "forward" | "backward") =>
    packs.reduce((sum, { pack }) => {
      const beside = kind === "forward" ? (pack.beside?.tokens.length ?? 0) : 0;
      const own = pack.kind === kind ? pack.tokens.length * tileSizeOf(pack) : 0;
      return sum + own + beside * (tileSizeOf(pack) + besideSizeOf(pack));
    }, 0);

  const linear = model.flopsPerToken;
  const attention = model.attentionFlops;
  const L = model.layers;
  // Held weights save what the forward pass computes; streamed blocks compute it again, but only those that gradients have to pass.
  const low = backward > 0 ? lowestBlock(L, sites) : L;
  const share = weights === "held" ? 1 : (L - low) / L;
  const passes = weights === "held" ? 1 + share : 1 + 2 * share;
  const flops =
    (forward + passes * backward) * linear + (seenBy("forward") + (passes + share) * seenBy("backward")) * attention;

  const parameters = parametersOf(model, storedType);
  const width = (site: SiteName) => model.sites[parseSite(site).kind]!;
  const kept = [...packs.map(({ pack }) => pack), ...besides].reduce((sum, { keep }) => sum + keep.length, 0);
  const gradients = packs.reduce(
    (sum, { plan, pack }) => sum + (pack.kind === "backward" ? gradientRows(plan, pack).length : 0),
    0,
  );
  const siteBytes = number * sites.reduce((sum, site) => sum + width(site), 0);
  const end = siteBytes * (kept + gradients);

  const dtype = number === 8 ? "float64" : "float32";
  const allPacks = packs.map(({ pack }) => pack);
  if (weights === "held") {
    const isInGraphs = way === "in graphs";
    const held = heldCopies[isInGraphs ? "inGraphs" : "given"] * number * parameters.count;
    const sessions = once(() => heldSessions(model, allPacks, sites, dtype));
    return {
      flops,
      read: parameters.stored,
      memory: () => held + sessions().bytes,
      onDevice: () => {
        const { count, bytes } = sessions();
        return (isInGraphs ? count : 1) * number * parameters.count + bytes;
      },
      held,
      stored: { peak: end, end },
      compiled: isInGraphs ? 2 * number * parameters.count : 0,
    };
  }
  const wave = Math.min(defaultWaveRows, forward + backward);
  const waves = Math.max(1, Math.ceil((forward + backward) / defaultWaveRows));
  const stream = number * wave * model.width;
  const sessions = once(() => streamedSessions(model, allPacks, sites, dtype));
  return {
    flops,
    read: waves * parameters.blocks * (1 + share),
    onDevice: () => parameters.inBlocks / L + sessions(),
    memory: () => parameters.atHand / L + sessions() + liveStreams * stream,
    held: 0,
    // When the forward pass is done, the inputs of all blocks that gradients pass are there, with the rows that are kept of this wave's x and of all that the waves before gave.
    stored: { peak: (L + 1 - low) * stream + siteBytes * (kept + (gradients * (waves - 1)) / waves), end },
    compiled: 0,
  };
}

/** What is computed when it is first asked for. */
function once<T>(compute: () => T): () => T {
  let known: T | undefined;
  return () => {
    known ??= compute();
    return known;
  };
}

/** How a model is run, as far as that bears on what passes take. */
export interface Running {
  readonly model: Model;
  readonly weights: "held" | "streamed";
  readonly storedType: (name: string) => StoredType;
  /** Bytes of a number that is computed with. */
  readonly number: 4 | 8;
}

/** What is to be run with a model that is open. */
export function runningOf({ model, weights, dtype }: LoadedModel): Running {
  const number = dtype === "float64" ? 8 : 4;
  if (!isStreamed(weights)) return { model, weights: "held", storedType: () => "float32", number };
  return { model, weights: "streamed", storedType: (name) => weights.checkpoint.storedType(name), number };
}

/**
 * Running packs with `runModel`, all of them so many times, forward alone or forward and back; what lies between blocks is kept in memory.
 *
 * @param sites those with hooks
 * @param options share: of the layers that are run, where runs begin behind some of them
 */
export function passWork(
  { model, weights, storedType, number }: Running,
  packs: readonly Pack[],
  sites: readonly SiteName[],
  {
    times = 1,
    back = false,
    share = 1,
  }: { readonly times?: number; readonly back?: boolean; readonly share?: number } = {},
): Work {
  const kind = back ? ("backward" as const) : ("forward" as const);
  const asked = packs.map((pack): Pack => ({ ...pack, kind }));
  const rows = times * asked.reduce((sum, { tokens }) => sum + tokens.length, 0);
  const seen = times * asked.reduce((sum, pack) => sum + pack.tokens.length * tileSizeOf(pack), 0);
  const isStreamed = weights === "streamed";
  // Back takes a product more for every product of an activation with a weight, two for those of attention; streamed blocks are computed again.
  const [linear, attention] = !back ? [1, 1] : isStreamed ? [3, 4] : [2, 3];
  const dtype = number === 8 ? "float64" : "float32";
  const wave = Math.min(rows, memoryWaveRows);
  const stream = number * wave * model.width;
  return workOf({
    passes: share * (linear * rows * model.flopsPerToken + attention * seen * model.attentionFlops),
    read: isStreamed
      ? share * Math.ceil(rows / memoryWaveRows) * (back ? 2 : 1) * parametersOf(model, storedType).blocks
      : 0,
    sessions: isStreamed ? (back ? 4 : 3) : 1,
    memory: isStreamed
      ? parametersOf(model, storedType).atHand / model.layers +
        streamedSessions(model, asked, sites, dtype) +
        (back ? model.layers + liveStreams : liveStreams) * stream
      : heldSessions(model, asked, sites, dtype).bytes,
  });
}

/** Bytes of the sessions of held weights, which are all there at the end: for each kind and size of packs as `packSessions` makes them. */
function heldSessions(
  model: Model,
  packs: readonly Pack[],
  sites: readonly SiteName[],
  dtype: "float32" | "float64",
): { readonly count: number; readonly bytes: number } {
  const weights = (name: string) => input(name, dtype, model.parameters.get(name)!);
  const hooks = readingHooks(sites);
  const groups = new Map<string, Pack[]>();
  for (const pack of packs) {
    const key = `${pack.kind}/${tileSizeOf(pack)}/${besideSizeOf(pack)}`;
    const group = groups.get(key);
    if (group) group.push(pack);
    else groups.set(key, [pack]);
  }
  let [count, bytes] = [0, 0];
  for (const alike of groups.values()) {
    const { kind, tiles } = alike[0]!;
    const [n, m] = [tileSizeOf(alike[0]!), besideSizeOf(alike[0]!)];
    const graph = Object.values(passOutputs(model, weights, kind, n, { dtype, hooks }, m));
    const P = alike.reduce((most, { metric }) => Math.max(most, metric.row.length), 1);
    const Q = alike.reduce((most, { beside }) => Math.max(most, beside?.metric.row.length ?? 0), 1);
    const memory = runMemory(graph, { B: tiles, P, Q });
    const counts = [...new Set(alike.map((pack) => pack.tiles))];
    // A session for each of the first numbers of tiles, one for the largest of the others; everything is larger or smaller by the number.
    const others = counts.splice(sizedSessions);
    for (const size of [...counts, ...(others.length > 0 ? [Math.max(...others)] : [])]) {
      const share = size / tiles;
      count++;
      bytes += sessionBytes({ ...memory, peak: share * memory.peak, results: share * memory.results });
    }
  }
  return { count, bytes };
}

/** Bytes of the sessions of streamed weights: those of all kinds of blocks in the direction that takes more. */
function streamedSessions(
  model: Model,
  packs: readonly Pack[],
  sites: readonly SiteName[],
  dtype: "float32" | "float64",
): number {
  const hooks = readingHooks(sites);
  const bytes = (direction: "forward" | "backward", low: number) => {
    // Packs of both kinds go forward, backward ones alone go back.
    const gone = direction === "forward" ? packs.map(wholePack) : packs.filter(({ kind }) => kind === "backward");
    let sum = 0;
    for (const n of new Set(gone.map(tileSizeOf))) {
      const graphs = pieceGraphs(model, n, dtype, { hooks });
      const B = gone.reduce((most, pack) => (tileSizeOf(pack) === n ? Math.max(most, pack.tiles) : most), 0);
      const kinds: { readonly file: Uint8Array; readonly outputs: readonly Tensor[] }[] = [];
      for (let layer = low; layer < model.layers; layer++) {
        const { outputs } = graphs.block(layer, direction);
        const file = writeOnnx(outputs);
        if (!kinds.some((kind) => sameBytes(kind.file, file))) kinds.push({ file, outputs: Object.values(outputs) });
      }
      for (const { outputs } of kinds) sum += sessionBytes(runMemory(outputs, { B }));
    }
    return sum;
  };
  return Math.max(bytes("forward", 0), bytes("backward", lowestBlock(model.layers, sites)));
}

const sessionBytes = ({ peak, results, operations }: RunMemory) =>
  sessionShare.peak * peak + sessionShare.results * results + operationBytes * operations;

/**
 * Numbers and stored bytes of all parameters, and of those in blocks: bytes as they are stored, in float32, and of what is in memory when each block
 * in turn is read behind the one that computes. Numbers of 16 bits are widened for that, and others copied beside them.
 */
function parametersOf(model: Model, storedType: (name: string) => StoredType) {
  let [count, stored, blocks, inBlocks, atHand] = [0, 0, 0, 0, 0];
  for (const [name, shape] of model.parameters) {
    const size = shape.reduce((a, b) => a * b, 1);
    const bytes = size * storedBytes[storedType(name)];
    count += size;
    stored += bytes;
    if (!/\.\d+\./.test(name)) continue;
    blocks += bytes;
    inBlocks += 4 * size;
    atHand += bytes + 4 * size;
  }
  return { count, stored, blocks, inBlocks, atHand };
}
