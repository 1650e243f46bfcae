import type { Capture, SiteCapture } from "../capture/capture.ts";
import { type Entry, type Floats, floatValue, type Job } from "../capture/hooks.ts";
import { openRunner } from "../capture/run.ts";
import type { Runner } from "../capture/runner.ts";
import { streamBefore } from "../capture/stream-sites.ts";
import type { Pack } from "../forest/packs.ts";
import type { SiteName } from "../site.ts";
import type { MethodInput } from "./method.ts";

/** What is left of a model from a site on. */
export interface Continuation {
  readonly runner: Runner;
  /** The activations of the site. */
  readonly captured: SiteCapture;
  /** Of a job: the stream at the clean prompts of a pack's rows, where the site needs it. */
  before(pack: Pack, nodeOf: (row: number) => number): Pick<Job, "before">;
}

/** The sites whose activations methods need that begin at `sites`: these, and the streams before the blocks that they lie in. */
export function sitesToContinueFrom(sites: readonly SiteName[]): SiteName[] {
  return [...new Set(sites.flatMap((site) => [site, streamBefore(site) ?? site]))];
}

/** Opens the rest of a model from a site on. */
export async function openContinuation(given: MethodInput, captured: Capture, from: Entry): Promise<Continuation> {
  const stream = streamBefore(from.site);
  const before = stream === undefined ? undefined : await captured.site(stream);
  return {
    runner: openRunner(given, { from }),
    captured: await captured.site(from.site),
    before: (pack, nodeOf) =>
      before ? { before: () => gatherRows(pack, before, (row) => cleanRow(captured, nodeOf(row))) } : {},
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
export function rowsValue(rows: Floats, D: number) {
  return floatValue(rows, rows.length / D, D);
}
