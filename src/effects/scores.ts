import type { Capture } from "../capture/capture.ts";
import type { Dictionary } from "../dictionaries/dictionary.ts";
import type { CodeReader } from "../dictionaries/encode.ts";
import { steps, type Watch } from "../progress.ts";
import { directionsOf, dot } from "./directions.ts";
import { type EffectRows, RowBuilder } from "./rows.ts";

/**
 * The score gradient-activation, f_i·⟨g, d_i⟩ at the clean prompts (arXiv:2408.05147, appendix C.3): needs no patch prompt. Rows where f_clean ≠ 0,
 * the score in the column `effect`, in logits; f_patch is NaN.
 */
export async function gradientActivation(
  capture: Capture,
  dictionary: Dictionary,
  codes: CodeReader,
  watch: Watch = {},
): Promise<EffectRows> {
  const { site, width: D, x, g } = await capture.site(dictionary.writes, watch);
  const { plan } = capture;
  const { features, offsets, values } = await codes.encode(dictionary, x, watch);
  const { data, start } = await directionsOf(dictionary, features);
  const rows = new RowBuilder(site);
  const step = steps(watch, plan.forest.backward.size);
  for (let node = 0; node < plan.forest.backward.size; node++) {
    step(node);
    const at = plan.row[plan.forest.backward.clean[node]!]!;
    for (let i = offsets[at]!; i < offsets[at + 1]!; i++) {
      const gradient = dot(g, node * D, data, start[features[i]!]!, D);
      rows.add(node, features[i]!, values[i]!, Number.NaN, gradient, values[i]! * gradient);
    }
  }
  return rows.finish();
}

/** Sums of the score gradient over the nodes of each split and case: sums[group][i] = Σ_n ⟨g[n], d_i⟩. */
export type GroupSums = readonly Float64Array[];

/**
 * The score gradient, ⟨g, d_i⟩, what the first public version of the analytic idea ranked by: only decoder rows are used, no code is computed.
 * Being linear in g, its sum over nodes is the product with the summed gradient.
 *
 * @param excluded nodes left out: those of BOS, EOS and pad
 */
export async function gradientSums(
  capture: Capture,
  dictionary: Dictionary,
  excluded: (node: number) => boolean,
  watch: Watch = {},
): Promise<GroupSums> {
  const { width: D, g } = await capture.site(dictionary.writes, watch);
  const { backward } = capture.plan.forest;
  const total = backward.groups.map(() => new Float64Array(D));
  const step = steps(watch, backward.size);
  for (let node = 0; node < backward.size; node++) {
    step(node);
    if (excluded(node)) continue;
    const sum = total[backward.group[node]!]!;
    for (let d = 0; d < D; d++) sum[d]! += g[node * D + d]!;
  }
  const decoder = await dictionary.decoder();
  return total.map((sum) =>
    Float64Array.from({ length: dictionary.featureCount }, (_, i) => dot(sum, 0, decoder, i * D, D)),
  );
}
