import { readFileSync, writeFileSync } from "node:fs";
import type { MemoryMeter } from "../analysis/compare-measure.ts";

/** Resident memory of this process now, in bytes. */
export const residentBytes = (): number => process.memoryUsage.rss();

/**
 * Lets the peak of this process's resident memory begin anew at what it is now, on systems that can (Linux).
 *
 * @returns whether it did; otherwise `peakBytes` is the peak since the process began
 */
export function resetPeak(): boolean {
  try {
    writeFileSync("/proc/self/clear_refs", "5");
    return highWater() !== undefined;
  } catch {
    return false;
  }
}

/** The largest resident memory of this process since `resetPeak`, where that could do something, or since it began; in bytes. */
export const peakBytes = (): number => highWater() ?? process.resourceUsage().maxRSS * 1024;

function highWater(): number | undefined {
  try {
    const kilobytes = /^VmHWM:\s*(\d+) kB$/m.exec(readFileSync("/proc/self/status", "utf8"))?.[1];
    return kilobytes === undefined ? undefined : Number(kilobytes) * 1024;
  } catch {
    return undefined;
  }
}

/** Measures the memory of this process. Garbage is collected first where Node was started with `--expose-gc`. */
export const processMeter: MemoryMeter = {
  begin() {
    globalThis.gc?.();
    return { bytes: residentBytes(), isReset: resetPeak() };
  },
  peak: peakBytes,
};
