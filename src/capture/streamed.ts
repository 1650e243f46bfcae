import { StoppedError } from "../errors.ts";
import type { Pack } from "../forest/packs.ts";
import { type OnDevice, putOnDevice } from "../graph/on-device.ts";
import { int64, type Session, sessionPool, type Value } from "../graph/session.ts";
import type { LoadedModel } from "../models/weights.ts";
import { parseSite, type SiteName } from "../site.ts";
import type { BlockWeights } from "./block-reader.ts";
import { type Floats, type Found, floatValue, type Job, namedInputs, newFloats } from "./hooks.ts";
import { besideRows, floatsOf, ownRows, packContext, tileSizeOf, wholePack } from "./pack-inputs.ts";
import { type Direction, namedByKind, type PieceGraph, type PieceGraphs, pieceGraphs } from "./piece-graphs.ts";
import type { Runner, RunOptions } from "./runner.ts";
import { memoryStore, type Store } from "./store.ts";
import { lowestOf, streamLayer, streamSite } from "./stream-sites.ts";

/** Rows of a wave: the activations of all of them at one block are in memory at a time, 75 MB at width 2,304. */
export const defaultWaveRows = 8192;

/** Rows of a wave where all that the backward pass needs of the forward pass is kept in memory too. */
export const memoryWaveRows = 4096;

/** A job by its place among all of them. */
interface Placed {
  readonly id: number;
  readonly job: Job;
  /** What goes forward: the pack, with the rows beside its tiles as further rows of these. */
  readonly whole: Pack;
}

const placedJob = (job: Job, id: number): Placed => ({ id, job, whole: wholePack(job.pack) });

/**
 * Runs jobs block by block: all packs of a wave go through block 0, or the one after the entry, then through the next one, and so on, then the
 * gradients back from the last block to the lowest one that is asked for. A block's weights are read when its turn comes, the next one's while it
 * computes, and widened to float32 once for all packs; so are those of its hooks. Each block's input is kept in the store, and the backward pass
 * computes the block's activations from it again: kept in full they would take more room than the weights.
 *
 * Blocks whose graphs are equal share a session, so a model has as many sessions as it has kinds of blocks, times two.
 *
 * @param reader where the weights come from: memory does as well as a file
 */
