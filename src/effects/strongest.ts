import { capture } from "../capture/capture.ts";
import { type PrefixForest, prefixForest } from "../forest/forest.ts";
import { planCapture } from "../forest/packs.ts";
import { keptSessions } from "../graph/kept-sessions.ts";
import type { Model } from "../models/model.ts";
import { isStreamed } from "../models/weights.ts";
import { isOutside, type OutsideText } from "../prompts/outside.ts";
import type { TokenPair } from "../prompts/pairs.ts";
import { compareSites, type SiteName } from "../site.ts";
import { effectsOf, needsOf, wantedBy } from "./dispatch.ts";
import { changedNodes, methodCost, shareFrom, subtreeRows } from "./estimate.ts";
import { KeptCodes } from "./kept-codes.ts";
import { defaultSteps, type MethodInput, type MethodName } from "./method.ts";
import type { EffectRows } from "./rows.ts";
import { secantSteps } from "./secant.ts";

/** What may be patched, the most first: so many features of each of the strongest sites, on so many pairs. */
const choices = [
  { perSite: 3, sites: Number.POSITIVE_INFINITY, pairs: 64 },
  { perSite: 3, sites: Number.POSITIVE_INFINITY, pairs: 32 },
  { perSite: 3, sites: Number.POSITIVE_INFINITY, pairs: 16 },
  { perSite: 1, sites: Number.POSITIVE_INFINITY, pairs: 16 },
  { perSite: 1, sites: 12, pairs: 16 },
  { perSite: 1, sites: 6, pairs: 16 },
  { perSite: 1, sites: 3, pairs: 16 },
  { perSite: 1, sites: 3, pairs: 8 },
] as const;

/** A feature's effect by several methods: means over the same pairs, signed, in logits. */
export interface PatchedFeature {
  readonly site: SiteName;
  readonly feature: number;
  /** By `exact`. */
  readonly exact: number;
  /** By the run's own method. */
  readonly method: number;
  /** By `analytic`. */
  readonly firstOrder: number;
  /** By `secant`; null if that is not the run's method and takes more than the budget. */
  readonly secant: number | null;
}

/** A feature with its effect, summed or averaged over whatever its rows were summed over; signed, in logits. */
export interface RankedFeature {
  readonly feature: number;
  readonly effect: number;
}

/** Some features patched by themselves, on a sample of pairs. */
export interface PatchedSample {
  readonly pairs: number;
  /** Metrics computed with a patch. */
  readonly patches: number;
  readonly features: readonly PatchedFeature[];
}

/**
 * What the strongest features do when each takes its patch value by itself (the method `exact`), beside what the run's method, `analytic` and `secant`
 * say of them, on a sample of pairs spread over all of them. The budget decides how many features and pairs.
 *
 * @param ranked the strongest features of each site, with their effects
 * @param outside nodes of these tokens do not count
 * @param budget floating-point operations that the patches and the method's own effects may take, and `secant` once more
 * @returns undefined if the budget allows none
 */
export async function patchStrongest(
  given: Omit<MethodInput, "forest">,
  method: MethodName,
  pairs: readonly TokenPair[],
  ranked: ReadonlyMap<SiteName, readonly RankedFeature[]>,
  outside: OutsideText,
  budget: number,
): Promise<PatchedSample | undefined> {
  for (const choice of choices) {
    const features = strongestOf(ranked, choice.sites, choice.perSite);
    if (features.size === 0) return undefined;
    const forest = sampleOf(pairs, choice.pairs);
    const own = ownFlops({ ...given, forest }, method, features);
    if (patchFlops(given.model, forest, features) + own > budget) continue;
    return await patchFeatures({ ...given, forest }, method, features, outside, budget);
  }
  return undefined;
}

/** Features of all that may be patched, a share: those with a tenth of the largest effect or more, at nodes where they are active. */
const likelyPatched = 0.5;

/**
 * What `patchStrongest` takes, told before effects are known, as if the strongest features were spread over all sites.
 *
 * @param number bytes of a number that is computed with
 * @returns floating-point operations, and the layers behind the sites at which features are patched, all sites together; undefined if the budget allows none
 */
