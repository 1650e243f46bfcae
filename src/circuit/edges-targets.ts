import type { Capture } from "../capture/capture.ts";
import { type Floats, newFloats } from "../capture/hooks.ts";
import type { Dictionary } from "../dictionaries/dictionary.ts";
import { dot } from "../effects/directions.ts";
import { cleanRow, patchRow } from "../effects/rest.ts";
import type { SiteName } from "../site.ts";
import { changesAt, type NodeCodes, readDirections, scalesOf } from "./edges-codes.ts";
import type { CotangentRows } from "./edges-pullback.ts";

/** How the slope of a target's code is taken: act′ at the clean code, or Δf/Δz. */
export type Slope = "clean" | "secant";

/** A target: a feature, the error, the metric; or a site as a whole, which is what its features and its error are together. */
export type TargetOf = number | "error" | "metric" | "site";

/** One target, in one group or at one node. */
export interface Column {
  readonly target: TargetOf;
  /** Index into the forest's groups; −1 for a site as a whole. */
  readonly group: number;
  /** The backward node, where targets are resolved by node. */
  readonly node?: number;
  /** What of the target's effect no edge carries: Σ left·(Δf − slope·⟨e, Δx⟩) where the slope is Δf/Δz, capped. */
  readonly remainder: number;
  /** The node effect, Σ left·Δf; of the error ⟨g, Δε⟩, of a site or of the metric ⟨g, Δx⟩. */
  readonly effect: number;
  /** Where the cotangent is not 0, ascending, and what of it: of a feature left·slope, to be multiplied with `direction`. */
  readonly nodes: Int32Array;
  readonly factors: Float64Array;
  /** e_j, for features. */
  readonly direction?: Float64Array;
}

/** The targets of one site. */
export interface Targets {
  readonly columns: readonly Column[];
  /** The cotangents q[R,D] at rows: of a feature left·slope·e_j; of the error g − Σ_j left_j slope_j e_j over all features; of a site g. */
  cotangents(rows: CotangentRows, columns: readonly Column[]): Floats;
}

export interface TargetOptions {
  readonly slope: Slope;
  /** Slopes Δf/Δz of larger size are taken for this one. */
  readonly cap: number;
  readonly byNode: boolean;
  /** Numbers of directions that are in memory at a time. */
  readonly numbers?: number;
}

/** Numbers of the directions that are in memory at a time while targets are found. */
export const directionNumbers = 2 ** 22;

/**
 * The cotangents of targets at one site: q = left·slope·e, where left = ⟨g, d⟩ at the node.
 *
 * @param linear gives g: gradients at the clean prompts, or those of `secant`
 */
export async function targetsAt(
  linear: Capture,
  dictionary: Dictionary,
  codes: NodeCodes,
  wanted: readonly TargetOf[],
  { slope, cap, byNode, numbers = directionNumbers }: TargetOptions,
): Promise<Targets> {
  const { inputWidth: D, reads: site } = dictionary;
  const { x, g } = await linear.site(site);
  const { backward } = linear.plan.forest;
  const hasError = wanted.includes("error");
  const features = hasError ? codes.live : Int32Array.from(wanted.filter((one) => typeof one === "number")).sort();
  const placeOf = new Int32Array(dictionary.featureCount).fill(-1);
  const encoder = await dictionary.encoder();
  const scales = scalesOf(x, D, encoder);
  const changes = await changesAt(linear, site, codes.nodes);
  const isWanted = new Set(wanted);
  const directions = new Map<TargetOf, Float64Array>();

  const errors = new Float64Array(hasError ? codes.nodes.length * D : 0);
  if (hasError) {
    codes.nodes.forEach((node, place) => {
      errors.set(g.subarray(node * D, (node + 1) * D), place * D);
    });
  }
  const [effects, remainders] = [new Float64Array(codes.nodes.length), new Float64Array(codes.nodes.length)];
  const drafts = new Map<string, Draft>();
  const draft = (target: TargetOf, node: number): Draft => {
    const group = target === "site" ? -1 : backward.group[node]!;
    const key = `${target}/${byNode && target !== "site" ? node : group}`;
    const made: Draft = drafts.get(key) ?? {
      target,
      group,
      ...(byNode && target !== "site" && { node }),
      remainder: 0,
      effect: 0,
      nodes: [],
      factors: [],
    };
    drafts.set(key, made);
    return made;
  };

  /** Takes some features, of which the directions are in memory at a time. */
  const take = async (some: Int32Array) => {
    some.forEach((feature, i) => {
      placeOf[feature] = i;
    });
    const read = readDirections(encoder, some);
    const written = await dictionary.decoderRows(some);
    codes.nodes.forEach((node, place) => {
      const Δσ = scales[patchRow(linear, node)]! - scales[cleanRow(linear, node)]!;
      for (let at = codes.offsets[place]!; at < codes.offsets[place + 1]!; at++) {
        const feature = codes.feature[at]!;
        const j = placeOf[feature]!;
        if (j < 0) continue;
        const change = codes.fPatch[at]! - codes.fClean[at]!;
        const left = dot(g, node * D, written, j * D, D);
        const moved = dot(read.data, j * D, changes, place * D, D);
        const steep = change === 0 ? 0 : change / (moved + Δσ * read.scaled[j]!);
        const secant = Math.abs(steep) <= cap ? steep : Number.isFinite(steep) ? Math.sign(steep) * cap : 0;
        const chosen = slope === "secant" ? secant : codes.fClean[at] === 0 ? 0 : 1;
        const [effect, factor] = [left * change, left * chosen];
        const remainder = slope === "secant" ? left * (change - secant * moved) : 0;
        effects[place]! += effect;
        remainders[place]! += remainder;
        if (hasError) for (let d = 0; d < D; d++) errors[place * D + d]! -= factor * read.data[j * D + d]!;
        if (!isWanted.has(feature)) continue;
        const of = draft(feature, node);
        of.effect += effect;
        of.remainder += remainder;
        if (factor !== 0) {
          of.nodes.push(node);
          of.factors.push(factor);
        }
      }
    });
    some.forEach((feature, j) => {
      placeOf[feature] = -1;
      if (isWanted.has(feature)) directions.set(feature, read.data.slice(j * D, (j + 1) * D));
    });
  };
  const most = Math.max(1, Math.floor(numbers / D));
  for (let first = 0; first < features.length; first += most) await take(features.subarray(first, first + most));
  codes.nodes.forEach((node, place) => {
    const total = dot(g, node * D, changes, place * D, D);
    const whole = (target: TargetOf, effect: number, remainder: number) => {
      if (!isWanted.has(target)) return;
      const of = draft(target, node);
      of.effect += effect;
      of.remainder += remainder;
      of.nodes.push(node);
      of.factors.push(1);
    };
    // What features hand on to their remainders the error takes over, with the other sign.
    whole("error", total - effects[place]!, -remainders[place]!);
    whole("site", total, 0);
  });

  const columns = [...drafts.values()]
    .sort((a, b) => orderOf(a.target) - orderOf(b.target) || a.group - b.group || (a.node ?? 0) - (b.node ?? 0))
    .map(({ nodes, factors, ...about }): Column => {
      const direction = directions.get(about.target);
      return {
        ...about,
        nodes: Int32Array.from(nodes),
        factors: Float64Array.from(factors),
        ...(direction && { direction }),
      };
    });
  return { columns, cotangents: cotangentsOf(g, errors, codes.placeOf, D) };
}

