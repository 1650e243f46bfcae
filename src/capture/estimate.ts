import { type StoredType, storedBytes } from "../models/checkpoint.ts";
import type { Model } from "../models/model.ts";
import { parseSite, type SiteName } from "../site.ts";
import type { Plan } from "./packs.ts";
import { gradientRows } from "./runner.ts";
import { defaultWaveRows, lowestBlock } from "./streamed.ts";

/** What running plans takes, told from shapes alone. */
export interface CaptureCost {
  /** Floating-point operations, padding and what is computed again included. */
  readonly flops: number;
  /** Bytes of weights that are read from files. */
  readonly read: number;
  /** Bytes of memory at the peak, besides the program itself. */
  readonly memory: number;
  /** Bytes in the store: at the peak, and of the rows that stay until the effects are computed. */
  readonly stored: { readonly peak: number; readonly end: number };
  /** Bytes of graphs with weights inside that have to be compiled; 0 where the runtime reads weights in place. */
  readonly compiled: number;
}

/**
 * Copies of held weights that are in memory: one where the runtime reads them in place; otherwise also, for each of the two graphs, as the graph's file
 * and in the session, there also packed for the matrix products. Measured on models of 4 to 135 million parameters.
 */
const heldCopies = { inPlace: 1, compiled: 5.6 };

/**
 * Numbers per row that a block's graph has in memory at its peak, as multiples of the widths of its matrices' results; backward needs what forward
 * saves as well. Measured on blocks of Gemma 2's and SmolLM2's shape.
 */
const liveShare = { forward: 1, backward: 2 };

/** The arrays of a wave's stream that are in memory at a time: what goes in and comes out, what is saved, and what waits to be collected. */
const liveStreams = 5;

/**
 * The cost of a capture of several plans with weights held or streamed.
 *
 * @param number bytes of a number that is computed with
 * @param inPlace whether the runtime reads held weights in place
 */
export function captureCost(
  model: Model,
  plans: readonly Plan[],
  sites: readonly SiteName[],
  weights: "held" | "streamed",
  storedType: (name: string) => StoredType,
  number: 4 | 8 = 4,
  inPlace = true,
): CaptureCost {
  const packs = plans.flatMap((plan) => plan.packs.map((pack) => ({ plan, pack })));
  const rowsOf = (kind: "forward" | "backward") =>
    packs.reduce((sum, { pack }) => sum + (pack.kind === kind ? pack.tokens.length : 0), 0);
  const [forward, backward] = [rowsOf("forward"), rowsOf("backward")];
  const largest = packs.reduce((most, { pack }) => Math.max(most, pack.tokens.length), 0);
  const block = plans[0]?.block ?? 0;

  const linear = model.flopsPerToken;
  const attention = block * model.attentionFlops;
  const L = model.layers;
  // Held weights save what the forward pass computes; streamed blocks compute it again, but only those that gradients have to pass.
  const low = backward > 0 ? lowestBlock(model, sites) : L;
  const share = weights === "held" ? 1 : (L - low) / L;
  const passes = weights === "held" ? 1 + share : 1 + 2 * share;
  const flops = (forward + passes * backward) * linear + (forward + (passes + share) * backward) * attention;

  const { parameters, widths } = shapesOf(model, storedType);
  const width = (site: SiteName) => model.sites[parseSite(site).kind]!;
  const kept = packs.reduce((sum, { pack }) => sum + pack.keep.length, 0);
  const gradients = packs.reduce(
    (sum, { plan, pack }) => sum + (pack.kind === "backward" ? gradientRows(plan, pack).length : 0),
    0,
  );
  const siteBytes = number * sites.reduce((sum, site) => sum + width(site), 0);
  const end = siteBytes * (kept + gradients);

  const scores = 3 * largest * block * model.heads;
  const rows = (kind: "forward" | "backward") => number * (largest * liveShare[kind] * widths + scores);
  if (weights === "held") {
    const saved = number * largest * (L * widths + sites.reduce((sum, site) => sum + 2 * width(site), 0));
    return {
      flops,
      read: parameters.stored,
      memory: heldCopies[inPlace ? "inPlace" : "compiled"] * number * parameters.count + saved + rows("backward"),
      stored: { peak: end, end },
      compiled: inPlace ? 0 : 2 * number * parameters.count,
    };
  }
  const wave = Math.min(defaultWaveRows, forward + backward);
  const waves = Math.max(1, Math.ceil((forward + backward) / defaultWaveRows));
  const ofBlocks = parameters.blocks / L;
  const session = number * (parameters.blockCount / L) + rows(backward > 0 ? "backward" : "forward");
  const stream = number * wave * model.width;
  return {
    flops,
    read: waves * parameters.blocks * (1 + share),
    memory: 2 * ofBlocks + session + liveStreams * stream,
    // When the forward pass is done, the inputs of all blocks that gradients pass are there, with the rows that are kept of this wave's x and of all that the waves before gave.
    stored: { peak: (L + 1 - low) * stream + siteBytes * (kept + (gradients * (waves - 1)) / waves), end },
    compiled: 0,
  };
}

/** Numbers and stored bytes of all parameters and of those in blocks, and the widths of all results of a block's matrices together. */
function shapesOf(model: Model, storedType: (name: string) => StoredType) {
  let [count, stored, blocks, blockCount, widths] = [0, 0, 0, 0, 0];
  for (const [name, shape] of model.parameters) {
    const size = shape.reduce((a, b) => a * b, 1);
    const bytes = size * storedBytes[storedType(name)];
    count += size;
    stored += bytes;
    if (!/\.\d+\./.test(name)) continue;
    blocks += bytes;
    blockCount += size;
    if (shape.length === 2) widths += Math.max(shape[0]!, shape[1]!) / model.layers;
  }
  return { parameters: { count, stored, blocks, blockCount }, widths };
}
