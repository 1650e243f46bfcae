import type { CodeReader } from "../dictionaries/encode.ts";
import type { Loops } from "../graph/loops/loops.ts";
import type { Watch } from "../progress.ts";
import { effectsOfNumbers, type FoundSite, type SiteNumbers } from "./node-effects.ts";

/** Where sites are computed, one after another: in this thread, or in one of its own. */
export interface Lane extends CodeReader {
  /** @throws StoppedError if asked to stop */
  effects(numbers: SiteNumbers, watch?: Watch): Promise<FoundSite>;
}

/** A lane in this thread. */
export function laneHere(codes: CodeReader, loops: Loops): Lane {
  return { ...codes, effects: async (numbers, watch) => effectsOfNumbers(numbers, loops, watch) };
}
