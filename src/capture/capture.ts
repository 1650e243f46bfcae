import { isChanged, type PrefixForest } from "../forest/forest.ts";
import type { Pack, Plan } from "../forest/packs.ts";
import type { Model } from "../models/model.ts";
import type { LoadedModel } from "../models/weights.ts";
import { steps, type Watch } from "../progress.ts";
import { parseSite, type SiteName } from "../site.ts";
import { sum } from "../stats.ts";
import { type Floats, type Job, newFloats, readingHooks } from "./hooks.ts";
import { openRunner, runModel } from "./run.ts";
import type { Results, Runner, RunOptions, Share } from "./runner.ts";

/** Activations and gradients of one site over a whole forest. */
export interface SiteCapture {
  readonly site: SiteName;
  /** D: the site's width. */
  readonly width: number;
  /** x[rows,D] at the kept forward nodes, by the plan's `row`. */
  readonly x: Floats;
  /** g[backward nodes,D] = ∂M/∂x, summed over the pairs that pass through each node; 0 at unchanged nodes where only changed ones are wanted. */
  readonly g: Floats;
}

/** The result of running a plan. */
export interface Capture {
  readonly plan: Plan;
  readonly sites: readonly SiteName[];
  /** m at the clean and at the patch prompt of each end, in logits. */
  readonly cleanMetric: Float64Array;
  readonly patchMetric: Float64Array;
  /** One site at a time, so that only one is in memory. @throws StoppedError if asked to stop */
  site(name: SiteName, watch?: Watch): Promise<SiteCapture>;
  /** The forward nodes of some of the activations that are kept: those of at most four packs that are spread over all. */
  readonly sampledNodes: readonly number[];
  /** The activations of `sampledNodes`, x[nodes,D]. Of a long capture this reads much less than `site`. */
  sample(name: SiteName): Promise<Floats>;
  /** Backward nodes where Δ and g can differ from 0: changed prefixes; in the last block only the ends, which alone have a gradient at its sites. */
  activeNodes(name: SiteName): Int32Array;
}

export interface CaptureOptions extends Share, Pick<RunOptions, "store" | "waveRows"> {
  /** Sites whose activations and gradients are given. */
  readonly sites: readonly SiteName[];
  /** A runner with `readingHooks` of these sites, to be used again by the caller; by default one is made here and released. */
  readonly runner?: Runner;
}

/**
 * Runs the packs of a plan through a model and gives activations and gradients by site. What the store has already is not computed again.
 *
 * @throws StoppedError if asked to stop; what is finished stays in the store
 */
export async function capture(loaded: LoadedModel, plan: Plan, options: CaptureOptions): Promise<Capture> {
  return (await captureAll(loaded, [plan], options))[0]!;
}

/**
 * `capture` of several plans at once: streamed weights are read once for all of them.
 *
 * @param options `only` counts the packs of all plans, one plan after another
 */
export async function captureAll(
  loaded: LoadedModel,
  plans: readonly Plan[],
  options: CaptureOptions,
): Promise<Capture[]> {
  const metrics = plans.map(({ forest: { ends } }) => ({
    clean: new Float64Array(ends.length),
    patch: new Float64Array(ends.length),
  }));
  const jobs = plans.flatMap((plan, p) => plan.packs.map((pack) => captureJob(plan, pack, metrics[p]!)));
  const runner = options.runner ?? openRunner(loaded, { ...options, hooks: readingHooks(options.sites) });
  try {
    const results = await runner.run(jobs, options);
    let first = 0;
    return plans.map((plan, p) => {
      first += plan.packs.length;
      return captureOf(loaded, plan, metrics[p]!, results, first - plan.packs.length, options.sites);
    });
  } finally {
    if (!options.runner) await runner.release();
  }
}

const sampledPacks = 4;

interface Metrics {
  readonly clean: Float64Array;
  readonly patch: Float64Array;
}

/** A pack of a plan, of which the rows are kept that the plan wants. */
function captureJob(plan: Plan, pack: Pack, metrics: Metrics): Job {
  return {
    pack,
    metric(values) {
      placeMetric(pack, values, metrics.clean, metrics.patch);
      if (pack.beside) placeMetric(pack.beside, values.subarray(pack.metric.row.length), metrics.clean, metrics.patch);
    },
    found({ kind, tensors }) {
      const x = tensors.x!;
      if (kind === "beside") return { x: keptRows(x, pack.beside!.keep, pack.beside!) };
      return { x: keptRows(x, kind === "value" ? pack.keep : gradientRows(plan, pack), pack) };
    },
  };
}

