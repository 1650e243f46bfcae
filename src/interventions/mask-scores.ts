import { type Floats, floatValue, type Hook, type Job, newFloats } from "../capture/hooks.ts";
import { runModel } from "../capture/run.ts";
import type { Dictionary } from "../dictionaries/dictionary.ts";
import { type CodeReader, codeRow } from "../dictionaries/encode.ts";
import { directionsOf, dot } from "../effects/directions.ts";
import { pointsOf } from "../effects/integrated.ts";
import { type Pack, planCapture, tightPacks } from "../forest/packs.ts";
import { times } from "../graph/shape.ts";
import { input } from "../graph/tensor.ts";
import type { Watch } from "../progress.ts";
import { isOutside } from "../prompts/outside.ts";
import type { SiteName } from "../site.ts";
import { type AblationValue, type Activations, ablationBase, type SiteBase } from "./ablation.ts";
import type { ScoresBySite } from "./choose.ts";
import { cleanMetric, type EvaluationSetting } from "./evaluate.ts";

/** Points on the way from everything ablated to nothing. */
export const maskScorePoints = 5;

/**
 * Effects of the features that are active anywhere in a forest's prompts, on the way from the ablated to the whole model, which is what an ablation asks
 * for: with x′ = αx + (1 − α)·base at all sites at once, x being what the changed model computes,
 *
 *     score_i = mean over α of Σ_nodes ⟨∂F/∂x′, d_i⟩·(f_i(x) − a_i)
 *
 * F being the mean metric, errors ablated. No SAE takes part in a pass, and the weights of one at a time are in memory. Over all features and errors the
 * scores add up to F(M) − F(∅), but for the error of few points.
 *
 * @param activations of the setting's forest at the sites of its dictionaries
 * @param values what stands for ablated features
 */
export async function maskScores(
  { loaded, forest, dictionaries, outside }: EvaluationSetting,
  activations: Activations,
  values: AblationValue,
  codes: CodeReader,
  { points = maskScorePoints, ...watch }: Watch & { readonly points?: number } = {},
): Promise<ScoresBySite> {
  const { dtype } = loaded;
  const kind = { values, errors: "ablated" } as const;
  const base = await ablationBase(activations, dictionaries, codes, new Map(), kind);
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
  const sums = new Map(
    [...dictionaries].map(([site, { featureCount }]): [SiteName, Sums] => [
      site,
      { score: new Float64Array(featureCount), gradient: new Map() },
    ]),
  );
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
      await addPoint(sums.get(site)!, dictionaries.get(site)!, at, nodes, x.get(site)!, g.get(site)!, codes);
    }
  }
  const scores = new Map<SiteName, { features: readonly number[]; scores: Float64Array }>();
  for (const [site, dictionary] of dictionaries) {
    const { features: active } = await codes.encode(dictionary, activations.x.get(site)!);
    const features = [...new Set(active)].sort((a, b) => a - b);
    const own = new Map([[site, dictionary]]);
    const at = await ablationBase(activations, own, codes, new Map([[site, features]]), kind);
    const found = scoresFrom(sums.get(site)!, at.sites.get(site)!);
    scores.set(site, { features, scores: found.map((score) => score / (points * pairs)) });
  }
  return scores;
}

/** What the points of a site have added up to. */
interface Sums {
  /** Σ ⟨g, d_i⟩·f_i(x) [F] */
  readonly score: Float64Array;
  /** Σ g [D] over the rows that share what stands for ablated codes, by the base's row. */
  readonly gradient: Map<number, Float64Array>;
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

/** Adds what one point gives, x and g[rows,D] at the nodes. */
async function addPoint(
  { score, gradient }: Sums,
  dictionary: Dictionary,
  { picked: { width: D }, rowOf }: SiteBase,
  nodes: Int32Array,
  x: Floats,
  g: Floats,
  codes: CodeReader,
): Promise<void> {
  const sparse = await codes.encode(dictionary, x);
  const { data, start } = await directionsOf(dictionary, sparse.features);
  nodes.forEach((node, row) => {
    const { features, values } = codeRow(sparse, row);
    features.forEach((feature, i) => {
      score[feature]! += values[i]! * dot(g, row * D, data, start[feature]!, D);
    });
    const key = rowOf(node);
    const own = gradient.get(key) ?? new Float64Array(D);
    gradient.set(key, own);
    for (let d = 0; d < D; d++) own[d]! += g[row * D + d]!;
  });
}

/** Σ ⟨g, d_i⟩·(f_i(x) − a_i) by picked feature. */
function scoresFrom({ score, gradient }: Sums, { picked, codes: a }: SiteBase): Float64Array {
  const [D, U] = [picked.width, picked.features.length];
  const sum = Float64Array.from(picked.features, (feature) => score[feature]!);
  for (const [key, own] of gradient) {
    for (let u = 0; u < U; u++) {
      const ablated = a[key * U + u]!;
      if (ablated !== 0) sum[u]! -= ablated * dot(own, 0, picked.rows, picked.column[u]! * D, D);
    }
  }
  return sum;
}
