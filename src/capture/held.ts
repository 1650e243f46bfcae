import { StoppedError } from "../errors.ts";
import type { Pack } from "../forest/packs.ts";
import { type OnDevice, putOnDevice } from "../graph/on-device.ts";
import { gradients } from "../graph/reverse.ts";
import { compile, releaseAll, type Session, type Sizes, type Value } from "../graph/session.ts";
import { times } from "../graph/shape.ts";
import { input, type Tensor } from "../graph/tensor.ts";
import {
  type Context,
  contextInputs,
  contextsBeside,
  forward,
  type Model,
  type Tap,
  type Weights,
} from "../models/model.ts";
import type { LoadedModel } from "../models/weights.ts";
import { parseSite, type SiteName } from "../site.ts";
import {
  applyHook,
  type Entry,
  type Floats,
  type Found,
  type Hooked,
  type Hooks,
  type Job,
  namedInputs,
  newFloats,
} from "./hooks.ts";
import { besideSizeOf, packInputs, tileSizeOf } from "./pack-inputs.ts";
import type { Objective, Runner, RunOptions } from "./runner.ts";
import { memoryStore } from "./store.ts";
import { streamBefore } from "./stream-sites.ts";

/** Runs pack after pack with the whole model, or what is left of it from a site on, as one graph. */
export function heldRunner(
  loaded: LoadedModel,
  weights: Weights,
  { hooks = new Map(), from, store, objective }: RunOptions,
): Runner {
  const { model, dtype } = loaded;
  const sessions = packSessions();
  const entries = [...hooks, ...(from ? [[from.site, from] as const] : [])];
  let fixed: Promise<OnDevice> | undefined;
  /** Inputs of all hooks that are the same for all packs. */
  const fixedInputs = async () => {
    fixed ??= Promise.all(
      entries.map(async ([site, { weights: of }]) => namedInputs(await of?.(), namedAt(site))),
    ).then((all) => putOnDevice(Object.assign({}, ...all) as Record<string, Value>, loaded));
    return (await fixed).values;
  };

  /** m at the pack's rows, then at those beside them. */
  const metricOf = ({ metric, beside }: Pack, outputs: Readonly<Record<string, Value>>): Floats => {
    const [P, Q] = [metric.row.length, beside?.metric.row.length ?? 0];
    const values = newFloats(dtype, outputs.metric ? P + Q : 0);
    if (outputs.metric) values.set((outputs.metric.data as Floats).subarray(0, P));
    if (Q > 0) values.set((outputs["beside/metric"]!.data as Floats).subarray(0, Q), P);
    return values;
  };

  const runPack = async (job: Job): Promise<Map<string, Floats>> => {
    const { pack } = job;
    const n = tileSizeOf(pack);
    const session = sessions.get(pack, (sizes) => {
      const traced = { dtype, hooks, objective, from };
      return compile(passOutputs(model, weights, pack.kind, n, traced, besideSizeOf(pack)), loaded, { sizes });
    });
    const inputs: Record<string, Value> = { ...packInputs(pack, n, dtype), ...(await fixedInputs()) };
    for (const [site] of entries) Object.assign(inputs, namedInputs(await job.inputs?.(site), namedAt(site)));
    const before = job.before?.();
    if (before) inputs.before = { dtype, data: before, shape: [pack.tokens.length, model.width] };
    const outputs = await (await session).run(inputs);
    const metric = metricOf(pack, outputs);
    job.metric?.(metric);
    const kept = new Map<string, Floats>([["metric", metric]]);
    for (const found of foundIn(outputs)) {
      for (const [name, data] of Object.entries(job.found?.(found) ?? {})) {
        kept.set(outputName(found.kind, name, found.site), data);
      }
    }
    return kept;
  };

  return {
    rowsTogether: 1,
    async run(jobs, { onProgress, stopped, only = () => true } = {}) {
      const kept = store ?? memoryStore();
      const wanted = [...jobs.entries()].filter(([i]) => only(i));
      for (const [done, [i, job]] of wanted.entries()) {
        if (stopped?.()) throw new StoppedError();
        if (store && (await store.has(keyOf(i)))) job.metric?.((await store.read(keyOf(i), "metric"))!);
        else await kept.save(keyOf(i), await runPack(job));
        onProgress?.(done + 1, wanted.length);
      }
      return { read: (job, kind, site, name) => kept.read(keyOf(job), outputName(kind, name, site)) };
    },
    async release() {
      await sessions.release();
      // Inputs that could not be made have nothing to release; whoever asked for them has the error.
      await fixed?.then((stay) => stay.release()).catch(() => {});
    },
  };
}

