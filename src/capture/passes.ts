import { StoppedError } from "../errors.ts";
import type { Pack } from "../forest/packs.ts";
import { gradients } from "../graph/reverse.ts";
import { compile, int64, type Session, type SessionOptions, type Sizes, type Value } from "../graph/session.ts";
import { input, type Tensor } from "../graph/tensor.ts";
import { type Context, contextInputs, forward, longestDense, type Model, type Weights } from "../models/model.ts";
import type { SiteName } from "../site.ts";
import { firstJobs, gradientRows, keptRows, type Runner } from "./runner.ts";

export type Floats = Float32Array | Float64Array;

/** What one pack gives: metric values [P], and by site activations x[N,D] and, of a backward pack, gradients g[N,D]. */
export interface PassResult {
  readonly metric: Floats;
  readonly x: ReadonlyMap<SiteName, Floats>;
  readonly g: ReadonlyMap<SiteName, Floats>;
}

export interface PassOptions extends SessionOptions {
  /** n: nodes per block. */
  readonly block: number;
  /** Sites whose activations and gradients are given. */
  readonly sites: readonly SiteName[];
  readonly dtype?: "float32" | "float64";
  /** Of streamed weights: rows that go through the model together, for which weights are read once forward and once backward. */
  readonly waveRows?: number;
  /** Replaces the activation of a site on its way: x[N,D] traced → x[N,D] traced. */
  readonly splice?: (site: SiteName, x: Tensor, context: Context) => Tensor;
}

/** The forward pass of a model, and the forward and backward pass in one graph, compiled when first used. */
export interface Passes {
  run(pack: Pack): Promise<PassResult>;
  release(): Promise<void>;
}

/**
 * Traces a model's passes over packs. In a backward pack g = ∂M/∂x with M = Σ weight·(logit(patch answer) − logit(clean answer)) over the pack's
 * metric rows, at the activation that the rest of the model sees.
 */
export function tracePasses(model: Model, weights: Weights, options: PassOptions): Passes {
  const { sites, dtype = "float32" } = options;
  const sessions = packSessions();

  const trace = (kind: Pack["kind"], n: number, sizes: Sizes): Promise<Session> =>
    compile(passOutputs(model, weights, kind, n, options), options, { sizes });

  return {
    async run(pack) {
      const n = blockOf(pack);
      const session = sessions.get(pack, (sizes) => trace(pack.kind, n, sizes));
      const outputs = await (await session).run(packInputs(pack, n, dtype));
      const bySite = (prefix: string) =>
        new Map(
          sites.flatMap((site) => {
            const value = outputs[`${prefix}/${site}`];
            return value ? [[site, value.data as Floats] as const] : [];
          }),
        );
      const asked = pack.metric.row.length;
      return { metric: (outputs.metric!.data as Floats).subarray(0, asked), x: bySite("x"), g: bySite("g") };
    },
    release: () => sessions.release(),
  };
}

/** The results of a model's pass over blocks of n nodes, traced: `metric`[P], `x/<site>`[N,D], and of a backward pass `g/<site>`[N,D]. */
export function passOutputs(
  model: Model,
  weights: Weights,
  kind: Pack["kind"],
  n: number,
  { sites, dtype = "float32", splice = (_, x) => x }: Pick<PassOptions, "sites" | "dtype" | "splice">,
): Record<string, Tensor> {
  const context = contextInputs(n, dtype);
  const seen = new Map<SiteName, Tensor>();
  const last = forward(model, weights, context, (site, x) => {
    const y = splice(site, x, context);
    seen.set(site, y);
    return y;
  });
  const { metric, total } = traceMetric(model, weights, last);
  const outputs: Record<string, Tensor> = { metric };
  const taps = sites.map((site) => {
    const x = seen.get(site);
    if (!x) throw new Error(`internal: the model has no site ${site}`);
    return x;
  });
  for (const [i, site] of sites.entries()) outputs[`x/${site}`] = taps[i]!;
  if (kind === "backward") {
    for (const [i, g] of gradients(total, taps).entries()) outputs[`g/${sites[i]}`] = g;
  }
  return outputs;
}

/**
 * Sessions for packs: for each kind of pack and size of its blocks one for the number of blocks that came first, and one for all other numbers. The
 * former opens several times faster, since its sizes are known.
 */
export function packSessions() {
  const sessions = new Map<string, { readonly blocks: number; readonly session: Promise<Session> }>();
  return {
    get(pack: Pack, make: (sizes: Sizes) => Promise<Session>): Promise<Session> {
      const key = `${pack.kind}/${blockOf(pack)}`;
      const first = sessions.get(key);
      if (first?.blocks === pack.blocks) return first.session;
      const other = first && sessions.get(`${key}/any`);
      if (other) return other.session;
      const made = { blocks: pack.blocks, session: make(first ? {} : { B: pack.blocks }) };
      sessions.set(first ? `${key}/any` : key, made);
      return made.session;
    },
    async release(): Promise<void> {
      for (const { session } of sessions.values()) await (await session).release();
      sessions.clear();
    },
  };
}

