import type { SessionOptions } from "../graph/session.ts";
import { constant, numbers, type Tensor } from "../graph/tensor.ts";
import type { Checkpoint } from "./checkpoint.ts";
import type { Model, Weights } from "./model.ts";

/**
 * The weights of a model that is too large to be held: they stay in their files, and each block's are read when its turn comes. The checkpoint has
 * to stay open.
 */
export interface StreamedWeights {
  readonly checkpoint: Checkpoint;
}

/** A model's weights as graphs get them: held in memory, as `heldWeights` gives them, or streamed. */
export type ModelWeights = Weights | StreamedWeights;

/** Weights that stay in their files, from which each layer is read when its turn comes. */
export function streamedWeights(checkpoint: Checkpoint): StreamedWeights {
  return { checkpoint };
}

/** Whether weights are read from their files block by block instead of held in memory. */
export function isStreamed(weights: ModelWeights): weights is StreamedWeights {
  return typeof weights !== "function";
}

/**
 * All parameters of a model, read and held in memory as constants of the graphs that use them.
 *
 * @throws UserError if one is missing, has another shape or is not finite
 */
export async function heldWeights(
  model: Model,
  checkpoint: Checkpoint,
  dtype: "float32" | "float64" = "float32",
): Promise<Weights> {
  const held = new Map<string, Tensor>();
  const parameters = [...model.parameters];
  const begin = (at: number) => {
    const work = at < parameters.length ? checkpoint.tensor(...parameters[at]!) : undefined;
    // Whoever waits for it has the error.
    work?.catch(() => {});
    return work;
  };
  // The next are read while one is checked: most of the time goes into memory that the system has to provide.
  const work = Array.from({ length: readAtOnce }, (_, at) => begin(at));
  for (const [at, [name, shape]] of parameters.entries()) {
    const data = (await work[at % readAtOnce])!;
    work[at % readAtOnce] = begin(at + readAtOnce);
    held.set(name, constant(dtype === "float64" ? numbers(data, dtype) : data, dtype, shape, name));
  }
  return (name) => {
    const weight = held.get(name);
    if (!weight) throw new Error(`internal: ${model.modelType} asks for ${name}, which is not among its parameters`);
    return weight;
  };
}

/** Weights that are being read at a time. */
const readAtOnce = 3;

/** A model with its weights, ready to run: where, and in which numbers. */
export interface LoadedModel extends SessionOptions {
  readonly model: Model;
  readonly weights: ModelWeights;
  /** What is computed in. */
  readonly dtype: "float32" | "float64";
  /**
   * Whether held weights in float32 go through one session of a block, as those that are streamed, instead of one of the whole model: for few rows.
   * Opening a session of 30 blocks takes longer than running hundreds of rows; a backward pass computes activations twice instead.
   */
  readonly byBlock?: boolean;
}

/** A model bound to its weights; on the CPU in float32 unless told otherwise. */
export function loadedModel(
  model: Model,
  weights: ModelWeights,
  options: Partial<Omit<LoadedModel, "model" | "weights">> = {},
): LoadedModel {
  return { dtype: "float32", ...options, model, weights };
}
