import { type Floats, newFloats } from "../capture/hooks.ts";
import { runModel } from "../capture/run.ts";
import type { Dictionary } from "../dictionaries/dictionary.ts";
import { type CodeReader, codeRow, type SparseCodes } from "../dictionaries/encode.ts";
import { type Picked, pickFeatures } from "../dictionaries/pick.ts";
import { directionsOf } from "../effects/directions.ts";
import { type PrefixForest, prefixForest } from "../forest/forest.ts";
import { type Plan, planCapture } from "../forest/packs.ts";
import type { LoadedModel } from "../models/weights.ts";
import type { Watch } from "../progress.ts";
import type { TokenPair } from "../prompts/pairs.ts";
import { parseSite, type SiteName } from "../site.ts";
import { type Start, startOf } from "./start.ts";

/**
 * What features outside a circuit are set to: their mean over clean and patch prompts of the same case and length at the same position, their value
 * in the pair's patch prompt (resample ablation), or 0.
 */
export type AblationValue = "mean" | "patch" | "zero";

/**
 * What becomes of the error, which no feature explains: it is ablated like the features, stays what it is in the clean run, is removed, or is kept, that
 * is computed anew from what the changed model has at the site.
 */
export type ErrorTreatment = "ablated" | "clean" | "removed" | "kept";

export interface AblationKind {
  readonly values: AblationValue;
  readonly errors: ErrorTreatment;
}

/** Features by site: a circuit's nodes, or candidates. Sites without features are ablated as a whole. */
export type Features = ReadonlyMap<SiteName, readonly number[]>;

/**
 * The forest on which circuits are evaluated. Its groups are those over which means are taken, by case and length of the prompt, so that a mean by position
 * is a function of the node.
 *
 * @param groupOf pairs with one answer share their means; by default those of a case
 */
export function evaluationForest(
  pairs: readonly TokenPair[],
  groupOf: (pair: TokenPair["pair"]) => string = ({ case: name }) => name,
): PrefixForest {
  return prefixForest(
    pairs.map((pair) => ({
      ...pair,
      pair: { ...pair.pair, case: JSON.stringify([groupOf(pair.pair), pair.clean.length]) },
    })),
  );
}

/** Activations of some sites at all prompts of a forest, with the metric there. */
export interface Activations {
  readonly plan: Plan;
  /** x[rows,D] by site; `plan.row` tells a forward node's row. */
  readonly x: ReadonlyMap<SiteName, Floats>;
  /** m at the clean and at the patch prompt of each end, in logits. */
  readonly cleanMetric: Float64Array;
  readonly patchMetric: Float64Array;
}

/** Runs the plain model forward on all prompts of a forest. @throws StoppedError */
export async function readActivations(
  loaded: LoadedModel,
  forest: PrefixForest,
  sites: readonly SiteName[],
  watch: Watch = {},
): Promise<Activations> {
  const plan = planCapture(forest, { wanted: "both" });
  const width = (site: SiteName) => loaded.model.sites[parseSite(site).kind]!;
  const x = new Map(sites.map((site) => [site, newFloats(loaded.dtype, plan.rows * width(site))]));
  const metric = { clean: new Float64Array(forest.ends.length), patch: new Float64Array(forest.ends.length) };
  const jobs = plan.packs.map((pack) => {
    const forwardOf = (row: number) =>
      pack.kind === "backward" ? forest.backward.clean[pack.node[row]!]! : pack.node[row]!;
    return {
      // No gradient is asked for.
      pack: { ...pack, kind: "forward" as const },
      metric(values: Floats) {
        pack.metric.end.forEach((end, i) => {
          metric[pack.metric.prompt[i]!][end] = values[i]!;
        });
      },
      found({ site, tensors }: { readonly site: SiteName; readonly tensors: Readonly<Record<string, Floats>> }) {
        const D = width(site);
        for (const row of pack.keep) {
          x.get(site)!.set(tensors.x!.subarray(row * D, (row + 1) * D), plan.row[forwardOf(row)]! * D);
        }
        return undefined;
      },
    };
  });
  await runModel(loaded, jobs, { ...watch, hooks: new Map(sites.map((site) => [site, {}])) });
  return { plan, x, cleanMetric: metric.clean, patchMetric: metric.patch };
}

