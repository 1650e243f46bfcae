import { type Capture, type CaptureOptions, capture } from "../capture/capture.ts";
import { type PlanOptions, planCapture } from "../capture/packs.ts";
import type { Model, Weights } from "../models/model.ts";
import { type Merge, type PrefixForest, prefixForest } from "../prompts/forest.ts";
import type { TokenPair } from "../prompts/pairs.ts";
import type { SiteName } from "../site.ts";

/** The largest difference between the forest's and the separate examples' effect at one site. */
export interface ForestGap {
  readonly site: SiteName;
  /** Largest |⟨g, Δx⟩ on the forest − the same, example by example| over nodes, in logits. */
  readonly gap: number;
  /** Largest Σ_d |g_d·Δx_d| of a node: what the sum's rounding is measured by, also where its terms cancel. */
  readonly scale: number;
}

/**
 * Checks on some pairs that the prefix forest gives what example by example gives (METHOD, check 4): ⟨g, Δx⟩ at every site and node, computed
 * once on the merged forest and once with a path of its own for each pair, whose nodes are then added up.
 */
export async function forestCheck(
  model: Model,
  weights: Weights,
  pairs: readonly TokenPair[],
  options: Omit<CaptureOptions, "store" | "onProgress"> & Pick<PlanOptions, "block">,
): Promise<ForestGap[]> {
  const run = async (merge: Merge) => {
    const forest = prefixForest(pairs, { merge });
    const captured = await capture(
      model,
      weights,
      planCapture(forest, { wanted: "changed", ...(options.block && { block: options.block }) }),
      options,
    );
    return { captured, keys: nodeKeys(forest) };
  };
  const [merged, separate] = [await run("all"), await run("none")];
  const gaps: ForestGap[] = [];
  for (const site of options.sites) {
    const [a, b] = [await effectByKey(merged, site), await effectByKey(separate, site)];
    let [gap, scale] = [0, 0];
    for (const key of new Set([...a.keys(), ...b.keys()])) {
      gap = Math.max(gap, Math.abs((a.get(key)?.effect ?? 0) - (b.get(key)?.effect ?? 0)));
      scale = Math.max(scale, b.get(key)?.absolute ?? 0);
    }
    gaps.push({ site, gap, scale });
  }
  return gaps;
}

async function effectByKey(
  { captured, keys }: { readonly captured: Capture; readonly keys: readonly string[] },
  site: SiteName,
): Promise<Map<string, { effect: number; absolute: number }>> {
  const { x, g, width: D } = await captured.site(site);
  const { row, forest } = captured.plan;
  const sums = new Map<string, { effect: number; absolute: number }>();
  for (const node of captured.activeNodes(site)) {
    const [clean, patch] = [row[forest.backward.clean[node]!]! * D, row[forest.backward.patch[node]!]! * D];
    const sum = sums.get(keys[node]!) ?? { effect: 0, absolute: 0 };
    sums.set(keys[node]!, sum);
    for (let d = 0; d < D; d++) {
      const term = g[node * D + d]! * (x[patch + d]! - x[clean + d]!);
      sum.effect += term;
      sum.absolute += Math.abs(term);
    }
  }
  return sums;
}

/** Split, case and both prefixes of each backward node: equal for nodes that merging makes one. */
function nodeKeys({ backward }: PrefixForest): string[] {
  const keys: string[] = [];
  for (let node = 0; node < backward.size; node++) {
    const parent = backward.parent[node]!;
    const before = parent < 0 ? `${backward.group[node]}` : keys[parent];
    keys.push(`${before} ${backward.token[node]}:${backward.patchToken[node]}`);
  }
  return keys;
}
