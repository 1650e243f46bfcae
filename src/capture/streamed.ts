import { StoppedError } from "../errors.ts";
import type { Pack, Plan } from "../forest/packs.ts";
import { int64, sessionPool, type Value } from "../graph/session.ts";
import type { Model } from "../models/model.ts";
import { parseSite, type SiteName } from "../site.ts";
import { BlockReader } from "./block-reader.ts";
import { contextValues, type Floats, floatsOf, type PassOptions } from "./passes.ts";
import { type BlockGraph, outputName, type PieceGraph, pieceGraphs, streamSite } from "./piece-graphs.ts";
import { firstJobs, gradientRows, keptRows, type Results, type Runner } from "./runner.ts";
import type { Store } from "./store.ts";
import type { StreamedWeights } from "./weights.ts";

/** Rows of a wave: the activations of all of them at one block are in memory at a time, 75 MB at width 2,304. */
export const defaultWaveRows = 8192;

/** A pack of one of the plans, by its place among all of them. */
interface Job {
  readonly id: number;
  readonly plan: Plan;
  readonly pack: Pack;
}

/**
 * Runs plans block by block: all packs of a wave go through block 0, then through block 1, and so on, then the gradients back from the last block
 * to the lowest one that is asked for. A block's weights are read when its turn comes, the next one's while it computes, and given to the graph as
 * they lie in the file. Each block's input is kept in the store, and the backward pass computes the block's activations from it again: kept in
 * full they would take more room than the weights.
 *
 * Blocks whose graphs are equal share a session, so a model has as many sessions as it has kinds of blocks, times two.
 */
