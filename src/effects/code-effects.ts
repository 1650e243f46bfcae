import type { CodeRow } from "../dictionaries/encode.ts";
import type { SiteName } from "../site.ts";
import { type EffectRows, errorFeature, RowBuilder } from "./rows.ts";

/** The codes at a node's clean and patch prefix. */
export interface CodePair {
  readonly clean: CodeRow;
  readonly patch: CodeRow;
}

/** Calls `visit` for every feature whose codes differ, in ascending order. */
export function forEachDifference(
  { clean, patch }: CodePair,
  visit: (feature: number, fClean: number, fPatch: number) => void,
): void {
  let [i, j] = [0, 0];
  while (i < clean.features.length || j < patch.features.length) {
    const a = clean.features[i] ?? Number.POSITIVE_INFINITY;
    const b = patch.features[j] ?? Number.POSITIVE_INFINITY;
    const feature = Math.min(a, b);
    const fClean = a === feature ? clean.values[i++]! : 0;
    const fPatch = b === feature ? patch.values[j++]! : 0;
    if (fClean !== fPatch) visit(feature, fClean, fPatch);
  }
}

/**
 * Rows of effects from gradients with respect to codes: effect = Δf·∂M/∂f, and the error's.
 *
 * @param gradient ∂M/∂f of a feature at a node
 * @param error the error's effect at a node
 */
export function codeEffects(
  site: SiteName,
  nodes: Int32Array,
  codes: (node: number) => CodePair,
  gradient: (node: number) => (feature: number) => number,
  error: (node: number) => number,
): EffectRows {
  const rows = new RowBuilder(site);
  for (const node of nodes) {
    const gradientOf = gradient(node);
    rows.add(node, errorFeature, Number.NaN, Number.NaN, Number.NaN, error(node));
    forEachDifference(codes(node), (feature, fClean, fPatch) => {
      const slope = gradientOf(feature);
      rows.add(node, feature, fClean, fPatch, slope, (fPatch - fClean) * slope);
    });
  }
  return rows.finish();
}
