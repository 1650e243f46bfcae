import { isStreamed, type LoadedModel } from "../models/weights.ts";
import type { Watch } from "../progress.ts";
import { parseSite } from "../site.ts";
import { BlockReader, heldBlocks } from "./block-reader.ts";
import { heldRunner } from "./held.ts";
import type { Job } from "./hooks.ts";
import type { Results, Runner, RunOptions } from "./runner.ts";
import { streamedRunner } from "./streamed.ts";

/** Opens a runner for weights that are held, or for those that are streamed: both take the same hooks. */
export function openRunner(loaded: LoadedModel, options: RunOptions = {}): Runner {
  const { model } = loaded;
  for (const site of [...(options.hooks?.keys() ?? []), ...(options.from ? [options.from.site] : [])]) {
    const { kind, layer } = parseSite(site);
    if (model.sites[kind] === undefined || layer >= model.layers) {
      throw new Error(`internal: the model has no site ${site}`);
    }
  }
  const { weights, byBlock, dtype } = loaded;
  if (isStreamed(weights)) return streamedRunner(loaded, new BlockReader(model, weights.checkpoint, loaded), options);
  // Rows of tables go into blocks' graphs as float32.
  return byBlock && dtype === "float32"
    ? streamedRunner(loaded, heldBlocks(weights, loaded), options)
    : heldRunner(loaded, weights, options);
}

/** Runs jobs through a model once. */
export async function runModel(
  loaded: LoadedModel,
  jobs: readonly Job[],
  options: RunOptions & Watch = {},
): Promise<Results> {
  const runner = openRunner(loaded, options);
  try {
    return await runner.run(jobs, options);
  } finally {
    await runner.release();
  }
}