export function streamedRunner(model: Model, { checkpoint }: StreamedWeights, options: PassOptions): Runner {
  const { block: n, sites, dtype = "float32", waveRows = defaultWaveRows } = options;
  const L = model.layers;
  const lowest = lowestBlock(model, sites);
  const graphs = pieceGraphs(model, checkpoint.storedType, options);
  const pool = sessionPool(options);
  const reader = new BlockReader(model, checkpoint);

  /** Blocks in the order given, each with its session and its weights; the next one's are read meanwhile. */
  async function* blocks(layers: readonly number[], graphOf: (layer: number) => BlockGraph) {
    const begin = async (i: number) => {
      const layer = layers[i];
      if (layer === undefined) return undefined;
      const { outputs, inner, names } = graphOf(layer);
      const read = reader.read(names, i % 2);
      read.catch(() => {});
      const session = await pool.compile(outputs);
      return { layer, inner, session, read };
    };
    let current = await begin(0);
    for (let i = 1; current; i++) {
      const weights = await current.read;
      const next = await begin(i);
      yield { ...current, weights };
      current = next;
    }
  }

  /** The session of what comes before or after the blocks, with its weights; of the tables only the rows of the tokens at hand. */
  const piece = async ({ outputs, names, tables }: PieceGraph, tokens: Int32Array) => ({
    session: await pool.compile(outputs),
    weights: { ...(await reader.readTables(tables, tokens)), ...(await reader.read(names, 0)) },
  });

  const floats = (data: Floats, ...shape: number[]): Value => ({ dtype, data, shape });
  const newFloats = (length: number): Floats =>
    dtype === "float64" ? new Float64Array(length) : new Float32Array(length);
  const rowsOf = ({ pack }: Job): Value["shape"] => [pack.tokens.length, model.width];

  /** The input of block 0 of each job. */
  const embedded = async (jobs: readonly Job[]): Promise<Map<number, Floats>> => {
    const used = distinct(jobs.flatMap(({ pack }) => [...pack.tokens]));
    const { session, weights } = await piece(graphs.embed(), used);
    const out = new Map<number, Floats>();
    for (const { id, pack } of jobs) {
      const rows = int64(placesOf(pack.tokens, used), pack.tokens.length);
      const { y } = await session.run({ ...weights, ...contextValues(pack, n, dtype), rows });
      out.set(id, y!.data as Floats);
    }
    return out;
  };

  /** Metric values of each job, and ∂M/∂x [N,D] after the last block of the backward ones. */
  const ends = async (jobs: readonly Job[], last: ReadonlyMap<number, Floats>) => {
    const used = distinct(jobs.flatMap(({ pack: { metric } }) => [...metric.cleanAnswer, ...metric.patchAnswer]));
    const { session, weights } = await piece(graphs.ends(), used);
    const metrics = new Map<number, Floats>();
    const cotangents = new Map<number, Floats>();
    const D = model.width;
    for (const { id, pack } of jobs) {
      const { row, cleanAnswer, patchAnswer, weight } = pack.metric;
      const P = row.length;
      const stream = last.get(id)!;
      const cotangent = newFloats(pack.kind === "backward" ? stream.length : 0);
      if (pack.kind === "backward") cotangents.set(id, cotangent);
      metrics.set(id, newFloats(P));
      if (P === 0) continue;
      const gathered = newFloats(P * D);
      row.forEach((r, i) => {
        gathered.set(stream.subarray(r * D, (r + 1) * D), i * D);
      });
      const result = await session.run({
        ...weights,
        x: floats(gathered, P, D),
        clean_answer: int64(placesOf(cleanAnswer, used), P),
        patch_answer: int64(placesOf(patchAnswer, used), P),
        weight: floatsOf(weight, dtype, P),
      });
      metrics.set(id, result.metric!.data as Floats);
      if (pack.kind !== "backward") continue;
      const part = result.g!.data as Floats;
      row.forEach((r, i) => {
        for (let d = 0; d < D; d++) cotangent[r * D + d]! += part[i * D + d]!;
      });
    }
    return { metrics, cotangents };
  };

  const isBackward = ({ pack }: Job) => pack.kind === "backward";
  const lowOf = (jobs: readonly Job[]) => (jobs.some(isBackward) ? lowest : L);
  /** Blocks that a wave goes through, in both directions. */
  const stepsOf = (jobs: readonly Job[]) => L + (L - lowOf(jobs));

  /**
   * Runs a wave, or what the store does not have of it yet.
   *
   * @param step called for each block done, in either direction; `mayStop` between packs, and may throw
   */
  const runWave = async (
    jobs: readonly Job[],
    store: Store,
    part: Parts,
    { step, mayStop }: { step: () => void; mayStop: () => void },
  ): Promise<void> => {
    const backward = jobs.filter(isBackward);
    /** Gradients go down to the input of this block; what lies below is not needed again. */
    const low = lowOf(jobs);
    const removeStreams = async () => {
      for (let l = 0; l <= L; l++) for (const kind of ["x", "g"] as const) await store.remove(part.stream(kind, l));
    };
    const has = (kind: "x" | "g", layer: number) => store.has(part.stream(kind, layer));
    /** Whether all that is kept of the sites found from one input of a block to another is there. */
    const hasRows = async (kind: "x" | "g", from: number, to: number) => {
      const stages = new Set(sites.map((site) => stageOf(kind, site)));
      for (const at of stages) if (from <= at && at <= to && !(await store.has(part.rows(kind, at)))) return false;
      return true;
    };
    const hasInputs = async (from: number, to: number) => {
      for (let l = from; l < to; l++) if (!(await has("x", l))) return false;
      return true;
    };
    const hasForward = async () => (await store.has(part.metric)) && (await hasRows("x", 0, L));
    // What an earlier sitting left counts only where all of it is there and whole.
    const isDone = async () =>
      (await store.has(part.done)) && (await hasForward()) && (backward.length === 0 || (await hasRows("g", low, L)));
    const cameDownTo = async (l: number) =>
      (await has("g", l)) && (await hasRows("g", l, L)) && (await hasForward()) && (await hasInputs(low, l));
    const cameUpTo = async (l: number) =>
      (await has("x", l)) && (await hasRows("x", 0, l)) && (backward.length === 0 || (await hasInputs(low, l)));
    if (await isDone()) {
      await removeStreams();
      for (let i = 0; i < stepsOf(jobs); i++) step();
      return;
    }
    const keptX = (job: Job, values: Floats) => keptRows(values, job.pack.keep, job.pack);
    const keptG = (job: Job, values: Floats) => keptRows(values, gradientRows(job.plan, job.pack), job.pack);
    /** Saves the rows that are wanted of the stream at the input of a block, then all of it, from which the work can go on. */
    const saveStream = async (
      kind: "x" | "g",
      layer: number,
      stream: ReadonlyMap<number, Floats>,
      found: Map<string, Floats>,
    ) => {
      const site = streamSite(layer);
      if (sites.includes(site)) {
        for (const job of kind === "x" ? jobs : backward) {
          const values = stream.get(job.id)!;
          found.set(tensorName(site, job.id), kind === "x" ? keptX(job, values) : keptG(job, values));
        }
      }
      if (found.size > 0) await store.save(part.rows(kind, layer), found);
      await store.save(part.stream(kind, layer), new Map([...stream].map(([id, values]) => [String(id), values])));
    };
    const loadStream = async (kind: "x" | "g", layer: number, list: readonly Job[]) => {
      const stream = new Map<number, Floats>();
      for (const { id } of list) stream.set(id, (await store.read(part.stream(kind, layer), String(id)))!);
      return stream;
    };

    let cotangents: Map<number, Floats> | undefined;
    let layer = low;
    // The last sitting came at least as far as the first of these that is there.
    while (layer <= L && !(backward.length > 0 && (await cameDownTo(layer)))) layer++;
    if (layer <= L) {
      for (let i = 0; i < L + (L - layer); i++) step();
      cotangents = await loadStream("g", layer, backward);
    } else {
      layer = L;
      while (layer >= 0 && !(await cameUpTo(layer))) layer--;
      let stream: Map<number, Floats>;
      if (layer >= 0) {
        stream = await loadStream("x", layer, jobs);
        for (let i = 0; i < layer; i++) step();
      } else {
        layer = 0;
        stream = await embedded(jobs);
        await saveStream("x", 0, stream, new Map());
      }
      const up = Array.from({ length: L - layer }, (_, i) => layer + i);
      for await (const { layer: l, inner, weights, session } of blocks(up, graphs.forward)) {
        const found = new Map<string, Floats>();
        for (const job of jobs) {
          mayStop();
          const x = floats(stream.get(job.id)!, ...rowsOf(job));
          const result = await session.run({ ...weights, ...contextValues(job.pack, n, dtype), x });
          stream.set(job.id, result.y!.data as Floats);
          for (const site of inner) found.set(tensorName(site, job.id), keptX(job, siteValue(result, site)));
        }
        await saveStream("x", l + 1, stream, found);
        if (l < low) await store.remove(part.stream("x", l));
        step();
      }
      const { metrics, cotangents: made } = await ends(jobs, stream);
      await store.save(part.metric, new Map([...metrics].map(([id, values]) => [String(id), values])));
      layer = L;
      cotangents = made;
      if (backward.length > 0) {
        await saveStream("g", L, made, new Map());
        await store.remove(part.stream("x", L));
      }
    }
    if (backward.length > 0) {
      // Sessions keep the memory of their runs: that of the forward pass makes room.
      await pool.release();
      const down = Array.from({ length: layer - low }, (_, i) => layer - 1 - i);
      for await (const { layer: l, inner, weights, session } of blocks(down, graphs.backward)) {
        const found = new Map<string, Floats>();
        for (const job of backward) {
          mayStop();
          const x = floats((await store.read(part.stream("x", l), String(job.id)))!, ...rowsOf(job));
          const cotangent = floats(cotangents.get(job.id)!, ...rowsOf(job));
          const result = await session.run({ ...weights, ...contextValues(job.pack, n, dtype), x, cotangent });
          cotangents.set(job.id, result.g!.data as Floats);
          for (const site of inner) found.set(tensorName(site, job.id), keptG(job, siteValue(result, site)));
        }
        await saveStream("g", l, cotangents, found);
        await store.remove(part.stream("x", l));
        await store.remove(part.stream("g", l + 1));
        step();
      }
    }
    await pool.release();
    await store.save(part.done, new Map());
    await removeStreams();
  };

  return {
    async run(plans, store, { onProgress, stopped }): Promise<Results> {
      const jobs = plans
        .flatMap((plan) => plan.packs.map((pack) => ({ plan, pack })))
        .map((job, id) => ({ id, ...job }));
      const waves = cutWaves(jobs, waveRows);
      const total = waves.reduce((sum, wave) => sum + stepsOf(wave) * wave.length, 0);
      let done = 0;
      const mayStop = () => {
        if (stopped?.()) throw new StoppedError();
      };
      for (const [w, wave] of waves.entries()) {
        const step = () => {
          done += wave.length;
          onProgress?.(done, total);
          mayStop();
        };
        await runWave(wave, store, partsOf(w), { step, mayStop });
      }
      const first = firstJobs(plans);
      const waveOf = waves.flatMap((wave, w) => wave.map(() => w));
      const place = (plan: number, pack: number) => {
        const job = first[plan]! + pack;
        return { job, parts: partsOf(waveOf[job]!) };
      };
      return {
        async metric(plan, pack) {
          const { job, parts } = place(plan, pack);
          return (await store.read(parts.metric, String(job)))!;
        },
        async rows(plan, pack, kind, site) {
          const { job, parts } = place(plan, pack);
          if (kind === "g" && jobs[job]!.pack.kind !== "backward") return undefined;
          return store.read(parts.rows(kind, stageOf(kind, site)), tensorName(site, job));
        },
      };
    },
    async release() {
      await pool.release();
      reader.release();
    },
  };
}