/** What takes the place of a site's activations outside a circuit: base + Σ_{i∈C} (f_i(x) − a_i)·d_i. */
export interface SiteBase {
  /** Features that circuits are made of. */
  readonly picked: Picked;
  /** The row of the numbers below at a backward node. */
  rowOf(node: number): number;
  /** base[R,D], which holds what stands for the error. */
  readonly base: Floats;
  /** a[R,U] of the picked features. */
  readonly codes: Floats;
  /** Σ a_i·d_i over all features [R,D]; only where it was asked for. */
  readonly decoded?: Floats;
}

/** What ablation puts in place, at every site. */
export interface AblationBase {
  readonly kind: AblationKind;
  readonly sites: ReadonlyMap<SiteName, SiteBase>;
  /** Where runs may begin, since nothing differs before; none where the first site lies inside a block. */
  readonly start: Start | undefined;
}

/**
 * What takes the place of activations under a kind of ablation.
 *
 * @param features those that circuits may be made of
 * @param whole also what circuits of all features need
 */
export async function ablationBase(
  activations: Activations,
  dictionaries: ReadonlyMap<SiteName, Dictionary>,
  codes: CodeReader,
  features: Features,
  kind: AblationKind,
  { whole = false, watch = {} }: { readonly whole?: boolean; readonly watch?: Watch } = {},
): Promise<AblationBase> {
  const { plan, x } = activations;
  const sites = new Map<SiteName, SiteBase>();
  for (const [site, dictionary] of dictionaries) {
    const picked = await pickFeatures(dictionary, features.get(site) ?? []);
    sites.set(site, await siteBase(plan, x.get(site)!, dictionary, codes, picked, kind, whole));
    watch.onProgress?.(sites.size, dictionaries.size);
  }
  return { kind, sites, start: startOf([...dictionaries.keys()], activations) };
}

async function siteBase(
  plan: Plan,
  x: Floats,
  dictionary: Dictionary,
  codes: CodeReader,
  picked: Picked,
  { values, errors }: AblationKind,
  whole: boolean,
): Promise<SiteBase> {
  const { backward } = plan.forest;
  const [D, U] = [picked.width, picked.features.length];
  const rows = x.length / D;
  const floats = (n: number) => new (x.constructor as new (n: number) => Floats)(n);
  const needsAll = whole || errors !== "ablated";
  const isNormalized = picked.encoder.normalization !== undefined;
  // Of an SAE that is normalised per token, mean and scaled bias count as error.
  const bias = isNormalized ? new Float32Array(D) : await dictionary.decoderBias();
  const encoded = needsAll || values !== "zero" ? await encodeRows(dictionary, codes, x, picked, needsAll) : undefined;
  const decoded = needsAll ? await decodeRows(dictionary, encoded!.sparse, D, x) : undefined;

  const cleanRow = (node: number) => plan.row[backward.clean[node]!]!;
  const patchRow = (node: number) => plan.row[backward.patch[node]!]!;
  /** a, Σ a·d and x (or for zeros b_dec) by row. */
  const start = (): SiteBase => {
    if (values === "zero") {
      return {
        picked,
        rowOf: () => 0,
        base: floats(D).map((_, d) => bias[d]!),
        codes: floats(U),
        ...(needsAll && { decoded: floats(D) }),
      };
    }
    const rowCodes = floats(rows * U);
    for (let row = 0; row < rows; row++) encoded!.put(row, rowCodes, row * U);
    if (values === "patch") {
      return { picked, rowOf: patchRow, base: x, codes: rowCodes, ...(decoded && { decoded }) };
    }
    const { keyOf, keys, weight } = meanKeys(plan.forest);
    const mean = (of: Floats, width: number) => {
      const sum = new Float64Array(keys * width);
      for (let node = 0; node < backward.size; node++) {
        const share = backward.weight[node]! / (2 * weight[keyOf(node)]!);
        for (const row of [cleanRow(node), patchRow(node)]) {
          for (let d = 0; d < width; d++) sum[keyOf(node) * width + d]! += share * of[row * width + d]!;
        }
      }
      return floats(0).constructor === Float64Array ? sum : Float32Array.from(sum);
    };
    return {
      picked,
      rowOf: keyOf,
      base: mean(x, D),
      codes: mean(rowCodes, U),
      ...(decoded && { decoded: mean(decoded, D) }),
    };
  };
  const plain = start();
  if (errors === "ablated" || errors === "kept") return plain;
  const biased = plain.decoded!.map((value, i) => value + bias[i % D]!);
  if (errors === "removed") return { ...plain, base: biased };
  // The clean run's error, by node.
  const base = floats(backward.size * D);
  for (let node = 0; node < backward.size; node++) {
    const [from, clean] = [plain.rowOf(node) * D, cleanRow(node) * D];
    for (let d = 0; d < D; d++) {
      base[node * D + d] = plain.decoded![from + d]! + x[clean + d]! - decoded![clean + d]!;
    }
  }
  const byNode = (of: Floats, width: number) => {
    const out = floats(backward.size * width);
    for (let node = 0; node < backward.size; node++) {
      const from = plain.rowOf(node) * width;
      out.set(of.subarray(from, from + width), node * width);
    }
    return out;
  };
  return {
    picked,
    rowOf: (node) => node,
    base,
    codes: byNode(plain.codes, U),
    ...(whole && { decoded: byNode(plain.decoded!, D) }),
  };
}

