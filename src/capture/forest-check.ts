import { type PrefixForest, prefixForest } from "../forest/forest.ts";
import { alikePacks, type Plan, planCapture } from "../forest/packs.ts";
import type { TokenPair } from "../prompts/pairs.ts";
import type { SiteName } from "../site.ts";
import type { Capture } from "./capture.ts";

/** What is compared: the effect of a node's change, ⟨g, Δx⟩, or where there may be no patch prompts ⟨g, x⟩ at its clean prefix. */
type Compared = "changed" | "clean";

/** The largest difference between the forest's and the separate examples' effect at one site. */
export interface ForestGap {
  readonly site: SiteName;
  /** Largest |⟨g, Δx⟩ on the forest − the same, example by example| over nodes, in logits; ⟨g, x⟩ where clean prefixes are compared. */
  readonly gap: number;
  /** Largest Σ_d |g_d·Δx_d|, or Σ_d |g_d·x_d|, of a node: what the sum's rounding is measured by, also where its terms cancel. */
  readonly scale: number;
}

/**
 * What has to be captured to check on some pairs that the prefix forest gives what example by example gives (METHOD, check 4): the merged forest, and
 * a path of its own for each pair.
 */
export function forestCheckPlans(
  pairs: readonly TokenPair[],
  tileSize?: number,
  wanted: Compared = "changed",
): [merged: Plan, separate: Plan] {
  const plan = (merge: "all" | "none", n = tileSize) =>
    planCapture(prefixForest(pairs, { merge }), { wanted, ...(n !== undefined && { tileSize: n }) });
  const separate = plan("none");
  const [merged, apart] = alikePacks([plan("all", separate.tileSize), plan("none", separate.tileSize)]);
  return [merged!, apart!];
}

/** Compares ⟨g, Δx⟩, or ⟨g, x⟩ where the plans want clean prefixes, at every site and node of the merged forest with the sums over the separate paths of the pairs that pass through it. */
export async function forestGaps(
  merged: Capture,
  separate: Capture,
  sites: readonly SiteName[] = merged.sites,
): Promise<ForestGap[]> {
  const gaps: ForestGap[] = [];
  const known = new Map<string, number>();
  const keys = new Map([merged, separate].map((captured) => [captured, nodeKeys(captured.plan.forest, known)]));
  for (const site of sites) {
    const [a, b] = await Promise.all([merged, separate].map((one) => effectByKey(one, keys.get(one)!, site)));
    let [gap, scale] = [0, 0];
    for (const key of new Set([...a!.keys(), ...b!.keys()])) {
      gap = Math.max(gap, Math.abs((a!.get(key)?.effect ?? 0) - (b!.get(key)?.effect ?? 0)));
      scale = Math.max(scale, b!.get(key)?.absolute ?? 0);
    }
    gaps.push({ site, gap, scale });
  }
  return gaps;
}

async function effectByKey(
  captured: Capture,
  keys: Int32Array,
  site: SiteName,
): Promise<Map<number, { effect: number; absolute: number }>> {
  const { x, g, width: D } = await captured.site(site);
  const { row, forest, wanted } = captured.plan;
  const clean = wanted === "clean";
  const sums = new Map<number, { effect: number; absolute: number }>();
  for (const node of clean ? keys.keys() : captured.activeNodes(site)) {
    const at = row[forest.backward.clean[node]!]! * D;
    const patch = row[forest.backward.patch[node]!]! * D;
    const sum = sums.get(keys[node]!) ?? { effect: 0, absolute: 0 };
    sums.set(keys[node]!, sum);
    for (let d = 0; d < D; d++) {
      const value = clean ? x[at + d]! : x[patch + d]! - x[at + d]!;
      const term = g[node * D + d]! * value;
      sum.effect += term;
      sum.absolute += Math.abs(term);
    }
  }
  return sums;
}

/**
 * A number for the group and both prefixes of each backward node: equal for nodes that merging makes one.
 *
 * @param known numbers by the parent's number and the last tokens, shared by the forests that are compared
 */
function nodeKeys({ backward }: PrefixForest, known: Map<string, number>): Int32Array {
  const keys = new Int32Array(backward.size);
  for (let node = 0; node < backward.size; node++) {
    const parent = backward.parent[node]!;
    const before = parent < 0 ? `group ${backward.group[node]}` : keys[parent];
    const path = `${before} ${backward.token[node]}:${backward.patchToken[node]}`;
    const key = known.get(path) ?? known.size;
    known.set(path, key);
    keys[node] = key;
  }
  return keys;
}