export function strongestCost(
  {
    model,
    dictionaries,
    steps: given,
    number,
    weights,
  }: Pick<MethodInput, "model" | "dictionaries"> & {
    readonly steps?: number | undefined;
    readonly number: 4 | 8;
    readonly weights: "held" | "streamed";
  },
  method: MethodName,
  pairs: readonly TokenPair[],
  budget: number,
): { readonly flops: number; readonly layers: number } | undefined {
  const split = pairs.some(({ pair }) => pair.split === "train") ? "train" : "test";
  const members = pairs.filter(({ pair }) => pair.split === split);
  for (const choice of choices) {
    const sites = [...dictionaries.keys()].slice(-choice.sites);
    const features = new Map(sites.map((site) => [site, Array.from({ length: choice.perSite }, (_, i) => i)]));
    const forest = sampleOf(members, choice.pairs);
    const patches = likelyPatched * patchFlops(model, forest, features);
    if (patches > budget) continue;
    const plan = planCapture(forest, { wanted: "both", model, beside: "cheaper" });
    const cost = (of: MethodName) => {
      const steps = given ?? (of === "secant" ? secantSteps([...dictionaries.keys()]) : defaultSteps);
      return methodCost(of, model, plan, dictionaries, steps, number, weights).flops;
    };
    const secant = cost("secant");
    const own = method === "analytic" || method === "secant" ? 0 : cost(method);
    if (patches + own + (method === "secant" ? secant : 0) > budget) continue;
    const captured = 3 * plan.rows * model.flopsPerToken;
    const layers = sites.reduce((sum, site) => sum + shareFrom(model, site) * model.layers, 0);
    return { flops: patches + own + captured + (secant <= budget ? secant : 0), layers };
  }
  return undefined;
}

/** Features of the sites whose strongest one has the largest |effect|; those with less than a tenth of the largest of all are left out. */
function strongestOf(
  ranked: ReadonlyMap<SiteName, readonly RankedFeature[]>,
  sites: number,
  perSite: number,
): ReadonlyMap<SiteName, readonly number[]> {
  const size = (of: RankedFeature | undefined) => Math.abs(of?.effect ?? 0);
  const chosen = [...ranked].sort(([, a], [, b]) => size(b[0]) - size(a[0])).slice(0, sites);
  const least = size(chosen[0]?.[1][0]) / 10;
  const strong = chosen.map(([site, list]) => {
    const features = list.slice(0, perSite).filter((one) => one.effect !== 0 && size(one) >= least);
    return [site, features.map(({ feature }) => feature)] as const;
  });
  return new Map(strong.filter(([, features]) => features.length > 0));
}

/** The forest of at most `count` pairs, spread over all of them. */
function sampleOf(pairs: readonly TokenPair[], count: number): PrefixForest {
  const size = Math.min(count, pairs.length);
  return prefixForest(Array.from({ length: size }, (_, i) => pairs[Math.floor((i * pairs.length) / size)]!));
}

/** Floating-point operations of patching features at all nodes of a forest at most: each may be inactive at some. */
function patchFlops(
  model: Model,
  { backward }: PrefixForest,
  features: ReadonlyMap<SiteName, readonly number[]>,
): number {
  const rows = subtreeRows(backward, changedNodes(backward));
  const depth = 1 + backward.position.reduce((a, b) => Math.max(a, b), 0);
  const perRow = model.flopsPerToken + depth * model.attentionFlops;
  let flops = 0;
  // A node's metric without a patch is computed too.
  for (const [site, list] of features) flops += rows * (list.length + 1) * shareFrom(model, site) * perRow;
  return flops;
}

/** Floating-point operations of a method's effects at the sites of some features; `analytic` takes hardly any, and the patches' capture serves it. */
function ownFlops(given: MethodInput, method: MethodName, features: ReadonlyMap<SiteName, readonly number[]>): number {
  if (method === "analytic") return 0;
  const dictionaries = new Map([...given.dictionaries].filter(([site]) => features.has(site)));
  const steps = given.steps ?? (method === "secant" ? secantSteps([...given.dictionaries.keys()]) : defaultSteps);
  const plan = planCapture(given.forest, { wanted: wantedBy(method) });
  const number = given.dtype === "float64" ? 8 : 4;
  return methodCost(method, given.model, plan, dictionaries, steps, number, wayOf(given)).flops;
}

const wayOf = ({ weights }: Pick<MethodInput, "weights">) => (isStreamed(weights) ? "streamed" : "held");

