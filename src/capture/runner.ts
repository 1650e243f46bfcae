import { isChanged } from "../forest/forest.ts";
import type { Pack, Plan } from "../forest/packs.ts";
import type { SiteName } from "../site.ts";
import type { Floats } from "./passes.ts";
import type { Store } from "./store.ts";

/** Runs the packs of plans through a model and saves what is kept of them. */
export interface Runner {
  /**
   * Runs the packs of several plans together. What the store has already is not computed again.
   *
   * @throws StoppedError if asked to stop; finished parts stay in the store
   */
  run(plans: readonly Plan[], store: Store, hooks: Hooks): Promise<Results>;
  release(): Promise<void>;
}

export interface Hooks {
  /** Called as the work goes on. */
  readonly onProgress?: ((done: number, total: number) => void) | undefined;
  /** Asked between steps; true ends the work with a StoppedError. */
  readonly stopped?: (() => boolean) | undefined;
}

/** What is kept of the packs, by plan and pack: metric values [P], and the kept rows of each site's x and g. */
export interface Results {
  metric(plan: number, pack: number): Promise<Floats>;
  /** Undefined where the pack has none: gradients of a forward pack. */
  rows(plan: number, pack: number, kind: "x" | "g", site: SiteName): Promise<Floats | undefined>;
}

/** The place of each plan's first pack in the list of the packs of all of them. */
export function firstJobs(plans: readonly Plan[]): number[] {
  let next = 0;
  return plans.map(({ packs }) => {
    next += packs.length;
    return next - packs.length;
  });
}

/** Rows of a backward pack whose gradients are kept: where only changed prefixes are wanted, those of the others are not read. */
export function gradientRows({ wanted, forest }: Plan, pack: Pack): Int32Array {
  return Int32Array.from(pack.node.keys()).filter((row) => {
    const node = pack.node[row]!;
    return node >= 0 && (wanted !== "changed" || isChanged(forest.backward, node));
  });
}

/** The given rows of a pack's values [N,D]. */
export function keptRows(values: Floats, rows: Int32Array, { tokens: { length: N } }: Pack): Floats {
  const D = values.length / N;
  const out = values.slice(0, rows.length * D);
  rows.forEach((row, i) => {
    out.set(values.subarray(row * D, (row + 1) * D), i * D);
  });
  return out;
}
