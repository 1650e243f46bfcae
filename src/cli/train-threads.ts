import { Worker } from "node:worker_threads";
import { modelFromConfig } from "../models/architectures.ts";
import type { GradientPool, LanguageModelRecipe } from "../training/lm.ts";
import { layoutOf } from "../training/parameters.ts";
import type { GradientJob, GradientReply, GradientRequest } from "./train-worker.ts";

/**
 * A pool of threads that compute a step's parts side by side, one onnxruntime thread each.
 *
 * @param threads at most as many as the recipe has parts are used
 */
export function threadPool(
  config: Readonly<Record<string, unknown>>,
  tokenizerFolder: string,
  recipe: LanguageModelRecipe,
  threads: number,
): GradientPool {
  const { size } = layoutOf(modelFromConfig(config, tokenizerFolder).parameters);
  const shared = () => new Float32Array(new SharedArrayBuffer(size * Float32Array.BYTES_PER_ELEMENT));
  const weights = shared();
  const gradients = Array.from({ length: recipe.parts }, shared);
  const job: GradientJob = { kind: "gradients", config, tokenizerFolder, recipe, weights, gradients };
  const workers = Array.from({ length: Math.min(threads, recipe.parts) }, (_, i) => ({
    worker: startWorker(job),
    parts: gradients.map((_, part) => part).filter((part) => part % Math.min(threads, recipe.parts) === i),
  }));
  return {
    weights,
    gradients,
    async run(step) {
      const replies = await Promise.all(
        workers.map(async ({ worker, parts }) => {
          const reply = await ask<GradientReply>(worker, { step, parts } satisfies GradientRequest);
          if ("error" in reply) throw new Error(reply.error);
          return parts.map((part, i) => [part, reply.losses[i]!] as const);
        }),
      );
      return replies
        .flat()
        .sort(([a], [b]) => a - b)
        .map(([, loss]) => loss);
    },
    close: async () => void (await Promise.all(workers.map(({ worker }) => worker.terminate()))),
  };
}

/** Starts the training thread, which is compiled JavaScript beside this file. */
export function startWorker(job: object): Worker {
  return new Worker(new URL("./train-worker.js", import.meta.url), { workerData: job });
}

/** Sends a message and waits for the next one back. */
export function ask<Reply>(worker: Worker, message: unknown): Promise<Reply> {
  return new Promise((resolve, reject) => {
    const settle = (then: () => void) => {
      worker.off("message", onMessage);
      worker.off("error", onError);
      then();
    };
    const onMessage = (reply: Reply) => settle(() => resolve(reply));
    const onError = (error: Error) => settle(() => reject(error));
    worker.on("message", onMessage);
    worker.on("error", onError);
    worker.postMessage(message);
  });
}
