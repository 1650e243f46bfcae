import { activeNodes } from "../capture/capture.ts";
import type { Running } from "../capture/cost.ts";
import { streamSite } from "../capture/stream-sites.ts";
import { type Work, workOf } from "../capture/work.ts";
import type { Dictionary } from "../dictionaries/dictionary.ts";
import { activeOf, changedNodes, changedShare, liveWeights } from "../effects/estimate.ts";
import { secantSteps } from "../effects/secant.ts";
import type { PrefixForest } from "../forest/forest.ts";
import { storedBytes } from "../models/checkpoint.ts";
import type { Model } from "../models/model.ts";
import { parseSite, type SiteName } from "../site.ts";
import { chunkNumbers, type Jacobian, sitesOfEdges } from "./edges.ts";
import { attentionNumbers } from "./edges-pullback.ts";
import { keptSources } from "./edges-sources.ts";
import { directionNumbers } from "./edges-targets.ts";
import { hasNormBehind, pathShape, type Route, routeTo, routeToMetric, type Step } from "./paths.ts";
import { nodeNumbers, runRows } from "./row-parts.ts";

/**
 * Share of the changed nodes at which the code of a chosen feature changes, where effects have not told yet. Measured: 0.28 and 0.15 on the
 * embedded model with 10 and 50 features per site.
 */
const usualShare = 0.2;

/**
 * Numbers that are multiplied one by one, beside products with weights: of a node at each point by the width within the sublayer, and of a row by that of
 * the model, which is copied from step to step (bench/estimates.mjs).
 */
const [nodeWork, rowWork] = [40, 20];

/** Tensors as wide as an MLP's two first products that the session of its nodes holds at a time. */
const tensorsOfNodes = 8;

/** What edges are counted by. */
export interface EdgeCounts {
  readonly jacobian: Jacobian;
  /** Points of the secant, where they are not the usual ones. */
  readonly steps?: number | undefined;
  /** At how many nodes all of a site's target features change, added up, where that is known. */
  readonly nodes?: ReadonlyMap<SiteName, number>;
}

/** Edges into some targets, told from shapes and from where the targets change. */
export interface EdgeWork extends Work {
  /** Vectors that are multiplied with a sublayer's Jacobian, ancestors and padding left out. */
  readonly vectors: number;
}

/**
 * What `edges` takes, its capture left out.
 *
 * @param targets features at each target site, to which the error comes; every site is a target as a whole
 */