/** m[P] at the rows of the last block's output that are asked for, and M = Σ weight·m; inputs as `packInputs` gives them. */
export function traceMetric(model: Model, weights: Weights, last: Tensor): { metric: Tensor; total: Tensor } {
  const ends = last.gather(input("row", "int64", ["P"]));
  const logit = (name: string) => model.tokenLogits(weights, ends, input(name, "int64", ["P"]));
  const metric = logit("patch_answer").sub(logit("clean_answer"));
  return { metric, total: metric.mul(input("weight", last.dtype, ["P"])).sum() };
}

/** Runs pack after pack with the whole model as one graph; a pack is a part. */
export function heldRunner(passes: Passes): Runner {
  return {
    async run(plans, store, { onProgress, stopped }) {
      const jobs = plans.flatMap((plan) => plan.packs.map((pack) => ({ plan, pack })));
      for (const [job, { plan, pack }] of jobs.entries()) {
        if (stopped?.()) throw new StoppedError();
        if (!(await store.has(partOf(job)))) {
          const { metric, x, g } = await passes.run(pack);
          const tensors = new Map<string, Floats>([["metric", metric]]);
          for (const [site, values] of x) tensors.set(`x/${site}`, keptRows(values, pack.keep, pack));
          for (const [site, values] of g) tensors.set(`g/${site}`, keptRows(values, gradientRows(plan, pack), pack));
          await store.save(partOf(job), tensors);
        }
        onProgress?.(job + 1, jobs.length);
      }
      const first = firstJobs(plans);
      return {
        metric: async (plan, pack) => (await store.read(partOf(first[plan]! + pack), "metric"))!,
        rows: (plan, pack, kind, site) => store.read(partOf(first[plan]! + pack), `${kind}/${site}`),
      };
    },
    release: () => passes.release(),
  };
}

/** Nodes per block of a pack. */
export const blockOf = ({ tokens, blocks }: Pack) => tokens.length / blocks;

const partOf = (job: number) => `pack-${String(job).padStart(4, "0")}`;

/** [B,n,n]: 0 where the row's node sees the column's, itself and its ancestors; −∞ elsewhere. Padding sees itself. */
function ancestorMask({ parent }: Pack, n: number): Float32Array {
  const mask = new Float32Array(parent.length * n).fill(Number.NEGATIVE_INFINITY);
  for (let row = 0; row < parent.length; row++) {
    for (let seen = row; seen >= 0; seen = parent[seen]!) mask[row * n + (seen % n)] = 0;
  }
  return mask;
}

/** Each row's place in depth-first order and the place of the last row below it, [N]. Parents come before children. */
function depthFirstPlaces({ parent }: Pack): { first: Int32Array; last: Int32Array } {
  const N = parent.length;
  const [size, first, next] = [new Int32Array(N).fill(1), new Int32Array(N), new Int32Array(N)];
  for (let row = N - 1; row >= 0; row--) if (parent[row]! >= 0) size[parent[row]!]! += size[row]!;
  let nextRoot = 0;
  for (let row = 0; row < N; row++) {
    const up = parent[row]!;
    first[row] = up < 0 ? nextRoot : next[up]!;
    if (up < 0) nextRoot += size[row]!;
    else next[up]! += size[row]!;
    next[row] = first[row]! + 1;
  }
  return { first, last: first.map((place, row) => place + size[row]! - 1) };
}

/** A pack's values for `contextInputs`. */
export function contextValues(pack: Pack, n: number, dtype: "float32" | "float64"): Record<string, Value> {
  const N = pack.tokens.length;
  const about = { tokens: int64(pack.tokens, N), positions: int64(pack.positions, N) };
  if (n <= longestDense) return { ...about, mask: floatsOf(ancestorMask(pack, n), dtype, pack.blocks, n, n) };
  const { first, last } = depthFirstPlaces(pack);
  return { ...about, first: int64(first, N), last: int64(last, N) };
}

/** The inputs of a session for a pack of blocks of n nodes. One row of weight 0 stands in where a pack asks for no metric. */
export function packInputs(pack: Pack, n: number, dtype: "float32" | "float64"): Record<string, Value> {
  const { row, cleanAnswer, patchAnswer, weight } = pack.metric;
  const P = Math.max(1, row.length);
  const padded = <T extends Int32Array | Float32Array>(data: T, empty: T): T => (row.length === 0 ? empty : data);
  const nothing = new Int32Array(1);
  return {
    ...contextValues(pack, n, dtype),
    row: int64(padded(row, nothing), P),
    clean_answer: int64(padded(cleanAnswer, nothing), P),
    patch_answer: int64(padded(patchAnswer, nothing), P),
    weight: floatsOf(padded(weight, new Float32Array(1)), dtype, P),
  };
}

/** Float32 numbers as a value of the type that a session computes in. */
export function floatsOf(data: Float32Array, dtype: "float32" | "float64", ...shape: number[]): Value {
  return { dtype, data: dtype === "float64" ? Float64Array.from(data) : data, shape };
}
