import type { Dictionary } from "../dictionaries/dictionary.ts";
import { chunkRows, isWide, mayPay } from "../dictionaries/encode.ts";
import { partBytes } from "../dictionaries/wide.ts";
import { isChanged } from "../forest/forest.ts";
import type { Plan } from "../forest/packs.ts";

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

/** A thread with the runtime and the program in it, in bytes. */
const threadBytes = 4e7;
/** What all threads may take together. */
const lanesBytes = 2 ** 29;
/** Operations of encoding from which on threads save more time than starting them and sending numbers to them takes (LOG, "Sites side by side"). */
const worthLanes = 1.5e11;
/** More threads do not help: one reads for all of them, and takes what they find. */
const mostLanes = 8;

/** In how many threads sites should be computed beside one another; 0 where that saves no time or takes too much memory. */
export function lanesFor(costs: readonly Pick<EffectsCost, "flops" | "memory">[], cores: number): number {
  if (costs.length < 2 || costs.reduce((sum, { flops }) => sum + flops, 0) < worthLanes) return 0;
  const fitting = Math.floor(lanesBytes / (threadBytes + Math.max(...costs.map(({ memory }) => memory))));
  const lanes = Math.min(cores, costs.length, mostLanes, fitting);
  return lanes < 2 ? 0 : lanes;
}
