import { StoppedError } from "../errors.ts";
import type { Model, Weights } from "../models/model.ts";
import { isChanged } from "../prompts/forest.ts";
import { parseSite, type SiteName } from "../site.ts";
import type { Pack, Plan } from "./packs.ts";
import { type Floats, type Passes, type PassOptions, tracePasses } from "./passes.ts";

/** What is kept of one pack: metric values, and by site the kept rows of x and of g. */
export interface PackResult {
  readonly metric: Floats;
  readonly x: ReadonlyMap<SiteName, Floats>;
  readonly g: ReadonlyMap<SiteName, Floats>;
}

/** Where the results of packs are kept until the effects are computed: in memory, or on disk, where they are also checkpoints. */
export interface PackStore {
  has(pack: number): Promise<boolean>;
  save(pack: number, result: PackResult): Promise<void>;
  metric(pack: number): Promise<Floats>;
  /** The rows of one site; undefined where the pack has none. */
  rows(pack: number, kind: "x" | "g", site: SiteName): Promise<Floats | undefined>;
}

/** Keeps results in memory. */
export function memoryStore(): PackStore {
  const results = new Map<number, PackResult>();
  return {
    has: async (pack) => results.has(pack),
    save: async (pack, result) => void results.set(pack, result),
    metric: async (pack) => results.get(pack)!.metric,
    rows: async (pack, kind, site) => results.get(pack)![kind].get(site),
  };
}

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

export interface CaptureOptions extends Omit<PassOptions, "block" | "gradientsOnly"> {
  readonly store?: PackStore;
  /** Passes traced for these sites and the plan's block size, to be used again by the caller; by default they are traced here and released. */
  readonly passes?: Passes;
  /** Called after each pack. */
  readonly onProgress?: (done: number, total: number) => void;
  /** Asked between packs; true ends the work with a StoppedError. */
  readonly stopped?: () => boolean;
}

/**
 * Runs the packs of a plan through a model and gives activations and gradients by site. Packs that the store has already are not run again.
 *
 * @throws StoppedError if asked to stop; finished packs stay in the store
 */
export async function capture(model: Model, weights: Weights, plan: Plan, options: CaptureOptions): Promise<Capture> {
  const { sites, store = memoryStore(), onProgress, stopped } = options;
  const { forest, packs } = plan;
  const passes =
    options.passes ?? tracePasses(model, weights, { ...options, block: plan.block, gradientsOnly: plan.rows === 0 });
  const cleanMetric = new Float64Array(forest.ends.length);
  const patchMetric = new Float64Array(forest.ends.length);
  try {
    for (const [p, pack] of packs.entries()) {
      if (stopped?.()) throw new StoppedError("stopped");
      if (!(await store.has(p))) {
        const { metric, x, g } = await passes.run(pack);
        const N = pack.tokens.length;
        await store.save(p, { metric, x: kept(x, pack.keep, N), g: kept(g, gradientRows(plan, pack), N) });
      }
      const metric = await store.metric(p);
      pack.metric.end.forEach((end, i) => {
        (pack.metric.prompt[i] === "clean" ? cleanMetric : patchMetric)[end] = metric[i]!;
      });
      onProgress?.(p + 1, packs.length);
    }
  } finally {
    if (!options.passes) await passes.release();
  }

  const isEnd = new Uint8Array(forest.backward.size);
  for (const end of forest.ends) isEnd[end.node] = 1;
  return {
    plan,
    sites,
    cleanMetric,
    patchMetric,
    async site(name) {
      const D = model.sites[parseSite(name).kind]!;
      const make = options.dtype === "float64" ? Float64Array : Float32Array;
      const x = new make(plan.rows * D);
      const g = new make(forest.backward.size * D);
      for (const [p, pack] of packs.entries()) {
        const rows = await store.rows(p, "x", name);
        if (rows) placeRows(x, rows, D, (i) => plan.row[forwardNode(plan, pack, pack.keep[i]!)]!);
        const gradients = await store.rows(p, "g", name);
        const nodes = gradientRows(plan, pack);
        if (gradients) addRows(g, gradients, D, (i) => pack.node[nodes[i]!]!);
      }
      return { site: name, width: D, x, g };
    },
    activeNodes(name) {
      const { kind, layer } = parseSite(name);
      const lastOnly = kind !== "embed" && layer === model.layers - 1;
      const active: number[] = [];
      for (let node = 0; node < forest.backward.size; node++) {
        if (isChanged(forest.backward, node) && (!lastOnly || isEnd[node])) active.push(node);
      }
      return Int32Array.from(active);
    },
  };
}

/**
 * The metric at every end's clean prompt, m by end in logits, from a plan made by `planMetric`.
 *
 * @param options `splice` intervenes; no site is read
 */
export async function runMetric(
  model: Model,
  weights: Weights,
  plan: Plan,
  options: Omit<CaptureOptions, "store">,
): Promise<Float64Array> {
  const { cleanMetric } = await capture(model, weights, plan, options);
  return cleanMetric;
}

function forwardNode({ forest }: Plan, pack: Pack, row: number): number {
  const node = pack.node[row]!;
  return pack.kind === "backward" ? forest.backward.clean[node]! : node;
}

/** Rows of a backward pack whose gradients are kept: where only changed prefixes are wanted, those of the others are not read. */
function gradientRows({ wanted, forest }: Plan, pack: Pack): Int32Array {
  return Int32Array.from(pack.node.keys()).filter((row) => {
    const node = pack.node[row]!;
    return node >= 0 && (wanted !== "changed" || isChanged(forest.backward, node));
  });
}

/** The given rows of each site's [N,D]. */
function kept(values: ReadonlyMap<SiteName, Floats>, rows: Int32Array, N: number): Map<SiteName, Floats> {
  return new Map(
    [...values].map(([site, data]) => {
      const D = data.length / N;
      const out = data.slice(0, rows.length * D);
      rows.forEach((row, i) => {
        out.set(data.subarray(row * D, (row + 1) * D), i * D);
      });
      return [site, out];
    }),
  );
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
