import { streamSite } from "../capture/stream-sites.ts";
import { topological } from "../graph/reverse.ts";
import { input, type Tensor } from "../graph/tensor.ts";
import { isNormScale } from "../models/layers.ts";
import { contextInputs, type Model } from "../models/model.ts";
import { compareSites, parseSite, type SiteKind, type SiteName, siteName } from "../site.ts";

/** What the way between two sites leads through: nothing but the residual stream, one kind of sublayer (perhaps in several layers), or both kinds. */
export type Through = "identity" | "attention" | "mlp" | "block";

/** A source and a target between which there is a way that meets no other chosen site. */
export interface Path {
  readonly from: SiteName;
  readonly to: SiteName;
  readonly through: Through;
}

/** The sublayers of a layer through which cotangents are taken back. */
export type Sublayer =
  /** From `attn_out` or `attn_z` to the stream at the layer's input. */
  | "attention"
  /** From `attn_out` to `attn_z`: the output projection, and the norm behind it where there is one. */
  | "projection"
  /** From `mlp_out` to the stream that the MLP reads. */
  | "mlp";

/** One product with a sublayer's transposed Jacobian. */
export interface Step {
  readonly sublayer: Sublayer;
  readonly layer: number;
  /** Where the cotangent that it takes back stands. */
  readonly from: SiteName;
  /** The cotangents that are added up to it: 0 is the target's own, s what step s gives, counted from 1. */
  readonly of: readonly number[];
}

/** How a target's cotangent is taken back to all chosen sites that reach the target without meeting another one. */
export interface Route {
  /** In the order in which they can be done. */
  readonly steps: readonly Step[];
  /** The sources, in order of computation: the cotangent at each is the sum of those named, as in `Step`. */
  readonly sources: readonly { readonly site: SiteName; readonly of: readonly number[] }[];
}

/** How models differ that matters to paths. */
export interface PathShape {
  /** Whether MLPs read the stream at the layer's input, and not what attention has added to it. */
  readonly parallel: boolean;
}

/**
 * The way back from a target, layer by layer: at the output of a layer the cotangent is that of `resid_post` and `mlp_out`; what the MLP takes back is
 * added for `attn_out` (in parallel layers for the input alone); what attention takes back is added for the input. A chosen site ends the way through
 * its sublayer; a chosen site of the stream, or the embedding, ends it all.
 *
 * @param chosen the sites with dictionaries; `embed` is a source whether it is among them or not
 */
export function routeTo(target: SiteName, chosen: ReadonlySet<SiteName>, { parallel }: PathShape): Route {
  const { kind: targetKind, layer: top } = parseSite(target);
  const steps: Step[] = [];
  const sources: { site: SiteName; of: readonly number[] }[] = [];
  if (targetKind === "embed") return { steps, sources };
  let stream: readonly number[] = targetKind === "resid_post" ? [0] : [];
  for (let layer = top; ; layer--) {
    const at = (kind: SiteKind) => siteName({ kind, layer });
    const isTarget = (kind: SiteKind) => layer === top && kind === targetKind;
    /** What goes on from a site inside the layer: the target's own cotangent, what has come to it, or nothing where it is a source. */
    const beyond = (kind: SiteKind, of: readonly number[]) => {
      if (isTarget(kind)) return [0];
      if (of.length === 0 || !chosen.has(at(kind))) return of;
      sources.push({ site: at(kind), of });
      return [];
    };
    const step = (sublayer: Sublayer, from: SiteKind, of: readonly number[]) =>
      of.length === 0 ? [] : [steps.push({ sublayer, layer, from: at(from), of })];
    const mlp = step("mlp", "mlp_out", beyond("mlp_out", stream));
    const attention = beyond("attn_out", parallel ? stream : [...stream, ...mlp]);
    let back: readonly number[];
    if (isTarget("attn_z")) back = step("attention", "attn_z", [0]);
    else if (chosen.has(at("attn_z")) && attention.length > 0) {
      sources.push({ site: at("attn_z"), of: step("projection", "attn_out", attention) });
      back = [];
    } else back = step("attention", "attn_out", attention);
    stream = [...stream, ...mlp, ...back];
    const below = streamSite(layer);
    if (stream.length > 0 && (layer === 0 || chosen.has(below))) sources.push({ site: below, of: stream });
    if (stream.length === 0 || layer === 0 || chosen.has(below)) break;
  }
  return { steps, sources: sources.sort((a, b) => compareSites(a.site, b.site)) };
}

/** The way back from the metric: from the stream after the last layer. */
export function routeToMetric(layers: number, chosen: ReadonlySet<SiteName>, shape: PathShape): Route {
  const last = streamSite(layers);
  return chosen.has(last) ? { steps: [], sources: [{ site: last, of: [0] }] } : routeTo(last, chosen, shape);
}

/** What the ways lead through that make up the cotangent at a source of a route. */
export function throughOf({ steps }: Route, of: readonly number[]): Through {
  const kinds = new Set<Sublayer>();
  const visit = (registers: readonly number[]) => {
    for (const register of registers) {
      const step = steps[register - 1];
      if (!step) continue;
      kinds.add(step.sublayer === "projection" ? "attention" : step.sublayer);
      visit(step.of);
    }
  };
  visit(of);
  if (kinds.size === 0) return "identity";
  return kinds.size === 1 ? ([...kinds][0] as "attention" | "mlp") : "block";
}

/**
 * The edges between chosen sites, by target, then by source, in order of computation. With attn_out, mlp_out and resid_post chosen it is SFC's set
 * (METHOD: "Edges").
 */
export function pathsBetween(sites: readonly SiteName[], shape: PathShape): Path[] {
  const chosen = new Set(sites);
  return [...chosen].sort(compareSites).flatMap((to) => {
    const route = routeTo(to, chosen, shape);
    return route.sources.map(({ site, of }) => ({ from: site, to, through: throughOf(route, of) }));
  });
}

/** How a model's layers are built, read off its first one as it is traced: whether `mlp_out` depends on `attn_out`. */
export function pathShape(model: Model): PathShape {
  const { mlp, attention } = firstLayer(model);
  return { parallel: !topological([mlp]).includes(attention) };
}

/** Whether a norm stands behind a model's MLPs, between their last product and what they write. */
export function hasNormBehind(model: Model): boolean {
  const { mlp, neurons } = firstLayer(model);
  return topological([mlp]).some((one) => isNormScale(one) && topological([one]).includes(neurons));
}

/** Outputs of a model's first layer; the MLP reads `attention` in place of what attention gives. */
function firstLayer(model: Model): { mlp: Tensor; neurons: Tensor; attention: Tensor } {
  const context = contextInputs(8, "float32");
  const x = input("x", "float32", ["8*B", model.width]);
  const weights = (name: string) => input(name, "float32", model.parameters.get(name)!);
  const found: { mlp?: Tensor; neurons?: Tensor; attention?: Tensor } = {};
  model.block(weights, 0, x, context, (site, value) => {
    const { kind } = parseSite(site);
    if (kind === "mlp_out") found.mlp = value;
    if (kind === "mlp_act") found.neurons = value;
    if (kind !== "attn_out") return value;
    found.attention = input("attention", "float32", value.shape);
    return found.attention;
  });
  const { mlp, neurons, attention } = found;
  if (!attention || !mlp || !neurons) throw new Error(`internal: ${model.modelType} has no attention, or no MLP`);
  return { mlp, neurons, attention };
}
