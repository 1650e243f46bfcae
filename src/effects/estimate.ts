import { memoryWaveRows } from "../capture/streamed.ts";
import type { Dictionary } from "../dictionaries/dictionary.ts";
import { chunkRows, isWide, mayPay } from "../dictionaries/encode.ts";
import { partBytes } from "../dictionaries/wide.ts";
import { type BackwardNodes, isChanged } from "../forest/forest.ts";
import { type Pack, type Plan, tightPacks } from "../forest/packs.ts";
import type { Model } from "../models/model.ts";
import { parseSite, type SiteName } from "../site.ts";
import { defaultSteps, type MethodName } from "./method.ts";
import { recent, secantSteps } from "./secant.ts";

/** What the effects of one site take, told from shapes alone. */
export interface EffectsCost {
  /** Floating-point operations of the encoder. */
  readonly flops: number;
  /** Numbers of the encoder and the decoder, which are read. */
  readonly weights: number;
  /** Rows of effects.parquet that are expected. */
  readonly rows: number;
  /** Numbers that are multiplied one by one: a row's direction with the gradient, and the same taken out of the error. */
  readonly products: number;
  /** Bytes of memory at the peak, besides the program itself. */
  readonly memory: number;
}

/** Mean number of active features where a dictionary's files do not tell: as published SAEs of 1,500 to 65,000 features have it. */
function usualActive(width: number): number {
  return Math.min(64, width / 75);
}

/** Mean number of active features of a dictionary per token. */
export const activeOf = ({ meanActive, featureCount }: Dictionary): number => meanActive ?? usualActive(featureCount);

/**
 * Features whose code differs between a changed node's clean and patch prefix, as a multiple of the active ones: .76 to .96 with trained SAEs (the
 * embedded model's, SmolLM2's), whose two prefixes share many; 2 with random directions.
 */
export const changedShare = 0.9;

/**
 * The cost of one site's effects, or of another score.
 *
 * @param number bytes of a number that is computed with
 */
export function effectsCost(
  dictionary: Dictionary,
  plan: Plan,
  score: "effect" | "gradient" | "gradient-activation",
  number: 4 | 8 = 4,
): EffectsCost {
  const { inputWidth, outputWidth: D, featureCount: F } = dictionary;
  const meanActive = activeOf(dictionary);
  const { backward } = plan.forest;
  let changed = 0;
  for (let node = 0; node < backward.size; node++) if (isChanged(backward, node)) changed++;
  const captured = number * D * (plan.rows + backward.size);
  if (score === "gradient") {
    return {
      flops: 2 * backward.groups.length * D * F,
      weights: D * F,
      rows: 0,
      products: 0,
      memory: 4 * D * F + captured,
    };
  }
  const rows = score === "effect" ? changed * (1 + changedShare * meanActive) : backward.size * meanActive;
  // The codes of a piece of rows, before and after the activation; activations once more in the order of the nodes; columns of the table as it grows.
  const pieces = 3 * number * Math.min(chunkRows, plan.rows) * F;
  const directions = 4 * D * Math.min(F, plan.rows * meanActive);
  const dense =
    liveWeights * 4 * D * F + pieces + (number === 4 && mayPay(dictionary, plan.rows, 1) ? partBytes / 2 : 0);
  const weights = number === 4 && isWide(dictionary) ? partBytes + 2 * directions : dense;
  return {
    flops: 2 * plan.rows * inputWidth * F,
    weights: (inputWidth + D) * F,
    rows,
    products: rows * D,
    memory: weights + captured + number * D * plan.rows + 100 * rows,
  };
}

/** Encoders and decoders in memory at a time, those of the site before included until they are collected. */
export const liveWeights = 3;

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
      const site = number * model.width * plan.rows;
      return {
        flops: K * tight * share * passes,
        memory:
          streams(K * tight) +
          Math.min(weights === "streamed" ? recent.streamedSites * site : recent.bytes, number * activations) +
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
