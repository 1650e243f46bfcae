import type { SiteName } from "../site.ts";

/** The feature number of an error node's row. */
export const errorFeature = -1;

/**
 * Effects of the features of one site: one row per (backward node, feature), as columns of equal length, sorted by node, then feature (the error
 * row, feature −1, first).
 *
 * fClean, fPatch: codes at the node's clean and patch prefix, NaN in error rows. gradient: the change of the metric per unit of the code, summed over
 * the pairs that pass through the node: ⟨g[node], d_i⟩, ∂M/∂f_i where SAEs are spliced in; NaN in error rows and of the method `exact`. effect: in
 * logits, summed likewise.
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

/** Collects rows of one site into columns. */
export class RowBuilder {
  readonly #site: SiteName;
  #size = 0;
  #node: Int32Array;
  #feature: Int32Array;
  #fClean: Float32Array;
  #fPatch: Float32Array;
  #gradient: Float32Array;
  #effect: Float64Array;

  /** @param expected about how many rows there will be */
  constructor(site: SiteName, expected = 1024) {
    this.#site = site;
    const room = Math.max(1024, expected);
    this.#node = new Int32Array(room);
    this.#feature = new Int32Array(room);
    this.#fClean = new Float32Array(room);
    this.#fPatch = new Float32Array(room);
    this.#gradient = new Float32Array(room);
    this.#effect = new Float64Array(room);
  }

  add(node: number, feature: number, fClean: number, fPatch: number, gradient: number, effect: number): void {
    this.set(this.reserve(), node, feature, fClean, fPatch, gradient, effect);
  }

  /** Makes room for a row that is filled later with `set`; rows keep the order in which they were reserved. */
  reserve(): number {
    if (this.#size === this.#node.length) this.#grow();
    return this.#size++;
  }

  set(
    row: number,
    node: number,
    feature: number,
    fClean: number,
    fPatch: number,
    gradient: number,
    effect: number,
  ): void {
    this.#node[row] = node;
    this.#feature[row] = feature;
    this.#fClean[row] = fClean;
    this.#fPatch[row] = fPatch;
    this.#gradient[row] = gradient;
    this.#effect[row] = effect;
  }

  finish(): EffectRows {
    const n = this.#size;
    return {
      site: this.#site,
      node: this.#node.slice(0, n),
      feature: this.#feature.slice(0, n),
      fClean: this.#fClean.slice(0, n),
      fPatch: this.#fPatch.slice(0, n),
      gradient: this.#gradient.slice(0, n),
      effect: this.#effect.slice(0, n),
    };
  }

  #grow(): void {
    const grown = <T extends Int32Array | Float32Array | Float64Array>(column: T): T => {
      const larger = new (column.constructor as new (n: number) => T)(2 * column.length);
      larger.set(column);
      return larger;
    };
    this.#node = grown(this.#node);
    this.#feature = grown(this.#feature);
    this.#fClean = grown(this.#fClean);
    this.#fPatch = grown(this.#fPatch);
    this.#gradient = grown(this.#gradient);
    this.#effect = grown(this.#effect);
  }
}
