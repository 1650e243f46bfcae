import type { SiteName } from "../site.ts";

/** The feature number of an error node's row. */
export const errorFeature = -1;

/**
 * Effects of the features of one site: one row per (backward node, feature), as columns of equal length, sorted by node, then feature (the error
 * row, feature −1, first).
 *
 * fClean, fPatch: codes at the node's clean and patch prefix, NaN in error rows. gradient: ⟨g[node], d_i⟩ with g summed over the pairs that pass
 * through the node, NaN in error rows. effect: in logits, summed likewise.
 */
export interface EffectRows {
  readonly site: SiteName;
  readonly node: Int32Array;
  readonly feature: Int32Array;
  readonly fClean: Float32Array;
  readonly fPatch: Float32Array;
  readonly gradient: Float32Array;
  readonly effect: Float64Array;
}
