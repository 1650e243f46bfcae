import { type Floats, type Hook, type Inputs, type Job, newFloats } from "../capture/hooks.ts";
import { runModel } from "../capture/run.ts";
import type { Dictionary } from "../dictionaries/dictionary.ts";
import { type Picked, pickAgain } from "../dictionaries/pick.ts";
import type { PrefixForest } from "../forest/forest.ts";
import { type Pack, planCapture, tightPacks } from "../forest/packs.ts";
import type { LoadedModel } from "../models/weights.ts";
import type { Watch } from "../progress.ts";
import { isOutside, type OutsideText } from "../prompts/outside.ts";
import type { SiteName } from "../site.ts";
import type { AblationBase, Features, SiteBase } from "./ablation.ts";
import { pickedInputs, type Replacement, replacementInputs, replacingHook } from "./replace.ts";
import { runFrom, startInputs } from "./start.ts";

/** Which features keep what the model computes. */
export type Subset =
  /** Those of a circuit; all others, and the errors, are ablated as the base says. */
  | { readonly kind: "circuit"; readonly features: Features }
  /** All but those of a circuit, and the errors as they come: what the model does without the circuit. */
  | { readonly kind: "complement"; readonly features: Features }
  /** All features; the errors alone are ablated. */
  | { readonly kind: "whole" };

export interface EvaluationSetting {
  readonly loaded: LoadedModel;
  /** As `evaluationForest` makes it. */
  readonly forest: PrefixForest;
  readonly dictionaries: ReadonlyMap<SiteName, Dictionary>;
  /** Tokens that are left as they are. */
  readonly outside: OutsideText;
}

/**
 * The metric at every end's clean prompt while some features alone keep what the model computes, for each of some subsets: m by end, in logits.
 *
 * At each of the base's sites and every token of the text x becomes base + Σ_{i∈C} (f_i(x) − a_i)·d_i, x being the activation of the ablated run. A circuit
 * reads its own encoder columns and decoder rows alone, and its evaluation is one forward pass from the first site on; errors that are kept, and subsets of all features, take
 * the whole dictionary.
 */
export async function evaluateSubsets(
  { loaded, forest, dictionaries, outside }: EvaluationSetting,
  base: AblationBase,
  subsets: readonly Subset[],
  watch: Watch = {},
): Promise<Float64Array[]> {
  const packs = forwardPacks(forest);
  const results = subsets.map(() => new Float64Array(forest.ends.length));
  const needsAll = (subset: Subset) =>
    subset.kind === "whole" || (subset.kind === "circuit" && base.kind.errors === "kept");
  const [whole, own] = [subsets.filter(needsAll), subsets.filter((subset) => !needsAll(subset))];
  const total = subsets.length;
  let before = 0;
  for (const [some, all] of [
    [own, false],
    [whole, true],
  ] as const) {
    if (some.length === 0) continue;
    const hooks = new Map<SiteName, Hook>();
    for (const site of base.sites.keys()) {
      hooks.set(site, await replacingHook(dictionaries.get(site)!, loaded.dtype, { whole: all }));
    }
    const at = replacementsOf(base, loaded.dtype);
    const jobs = some.flatMap((subset) => {
      const m = results[subsets.indexOf(subset)]!;
      return packs.map(
        (pack): Job => ({
          pack,
          inputs: (site) => ({ ...at(subset, site, pack, outside), ...startInputs(base.start, site, pack) }),
          metric(values) {
            pack.metric.end.forEach((end, i) => {
              m[end] = values[i]!;
            });
          },
        }),
      );
    });
    const done = before;
    await runModel(loaded, jobs, {
      ...runFrom(base.start, hooks, loaded.dtype),
      stopped: watch.stopped,
      onProgress: (step, steps) => watch.onProgress?.((done + (some.length * step) / steps) / total, 1),
    });
    before += some.length;
  }
  return results;
}

/** The backward nodes of a forest in packs that are run forward alone; ends ask for the metric at their clean prompts. */
export function forwardPacks(forest: PrefixForest): Pack[] {
  return tightPacks(planCapture(forest, { wanted: "none" })).map((pack) => ({
    ...pack,
    kind: "forward",
    metric: cleanMetric(pack),
  }));
}

/** A pack's metric rows without those of patch prompts. */
export function cleanMetric({ metric }: Pack): Pack["metric"] {
  const kept = metric.prompt.flatMap((prompt, i) => (prompt === "clean" ? [i] : []));
  const ints = (from: Int32Array) => Int32Array.from(kept, (i) => from[i]!);
  return {
    row: ints(metric.row),
    cleanAnswer: ints(metric.cleanAnswer),
    patchAnswer: ints(metric.patchAnswer),
    weight: Float32Array.from(kept, (i) => metric.weight[i]!),
    end: ints(metric.end),
    prompt: kept.map(() => "clean"),
  };
}

