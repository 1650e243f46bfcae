import { StoppedError } from "../errors.ts";
import { float32, type SessionOptions } from "../graph/session.ts";
import type { Model } from "../models/model.ts";
import { Random } from "../random.ts";
import { Adam, cosineSchedule, norm } from "./adam.ts";
import { compileLoss, type Rows, rowContext, targetValues } from "./loss.ts";
import { copyGradients, initialise, type Layout, layoutOf, matrixRanges, parameterValues } from "./parameters.ts";
import type { TextSource } from "./text.ts";

/** Everything that decides what a language model becomes, besides its architecture and its text. */
export interface LanguageModelRecipe {
  /** Of the first weights and of the text. */
  readonly seed: number;
  readonly steps: number;
  /** Rows per step, a multiple of `shards`, and their length T in tokens. */
  readonly rows: number;
  readonly length: number;
  /** Into how many shards each step's rows are divided, to be computed side by side. It decides the order of sums, not how many threads there are. */
  readonly shards: number;
  /** Highest learning rate, reached after `warmup` steps; it falls along a cosine to 0. */
  readonly learningRate: number;
  readonly warmup: number;
  /** AdamW's, on matrices only. */
  readonly decay: number;
  /** Largest Euclidean norm of a gradient. */
  readonly clip: number;
  /** Standard deviation of the first weights. */
  readonly deviation: number;
}

/**
 * Computes the gradients of a step's shards, each into an array of its own. Weights and gradients may lie in memory that threads share; the
 * weights are changed between steps only.
 */
export interface GradientPool {
  readonly weights: Float32Array;
  readonly gradients: readonly Float32Array[];
  /** Computes all shards of a step: the losses of their tokens, each shard's share of the mean over the step, in nats. */
  run(step: number): Promise<number[]>;
  close(): Promise<void>;
}

/** Computes one shard of a step: its share of the gradient goes to `gradient`, its share of the loss is returned. */
export type ShardGradient = (
  step: number,
  shard: number,
  weights: Float32Array,
  gradient: Float32Array,
) => Promise<number>;

/** The computation of one shard, in a session of its own. The shard's rows are piece `<step>/<shard>` of the text. */
export async function shardGradient(
  model: Model,
  text: TextSource,
  { rows, length, shards }: LanguageModelRecipe,
  options: SessionOptions = {},
): Promise<{ run: ShardGradient; close(): Promise<void> }> {
  const layout = layoutOf(model.parameters);
  const session = await compileLoss(model, layout, length, options);
  const weight = float32(Float32Array.of(1 / (rows * length)));
  return {
    async run(step, shard, weights, gradient) {
      const piece: Rows = text.rows(`${step}/${shard}`, rows / shards, length);
      const results = await session.run({
        ...rowContext(piece),
        targets: targetValues(piece),
        weight,
        ...parameterValues(layout, weights),
      });
      copyGradients(layout, results, gradient);
      return results.loss!.data[0] as number;
    },
    close: () => session.release(),
  };
}

export interface LanguageModelProgress {
  /** Steps done. */
  readonly step: number;
  /** Mean loss of the step's tokens before the step, in nats. */
  readonly loss: number;
  readonly learningRate: number;
  /** Of the gradient before clipping. */
  readonly norm: number;
}

/**
 * Trains a language model from random weights and leaves them in `pool.weights`, in the layout of the model's parameters.
 *
 * The result depends on the recipe and the text alone: shards are summed in their order, whoever computes them.
 *
 * @param onStep called after each step; the weights may be read until it returns
 * @throws StoppedError if `signal` is aborted
 */
export async function trainLanguageModel(
  model: Model,
  recipe: LanguageModelRecipe,
  pool: GradientPool,
  onStep: (progress: LanguageModelProgress) => void | Promise<void> = () => {},
  signal?: AbortSignal,
): Promise<void> {
  const layout: Layout = layoutOf(model.parameters);
  const { weights, gradients } = pool;
  weights.set(initialise(layout, model.layers, recipe.deviation, new Random(`${recipe.seed}/weights`)));
  const adam = new Adam(layout.size, { beta2: 0.98, decay: recipe.decay, decayed: matrixRanges(layout) });
  const gradient = new Float32Array(layout.size);
  for (let step = 0; step < recipe.steps; step++) {
    if (signal?.aborted) throw new StoppedError("Stopped; nothing was written.");
    const losses = await pool.run(step);
    addUp(gradients, gradient);
    const length = norm(gradient);
    const learningRate = cosineSchedule(step, { ...recipe, peak: recipe.learningRate });
    adam.step(weights, gradient, learningRate, Math.min(1, recipe.clip / length));
    const loss = losses.reduce((sum, shard) => sum + shard, 0);
    await onStep({ step: step + 1, loss, learningRate, norm: length });
  }
}

function addUp(shards: readonly Float32Array[], sum: Float32Array): void {
  sum.set(shards[0]!);
  for (const shard of shards.slice(1)) for (let i = 0; i < sum.length; i++) sum[i]! += shard[i]!;
}