export function streamedRunner(
  loaded: LoadedModel,
  reader: BlockWeights,
  { hooks = new Map(), from, store: given, waveRows, objective }: RunOptions,
): Runner {
  const { model, dtype } = loaded;
  const rowsTogether = waveRows ?? (given ? defaultWaveRows : memoryWaveRows);
  const L = model.layers;
  /** The block that is computed first. */
  const first = from ? (streamLayer(from.site) ?? parseSite(from.site).layer) : 0;
  const isInside = from !== undefined && streamLayer(from.site) === undefined;
  const lowest = lowestOf(L, hooks, from);
  /** Sites that are read without more: what is kept of them can be told from the store. */
  const plain = [...hooks].flatMap(([site, { trace }]) => (trace ? [] : [site]));
  const pool = sessionPool(loaded);
  const made = new Map<number, PieceGraphs>();
  /** The graphs for packs of tiles of n nodes. */
  const graphsFor = (n: number) => {
    const known = made.get(n) ?? pieceGraphs(model, n, dtype, { hooks, from, objective });
    made.set(n, known);
    return known;
  };
  const weightsAt = (site: SiteName) => (site === from?.site ? from.weights : hooks.get(site)?.weights)?.();
  /** Inputs of a piece's hooks: those that are the same for all packs. */
  const hookWeights = async (sites: readonly SiteName[]) => {
    const all = await Promise.all(sites.map(async (site) => namedInputs(await weightsAt(site), namedByKind(site))));
    return putOnDevice(Object.assign({}, ...all) as Record<string, Value>, loaded);
  };
  const hookInputs = async ({ job }: Placed, sites: readonly SiteName[]): Promise<Record<string, Value>> =>
    Object.assign(
      {},
      ...(await Promise.all(sites.map(async (site) => namedInputs(await job.inputs?.(site), namedByKind(site))))),
    );

  /** Blocks in the order given, each with its weights and a session for every size of the jobs' tiles; the next one's weights are read meanwhile. */
  async function* blocks(layers: readonly number[], jobs: readonly Placed[], direction: Direction) {
    const sizes = [...bySize(jobs, direction).keys()];
    /** Inputs of the hooks of the blocks at hand. */
    const there = new Set<Promise<OnDevice>>();
    const begin = async (i: number) => {
      const layer = layers[i];
      if (layer === undefined) return undefined;
      const graphs = sizes.map((n) => [n, graphsFor(n).block(layer, direction)] as const);
      // Tiles of all sizes have the same weights.
      const [, { names, sites }] = graphs[0]!;
      const ofHooks = hookWeights(sites);
      there.add(ofHooks);
      const read = Promise.all([reader.read(names), ofHooks]);
      read.catch(() => {});
      const pieces = new Map<number, { readonly graph: PieceGraph; readonly session: Session }>();
      for (const [n, graph] of graphs) pieces.set(n, { graph, session: await pool.compile(graph.outputs) });
      const release = async () => {
        there.delete(ofHooks);
        (await ofHooks).release();
      };
      return { layer, pieces, read, release };
    };
    try {
      let current = await begin(0);
      for (let i = 1; current; i++) {
        const [take, { values }] = await current.read;
        const weights = await take();
        const next = await begin(i);
        const { layer, pieces, release } = current;
        const pieceOf = (pack: Pack) => pieces.get(tileSizeOf(pack))!;
        yield { layer, pieceOf, weights: { ...weights, ...values } as Record<string, Value> };
        await release();
        current = next;
      }
    } finally {
      // Where blocks are left before the last one; inputs that could not be made have nothing to release.
      for (const ofHooks of there) await ofHooks.then((left) => left.release()).catch(() => {});
    }
  }

  /** The session of what comes before or after the blocks, with its weights; of the tables only the rows of the tokens at hand. */
  const piece = async ({ outputs, names, tables, sites }: PieceGraph, tokens: Int32Array) => {
    ofPiece?.release();
    const ofHooks = await hookWeights(sites);
    ofPiece = ofHooks;
    return {
      session: await pool.compile(outputs),
      weights: {
        ...(await reader.readTables(tables, tokens)),
        ...(await reader.inputs(names)),
        ...ofHooks.values,
      } as Record<string, Value>,
    };
  };
  /** Inputs of the hooks of the last such piece. */
  let ofPiece: OnDevice | undefined;

  const rowsOf = (pack: Pack): [number, number] => [pack.tokens.length, model.width];
  const contextOf = (pack: Pack) => packContext(pack, tileSizeOf(pack), dtype);
  const foundIn = (
    placed: Placed,
    graph: PieceGraph,
    result: Readonly<Record<string, Value>>,
    kept: Map<string, Floats>,
  ) => {
    for (const { outputs, ...found } of graph.finds) {
      const read = ([name, output]: [string, string]) => [name, result[output]!.data as Floats] as const;
      keep(placed, { ...found, tensors: Object.fromEntries(Object.entries(outputs).map(read)) }, kept);
    }
  };

  /** The stream at the input of the first block of each job. */
  const started = async (jobs: readonly Placed[], kept: Map<string, Floats>): Promise<Map<number, Floats>> => {
    const out = new Map<number, Floats>();
    if (isInside) {
      for (const { id, job } of jobs) out.set(id, job.before!());
      return out;
    }
    if (from && !from.trace) {
      for (const { id, job } of jobs) out.set(id, (await job.inputs!(from.site)).x!.data as Floats);
      return out;
    }
    const used = distinct(jobs.flatMap(({ whole }) => [...whole.tokens]));
    for (const [n, alike] of bySize(jobs, "forward")) {
      const graph = graphsFor(n).start("forward");
      const { session, weights } = await piece(graph, used);
      for (const placed of alike) {
        const { tokens } = placed.whole;
        const rows = int64(placesOf(tokens, used), tokens.length);
        const result = await session.run({
          ...weights,
          ...contextOf(placed.whole),
          ...(await hookInputs(placed, graph.sites)),
          rows,
        });
        foundIn(placed, graph, result, kept);
        out.set(placed.id, result.y!.data as Floats);
      }
    }
    return out;
  };

  /** Tells the gradients of the hook, or the entry, before the first block. */
  const finished = async (
    jobs: readonly Placed[],
    cotangents: ReadonlyMap<number, Floats>,
    kept: Map<string, Floats>,
  ): Promise<void> => {
    if (isInside) return;
    if (from && !from.trace) {
      for (const placed of jobs) {
        keep(placed, { site: from.site, kind: "gradient", tensors: { x: cotangents.get(placed.id)! } }, kept);
      }
      return;
    }
    const used = distinct(jobs.flatMap(({ job }) => [...job.pack.tokens]));
    for (const [n, alike] of bySize(jobs, "backward")) {
      const graph = graphsFor(n).start("backward");
      if (graph.finds.length === 0) return;
      const { session, weights } = await piece(graph, used);
      for (const placed of alike) {
        const { tokens } = placed.job.pack;
        const result = await session.run({
          ...weights,
          ...contextOf(placed.job.pack),
          ...(await hookInputs(placed, graph.sites)),
          rows: int64(placesOf(tokens, used), tokens.length),
          cotangent: floatValue(cotangents.get(placed.id)!, ...rowsOf(placed.job.pack)),
        });
        foundIn(placed, graph, result, kept);
      }
    }
  };

  /** Metric values of each job, and ∂M/∂x [N,D] after the last block of the backward ones. */
  const ends = async (jobs: readonly Placed[], last: ReadonlyMap<number, Floats>) => {
    const used = distinct(jobs.flatMap(({ whole: { metric } }) => [...metric.cleanAnswer, ...metric.patchAnswer]));
    const { session, weights } = await piece(graphsFor(tileSizeOf(jobs[0]!.whole)).ends(), used);
    const metrics = new Map<number, Floats>();
    const cotangents = new Map<number, Floats>();
    const D = model.width;
    for (const { id, job, whole } of jobs) {
      const { row, cleanAnswer, patchAnswer, weight, target } = whole.metric;
      const P = row.length;
      const stream = last.get(id)!;
      const { pack } = job;
      const cotangent = newFloats(dtype, pack.kind === "backward" ? pack.tokens.length * D : 0);
      if (pack.kind === "backward") cotangents.set(id, cotangent);
      metrics.set(id, newFloats(dtype, P));
      if (P === 0) continue;
      const gathered = newFloats(dtype, P * D);
      row.forEach((r, i) => {
        gathered.set(stream.subarray(r * D, (r + 1) * D), i * D);
      });
      const result = await session.run({
        ...weights,
        x: floatValue(gathered, P, D),
        clean_answer: int64(placesOf(cleanAnswer, used), P),
        patch_answer: int64(placesOf(patchAnswer, used), P),
        weight: floatsOf(weight, dtype, P),
        ...(target && { target: floatsOf(target, dtype, P) }),
      });
      metrics.set(id, result.metric!.data as Floats);
      if (pack.kind !== "backward") continue;
      const added = result.g!.data as Floats;
      // The pack's own rows come first; no gradient comes from those beside them.
      pack.metric.row.forEach((r, i) => {
        for (let d = 0; d < D; d++) cotangent[r * D + d]! += added[i * D + d]!;
      });
    }
    return { metrics, cotangents };
  };

  const lowOf = (jobs: readonly Placed[]) => (jobs.some(isBackward) ? Math.max(lowest, first) : L);
  /** Blocks that a wave goes through, in both directions. */
  const stepsOf = (jobs: readonly Placed[]) => L - first + (L - lowOf(jobs));

  /**
   * Runs a wave, or what the store does not have of it yet.
   *
   * @param step called for each block done, in either direction; `mayStop` between packs, and may throw
   */
  const runWave = async (
    jobs: readonly Placed[],
    store: Store,
    keys: Keys,
    { step, mayStop }: { step: () => void; mayStop: () => void },
  ): Promise<void> => {
    const backward = jobs.filter(isBackward);
    /** Gradients go down to the input of this block; what lies below is not needed again. */
    const low = lowOf(jobs);
    const removeStreams = async () => {
      for (let l = first; l <= L; l++) for (const kind of ["x", "g"] as const) await store.remove(keys.stream(kind, l));
    };
    const has = (kind: "x" | "g", layer: number) => store.has(keys.stream(kind, layer));
    /** Whether all that is kept of the sites found from one input of a block to another is there. */
    const hasRows = async (kind: "x" | "g", from: number, to: number) => {
      const stages = new Set(plain.map((site) => stageOf(kind, site)));
      for (const at of stages) if (from <= at && at <= to && !(await store.has(keys.rows(kind, at)))) return false;
      return true;
    };
    const hasInputs = async (from: number, to: number) => {
      for (let l = from; l < to; l++) if (!(await has("x", l))) return false;
      return true;
    };
    const hasForward = async () => (await store.has(keys.metric)) && (await hasRows("x", first, L));
    // What an interrupted run left counts only where all of it is there and whole.
    const isDone = async () =>
      (await store.has(keys.done)) && (await hasForward()) && (backward.length === 0 || (await hasRows("g", low, L)));
    const cameDownTo = async (l: number) =>
      (await has("g", l)) && (await hasRows("g", l, L)) && (await hasForward()) && (await hasInputs(low, l));
    const cameUpTo = async (l: number) =>
      (await has("x", l)) && (await hasRows("x", first, l)) && (backward.length === 0 || (await hasInputs(low, l)));
    if (await isDone()) {
      await removeStreams();
      for (let i = 0; i < stepsOf(jobs); i++) step();
      return;
    }
    /** Saves the rows that are wanted of the stream at the input of a block, then all of it, from which the work can go on. */
    const saveStream = async (
      kind: "x" | "g",
      layer: number,
      stream: ReadonlyMap<number, Floats>,
      found: Map<string, Floats>,
    ) => {
      const site = streamSite(layer);
      const hook = hooks.get(site);
      if (hook && !hook.trace) {
        const about = { site, kind: kind === "x" ? "value" : "gradient" } as const;
        for (const placed of kind === "x" ? jobs : backward) {
          keep(placed, { ...about, tensors: { x: stream.get(placed.id)! } }, found);
        }
      }
      if (found.size > 0) await store.save(keys.rows(kind, layer), found);
      await store.save(keys.stream(kind, layer), new Map([...stream].map(([id, values]) => [String(id), values])));
    };
    const loadStream = async (kind: "x" | "g", layer: number, list: readonly Placed[]) => {
      const stream = new Map<number, Floats>();
      for (const { id } of list) stream.set(id, (await store.read(keys.stream(kind, layer), String(id)))!);
      return stream;
    };

    let cotangents: Map<number, Floats> | undefined;
    let layer = low;
    // The interrupted run came at least as far as the first of these that is there.
    while (layer <= L && !(backward.length > 0 && (await cameDownTo(layer)))) layer++;
    if (layer <= L) {
      for (let i = 0; i < L - first + (L - layer); i++) step();
      cotangents = await loadStream("g", layer, backward);
    } else {
      layer = L;
      while (layer >= first && !(await cameUpTo(layer))) layer--;
      let stream: Map<number, Floats>;
      if (layer >= first) {
        stream = await loadStream("x", layer, jobs);
        for (let i = first; i < layer; i++) step();
      } else {
        layer = first;
        const found = new Map<string, Floats>();
        stream = await started(jobs, found);
        await saveStream("x", first, stream, found);
      }
      const up = Array.from({ length: L - layer }, (_, i) => layer + i);
      for await (const { layer: l, weights, pieceOf } of blocks(up, jobs, "forward")) {
        const found = new Map<string, Floats>();
        for (const placed of jobs) {
          mayStop();
          const { graph, session } = pieceOf(placed.whole);
          const x = floatValue(stream.get(placed.id)!, ...rowsOf(placed.whole));
          const result = await session.run({
            ...weights,
            ...contextOf(placed.whole),
            ...(await hookInputs(placed, graph.sites)),
            x,
          });
          stream.set(placed.id, result.y!.data as Floats);
          foundIn(placed, graph, result, found);
        }
        await saveStream("x", l + 1, stream, found);
        if (l < low) await store.remove(keys.stream("x", l));
        step();
      }
      const { metrics, cotangents: made } = await ends(jobs, stream);
      await store.save(keys.metric, new Map([...metrics].map(([id, values]) => [String(id), values])));
      layer = L;
      cotangents = made;
      if (backward.length > 0) {
        const found = new Map<string, Floats>();
        if (low === first && low === L) await finished(backward, made, found);
        await saveStream("g", L, made, found);
        await store.remove(keys.stream("x", L));
      }
    }
    if (backward.length > 0) {
      // Sessions keep the memory of their runs: that of the forward pass makes room.
      await pool.release();
      const down = Array.from({ length: layer - low }, (_, i) => layer - 1 - i);
      for await (const { layer: l, weights, pieceOf } of blocks(down, backward, "backward")) {
        const found = new Map<string, Floats>();
        for (const placed of backward) {
          mayStop();
          const { pack } = placed.job;
          const { graph, session } = pieceOf(pack);
          const stream = (await store.read(keys.stream("x", l), String(placed.id)))!;
          const x = floatValue(ownRows(pack, stream), ...rowsOf(pack));
          const cotangent = floatValue(cotangents.get(placed.id)!, ...rowsOf(pack));
          const inputs = { ...contextOf(pack), ...(await hookInputs(placed, graph.sites)), x, cotangent };
          const result = await session.run({ ...weights, ...inputs });
          if (result.g) cotangents.set(placed.id, result.g.data as Floats);
          foundIn(placed, graph, result, found);
        }
        if (l === first) await finished(backward, cotangents, found);
        await saveStream("g", l, cotangents, found);
        await store.remove(keys.stream("x", l));
        await store.remove(keys.stream("g", l + 1));
        step();
      }
    }
    await pool.release();
    await store.save(keys.done, new Map());
    await removeStreams();
  };

  return {
    rowsTogether,
    async run(list, { onProgress, stopped, only = () => true } = {}) {
      const store = given ?? memoryStore();
      const jobs = list.map(placedJob);
      const waves = cutWaves(jobs, rowsTogether);
      const wanted = [...waves.entries()].filter(([, wave]) => wave.some(({ id }) => only(id)));
      const total = wanted.reduce((sum, [, wave]) => sum + stepsOf(wave) * wave.length, 0);
      let done = 0;
      const mayStop = () => {
        if (stopped?.()) throw new StoppedError();
      };
      for (const [w, wave] of wanted) {
        const step = () => {
          done += wave.length;
          onProgress?.(done, total);
          mayStop();
        };
        await runWave(wave, store, keysOf(w), { step, mayStop });
        for (const { id, job } of wave) job.metric?.((await store.read(keysOf(w).metric, String(id)))!);
      }
      const waveOf = waves.flatMap((wave, w) => wave.map(() => w));
      return {
        async read(job, kind, site, name) {
          const of = kind === "gradient" ? "g" : "x";
          if (kind === "gradient" && list[job]!.pack.kind !== "backward") return undefined;
          return store.read(
            keysOf(waveOf[job]!).rows(of, stageOf(of, site, hooks.get(site)?.trace !== undefined)),
            tensorName({ site, kind }, name, job),
          );
        },
      };
    },
    async release() {
      await pool.release();
      ofPiece?.release();
      reader.release();
    },
  };
}