/** The lowest block that gradients pass; the number of blocks if they pass none. */
export function lowestBlock(model: Model, sites: readonly SiteName[]): number {
  return sites.reduce((low, site) => {
    const { kind, layer } = parseSite(site);
    return Math.min(low, kind === "embed" ? 0 : kind === "resid_post" ? layer + 1 : layer);
  }, model.layers);
}

/** At the input of which block a site's rows are saved: x when its block is done, g of the stream when it has come there from above. */
function stageOf(kind: "x" | "g", site: SiteName): number {
  const { kind: at, layer } = parseSite(site);
  if (at === "embed") return 0;
  return kind === "x" || at === "resid_post" ? layer + 1 : layer;
}

/** Names of a wave's parts in the store. */
interface Parts {
  readonly metric: string;
  readonly done: string;
  /** What is kept of the sites found when the work has come to the input of block `at`, or beyond the last. */
  rows(kind: "x" | "g", at: number): string;
  /** The residual stream, or its gradient, there, all rows. */
  stream(kind: "x" | "g", at: number): string;
}

function partsOf(wave: number): Parts {
  const name = (text: string) => `wave-${String(wave).padStart(3, "0")}-${text}`;
  const of = (text: string) => (kind: "x" | "g", layer: number) =>
    name(`${text}-${kind}-${String(layer).padStart(2, "0")}`);
  return { metric: name("metric"), done: name("done"), rows: of("rows"), stream: of("stream") };
}

const tensorName = (site: SiteName, job: number) => `${site}/${job}`;

const siteValue = (result: Readonly<Record<string, Value>>, site: SiteName) => result[outputName(site)]!.data as Floats;

function cutWaves(jobs: readonly Job[], waveRows: number): Job[][] {
  const waves: Job[][] = [];
  let rows = Number.POSITIVE_INFINITY;
  for (const job of jobs) {
    rows += job.pack.tokens.length;
    if (rows > waveRows) {
      waves.push([]);
      rows = job.pack.tokens.length;
    }
    waves.at(-1)!.push(job);
  }
  return waves;
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
