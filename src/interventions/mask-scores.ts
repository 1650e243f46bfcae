import { type Floats, floatValue, type Hook, type Job, newFloats } from "../capture/hooks.ts";
import { runModel } from "../capture/run.ts";
import type { Watch } from "../capture/runner.ts";
import type { Dictionary } from "../dictionaries/dictionary.ts";
import { type CodeReader, codeRow } from "../dictionaries/encode.ts";
import { dot } from "../effects/directions.ts";
import { pointsOf } from "../effects/integrated.ts";
import { type Pack, planCapture, tightPacks } from "../forest/packs.ts";
import { times } from "../graph/shape.ts";
import { input } from "../graph/tensor.ts";
import { isOutside } from "../prompts/outside.ts";
import type { SiteName } from "../site.ts";
import type { AblationBase, Activations, Features, SiteBase } from "./ablation.ts";
import type { ScoresBySite } from "./choose.ts";
import { cleanMetric, type EvaluationSetting } from "./evaluate.ts";

/** The features that are active anywhere in the prompts of a forest. */
export async function activeFeatures(
  { x }: Activations,
  dictionaries: ReadonlyMap<SiteName, Dictionary>,
  codes: CodeReader,
): Promise<Features> {
  const found = new Map<SiteName, number[]>();
  for (const [site, dictionary] of dictionaries) {
    const { features } = await codes.encode(dictionary, x.get(site)!);
    found.set(
      site,
      [...new Set(features)].sort((a, b) => a - b),
    );
  }
  return found;
}

/** Points on the way from everything ablated to nothing. */
const usualPoints = 5;

/**
 * Effects of a base's picked features on the way from the ablated to the whole model, which is what an ablation asks for: with x′ = αx + (1 − α)·base at
 * all sites at once, x being what the changed model computes,
 *
 *     score_i = mean over α of Σ_nodes ⟨∂F/∂x′, d_i⟩·(f_i(x) − a_i)
 *
 * F being the mean metric. No SAE takes part in a pass. Over all features and errors the scores add up to F(M) − F(∅), but for the error of few points.
 *
 * @param base with the features that are to have a score, errors ablated
 */
export async function maskScores(
  { loaded, forest, dictionaries, outside }: EvaluationSetting,
  base: AblationBase,
  codes: CodeReader,
  { points = usualPoints, ...watch }: Watch & { readonly points?: number } = {},
): Promise<ScoresBySite> {
  const { dtype } = loaded;
  const packs = tightPacks(planCapture(forest, { wanted: "none" })).map(
    (pack): Pack => ({ ...pack, metric: cleanMetric(pack) }),
  );
  const pairs = forest.ends.reduce((sum, { weight }) => sum + weight, 0);
  /** The rows of a pack that are text. */
  const live = packs.map((pack) =>
    [...pack.node.keys()].filter(
      (row) => pack.node[row]! >= 0 && !isOutside(outside, pack.tokens[row]!, pack.positions[row]!),
    ),
  );
  const rows = live.reduce((sum, { length }) => sum + length, 0);
  const firstOf = live.map((_, p) => live.slice(0, p).reduce((sum, { length }) => sum + length, 0));
  const nodes = Int32Array.from(live.flatMap((own, p) => own.map((row) => packs[p]!.node[row]!)));
  const sums = new Map([...base.sites].map(([site, { picked }]) => [site, new Float64Array(picked.features.length)]));
  const hooks = new Map([...base.sites].map(([site, at]) => [site, mixingHook(at.picked.width, dtype)]));
  for (const [k, α] of pointsOf(points, "midpoint").entries()) {
    const x = new Map([...base.sites].map(([site, at]) => [site, newFloats(dtype, rows * at.picked.width)]));
    const g = new Map([...base.sites].map(([site, at]) => [site, newFloats(dtype, rows * at.picked.width)]));
    const jobs = packs.map(
      (pack, p): Job => ({
        pack,
        inputs: (site) => mixed(base.sites.get(site)!, pack, live[p]!, α, dtype),
        found({ site, kind, tensors }) {
          const D = base.sites.get(site)!.picked.width;
          const [from, to] = kind === "value" ? [tensors.x!, x.get(site)!] : [tensors.y!, g.get(site)!];
          live[p]!.forEach((row, i) => {
            to.set(from.subarray(row * D, (row + 1) * D), (firstOf[p]! + i) * D);
          });
          return undefined;
        },
      }),
    );
    await runModel(loaded, jobs, {
      hooks,
      stopped: watch.stopped,
      onProgress: (done, total) => watch.onProgress?.(k * total + done, points * total),
    });
    for (const [site, at] of base.sites) {
      const found = await siteScores(dictionaries.get(site)!, at, nodes, x.get(site)!, g.get(site)!, codes);
      const sum = sums.get(site)!;
      found.forEach((score, u) => {
        sum[u]! += score / (points * pairs);
      });
    }
  }
  return new Map(
    [...base.sites].map(([site, { picked }]) => [site, { features: picked.features, scores: sums.get(site)! }]),
  );
}

/** Lets stay·x + offset go on, reads x and asks for the gradient of what goes on. */
function mixingHook(D: number, dtype: "float32" | "float64"): Hook {
  return {
    trace(x, { context: { tileSize }, named }) {
      const N = times(tileSize, "B");
      const y = x.mul(input(named("stay"), dtype, [N, 1])).add(input(named("offset"), dtype, [N, D]));
      return { y, values: { x }, wrt: { y } };
    },
  };
}

function mixed(at: SiteBase, { node }: Pack, live: readonly number[], α: number, dtype: "float32" | "float64") {
  const [N, D] = [node.length, at.picked.width];
  const stay = newFloats(dtype, N).fill(1);
  const offset = newFloats(dtype, N * D);
  for (const row of live) {
    stay[row] = α;
    const from = at.rowOf(node[row]!) * D;
    for (let d = 0; d < D; d++) offset[row * D + d] = (1 - α) * at.base[from + d]!;
  }
  return { stay: floatValue(stay, N, 1), offset: floatValue(offset, N, D) };
}

/** Σ over rows of ⟨g, d_i⟩·(f_i(x) − a_i) by picked feature. */
async function siteScores(
  dictionary: Dictionary,
  { picked, codes: a, rowOf }: SiteBase,
  nodes: Int32Array,
  x: Floats,
  g: Floats,
  codes: CodeReader,
): Promise<Float64Array> {
  const [D, U] = [picked.width, picked.features.length];
  const sum = new Float64Array(U);
  const placeOf = new Map(picked.features.map((feature, u) => [feature, u]));
  const sparse = await codes.encode(dictionary, x);
  /** Gradients added up over the rows that share what stands for ablated codes. */
  const together = new Map<number, Float64Array>();
  nodes.forEach((node, row) => {
    const { features, values } = codeRow(sparse, row);
    features.forEach((feature, i) => {
      const u = placeOf.get(feature);
      if (u !== undefined) sum[u]! += values[i]! * dot(g, row * D, picked.rows, picked.column[u]! * D, D);
    });
    const key = rowOf(node);
    const own = together.get(key) ?? new Float64Array(D);
    together.set(key, own);
    for (let d = 0; d < D; d++) own[d]! += g[row * D + d]!;
  });
  for (const [key, own] of together) {
    for (let u = 0; u < U; u++) {
      const ablated = a[key * U + u]!;
      if (ablated !== 0) sum[u]! -= ablated * dot(own, 0, picked.rows, picked.column[u]! * D, D);
    }
  }
  return sum;
}