/**
 * At the input of which block a site's rows are saved: x when its block is done, g of the stream when it has come there from above, unless a hook made
 * something of it in the block before.
 */
function stageOf(kind: "x" | "g", site: SiteName, traced = false): number {
  const { kind: at, layer } = parseSite(site);
  if (at === "embed") return 0;
  return kind === "x" || (at === "resid_post" && !traced) ? layer + 1 : layer;
}

/** A wave's keys in the store. */
interface Keys {
  readonly metric: string;
  readonly done: string;
  /** What is kept of the sites found when the work has come to the input of block `at`, or beyond the last. */
  rows(kind: "x" | "g", at: number): string;
  /** The residual stream, or its gradient, there, all rows. */
  stream(kind: "x" | "g", at: number): string;
}

function keysOf(wave: number): Keys {
  const name = (text: string) => `wave-${String(wave).padStart(3, "0")}-${text}`;
  const of = (text: string) => (kind: "x" | "g", layer: number) =>
    name(`${text}-${kind}-${String(layer).padStart(2, "0")}`);
  return { metric: name("metric"), done: name("done"), rows: of("rows"), stream: of("stream") };
}

const tensorName = ({ site, kind }: Pick<Found, "site" | "kind">, name: string, job: number) =>
  `${site}/${kind === "beside" ? "beside/" : ""}${name}/${job}`;

