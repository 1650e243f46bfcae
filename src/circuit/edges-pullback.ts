import type { Capture } from "../capture/capture.ts";
import { type Floats, newFloats } from "../capture/hooks.ts";
import type { Tree } from "../forest/forest.ts";
import type { LoadedModel } from "../models/weights.ts";
import { parseSite } from "../site.ts";
import { attentionBack, attentionForward } from "./attention-back.ts";
import type { Step } from "./paths.ts";
import { type Heads, openRowParts } from "./row-parts.ts";

/**
 * The places of cotangents: row r belongs to column[r], a target, at the backward node node[r]. Rows of a column follow one another, their nodes in
 * ascending order, so that parents come before children; with a node a column has all of its changed ancestors, or none.
 */
export interface CotangentRows {
  readonly column: Int32Array;
  readonly node: Int32Array;
}

/** Products of cotangents with the transposed Jacobians of sublayers. */
export interface Pullback {
  /**
   * Jᵀv at the rows' nodes, summed for each column: a row gets what comes to its node from all rows of its column. Nodes of which a column has no row
   * get nothing.
   *
   * @param v cotangents [R, width of step.from]
   * @returns [R, width of where the step leads]
   */
  apply(step: Step, rows: CotangentRows, v: Floats): Promise<Floats>;
  /** Releases the sessions. */
  release(): Promise<void>;
}

/** Numbers of cotangents of queries, keys and values, and of what heads give at all points, that are in memory at a time. */
export const attentionNumbers = 2 ** 25;

/**
 * Products with sublayers of a model, at the clean prompts or averaged over points on the way from the clean to the patch input of each sublayer.
 *
 * @param captured with the streams and attn_out of all layers, at every clean prefix and at the patch prefixes of changed ones
 * @param points 0 is the clean input, 1 the patch input; the Jacobians at all of them are averaged
 */
export function openPullback(
  loaded: LoadedModel,
  captured: Capture,
  points: readonly number[],
  { stopped }: { readonly stopped?: (() => boolean) | undefined } = {},
): Pullback {
  const { backward } = captured.plan.forest;
  const K = points.length;
  const parts = openRowParts(loaded, captured, points, stopped);
  let known: { readonly layer: number; readonly heads: Heads } | undefined;
  const headsOf = async (layer: number): Promise<Heads> => {
    if (known?.layer !== layer) known = { layer, heads: await parts.heads(layer) };
    return known.heads;
  };

  /** From attn_out or attn_z to the stream, at rows first…last of which columns have all. */
  const throughAttention = async (
    { layer, from }: Step,
    { column, node }: CotangentRows,
    v: Floats,
    [first, last]: readonly [number, number],
  ): Promise<Floats> => {
    const own = node.subarray(first, last);
    const above = rowsAbove(column.subarray(first, last), own, backward);
    const used = usedRows(v, node.length, first, last)
      .map((row) => row - first)
      .sort((a, b) => own[a]! - own[b]! || a - b);
    const nodes = used.map((row) => own[row]!);
    const q = rowsAt(
      v,
      node.length,
      used.map((row) => row + first),
    );
    const heads = await headsOf(layer);
    const z = () => attentionForward(heads, backward, K);
    const dz =
      parseSite(from).kind === "attn_z"
        ? repeated(q, used.length, K)
        : await parts.pullBack("projection", layer, nodes, q, "apart", z);
    const { t, s } = attentionBack(heads, backward, { node: own, above, used }, dz, K);
    return heads.scaled ? parts.pullBackScaled(layer, own, t, s) : parts.pullBack("heads", layer, own, t, "each");
  };

  return {
    async apply(step, rows, v) {
      const { sublayer, layer } = step;
      const R = rows.node.length;
      if (sublayer !== "attention") {
        const used = usedRows(v, R, 0, R);
        if (used.length === R) return parts.pullBack(sublayer, layer, rows.node, v, "mean");
        const nodes = used.map((row) => rows.node[row]!);
        const found = await parts.pullBack(sublayer, layer, nodes, rowsAt(v, R, used), "mean");
        const width = found.length / Math.max(1, used.length);
        const out = newFloats(loaded.dtype, R * width);
        used.forEach((row, i) => {
          out.set(found.subarray(i * width, (i + 1) * width), row * width);
        });
        return out;
      }
      const out = newFloats(loaded.dtype, R * loaded.model.width);
      const { values, scaled, heads, headWidth } = await headsOf(layer);
      const numbers = (values.length / (backward.size * K)) * (scaled ? 1 : K) + K * heads * headWidth;
      for (const [first, last] of columnRuns(rows.column, attentionNumbers / numbers)) {
        out.set(await throughAttention(step, rows, v, [first, last]), first * loaded.model.width);
      }
      return out;
    },
    release: () => parts.release(),
  };
}

/** Whole columns, about so many rows at a time: the first row of each part and the one behind its last. */
function* columnRuns(column: Int32Array, rows: number): Generator<readonly [number, number]> {
  for (let first = 0, last = 0; first < column.length; first = last) {
    while (last < column.length && (last - first < rows || column[last] === column[last - 1])) last++;
    yield [first, last];
  }
}

/** For each row that of its column at the node's parent; −1 where there is none. */
function rowsAbove(column: Int32Array, node: Int32Array, { parent, size }: Tree): Int32Array {
  const [rowAt, columnAt] = [new Int32Array(size), new Int32Array(size).fill(-1)];
  return node.map((at, row) => {
    rowAt[at] = row;
    columnAt[at] = column[row]!;
    const up = parent[at]!;
    return up >= 0 && columnAt[up] === column[row] ? rowAt[up]! : -1;
  });
}

/** The rows from `first` on that are not all 0. */
function usedRows(v: Floats, R: number, first: number, last: number): Int32Array {
  const D = v.length / R;
  const used: number[] = [];
  for (let row = first; row < last; row++) {
    let d = row * D;
    while (d < (row + 1) * D && v[d] === 0) d++;
    if (d < (row + 1) * D) used.push(row);
  }
  return Int32Array.from(used);
}

/** Some of R rows. */
function rowsAt(v: Floats, R: number, rows: Int32Array): Floats {
  const D = v.length / R;
  const out = new (v.constructor as new (n: number) => Floats)(rows.length * D);
  for (let i = 0; i < rows.length; i++) out.set(v.subarray(rows[i]! * D, (rows[i]! + 1) * D), i * D);
  return out;
}

/** Each of R rows K times. */
function repeated(v: Floats, R: number, K: number): Floats {
  return rowsAt(
    v,
    R,
    Int32Array.from({ length: R * K }, (_, at) => Math.floor(at / K)),
  );
}
