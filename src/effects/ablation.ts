import { type Capture, runMetric } from "../capture/capture.ts";
import type { Hook } from "../capture/hooks.ts";
import type { Watch } from "../capture/runner.ts";
import type { Dictionary } from "../dictionaries/dictionary.ts";
import { type CodeReader, codeRule, type EncoderTensors, traceCodes } from "../dictionaries/encode.ts";
import { isChanged, type PrefixForest } from "../forest/forest.ts";
import { planMetric } from "../forest/packs.ts";
import { constant, type Tensor } from "../graph/tensor.ts";
import type { Context } from "../models/model.ts";
import type { LoadedModel } from "../models/weights.ts";
import type { OutsideText } from "../prompts/outside.ts";
import type { SiteName } from "../site.ts";
import { mean } from "../stats.ts";

/** Members that a group needs for an AUC. */
export const fewestMembers = 5;

/** Codes of a feature over the members of one group. */
export interface Firing {
  /** Members looked at. */
  readonly n: number;
  /** Share of them with a code above 0. */
  readonly share: number;
  /** Mean code, zeros included. */
  readonly mean: number;
  /**
   * How well the code tells the group from all others: the probability that a random member's code is larger than a random other's, ties counted half
   * (the area under the ROC curve). 1 tells them apart, 0.5 says nothing; NaN where the group, or all others together, have fewer than `fewestMembers`:
   * of so few, chance alone often tells one apart.
   */
  readonly auc: number;
}

/**
 * How often features of a site fire at the first token in which clean and patch prompt differ: for agreement, the subject noun.
 *
 * @param groupOf the group of a backward node, or undefined to leave it out; a member is a distinct clean prefix
 * @returns for each feature, its firing by group
 */
export async function firing(
  capture: Capture,
  dictionary: Dictionary,
  codes: CodeReader,
  features: readonly number[],
  groupOf: (node: number) => string | undefined,
): Promise<ReadonlyMap<string, Firing>[]> {
  const { x, width: D } = await capture.site(dictionary.reads);
  const { row, forest } = capture.plan;
  const { backward } = forest;
  const members = new Map<string, Set<number>>();
  for (let node = 0; node < backward.size; node++) {
    const parent = backward.parent[node]!;
    const group = groupOf(node);
    if (group === undefined || !isChanged(backward, node) || (parent >= 0 && isChanged(backward, parent))) continue;
    const set = members.get(group) ?? new Set();
    members.set(group, set.add(row[backward.clean[node]!]!));
  }
  const list = [...members].flatMap(([group, rows]) => [...rows].map((at) => ({ group, at })));
  const gathered = new (x.constructor as typeof Float64Array)(list.length * D);
  list.forEach(({ at }, i) => {
    gathered.set(x.subarray(at * D, (at + 1) * D), i * D);
  });
  const sparse = await codes.encode(dictionary, gathered);
  return features.map((feature) => {
    const code = list.map((_, i) => {
      const [from, to] = [sparse.offsets[i]!, sparse.offsets[i + 1]!];
      const at = sparse.features.subarray(from, to).indexOf(feature);
      return at < 0 ? 0 : sparse.values[from + at]!;
    });
    const byGroup = new Map<string, Firing>();
    for (const group of members.keys()) {
      const own = code.filter((_, i) => list[i]!.group === group);
      const others = code.filter((_, i) => list[i]!.group !== group);
      byGroup.set(group, {
        n: own.length,
        share: own.filter((f) => f > 0).length / own.length,
        mean: mean(own),
        auc: areaUnderCurve(own, others),
      });
    }
    return byGroup;
  });
}

/** The probability that one of `a` is larger than one of `b`, ties counted half; NaN where there are too few of either. */
export function areaUnderCurve(a: readonly number[], b: readonly number[]): number {
  if (Math.min(a.length, b.length) < fewestMembers) return Number.NaN;
  let larger = 0;
  for (const x of a) for (const y of b) larger += x > y ? 1 : x === y ? 0.5 : 0;
  return larger / (a.length * b.length);
}

/**
 * The metric at every end's clean prompt with some features taken out: at each site x becomes x − Σ f_i·d_i over them, the rest of x (other features,
 * biases, error) untouched. BOS and padding stay as they are: SAEs are not trained on them, so what fires there means something else.
 *
 * @param features by site; an empty map gives the plain model's metric
 * @returns m by end, in logits
 */
export async function ablatedMetric(
  loaded: LoadedModel,
  forest: PrefixForest,
  dictionaries: ReadonlyMap<SiteName, Dictionary>,
  features: ReadonlyMap<SiteName, readonly number[]>,
  { first, padding }: OutsideText,
  watch: Watch = {},
): Promise<Float64Array> {
  const { vocabulary } = loaded.model;
  const byToken = (of: (id: number) => boolean) =>
    constant(
      Float32Array.from({ length: vocabulary }, (_, id) => (of(id) ? 1 : 0)),
      "float32",
      [vocabulary, 1],
    );
  const [isBos, isText] = [byToken((id) => first.has(id)), byToken((id) => !padding.has(id))];
  const inText = ({ tokens, positions, tileSize }: Context) => {
    const atStart = constant(
      Float32Array.from({ length: tileSize }, (_, position) => (position === 0 ? 1 : 0)),
      "float32",
      [tileSize, 1],
    ).gather(positions);
    return isText.gather(tokens).mul(isBos.gather(tokens).mul(atStart).neg().add(1));
  };
  const hooks = new Map<SiteName, Hook>();
  for (const [site, chosen] of features) {
    const contributed = await contribution(dictionaries.get(site)!, chosen);
    hooks.set(site, { trace: (x, { context }) => ({ y: x.sub(contributed(x).mul(inText(context))) }) });
  }
  return runMetric(loaded, planMetric(forest), { ...watch, hooks });
}

/** x[N,D] ↦ f[:,S]·W_dec[S], what some features contribute to it. Only the encoder columns of S are used, but for TopK, where every code depends on the others. */
async function contribution(dictionary: Dictionary, features: readonly number[]): Promise<(x: Tensor) => Tensor> {
  const encoder = await dictionary.encoder();
  const { weight, bias, inputBias, activation } = encoder;
  const { inputWidth: D, outputWidth, featureCount: F } = dictionary;
  const all = activation.kind === "topk";
  const columns = all ? Array.from({ length: F }, (_, i) => i) : features;
  const S = columns.length;
  const pick = (data: Float32Array) => Float32Array.from(columns, (i) => data[i]!);
  const picked = new Float32Array(D * S);
  for (let d = 0; d < D; d++) for (let s = 0; s < S; s++) picked[d * S + s] = weight[d * F + columns[s]!]!;
  const decoder = await dictionary.decoderRows(columns);
  const out = new Set(features);
  columns.forEach((feature, s) => {
    if (!out.has(feature)) decoder.fill(0, s * outputWidth, (s + 1) * outputWidth);
  });
  const vector = (data: Float32Array) => constant(data, "float32", [data.length]);
  const tensors: EncoderTensors = {
    weight: constant(picked, "float32", [D, S]),
    bias: vector(pick(bias)),
    inputBias: inputBias && vector(inputBias),
    threshold: activation.kind === "jumprelu" ? vector(pick(activation.threshold)) : undefined,
  };
  const directions = constant(decoder, "float32", [S, outputWidth]);
  return (x) => traceCodes(x, tensors, codeRule(encoder)).matmul(directions);
}
