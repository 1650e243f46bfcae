import { memoryWaveRows } from "../capture/streamed.ts";
import type { Dictionary } from "../dictionaries/dictionary.ts";
import { type BackwardNodes, isChanged } from "../forest/forest.ts";
import { type Pack, type Plan, tightPacks } from "../forest/packs.ts";
import type { Model } from "../models/model.ts";
import { parseSite, type SiteName } from "../site.ts";
import { defaultSteps, type MethodName } from "./method.ts";
import { recentBytes, secantSteps } from "./secant.ts";
import { activeOf, changedShare } from "./site-cost.ts";

/** What a method takes besides what `effectsCost` tells: nothing for `analytic`. */
export interface MethodCost {
  readonly flops: number;
  readonly memory: number;
  /** Of streamed weights: how often all blocks are read. */
  readonly sweeps: number;
}

/** What a method takes besides what `effectsCost` tells, from shapes alone. */
export function methodCost(
  method: MethodName,
  model: Model,
  plan: Plan,
  dictionaries: ReadonlyMap<SiteName, Dictionary>,
  givenSteps?: number,
  number: 4 | 8 = 4,
  weights: "held" | "streamed" = "held",
): MethodCost {
  // The rest is not known without cutting the forest anew.
  if (method === "analytic") return { flops: 0, memory: 0, sweeps: 0 };
  const steps = givenSteps ?? defaultSteps;
  const all = [...dictionaries.values()];
  const sum = (each: (dictionary: Dictionary) => number) => all.reduce((total, one) => total + each(one), 0);
  const rowsOf = (kind: Pack["kind"]) =>
    plan.packs.reduce((rows, pack) => rows + (pack.kind === kind ? pack.tokens.length : 0), 0);
  const [forward, backward] = [rowsOf("forward"), rowsOf("backward")];
  /** Rows of what is run again and again. */
  const tight = tightPacks(plan).reduce((rows, { tokens }) => rows + tokens.length, 0);
  const { backward: nodes } = plan.forest;
  const changed = changedNodes(nodes);
  const product = ({ inputWidth, outputWidth, featureCount: F }: Dictionary) => (inputWidth + outputWidth) * F;
  const packRows = plan.packs.reduce((most, pack) => Math.max(most, pack.tokens.length), 0);
  const forwardOnly = model.flopsPerToken + plan.tileSize * model.attentionFlops;
  // Backward takes a product more for every product of an activation with a weight, two for those of attention; streamed blocks are computed again.
  const again = weights === "streamed" ? forwardOnly : 0;
  const passes = 2 * model.flopsPerToken + 3 * plan.tileSize * model.attentionFlops + again;
  const rest = (site: SiteName) => shareFrom(model, site);
  /** Of rows that begin at a site: how often the blocks from there on are read, and what is kept of their inputs for the way back. */
  const waves = (rows: number) => (weights === "streamed" ? Math.ceil(rows / memoryWaveRows) : 0);
  const streams = (rows: number) =>
    weights === "streamed" ? number * model.width * (model.layers + 4) * Math.min(rows, memoryWaveRows) : 0;
  switch (method) {
    case "analytic-ig":
      return {
        flops: sum(({ writes: site }) => steps * tight * rest(site) * passes),
        memory: streams(steps * tight),
        sweeps: sum(({ writes: site }) => 2 * waves(steps * tight) * rest(site)),
      };
    case "sfc-ig":
      return {
        flops: sum((one) => steps * tight * (rest(one.writes) * passes + 2 * product(one))),
        memory:
          4 * number * packRows * Math.max(...all.map(({ featureCount }) => featureCount)) + streams(steps * tight),
        sweeps: sum(({ writes: site }) => 2 * waves(steps * tight) * rest(site)),
      };
    case "sfc":
    case "spliced": {
      const encoders = method === "sfc" ? 3 : 4;
      const bare = forward * forwardOnly + backward * passes;
      // Held weights go into one graph with all dictionaries; streamed ones have those of two blocks at a time.
      const together = (each: (one: Dictionary) => number) =>
        weights === "held" ? sum(each) : 2 * Math.max(...all.map(each)) * Math.ceil(all.length / model.layers);
      return {
        flops: bare + sum((one) => product(one) * (2 * forward + encoders * backward)),
        // Weights; codes and their gradients of a pack, in the session and out of it; about half of the nodes' gradients wait for the other prompt.
        memory:
          together(
            (one) =>
              number * product(one) +
              number * one.featureCount * 6 * packRows +
              (8 * one.featureCount * changed.length) / 2,
          ) + streams(forward + backward),
        sweeps: 2 * waves(forward + backward),
      };
    }
    case "secant": {
      const sites = all.map(({ writes: site }) => site);
      const [K, share] = [givenSteps ?? secantSteps(sites), Math.max(...sites.map(rest))];
      // The stream and what attention writes, of every block from the lowest site on, and ḡ of the dictionaries' sites.
      const activations = (2 * share * model.layers + 1) * model.width * plan.rows;
      return {
        flops: K * tight * share * passes,
        memory:
          streams(K * tight) +
          Math.min(recentBytes, number * activations) +
          number * nodes.size * sum(({ outputWidth }) => outputWidth),
        sweeps: 2 * waves(K * tight) * share,
      };
    }
    case "exact": {
      const subtree = subtreeRows(nodes, changed);
      const patches = (one: Dictionary) => 1 + changedShare * activeOf(one);
      return {
        flops: sum((one) => subtree * patches(one) * rest(one.writes) * forwardOnly),
        memory: weights === "streamed" ? 6 * number * model.width * memoryWaveRows : 0,
        sweeps: sum((one) => waves(subtree * patches(one)) * rest(one.writes)),
      };
    }
  }
}

/** What is left of a model from a site on, as a share of its blocks; the block in which a site lies counts in full. */
export function shareFrom(model: Model, site: SiteName): number {
  const { kind, layer } = parseSite(site);
  if (kind === "embed") return 1;
  return (model.layers - layer - (kind === "resid_post" ? 1 : 0)) / model.layers;
}

/** The nodes whose clean and patch prefixes differ. */
export function changedNodes(nodes: BackwardNodes): readonly number[] {
  return [...nodes.clean.keys()].filter((node) => isChanged(nodes, node));
}

/** The nodes in the subtrees of some nodes, all together. */
export function subtreeRows({ parent, size }: BackwardNodes, of: readonly number[]): number {
  const below = new Float64Array(size).fill(1);
  for (let node = size - 1; node >= 0; node--) if (parent[node]! >= 0) below[parent[node]!]! += below[node]!;
  return of.reduce((sum, node) => sum + below[node]!, 0);
}