/** What a subset puts in place at the rows of packs. Of each site the last subset's is kept: jobs come subset by subset, and all of them together would take the memory of a base for each. */
function replacementsOf(base: AblationBase, dtype: "float32" | "float64") {
  const last = new Map<SiteName, { readonly subset: Subset; readonly at: SubsetAtSite }>();
  return (subset: Subset, site: SiteName, pack: Pack, outside: OutsideText): Inputs => {
    const known = last.get(site);
    const at = known?.subset === subset ? known.at : subsetAt(base.sites.get(site)!, site, base, subset, dtype);
    last.set(site, { subset, at });
    const D = at.picked.width;
    const floats = (n: number) => newFloats(dtype, n);
    const N = pack.tokens.length;
    const replaced: Replacement = {
      picked: at.picked,
      ...(at.whole !== undefined && { whole: at.whole }),
      stay: floats(N).fill(1),
      live: floats(N),
      offset: floats(N * D),
    };
    pack.node.forEach((node, row) => {
      if (node < 0 || isOutside(outside, pack.tokens[row]!, pack.positions[row]!)) return;
      replaced.stay[row] = at.stays ? 1 : 0;
      replaced.live[row] = 1;
      const from = at.rowOf(node) * D;
      replaced.offset.set(at.offset.subarray(from, from + D), row * D);
    });
    return replacementInputs(replaced, at.weights);
  };
}

interface SubsetAtSite extends Pick<SiteBase, "rowOf"> {
  readonly picked: Picked;
  readonly weights: Inputs;
  readonly whole?: number;
  readonly stays: boolean;
  /** [R,D] */
  readonly offset: Floats;
}

function subsetAt(
  at: SiteBase,
  site: SiteName,
  { kind: { errors } }: AblationBase,
  subset: Subset,
  dtype: "float32" | "float64",
): SubsetAtSite {
  const chosen = subset.kind === "whole" ? [] : (subset.features.get(site) ?? []);
  const picked = pickAgain(at.picked, chosen);
  const { rowOf } = at;
  const own = contributions(at, picked);
  const combined = (...terms: readonly (readonly [Floats, number])[]) => {
    const sum = newFloats(dtype, own.length);
    for (const [term, sign] of terms) for (let i = 0; i < sum.length; i++) sum[i]! += sign * term[i]!;
    return sum;
  };
  const made = (weighted: Picked, rest: Pick<SubsetAtSite, "stays" | "offset" | "whole">): SubsetAtSite => ({
    picked: weighted,
    weights: pickedInputs(weighted, dtype),
    rowOf,
    ...rest,
  });
  if (subset.kind === "complement") {
    return made({ ...picked, rows: picked.rows.map((value) => -value) }, { stays: true, offset: combined([own, 1]) });
  }
  if (subset.kind === "whole") {
    if (errors === "kept") return made(picked, { stays: true, whole: 0, offset: combined() });
    return made(picked, { stays: false, whole: 1, offset: combined([at.base, 1], [at.decoded!, -1]) });
  }
  if (errors === "kept") {
    return made(picked, { stays: true, whole: -1, offset: combined([at.decoded!, 1], [own, -1]) });
  }
  return made(picked, { stays: false, offset: combined([at.base, 1], [own, -1]) });
}

/** Σ_{i∈C} a_i·d_i [R,D]. */
function contributions({ codes, picked: all, base }: SiteBase, picked: Picked): Float64Array {
  const [D, U] = [all.width, all.features.length];
  const sum = new Float64Array(base.length);
  const placeOf = new Map(all.features.map((feature, u) => [feature, u]));
  const places = picked.features.map((feature) => placeOf.get(feature)!);
  const columns = picked.column;
  for (let row = 0; row * D < sum.length; row++) {
    places.forEach((u, s) => {
      const a = codes[row * U + u]!;
      if (a === 0) return;
      const from = columns[s]! * D;
      for (let d = 0; d < D; d++) sum[row * D + d]! += a * picked.rows[from + d]!;
    });
  }
  return sum;
}

/** Mean metric over the pairs of a forest: F, in logits. */
export function meanMetric({ ends }: PrefixForest, m: Float64Array): number {
  let [sum, pairs] = [0, 0];
  ends.forEach(({ weight }, end) => {
    sum += weight * m[end]!;
    pairs += weight;
  });
  return sum / pairs;
}