/** What is traced besides the model. */
export interface Traced {
  readonly hooks: Hooks;
  readonly from?: Entry | undefined;
  readonly objective?: Objective | undefined;
}

/**
 * The results of a model's pass over tiles of n nodes, traced: `metric`[P], and what hooks give, by `outputName`. In a backward pass gradients are
 * those of M.
 *
 * @param m rows beside each tile, of which values alone are read, and `beside/metric`[Q]; the pass is the whole model then, with hooks that only read
 */
export function passOutputs(
  model: Model,
  weights: Weights,
  kind: Pack["kind"],
  n: number,
  { dtype, hooks, from, objective }: Pick<LoadedModel, "dtype"> & Traced,
  m = 0,
): Record<string, Tensor> {
  const both = m > 0 ? contextsBeside(n, m, dtype) : undefined;
  const context = both?.tile ?? contextInputs(n, dtype);
  const outputs: Record<string, Tensor> = {};
  const wrt: Record<string, Tensor> = {};
  const targets: NonNullable<Hooked["targets"]>[number][] = [];
  const take = (site: SiteName, hooked: Hooked): Tensor => {
    for (const [name, value] of Object.entries(hooked.values ?? {})) outputs[outputName("value", name, site)] = value;
    for (const [name, value] of Object.entries(hooked.wrt ?? {})) wrt[outputName("gradient", name, site)] = value;
    targets.push(...(hooked.targets ?? []));
    return hooked.y;
  };
  const tap: Tap = (site, x) => {
    const hook = hooks.get(site);
    return hook ? take(site, applyHook(hook, x, { context, named: namedAt(site) })) : x;
  };
  const last = both
    ? forwardBoth(model, weights, both, tap, outputs, hooks)
    : from === undefined
      ? forward(model, weights, context, tap)
      : forwardFrom(
          model,
          weights,
          context,
          from.site,
          take(from.site, enter(model, from, context, namedAt(from.site))),
          tap,
        );
  const { metric, total } = traceMetric(model, weights, last, objective);
  outputs.metric = metric;
  if (kind === "backward") {
    const sum = targets.reduce((all, { tensor, cotangent }) => all.add(tensor.mul(cotangent).sum()), total);
    for (const [i, g] of gradients(sum, Object.values(wrt)).entries()) outputs[Object.keys(wrt)[i]!] = g;
  }
  return outputs;
}

/** The model over tiles and what lies beside them, layer by layer; values and metric of the latter become outputs. */
function forwardBoth(
  model: Model,
  weights: Weights,
  { tile, beside }: ReturnType<typeof contextsBeside>,
  tap: Tap,
  outputs: Record<string, Tensor>,
  hooks: Hooks,
): Tensor {
  const read: Tap = (site, x) => {
    if (hooks.has(site)) outputs[outputName("beside", "x", site)] = x;
    return x;
  };
  let x = tap("embed", model.embed(weights, tile));
  let y = read("embed", model.embed(weights, beside));
  for (let layer = 0; layer < model.layers; layer++) {
    x = model.block(weights, layer, x, tile, tap);
    y = model.block(weights, layer, y, beside, read);
  }
  const rows = input("beside/row", "int64", ["Q"]);
  const logit = (name: string) => model.tokenLogits(weights, y.gather(rows), input(`beside/${name}`, "int64", ["Q"]));
  outputs["beside/metric"] = logit("patch_answer").sub(logit("clean_answer"));
  return x;
}

/** What stands at the site where an entry begins. */
export function enter(model: Model, { site, trace }: Entry, context: Context, named: (name: string) => string): Hooked {
  if (trace) return trace({ context, named });
  const width = model.sites[parseSite(site).kind]!;
  const x = input(named("x"), context.dtype, [times(context.tileSize, "B"), width]);
  return { y: x, wrt: { x } };
}