const isBackward = ({ job: { pack } }: Placed) => pack.kind === "backward";

/** Tells a job what was found, and keeps what it gives back. */
function keep({ id, job }: Placed, found: Found, kept: Map<string, Floats>): void {
  for (const one of found.kind === "value" && job.pack.beside ? apart(job.pack, found) : [found]) {
    for (const [name, data] of Object.entries(job.found?.(one) ?? {})) kept.set(tensorName(one, name, id), data);
  }
}

/** The values of a whole pack as those of its own rows and those of the rows beside them. */
function apart(pack: Pack, { site, tensors }: Found): Found[] {
  const parts = (take: (pack: Pack, values: Floats) => Floats) =>
    Object.fromEntries(Object.entries(tensors).map(([name, values]) => [name, take(pack, values)]));
  return [
    { site, kind: "value", tensors: parts(ownRows) },
    { site, kind: "beside", tensors: parts(besideRows) },
  ];
}

/**
 * Of packs that are run in this order with streamed weights, the wave in which each goes through the model.
 *
 * @param waveRows rows of a wave at most
 */
export function wavesOf(packs: readonly Pack[], waveRows = defaultWaveRows): number[] {
  const waves = cutWaves(
    packs.map((pack, id) => placedJob({ pack }, id)),
    waveRows,
  );
  return waves.flatMap((wave, w) => wave.map(() => w));
}