/** Made apart, so that it holds on to nothing else of what targets are found from. */
const cotangentsOf =
  (g: Floats, errors: Float64Array, placeOf: Int32Array, D: number): Targets["cotangents"] =>
  (rows, of) =>
    cotangentsAt(rows, of, g, D, ({ target, direction }, node, factor, q, to) => {
      if (direction) for (let d = 0; d < D; d++) q[to + d] = factor * direction[d]!;
      else if (target === "site") copyRow(g, node, q, to, D);
      else copyRow(errors, placeOf[node]!, q, to, D);
    });

/** The metric as a target, by group: its cotangent is g at a site behind which nothing else leads to it. */
export async function metricTarget(linear: Capture, site: SiteName): Promise<Targets> {
  const { g, width: D } = await linear.site(site);
  const { backward } = linear.plan.forest;
  const nodes = linear.activeNodes(site);
  const changes = await changesAt(linear, site, nodes);
  const columns = backward.groups.map((_, group): Column => {
    const own = nodes.filter((node) => backward.group[node] === group);
    let effect = 0;
    nodes.forEach((node, place) => {
      if (backward.group[node] === group) effect += dot(g, node * D, changes, place * D, D);
    });
    return { target: "metric", group, remainder: 0, effect, nodes: own, factors: new Float64Array(own.length).fill(1) };
  });
  return {
    columns,
    cotangents: (rows, of) => cotangentsAt(rows, of, g, D, (_, node, _factor, q, to) => copyRow(g, node, q, to, D)),
  };
}

/** q[R,D] in the type of g, written at those rows whose node is the column's own; rows have all of a column's nodes, in order, and perhaps others. */
function cotangentsAt(
  { column, node }: CotangentRows,
  columns: readonly Column[],
  g: Floats,
  D: number,
  write: (column: Column, node: number, factor: number, q: Floats, to: number) => void,
): Floats {
  const q = newFloats(g instanceof Float64Array ? "float64" : "float32", node.length * D);
  let [last, at] = [-1, 0];
  for (let row = 0; row < node.length; row++) {
    const of = columns[column[row]!]!;
    if (column[row] !== last) [last, at] = [column[row]!, 0];
    if (of.nodes[at] === node[row]) write(of, node[row]!, of.factors[at++]!, q, row * D);
  }
  return q;
}

function copyRow(from: Floats, row: number, q: Floats, to: number, D: number): void {
  q.set(from.subarray(row * D, (row + 1) * D), to);
}

/** A column in the making. */
interface Draft {
  readonly target: TargetOf;
  readonly group: number;
  readonly node?: number;
  remainder: number;
  effect: number;
  readonly nodes: number[];
  readonly factors: number[];
}

/** Features ascending, then the error, then the rest. */
const orderOf = (target: TargetOf) => (typeof target === "number" ? target : target === "error" ? 2 ** 40 : 2 ** 41);
