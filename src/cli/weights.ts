import { heldWeights, type ModelWeights, streamedWeights } from "../capture/weights.ts";
import type { Model } from "../models/model.ts";
import type { JobOptions, OpenModel } from "./setting.ts";

/**
 * Parameters above which weights are streamed. Held, they are in memory several times: as they were read, and in the sessions of the forward and of
 * the backward pass; and a graph with all of them has to stay below 2 GiB.
 */
const mostHeld = 2 ** 28;

/** The weights of a model, held in memory or streamed as asked for, or by their number. */
export async function openWeights(
  { model, checkpoint }: OpenModel,
  { weights, precision }: Pick<JobOptions, "weights" | "precision">,
): Promise<ModelWeights> {
  const held = weights === "auto" ? parameterCount(model) <= mostHeld : weights === "held";
  return held ? heldWeights(model, checkpoint, precision) : streamedWeights(checkpoint);
}

export function parameterCount(model: Model): number {
  let count = 0;
  for (const shape of model.parameters.values()) count += shape.reduce((a, b) => a * b, 1);
  return count;
}
