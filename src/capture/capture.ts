import { isChanged, type PrefixForest } from "../forest/forest.ts";
import type { Pack, Plan } from "../forest/packs.ts";
import type { Model } from "../models/model.ts";
import { parseSite, type SiteName } from "../site.ts";
import { type Floats, heldRunner, type PassOptions, tracePasses } from "./passes.ts";
import { gradientRows, type Hooks, type Results, type Runner } from "./runner.ts";
import { memoryStore, type Store } from "./store.ts";
import { streamedRunner } from "./streamed.ts";
import { isStreamed, type ModelWeights } from "./weights.ts";

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
  /** One site at a time, so that only one is in memory. */
  site(name: SiteName): Promise<SiteCapture>;
  /** Backward nodes where Δ and g can differ from 0: changed prefixes; in the last block only the ends, which alone have a gradient at its sites. */
  activeNodes(name: SiteName): Int32Array;
}

export interface CaptureOptions extends Omit<PassOptions, "block">, Hooks {
  /** In memory by default. */
  readonly store?: Store;
  /** A runner for these sites and the plans' block size, to be used again by the caller; by default one is made here and released. */
  readonly runner?: Runner;
}

/** The runner for weights that are held, or for those that are streamed. */
export function openRunner(model: Model, weights: ModelWeights, options: PassOptions): Runner {
  return isStreamed(weights)
    ? streamedRunner(model, weights, options)
    : heldRunner(tracePasses(model, weights, options));
}

/**
 * Runs the packs of a plan through a model and gives activations and gradients by site. What the store has already is not computed again.
 *
 * @throws StoppedError if asked to stop; what is finished stays in the store
 */
export async function capture(
  model: Model,
  weights: ModelWeights,
  plan: Plan,
  options: CaptureOptions,
): Promise<Capture> {
  return (await captureAll(model, weights, [plan], options))[0]!;
}

/** `capture` of several plans of one block size at once: streamed weights are read once for all of them. */
export async function captureAll(
  model: Model,
  weights: ModelWeights,
  plans: readonly Plan[],
  options: CaptureOptions,
): Promise<Capture[]> {
  const { store = memoryStore(), onProgress, stopped } = options;
  if (plans.some(({ block }) => block !== plans[0]!.block)) throw new Error("internal: plans of several block sizes");
  const runner = options.runner ?? openRunner(model, weights, { ...options, block: plans[0]!.block });
  try {
    const results = await runner.run(plans, store, { onProgress, stopped });
    return await Promise.all(plans.map((plan, p) => captureOf(model, plan, p, results, options)));
  } finally {
    if (!options.runner) await runner.release();
  }
}

async function captureOf(
  model: Model,
  plan: Plan,
  p: number,
  results: Results,
  { sites, dtype }: CaptureOptions,
): Promise<Capture> {
  const { forest, packs } = plan;
  const cleanMetric = new Float64Array(forest.ends.length);
  const patchMetric = new Float64Array(forest.ends.length);
  for (const [k, pack] of packs.entries()) {
    placeMetric(pack, await results.metric(p, k), cleanMetric, patchMetric);
  }
  return {
    plan,
    sites,
    cleanMetric,
    patchMetric,
    async site(name) {
      const D = model.sites[parseSite(name).kind]!;
      const make = dtype === "float64" ? Float64Array : Float32Array;
      const x = new make(plan.rows * D);
      const g = new make(forest.backward.size * D);
      for (const [k, pack] of packs.entries()) {
        const rows = await results.rows(p, k, "x", name);
        if (rows) placeRows(x, rows, D, (i) => plan.row[forwardNode(plan, pack, pack.keep[i]!)]!);
        const gradients = await results.rows(p, k, "g", name);
        const nodes = gradientRows(plan, pack);
        if (gradients) addRows(g, gradients, D, (i) => pack.node[nodes[i]!]!);
      }
      return { site: name, width: D, x, g };
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

/**
 * The metric at every end's clean prompt, m by end in logits, from a plan made by `planMetric`.
 *
 * @param options `splice` intervenes; no site is read
 */
export async function runMetric(
  model: Model,
  weights: ModelWeights,
  plan: Plan,
  options: Omit<CaptureOptions, "store">,
): Promise<Float64Array> {
  const { cleanMetric } = await capture(model, weights, plan, options);
  return cleanMetric;
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
