import type { Capture } from "../capture/capture.ts";
import type { Floats } from "../capture/hooks.ts";
import type { Dictionary } from "../dictionaries/dictionary.ts";
import { dot } from "../effects/directions.ts";
import { isChanged } from "../forest/forest.ts";
import type { SiteName } from "../site.ts";
import { changesAt, type NodeCodes } from "./edges-codes.ts";
import type { CotangentRows } from "./edges-pullback.ts";

/** What of a site edges come from: features and their error, or the tokens. */
export interface Source {
  readonly site: SiteName;
  /** D */
  readonly width: number;
  /** For each backward node its place in the changes; −1 where nothing changes. */
  readonly placeOf: Int32Array;
  /** Δx[nodes,D] */
  readonly changes: Float64Array;
  /** Of a site with a dictionary. */
  readonly features?: {
    readonly codes: NodeCodes;
    /** d_i [live,D] of the features in `codes.live`. */
    readonly directions: Float32Array;
    /** Δε[nodes,D] */
    readonly errors: Float64Array;
  };
}

/** The features and the error of a site. */
export async function featureSource(captured: Capture, dictionary: Dictionary, codes: NodeCodes): Promise<Source> {
  const { writes: site, outputWidth: D } = dictionary;
  const changes = await changesAt(captured, site, codes.nodes);
  const directions = await dictionary.decoderRows(codes.live);
  const errors = changes.slice();
  codes.nodes.forEach((_, place) => {
    for (let at = codes.offsets[place]!; at < codes.offsets[place + 1]!; at++) {
      const change = codes.fPatch[at]! - codes.fClean[at]!;
      const from = codes.liveOf[codes.feature[at]!]! * D;
      if (change !== 0) for (let d = 0; d < D; d++) errors[place * D + d]! -= change * directions[from + d]!;
    }
  });
  return { site, width: D, placeOf: codes.placeOf, changes, features: { codes, directions, errors } };
}

/** A site's whole change, where it has no dictionary: the tokens. */
export async function tokenSource(captured: Capture, site: SiteName): Promise<Source> {
  const { backward } = captured.plan.forest;
  const nodes: number[] = [];
  const placeOf = Int32Array.from({ length: backward.size }, (_, node) =>
    isChanged(backward, node) ? nodes.push(node) - 1 : -1,
  );
  const changes = await changesAt(captured, site, Int32Array.from(nodes));
  return { site, width: nodes.length === 0 ? 0 : changes.length / nodes.length, placeOf, changes };
}

/** The edges from a source into one column. */
export interface Contraction {
  /** Σ_nodes Δf_i⟨d_i, v⟩ of the features in `codes.live`; written over by the next column. */
  readonly values: Float64Array;
  /** Σ ⟨Δε, v⟩; of the tokens 0. */
  readonly error: number;
  /** Σ ⟨Δx, v⟩, which features and error add up to. */
  readonly total: number;
  /** Σ of the features and the error; of the tokens `total`. */
  readonly sum: number;
}

/** Contracts a source with the cotangents v[R,D] at it, column by column. */
export function contract(
  { width: D, placeOf, changes, features }: Source,
  { column, node }: CotangentRows,
  v: Floats,
  visit: (column: number, found: Contraction) => void,
): void {
  const values = new Float64Array(features?.codes.live.length ?? 0);
  for (let row = 0; row < node.length; ) {
    const c = column[row]!;
    values.fill(0);
    let [error, total] = [0, 0];
    for (; row < node.length && column[row] === c; row++) {
      const place = placeOf[node[row]!]!;
      if (place < 0) continue;
      total += dot(v, row * D, changes, place * D, D);
      if (!features) continue;
      const { codes, directions, errors } = features;
      error += dot(v, row * D, errors, place * D, D);
      for (let at = codes.offsets[place]!; at < codes.offsets[place + 1]!; at++) {
        const change = codes.fPatch[at]! - codes.fClean[at]!;
        if (change === 0) continue;
        const live = codes.liveOf[codes.feature[at]!]!;
        values[live]! += change * dot(v, row * D, directions, live * D, D);
      }
    }
    const sum = features ? values.reduce((a, b) => a + b, error) : total;
    visit(c, { values, error, total, sum });
  }
}
