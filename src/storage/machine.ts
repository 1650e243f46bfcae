import { readFileSync } from "node:fs";
import { freemem, totalmem } from "node:os";
import type { Machine } from "../analysis/estimate.ts";

/** The machine that this runs on. */
export const thisMachine: Machine = {
  availableMemory,
  // What macOS calls free leaves out what it gives back when asked.
  mostMemory: () => (process.platform === "darwin" ? totalmem() : availableMemory()),
};

/** Memory that can be had without pushing others out, within the limits of a container. Older Nodes know the system's alone. */
function availableMemory(): number {
  const free = process.availableMemory?.() ?? freemem();
  const limit = process.constrainedMemory?.() ?? 0;
  return limit > 0 && limit < totalmem() ? Math.min(limit, freemem(), free + cachedFiles()) : free;
}

/** Bytes of files that a container has cached: they count as its own, and make room when it is needed. */
function cachedFiles(): number {
  for (const path of ["/sys/fs/cgroup/memory.stat", "/sys/fs/cgroup/memory/memory.stat"]) {
    try {
      const lines = readFileSync(path, "utf8").matchAll(/^(?:in)?active_file (\d+)$/gm);
      return [...lines].reduce((sum, [, bytes]) => sum + Number(bytes), 0);
    } catch {}
  }
  return 0;
}
