import { setFlagsFromString } from "node:v8";

/**
 * Sets V8 up for work of which nearly all memory is numbers in typed arrays. They count for the limits at which a collection begins, so a heap of
 * 20 MB of objects was marked anew after every few tens of MB of numbers: an eighth of the processor time of a short run. Loops over numbers are
 * compiled later, as most functions of such a run are not worth it.
 *
 * Comes before the thread that works: a thread takes the size of its young generation when it starts.
 */
export function setUpCollector(): void {
  for (const flag of flags) setFlagsFromString(flag);
}

const flags = ["--heap-growing-percent=500", "--min-semi-space-size=16", "--interrupt-budget=1000000"];