/** Over what means are taken: a row for each group and position, with the number of pairs there. */
function meanKeys({ backward }: PrefixForest) {
  const longest = 1 + backward.position.reduce((a, b) => Math.max(a, b), 0);
  const keys = backward.groups.length * longest;
  const keyOf = (node: number) => backward.group[node]! * longest + backward.position[node]!;
  const weight = new Float64Array(keys);
  for (let node = 0; node < backward.size; node++) weight[keyOf(node)]! += backward.weight[node]!;
  return { keyOf, keys, weight };
}

/** The codes of rows: of all features where `all`, else of the picked ones alone. */
export async function encodeRows(dictionary: Dictionary, codes: CodeReader, x: Floats, picked: Picked, all = false) {
  const isTopK = picked.encoder.activation.kind === "topk";
  const own = !all && !isTopK;
  const empty = own && picked.features.length === 0;
  const asked: Dictionary = own
    ? { ...dictionary, featureCount: picked.count, encoder: async () => picked.encoder }
    : dictionary;
  const sparse = empty ? emptyCodes(x.length / picked.width) : await codes.encode(asked, x);
  const place = new Map(picked.features.map((feature, u) => [own ? u : feature, u]));
  return {
    sparse,
    /** Puts the picked features' codes of a row to `to`. */
    put(row: number, to: Floats, at: number): void {
      const { features, values } = codeRow(sparse, row);
      features.forEach((feature, i) => {
        const u = place.get(feature);
        if (u !== undefined) to[at + u] = values[i]!;
      });
    },
  };
}

const emptyCodes = (rows: number): SparseCodes => ({
  rows,
  offsets: new Int32Array(rows + 1),
  features: new Int32Array(0),
  values: new Float32Array(0),
});

/** f·W_dec [rows,D], without the bias. */
async function decodeRows(dictionary: Dictionary, sparse: SparseCodes, D: number, like: Floats): Promise<Floats> {
  const { data, start } = await directionsOf(dictionary, sparse.features);
  const out = new (like.constructor as new (n: number) => Floats)(like.length);
  const sum = new Float64Array(D);
  for (let row = 0; row < sparse.rows; row++) {
    sum.fill(0);
    const { features, values } = codeRow(sparse, row);
    features.forEach((feature, i) => {
      const at = start[feature]!;
      for (let d = 0; d < D; d++) sum[d]! += values[i]! * data[at + d]!;
    });
    out.set(sum, row * D);
  }
  return out;
}