/** Waves of at most so many rows. */
function cutWaves(jobs: readonly Placed[], waveRows: number): Placed[][] {
  const waves: Placed[][] = [];
  let rows = Number.POSITIVE_INFINITY;
  for (const placed of jobs) {
    const { tokens } = placed.whole;
    rows += tokens.length;
    if (rows > waveRows) {
      waves.push([]);
      rows = tokens.length;
    }
    waves.at(-1)!.push(placed);
  }
  return waves;
}

/** Jobs by the nodes per tile of what goes in a direction. */
function bySize(jobs: readonly Placed[], direction: Direction): Map<number, Placed[]> {
  const groups = new Map<number, Placed[]>();
  for (const placed of jobs) {
    const n = tileSizeOf(direction === "forward" ? placed.whole : placed.job.pack);
    const group = groups.get(n);
    if (group) group.push(placed);
    else groups.set(n, [placed]);
  }
  return groups;
}

/** Sorted, each once. */
function distinct(ids: readonly number[]): Int32Array {
  return Int32Array.from(new Set(ids)).sort();
}

/** The place of each id in a sorted list that has all of them. */
function placesOf(ids: Int32Array, sorted: Int32Array): Int32Array {
  const place = new Map([...sorted].map((id, i) => [id, i]));
  return ids.map((id) => place.get(id)!);
}