/** The model from a site on: `start` is what stands there. Of the site's own block only what does not lead to the site is computed. */
function forwardFrom(model: Model, w: Weights, context: Context, site: SiteName, start: Tensor, tap: Tap): Tensor {
  const { kind, layer } = parseSite(site);
  let x = start;
  if (streamBefore(site) !== undefined) {
    const before = input("before", start.dtype, [times(context.tileSize, "B"), model.width]);
    x = model.block(w, layer, before, context, (at, y) => (at === site ? start : tap(at, y)));
  }
  for (let next = kind === "embed" ? 0 : layer + 1; next < model.layers; next++)
    x = model.block(w, next, x, context, tap);
  return x;
}

/** m[P] at the rows of the last block's output that are asked for, and M; inputs as `packInputs` gives them. */
export function traceMetric(
  model: Model,
  weights: Weights,
  last: Tensor,
  objective?: Objective,
): { metric: Tensor; total: Tensor } {
  return traceMetricOf(model, weights, last.gather(input("row", "int64", ["P"])), objective);
}

/** m[P] of x[P,D] after the last block, and M. */
export function traceMetricOf(
  model: Model,
  weights: Weights,
  ends: Tensor,
  objective: Objective = "metric",
): { metric: Tensor; total: Tensor } {
  const logit = (name: string) => model.tokenLogits(weights, ends, input(name, "int64", ["P"]));
  const metric = logit("patch_answer").sub(logit("clean_answer"));
  const numbers = (name: string) => input(name, ends.dtype, ["P"]);
  const missed = objective === "squares" ? metric.sub(numbers("target")) : undefined;
  return { metric, total: (missed ? missed.mul(missed) : metric).mul(numbers("weight")).sum() };
}

/** Sessions that are made for one number of tiles each; any further number shares one. */
export const sizedSessions = 3;

/**
 * Sessions for packs: for each kind of pack and size of its tiles one for each of the first numbers of tiles, and one for all other numbers. That one
 * opens several times slower, since sizes are not known.
 */
export function packSessions() {
  const sessions = new Map<string, Map<number | "any", Promise<Session>>>();
  return {
    get(pack: Pack, make: (sizes: Sizes) => Promise<Session>): Promise<Session> {
      const key = `${pack.kind}/${tileSizeOf(pack)}/${besideSizeOf(pack)}`;
      const alike = sessions.get(key) ?? new Map<number | "any", Promise<Session>>();
      sessions.set(key, alike);
      const size = alike.has(pack.tiles) || alike.size < sizedSessions ? pack.tiles : "any";
      const session = alike.get(size) ?? make(size === "any" ? {} : { B: size });
      alike.set(size, session);
      // Whoever waits for it has the error.
      session.catch(() => {});
      return session;
    },
    async release(): Promise<void> {
      const all = [...sessions.values()].flatMap((alike) => [...alike.values()]);
      sessions.clear();
      await releaseAll(all);
    },
  };
}

/** What a tensor that a hook gives is called among a pack's outputs. */
export const outputName = (kind: Found["kind"], name: string, site: SiteName) => `${kind}/${name}/${site}`;

/** What hooks give among a pack's outputs. */
function foundIn(outputs: Readonly<Record<string, Value>>): Iterable<Found> {
  const found = new Map<string, { site: SiteName; kind: Found["kind"]; tensors: Record<string, Floats> }>();
  for (const [output, { data }] of Object.entries(outputs)) {
    const [kind, name, site] = output.split("/");
    if ((kind !== "value" && kind !== "beside" && kind !== "gradient") || !site) continue;
    const key = `${kind}/${site}`;
    const of = found.get(key) ?? { site, kind, tensors: {} };
    found.set(key, of);
    of.tensors[name!] = data as Floats;
  }
  return found.values();
}

const namedAt = (site: SiteName) => (name: string) => `${name}/${site}`;

const keyOf = (job: number) => `pack-${String(job).padStart(4, "0")}`;
