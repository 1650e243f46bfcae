import { StoppedError } from "../errors.ts";
import { type Asking, openThread } from "../jobs/ask.ts";
import { modelFromConfig } from "../models/architectures.ts";
import { parseSite, type SiteName } from "../site.ts";
import type { ActivationReader } from "../training/activations.ts";
import type { GradientPool, LanguageModelRecipe } from "../training/lm.ts";
import { layoutOf } from "../training/parameters.ts";
import type { CaptureJob, DictionaryJob, EvaluationJob, GradientJob, GradientRequest, Job } from "./train-messages.ts";

/**
 * A pool of threads that compute a step's shards side by side, one onnxruntime thread each.
 *
 * @param tokenizer the parsed tokenizer.json
 * @param threads at most as many as the recipe has shards are used
 */
export function threadPool(
  config: Readonly<Record<string, unknown>>,
  tokenizer: unknown,
  recipe: LanguageModelRecipe,
  threads: number,
): GradientPool {
  const { size } = layoutOf(modelFromConfig(config, "the recipe").parameters);
  const shared = () => new Float32Array(new SharedArrayBuffer(size * Float32Array.BYTES_PER_ELEMENT));
  const weights = shared();
  const gradients = Array.from({ length: recipe.shards }, shared);
  const job: GradientJob = { kind: "gradients", config, tokenizer, recipe, weights, gradients };
  const count = Math.min(threads, recipe.shards);
  const workers = Array.from({ length: count }, (_, i) => ({
    worker: startWorker<GradientRequest, readonly number[]>(job),
    shards: gradients.map((_, shard) => shard).filter((shard) => shard % count === i),
  }));
  return {
    weights,
    gradients,
    async run(step) {
      const losses: number[] = [];
      await Promise.all(
        workers.map(async ({ worker, shards }) => {
          const found = await worker.ask({ step, shards });
          shards.forEach((shard, i) => {
            losses[shard] = found[i]!;
          });
        }),
      );
      return losses;
    },
    close: async () => void (await Promise.all(workers.map(({ worker }) => worker.terminate()))),
  };
}

/** A reader in a thread of its own. */
export function captureThread(job: CaptureJob): ActivationReader {
  const worker = startWorker<string | number, ReadonlyMap<SiteName, Float32Array>>(job);
  // Not terminated: onnxruntime takes the process down if its thread ends within a run.
  return { read: (piece) => worker.ask(piece), close: () => worker.end() };
}

/**
 * Runs one job in several threads, each with a share of the sites.
 *
 * @returns the threads' results, one after another
 * @throws StoppedError if `signal` is aborted
 */
export async function runBySites<Result, Progress>(
  job: DictionaryJob | EvaluationJob,
  threads: number,
  onProgress: (progress: Progress, thread: number) => void,
  signal: AbortSignal,
): Promise<Result[]> {
  const workers = shares(job.sites, threads).map((sites) => startWorker<null, Result[], Progress>({ ...job, sites }));
  const stopped = new Promise<never>((_, reject) => {
    signal.addEventListener("abort", () => reject(new StoppedError("Stopped; nothing was written.")), { once: true });
  });
  try {
    const results = workers.map((worker, i) => worker.ask(null, { onEvent: (progress) => onProgress(progress, i) }));
    return (await Promise.race([Promise.all(results), stopped])).flat();
  } finally {
    await Promise.all(workers.map((worker) => worker.terminate()));
  }
}

/** Sites in shares of about equal work: the layers are dealt out back and forth, since early ones cost more to evaluate and late ones to capture. */
function shares(sites: readonly SiteName[], count: number): SiteName[][] {
  const layers = [...new Set(sites.map((site) => parseSite(site).layer))].sort((a, b) => a - b);
  const dealt = layers.map((layer, i) => {
    const place = i % (2 * count);
    return [layer, place < count ? place : 2 * count - 1 - place] as const;
  });
  return Array.from({ length: count }, (_, share) =>
    sites.filter((site) => dealt.some(([layer, to]) => to === share && layer === parseSite(site).layer)),
  ).filter((some) => some.length > 0);
}

/** Starts the training thread, which is compiled JavaScript beside this file. */
function startWorker<Request, Result, Progress = never>(job: Job): Asking<Request, Result, Progress> {
  return openThread(new URL("./train-worker.js", import.meta.url), job);
}
