import type { Dictionary } from "../dictionaries/dictionary.ts";
import { effectsOf } from "../effects/dispatch.ts";
import type { MethodName } from "../effects/method.ts";
import { prefixForest } from "../forest/forest.ts";
import type { LoadedModel } from "../models/weights.ts";
import type { Watch } from "../progress.ts";
import { isOutside, type OutsideText } from "../prompts/outside.ts";
import type { TokenPair } from "../prompts/pairs.ts";
import type { SiteName } from "../site.ts";
import type { Features } from "./ablation.ts";
import type { ScoresBySite } from "./choose.ts";
import { clusterNodes, resample } from "./clusters.ts";

/** Mean effects per pair of the features of some sites, in logits, with what each cluster of pairs adds to them. */
export interface ClusterScores {
  readonly scores: ScoresBySite;
  /** For each site, by the order of its features: sums over each cluster's pairs [features, clusters]. */
  readonly sums: ReadonlyMap<SiteName, Float64Array>;
  readonly clusters: number;
}

/** What effects are computed on. */
interface ScoreInput {
  readonly loaded: LoadedModel;
  readonly dictionaries: ReadonlyMap<SiteName, Dictionary>;
  readonly outside: OutsideText;
  /** Points of `secant`; its default otherwise. */
  readonly steps?: number;
}

/** Effects by a method, summed over positions and cases; BOS and padding do not count. */
export async function scoresOf(
  method: MethodName,
  { loaded, dictionaries, outside, steps }: ScoreInput,
  pairs: readonly TokenPair[],
  watch: Watch = {},
): Promise<ClusterScores> {
  const forest = prefixForest(pairs);
  const { token, patchToken, position } = forest.backward;
  const { of, count } = clusterNodes(forest);
  const left = (node: number) =>
    isOutside(outside, token[node]!, position[node]!) || isOutside(outside, patchToken[node]!, position[node]!);
  const scores = new Map<SiteName, { features: Int32Array; scores: Float64Array }>();
  const sums = new Map<SiteName, Float64Array>();
  const points = method === "secant" && steps !== undefined ? { steps } : {};
  for await (const { rows } of effectsOf(method, { ...loaded, ...watch, ...points, forest, dictionaries })) {
    const byFeature = new Map<number, Float64Array>();
    rows.feature.forEach((feature, i) => {
      const node = rows.node[i]!;
      if (feature < 0 || of[node]! < 0 || left(node)) return;
      const own = byFeature.get(feature) ?? new Float64Array(count);
      own[of[node]!]! += rows.effect[i]!;
      byFeature.set(feature, own);
    });
    const features = Int32Array.from(byFeature.keys()).sort();
    const all = new Float64Array(features.length * count);
    features.forEach((feature, i) => {
      all.set(byFeature.get(feature)!, i * count);
    });
    sums.set(rows.site, all);
    scores.set(rows.site, {
      features,
      scores: Float64Array.from(features, (_, i) => total(all, i, count) / pairs.length),
    });
  }
  // In order of computation, whatever the method's.
  const inOrder = new Map([...dictionaries.keys()].map((site) => [site, scores.get(site)!]));
  return { scores: inOrder, sums, clusters: count };
}

function total(sums: Float64Array, i: number, count: number): number {
  let sum = 0;
  for (let k = 0; k < count; k++) sum += sums[i * count + k]!;
  return sum;
}

/** Resamples on which a choice is repeated. */
const repeats = 50;

/**
 * How far a choice depends on the words at hand: the mean Jaccard overlap of the chosen features with those chosen from resampled clusters; null with
 * fewer than two clusters.
 */
export function stability(
  { scores, sums, clusters }: ClusterScores,
  choose: (scores: ScoresBySite) => Features,
): number | null {
  if (clusters < 2) return null;
  const chosen = keysOf(choose(scores));
  let sum = 0;
  resample(
    clusters,
    (times) => {
      const again = new Map(
        [...scores].map(([site, { features }]) => {
          const own = sums.get(site)!;
          const drawn = Array.from(features, (_, i) => {
            let score = 0;
            for (let k = 0; k < clusters; k++) score += times[k]! * own[i * clusters + k]!;
            return score;
          });
          return [site, { features, scores: drawn }] as const;
        }),
      );
      sum += jaccard(chosen, keysOf(choose(again)));
    },
    { samples: repeats, seed: "stability" },
  );
  return sum / repeats;
}

const keysOf = (features: Features) =>
  new Set([...features].flatMap(([site, list]) => list.map((feature) => `${site}/${feature}`)));

/** The share of what either has that both have; 1 for two empty sets. */
function jaccard(a: ReadonlySet<string>, b: ReadonlySet<string>): number {
  let both = 0;
  for (const key of a) if (b.has(key)) both++;
  const either = a.size + b.size - both;
  return either === 0 ? 1 : both / either;
}
