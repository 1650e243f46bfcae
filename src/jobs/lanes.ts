import { threadCount } from "#session";
import type { Dictionary, Encoder } from "../dictionaries/dictionary.ts";
import type { CodeOptions, SparseCodes } from "../dictionaries/encode.ts";
import type { Lane } from "../effects/analytic.ts";
import type { FoundSite, SiteNumbers } from "../effects/node-effects.ts";
import type { Watch } from "../progress.ts";
import { openThread } from "./ask.ts";

/** What a lane's thread is asked: codes of x[rows,D], or effects. */
export type LaneRequest =
  | {
      readonly kind: "codes";
      readonly dictionary: Pick<Dictionary, "kind" | "featureCount" | "inputWidth" | "meanActive">;
      readonly encoder: Encoder;
      readonly x: Float32Array | Float64Array;
    }
  | { readonly kind: "effects"; readonly numbers: SiteNumbers };

export type LaneResult<R extends LaneRequest> = R extends { kind: "codes" } ? SparseCodes : FoundSite;

/** How much is done, of how much. */
export type LaneProgress = readonly [done: number, total: number];

/** More threads do not help: one thread reads for all of them, and takes what they find. */
const mostLanes = 8;
/** How often it is looked whether a thread should stop, in milliseconds. */
const lookEvery = 200;

/**
 * Threads that compute effects of sites beside one another, each with one thread of the runtime; none where there is one core alone, or where something
 * else than the CPU computes.
 */
export function openLanes({ threads, device = "cpu", dtype }: CodeOptions): readonly Lane[] {
  const count = Math.min(mostLanes, threadCount(threads));
  // Threads are started from compiled files.
  if (device !== "cpu" || count < 2 || !import.meta.url.endsWith(".js")) return [];
  return Array.from({ length: count }, () => openLane({ threads: 1, ...(dtype && { dtype }) }));
}

function openLane(options: CodeOptions): Lane {
  const entry = new URL("./lane-worker.js", import.meta.url);
  const thread = openThread<LaneRequest, SparseCodes | FoundSite, LaneProgress>(entry, options);
  const ask = async <R extends LaneRequest>(request: R, { onProgress, stopped }: Watch = {}) => {
    const look = setInterval(() => stopped?.() && thread.stop(), lookEvery);
    const answer = thread.ask(request, { onEvent: ([done, total]) => onProgress?.(done, total) });
    return answer.finally(() => clearInterval(look)) as Promise<LaneResult<R>>;
  };
  return {
    async encode({ kind, featureCount, inputWidth, meanActive, encoder }, x, watch) {
      const dictionary = { kind, featureCount, inputWidth, ...(meanActive !== undefined && { meanActive }) };
      return ask({ kind: "codes", dictionary, encoder: await encoder(), x }, watch);
    },
    effects: (numbers, watch) => ask({ kind: "effects", numbers }, watch),
    // Not terminated: onnxruntime takes the process down if its thread ends within a run.
    release: () => thread.end(),
  };
}
