import type { Capture, SiteCapture } from "../capture/capture.ts";
import { type Form, type Part, streamBefore, tracePart } from "../capture/part.ts";
import type { Floats } from "../capture/passes.ts";
import { isStreamed } from "../capture/weights.ts";
import type { Pack } from "../forest/packs.ts";
import type { Value } from "../graph/session.ts";
import type { Context } from "../models/model.ts";
import type { SiteName } from "../site.ts";
import type { MethodSetting } from "./method.ts";

/** What is left of a model from a site on, as a part of it that begins with the site's activation. */
export interface Rest {
  readonly part: Part;
  /** The activations of the site. */
  readonly captured: SiteCapture;
  /** The input `before` of a pack's rows, if the part needs it: the stream at the clean prompts. */
  inputs(pack: Pack, nodeOf: (row: number) => number): Readonly<Record<string, Value>>;
}

/** The sites whose activations methods need that begin at `sites`: these, and the streams before the blocks that they lie in. */
export function sitesOfRest(sites: readonly SiteName[]): SiteName[] {
  return [...new Set(sites.flatMap((site) => [site, streamBefore(site) ?? site]))];
}

/** Opens the rest of a model from a site on. */
export async function openRest(
  { model, weights, ...options }: MethodSetting,
  captured: Capture,
  site: SiteName,
  enter: (context: Context) => Form,
): Promise<Rest> {
  if (isStreamed(weights)) throw new Error("internal: parts of a model are traced with held weights");
  const stream = streamBefore(site);
  const before = stream === undefined ? undefined : await captured.site(stream);
  return {
    part: tracePart(model, weights, { ...options, from: { site, enter } }),
    captured: await captured.site(site),
    inputs: (pack, nodeOf) => {
      if (!before) return {};
      const rows = gatherRows(pack, before, (row) => cleanRow(captured, nodeOf(row)));
      return { before: rowsValue(rows, before.width) };
    },
  };
}

/** The row of the activations at a backward node's clean prefix; −1 for node −1, padding. */
export function cleanRow({ plan }: Capture, node: number): number {
  return node < 0 ? -1 : plan.row[plan.forest.backward.clean[node]!]!;
}

/** The row at a backward node's patch prefix. */
export function patchRow({ plan }: Capture, node: number): number {
  return node < 0 ? -1 : plan.row[plan.forest.backward.patch[node]!]!;
}

/** Captured activations [N,D] for the rows of a pack; zeros where `rowOf` gives −1. */
export function gatherRows({ tokens }: Pack, { x, width: D }: SiteCapture, rowOf: (row: number) => number): Floats {
  const rows = new (x.constructor as new (n: number) => Floats)(tokens.length * D);
  for (let row = 0; row < tokens.length; row++) {
    const at = rowOf(row);
    if (at >= 0) rows.set(x.subarray(at * D, (at + 1) * D), row * D);
  }
  return rows;
}

/** Rows of D numbers as an input. */
export function rowsValue(rows: Floats, D: number): Value {
  const dtype = rows instanceof Float64Array ? "float64" : "float32";
  return { dtype, data: rows, shape: [rows.length / D, D] };
}
