import type { Plan } from "../capture/packs.ts";
import type { Dictionary } from "../dictionaries/dictionary.ts";
import { chunkRows } from "../dictionaries/encode.ts";
import { isChanged } from "../prompts/forest.ts";

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

/**
 * Features whose code differs between a changed node's clean and patch prefix, as a multiple of the active ones: .76 to .96 with trained SAEs (the
 * embedded model's, SmolLM2's), whose two prefixes share many; 2 with random directions.
 */
const changedShare = 0.9;

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
  const { inputWidth: D, width: F, meanActive = usualActive(F) } = dictionary;
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
  return {
    flops: 2 * plan.rows * D * F,
    weights: 2 * D * F,
    rows,
    products: rows * D,
    memory: liveWeights * 4 * D * F + pieces + captured + number * D * plan.rows + 100 * rows,
  };
}

/** Encoders and decoders in memory at a time, those of the site before included until they are collected. */
const liveWeights = 3;