export function edgesWork(
  { model, weights, storedType, number }: Running,
  forest: PrefixForest,
  dictionaries: ReadonlyMap<SiteName, Dictionary>,
  targets: ReadonlyMap<SiteName, number>,
  { jacobian, steps, nodes }: EdgeCounts,
): EdgeWork {
  const chosen = new Set(dictionaries.keys());
  const K = jacobian === "secant" ? (steps ?? secantSteps([...chosen])) : 1;
  const { backward } = forest;
  const changed = changedNodes(backward);
  const depth = changed.reduce((sum, node) => sum + backward.position[node]! + 1, 0) / Math.max(1, changed.length);
  const shape = pathShape(model);
  const shares = sublayerShares(model);
  const block = blockBytes(model, storedType);
  // Behind a norm of the MLP nodes give its slopes besides, once forward and back more; rows pass that of attention at every point.
  const isNormed = hasNormBehind(model);
  const neurons = model.sites.mlp_act ?? model.width;
  const heads = model.sites.attn_z ?? model.width;

  const kinds = new Set<Step["sublayer"]>();
  let [passes, products, read, decoded, vectors, memory, traced] = [0, 0, 0, 0, 0, 0, 0];
  const into = (route: Route, own: number, whole: number, nodes: number, sourceSites: readonly SiteName[]) => {
    // Attention takes a feature's nodes with all that comes before them; the error and the site are whole trees already.
    const trees = own * (1 + (depth - 1) / 2) + whole;
    let mixed = false;
    for (const step of route.steps) {
      const isMlp = step.sublayer !== "attention";
      const rows = isMlp ? (mixed ? trees : own + whole) : trees;
      vectors += own + whole;
      kinds.add(step.sublayer);
      const chunks = Math.max(1, Math.ceil(((own + whole) * model.width * (route.steps.length + 1)) / chunkNumbers));
      // Each time it is traced, which takes about as long as to open a session.
      traced += chunks;
      // Nodes go forward at every point, for each chunk of an MLP's rows; rows only back, and once for all points.
      const forward = K * (isMlp ? chunks * nodes : backward.size);
      const again = !isNormed ? 0 : isMlp ? forward : (K - 1) * (own + whole) * projectionShare(model);
      passes += (forward + rows + again) * shares[step.sublayer] * model.flopsPerToken;
      if (!isMlp) products += (K * (own + whole) * depth * model.attentionFlops) / model.layers;
      const inner = isMlp ? neurons : model.width;
      products += (nodeWork * forward + K * rows) * inner + rowWork * rows * model.width;
      if (weights === "streamed") read += chunks * (isMlp ? 1 : 2) * block;
      mixed ||= !isMlp;
    }
    const rows = mixed ? trees : own + whole;
    let ofSource = 0;
    for (const site of sourceSites) {
      const one = dictionaries.get(site);
      products += rows * model.width * (2 + (one ? (1 + changedShare) * activeOf(one) : 0));
      if (!one) continue;
      const { outputWidth: D, featureCount: F } = one;
      decoded += D * F;
      // Directions, as they are read and where they are met; Δx and Δε there and of the sources that are kept.
      const live = Math.min(F, changed.length * (1 + changedShare) * activeOf(one));
      ofSource = Math.max(ofSource, 8 * D * live + 16 * D * changed.length * (1 + keptSources));
    }
    // Cotangents of all steps; of one their sum, the rows that are not 0, what these give, and the same in all rows.
    const numbersOf = (registers: number) => registers * model.width;
    const most = Math.min(rows, chunkNumbers / numbersOf(route.steps.length + 1));
    const onTheWay = mixed ? Math.min(attentionNumbers, rows * (K + 3) * heads) : 0;
    return ofSource + number * (most * numbersOf(route.steps.length + 5) + onTheWay);
  };
  for (const [site, dictionary] of dictionaries) {
    if (site === "embed") continue;
    const there = activeNodes(model, forest, site).length;
    const { inputWidth: D, featureCount: F } = dictionary;
    const entries = there * (1 + changedShare) * activeOf(dictionary);
    const live = Math.min(F, entries);
    const own = nodes?.get(site) ?? (targets.get(site) ?? 0) * usualShare * there;
    const route = routeTo(site, chosen, shape);
    const whole = targets.has(site) ? 2 : 1;
    const held = into(
      route,
      own,
      whole * there,
      there,
      route.sources.map((one) => one.site),
    );
    // Read directions are gathered column by column, each number from another line of memory.
    products += 3 * entries * D + 8 * live * D;
    decoded += 2 * D * F;
    const directions = 12 * Math.min(directionNumbers, live * D) + 4 * liveWeights * D * F;
    memory = Math.max(memory, held + directions);
  }
  const atEnd = activeNodes(model, forest, streamSite(model.layers)).length;
  const end = routeToMetric(model.layers, chosen, shape);
  memory = Math.max(
    memory,
    into(
      end,
      0,
      atEnd,
      atEnd,
      end.sources.map((one) => one.site),
    ),
  );
  // Tensors like the widest within an MLP at a run's nodes and at all points, and like those that a run's rows meet there.
  const ofSessions =
    number * (tensorsOfNodes * Math.min(nodeNumbers, K * changed.length * 2 * neurons) + 3 * runRows * neurons);
  const ofHeads = kinds.has("attention") ? number * K * backward.size * 7 * heads : 0;
  const floats =
    weights === "streamed" ? (4 * model.flopsPerToken * Math.max(...Object.values(shares))) / 2 + block / 3 : 0;
  const codes = [...dictionaries.values()].reduce(
    (sum, { inputWidth, featureCount }) => sum + 4 * changed.length * inputWidth * featureCount,
    0,
  );
  const known = [...dictionaries.values()].reduce(
    (sum, one) => sum + 40 * changed.length * (1 + changedShare) * activeOf(one),
    0,
  );
  return {
    ...workOf({
      passes,
      codes,
      products,
      read,
      dictionaries: decoded,
      sessions: 3 * kinds.size + traced,
      memory: known + memory + ofSessions + ofHeads + floats,
    }),
    vectors,
  };
}

/** Bytes of the activations and gradients that edges are computed from, which stay in memory all the while. */
export function edgesKept(
  { model, number }: Running,
  rows: number,
  nodes: number,
  dictionaries: ReadonlyMap<SiteName, Dictionary>,
  jacobian: Jacobian,
): number {
  const width = (sites: readonly SiteName[]) =>
    sites.reduce((sum, site) => sum + model.sites[parseSite(site).kind]!, 0);
  const captured = width(sitesOfEdges([...dictionaries.keys()], model.layers)) * (rows + nodes);
  const averaged = jacobian === "secant" ? width(["embed", ...dictionaries.keys()]) * nodes : 0;
  return number * (captured + averaged);
}

/** Of the operations per token of all layers, what one layer's sublayers take. */
function sublayerShares({ parameters, layers }: Model): Readonly<Record<Step["sublayer"], number>> {
  const matrices = [...parameters].filter(([name, shape]) => /\.0\./.test(name) && shape.length === 2);
  const size = (some: typeof matrices) => some.reduce((sum, [, [rows, columns]]) => sum + rows! * columns!, 0);
  const mlp = size(matrices.filter(([name]) => /\.mlp\./.test(name))) / size(matrices);
  return { mlp: mlp / layers, attention: (1 - mlp) / layers, projection: (1 - mlp) / layers };
}

/** Of what attention's matrices take, what the last of them does, behind its heads. */
function projectionShare({ parameters, sites, width }: Model): number {
  const matrices = [...parameters].filter(([name, shape]) => /\.0\./.test(name) && shape.length === 2);
  const attention = matrices.filter(([name]) => !/\.mlp\./.test(name));
  const size = attention.reduce((sum, [, [rows, columns]]) => sum + rows! * columns!, 0);
  return ((sites.attn_z ?? width) * width) / size;
}

/** Stored bytes of one layer. */
function blockBytes({ parameters, layers }: Model, storedType: Running["storedType"]): number {
  let bytes = 0;
  for (const [name, shape] of parameters) {
    if (/\.\d+\./.test(name)) bytes += shape.reduce((a, b) => a * b, 1) * storedBytes[storedType(name)];
  }
  return bytes / layers;
}