/**
 * Sessions that stay open while features are patched though nobody uses them, a block's and that of what comes after blocks. Each keeps the memory of its
 * largest run, 150 MB of a model with streamed weights, where opening one is little beside reading a block.
 */
const openSessions = { held: 2, streamed: 0 } as const;

/**
 * Each feature's effect by `exact` and by the other methods on the pairs of a forest. These are few rows, begun at many sites: blocks share sessions,
 * which stay open from one site to the next.
 */
async function patchFeatures(
  whole: MethodInput,
  ...rest: [MethodName, ReadonlyMap<SiteName, readonly number[]>, OutsideText, number]
): Promise<PatchedSample> {
  const kept = whole.kept ?? keptSessions(openSessions[wayOf(whole)]);
  try {
    return await patchedBy({ ...whole, byBlock: true, kept }, ...rest);
  } finally {
    if (!whole.kept) await kept.release();
  }
}

async function patchedBy(
  given: MethodInput,
  method: MethodName,
  features: ReadonlyMap<SiteName, readonly number[]>,
  outside: OutsideText,
  budget: number,
): Promise<PatchedSample> {
  const { forest, model } = given;
  const dictionaries = new Map([...given.dictionaries].filter(([site]) => features.has(site)));
  const { sites, wanted } = needsOf("exact", [...dictionaries.keys()], model.layers);
  const plan = planCapture(forest, { wanted, model, beside: "cheaper" });
  const steps = (method === "secant" ? given.steps : undefined) ?? secantSteps([...given.dictionaries.keys()]);
  const number = given.dtype === "float64" ? 8 : 4;
  const work = methodCost("secant", model, plan, dictionaries, steps, number, wayOf(given)).flops;
  const withSecant = method === "secant" || work <= budget;
  const more = withSecant ? needsOf("secant", [...dictionaries.keys()], model.layers).sites : [];
  const captured = await capture(given, plan, {
    onProgress: given.onProgress,
    stopped: given.stopped,
    sites: [...new Set([...sites, ...more])].sort(compareSites),
  });
  const sample: MethodInput = { ...given, dictionaries };
  // The methods that share the capture encode the same activations.
  const together = { ...sample, captured, keptCodes: new KeptCodes() };
  let patches = 0;
  const onWork = (work: { readonly patches: number }) => {
    patches = work.patches;
  };
  const exact = await meansOf("exact", { ...together, features, patchErrors: false, onWork }, outside);
  const firstOrder = await meansOf("analytic", together, outside);
  const secant = withSecant ? await meansOf("secant", { ...together, steps }, outside) : null;
  const own =
    method === "analytic" ? firstOrder : method === "secant" ? secant! : await meansOf(method, sample, outside);
  const of = (means: typeof own, site: SiteName, feature: number) => means.get(site)?.get(feature) ?? 0;
  return {
    pairs: forest.pairs.length,
    patches,
    features: [...features].flatMap(([site, list]) =>
      list.map((feature) => ({
        site,
        feature,
        exact: of(exact, site, feature),
        method: of(own, site, feature),
        firstOrder: of(firstOrder, site, feature),
        secant: secant && of(secant, site, feature),
      })),
    ),
  };
}

/** A method's effects, means over the forest's pairs. */
async function meansOf(
  method: MethodName,
  given: MethodInput,
  outside: OutsideText,
): Promise<ReadonlyMap<SiteName, ReadonlyMap<number, number>>> {
  const means = new Map<SiteName, ReadonlyMap<number, number>>();
  for await (const { rows } of effectsOf(method, given)) {
    means.set(rows.site, meanByFeature(rows, given.forest, outside));
  }
  return means;
}

function meanByFeature(
  { node, feature, effect }: EffectRows,
  { pairs, backward }: PrefixForest,
  outside: OutsideText,
): Map<number, number> {
  const means = new Map<number, number>();
  feature.forEach((f, i) => {
    const at = node[i]!;
    // As in the ranking: either prompt's token leaves the node out.
    const tokens = [backward.token[at]!, backward.patchToken[at]!];
    if (tokens.some((token) => isOutside(outside, token, backward.position[at]!))) return;
    means.set(f, (means.get(f) ?? 0) + effect[i]! / pairs.length);
  });
  return means;
}
