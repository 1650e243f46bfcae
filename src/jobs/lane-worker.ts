import type { Dictionary } from "../dictionaries/dictionary.ts";
import { type CodeOptions, codeReader, type SparseCodes } from "../dictionaries/encode.ts";
import { effectsOfNumbers, type FoundSite } from "../effects/node-effects.ts";
import { openLoops } from "../graph/loops/loops.ts";
import type { LaneProgress, LaneRequest } from "./lanes.ts";
import { serveThread } from "./serve.ts";

/** Entry of the threads that `openLanes` starts. */
serveThread<CodeOptions, LaneRequest, SparseCodes | FoundSite, LaneProgress>((options) => {
  const [reader, loops] = [codeReader(options), openLoops()];
  return async (request, { reporter: { stopped }, tell }) => {
    const watch = { onProgress: (done: number, total: number) => tell([done, total]), stopped };
    if (request.kind === "effects") return effectsOfNumbers(request.numbers, loops, watch);
    const dictionary = { ...request.dictionary, encoder: async () => request.encoder } as Dictionary;
    return reader.encode(dictionary, request.x, watch);
  };
});