function captureOf(
  { model, dtype }: LoadedModel,
  plan: Plan,
  { clean, patch }: Metrics,
  results: Results,
  first: number,
  sites: readonly SiteName[],
): Capture {
  const { forest, packs } = plan;
  const count = Math.min(sampledPacks, packs.length);
  const sampled = Array.from({ length: count }, (_, i) => Math.floor((i * packs.length) / count));
  const sampledNodes = sampled.flatMap((k) => Array.from(packs[k]!.keep, (row) => forwardNode(plan, packs[k]!, row)));
  return {
    plan,
    sites,
    cleanMetric: clean,
    patchMetric: patch,
    async site(name, watch = {}) {
      const D = model.sites[parseSite(name).kind]!;
      const x = newFloats(dtype, plan.rows * D);
      const g = newFloats(dtype, forest.backward.size * D);
      const step = steps(watch, packs.length);
      for (const [k, pack] of packs.entries()) {
        step(k);
        const rows = await results.read(first + k, "value", name, "x");
        if (rows) placeRows(x, rows, D, (i) => plan.row[forwardNode(plan, pack, pack.keep[i]!)]!);
        const { beside } = pack;
        const others = beside && (await results.read(first + k, "beside", name, "x"));
        if (others) placeRows(x, others, D, (i) => plan.row[beside.node[beside.keep[i]!]!]!);
        const gradients = await results.read(first + k, "gradient", name, "x");
        const nodes = gradientRows(plan, pack);
        if (gradients) addRows(g, gradients, D, (i) => pack.node[nodes[i]!]!);
      }
      return { site: name, width: D, x, g };
    },
    sampledNodes,
    async sample(name) {
      const D = model.sites[parseSite(name).kind]!;
      const parts: Floats[] = [];
      for (const k of sampled) parts.push((await results.read(first + k, "value", name, "x")) ?? newFloats(dtype, 0));
      const x = newFloats(dtype, sampledNodes.length * D);
      if (sum(parts.map(({ length }) => length)) !== x.length)
        throw new Error(`internal: a sample of ${name} is not whole`);
      let at = 0;
      for (const part of parts) {
        x.set(part, at);
        at += part.length;
      }
      return x;
    },
    activeNodes: (name) => activeNodes(model, forest, name),
  };
}

/** Puts the metric values of a pack's run to their ends. */
export function placeMetric(pack: Pack, metric: Floats, clean: Float64Array, patch: Float64Array): void {
  pack.metric.end.forEach((end, i) => {
    (pack.metric.prompt[i] === "clean" ? clean : patch)[end] = metric[i]!;
  });
}

/** Backward nodes where Δ and g can differ from 0 at a site; see `Capture`. */
export function activeNodes(model: Model, { backward, ends }: PrefixForest, site: SiteName): Int32Array {
  const { kind, layer } = parseSite(site);
  const endsOnly = kind !== "embed" && layer === model.layers - 1;
  const isEnd = new Uint8Array(backward.size);
  for (const end of ends) isEnd[end.node] = 1;
  const active: number[] = [];
  for (let node = 0; node < backward.size; node++) {
    if (isChanged(backward, node) && (!endsOnly || isEnd[node])) active.push(node);
  }
  return Int32Array.from(active);
}

/** The metric at every end's clean prompt, m by end in logits, from a plan made by `planMetric`; hooks intervene. */
export async function runMetric(
  loaded: LoadedModel,
  plan: Plan,
  options: RunOptions & Watch = {},
): Promise<Float64Array> {
  const { ends } = plan.forest;
  const metrics = { clean: new Float64Array(ends.length), patch: new Float64Array(ends.length) };
  const jobs = plan.packs.map((pack) => ({
    pack,
    metric: (values: Floats) => placeMetric(pack, values, metrics.clean, metrics.patch),
  }));
  await runModel(loaded, jobs, options);
  return metrics.clean;
}

/** Rows of a backward pack whose gradients are kept: where only changed prefixes are wanted, those of the others are not read. */
export function gradientRows({ wanted, forest }: Plan, pack: Pack): Int32Array {
  return Int32Array.from(pack.node.keys()).filter((row) => {
    const node = pack.node[row]!;
    return node >= 0 && (wanted !== "changed" || isChanged(forest.backward, node));
  });
}

/** The given rows of a pack's values [N,D]. */
function keptRows(values: Floats, rows: Int32Array, { tokens: { length: N } }: Pack): Floats {
  const D = values.length / N;
  const out = newFloats(values instanceof Float64Array ? "float64" : "float32", rows.length * D);
  for (let i = 0, n = 1; i < rows.length; i += n) {
    const row = rows[i]!;
    for (n = 1; rows[i + n] === row + n; ) n++;
    out.set(values.subarray(row * D, (row + n) * D), i * D);
  }
  return out;
}

/** The forward node that a pack's row computes. */
export function forwardNode({ forest }: Plan, pack: Pack, row: number): number {
  const node = pack.node[row]!;
  return pack.kind === "backward" ? forest.backward.clean[node]! : node;
}

/** to[place(i)] = from[i] for rows of D numbers. */
function placeRows(to: Floats, from: Floats, D: number, place: (i: number) => number): void {
  for (let i = 0; i * D < from.length; i++) to.set(from.subarray(i * D, (i + 1) * D), place(i) * D);
}

/** to[place(i)] += from[i] for rows of D numbers. */
function addRows(to: Floats, from: Floats, D: number, place: (i: number) => number): void {
  for (let i = 0; i * D < from.length; i++) {
    const at = place(i) * D;
    for (let d = 0; d < D; d++) to[at + d]! += from[i * D + d]!;
  }
}
