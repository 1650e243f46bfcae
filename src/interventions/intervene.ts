import { type Floats, type Hook, type Inputs, type Job, newFloats } from "../capture/hooks.ts";
import { logitsOf } from "../capture/logits.ts";
import { runModel } from "../capture/run.ts";
import { streamSite } from "../capture/stream-sites.ts";
import type { Dictionary } from "../dictionaries/dictionary.ts";
import { dictionaryAt, type Picked, pickFeatures } from "../dictionaries/pick.ts";
import type { PrefixForest } from "../forest/forest.ts";
import { type Pack, planMetric } from "../forest/packs.ts";
import type { LoadedModel } from "../models/weights.ts";
import type { Watch } from "../progress.ts";
import { isOutside, type OutsideText } from "../prompts/outside.ts";
import { groupPairs, type Split } from "../prompts/pairs.ts";
import type { SiteName } from "../site.ts";
import { mean, placesOfLargest } from "../stats.ts";
import { pickedInputs, replacementInputs, replacingHook } from "./replace.ts";

/** What is done to one feature: at every token of the text its code f becomes factor·f + value. Ablation is 0·f + 0. */
export interface Intervention {
  readonly site: SiteName;
  readonly feature: number;
  readonly factor: number;
  readonly value: number;
}

/** Where interventions take place. */
export interface InterventionSetting {
  readonly loaded: LoadedModel;
  readonly forest: PrefixForest;
  readonly dictionaries: ReadonlyMap<SiteName, Dictionary>;
  /** Tokens that are left as they are. */
  readonly outside: OutsideText;
}

/**
 * The metric at every end's clean prompt under each of some sets of interventions; the empty set gives the plain model's.
 *
 * At each site x becomes x + Σ_i (factor_i·f_i + value_i − f_i)·d_i over the set's features, f_i being the code of x as the changed model has it there; the
 * rest of x (other features, biases, error) stays. BOS and padding stay as they are: SAEs are not trained on them, so what fires there means something
 * else.
 *
 * @returns m by end for each set, in logits
 * @throws UserError if there is no SAE at a site, or no such feature; StoppedError if asked to stop
 */
export async function intervenedMetrics(
  setting: InterventionSetting,
  sets: readonly (readonly Intervention[])[],
  watch: Watch = {},
): Promise<Float64Array[]> {
  const results = sets.map(() => new Float64Array(setting.forest.ends.length));
  const { jobs, hooks } = await changedRuns(setting, sets, (pack, set) => ({
    metric(values) {
      pack.metric.end.forEach((end, i) => {
        results[set]![end] = values[i]!;
      });
    },
  }));
  await runModel(setting.loaded, jobs, { ...watch, hooks });
  return results;
}

/** A token's probability to come next. */
export interface NextToken {
  readonly token: number;
  readonly before: number;
  readonly after: number;
}

/** What a model does. */
export interface Behaviour {
  /** Mean m, in logits. */
  readonly metric: number;
  /** The share of pairs whose clean answer has the larger logit. */
  readonly accuracy: number;
}

/** Pairs of a split and case together. */
export interface IntervenedGroup {
  readonly split: Split;
  /** '' for all cases of the split together, where there are several. */
  readonly case: string;
  readonly pairs: number;
  readonly before: Behaviour;
  readonly after: Behaviour;
  /** Of the mean distribution. */
  readonly next: readonly NextToken[];
}

/** What interventions do to a model's behaviour at the clean prompts. */
export interface Intervened {
  /** m by end, in logits. */
  readonly before: Float64Array;
  readonly after: Float64Array;
  /** By end, the tokens that are among the most probable before or after, the most probable of both first. */
  readonly next: readonly (readonly NextToken[])[];
  /** In the order in which pairs come; then each split as a whole, where it has several cases. */
  readonly groups: readonly IntervenedGroup[];
}

/**
 * The metric and the next-token distribution at the end of every pair's clean prompt, before and after interventions: see `intervenedMetrics`.
 *
 * @param options top: how many of the most probable tokens are told, of either distribution; 10 by default
 * @throws UserError if there is no SAE at a site, or no such feature, or weights cannot be read; StoppedError if asked to stop
 */
export async function intervene(
  setting: InterventionSetting,
  interventions: readonly Intervention[],
  { top = 10, ...watch }: Watch & { readonly top?: number } = {},
): Promise<Intervened> {
  const { loaded, forest } = setting;
  const { ends } = forest;
  const metrics = [new Float64Array(ends.length), new Float64Array(ends.length)] as const;
  const last = streamSite(loaded.model.layers);
  const D = loaded.model.width;
  // The stream at each distinct end, before and after side by side.
  const prompts = promptsOf(forest);
  const x = newFloats(loaded.dtype, 2 * prompts.count * D);
  const { jobs, hooks } = await changedRuns(setting, [[], interventions], (pack, set) => ({
    metric(values) {
      pack.metric.end.forEach((end, i) => {
        metrics[set]![end] = values[i]!;
      });
    },
    found({ tensors }) {
      pack.metric.end.forEach((end, i) => {
        const row = pack.metric.row[i]!;
        x.set(tensors.x!.subarray(row * D, (row + 1) * D), (2 * prompts.of[end]! + set) * D);
      });
      return undefined;
    },
  }));
  const hook = hooks.get(last);
  hooks.set(last, hook ? readingToo(hook) : {});
  await runModel(loaded, jobs, { ...watch, hooks });

  const groups = groupsOf(forest).map((group) => ({ ...group, sums: meanSums(loaded.model.vocabulary) }));
  const next: NextToken[][] = [];
  for await (const { from, logits } of logitsOf(loaded, x, { together: 2 })) {
    const V = loaded.model.vocabulary;
    for (let at = 0; at * V < logits.length; at += 2) {
      const prompt = (from + at) / 2;
      const [before, after] = [0, 1].map((i) => softmax(logits.subarray((at + i) * V, (at + i + 1) * V)));
      next[prompt] = mostProbable(before!, after!, top);
      for (const { members, sums } of groups) {
        const pairs = members.filter((pair) => prompts.of[forest.endIndexOfPair[pair]!] === prompt).length;
        if (pairs > 0) sums.add(before!, after!, pairs / members.length);
      }
    }
  }
  const behaviour = (m: Float64Array, members: readonly number[]): Behaviour => {
    const values = members.map((pair) => m[forest.endIndexOfPair[pair]!]!);
    return { metric: mean(values), accuracy: values.filter((value) => value < 0).length / values.length };
  };
  return {
    before: metrics[0],
    after: metrics[1],
    next: ends.map((_, end) => next[prompts.of[end]!]!),
    groups: groups.map(({ split, case: name, members, sums }) => ({
      split,
      case: name,
      pairs: members.length,
      before: behaviour(metrics[0], members),
      after: behaviour(metrics[1], members),
      next: mostProbable(sums.before, sums.after, top),
    })),
  };
}

/** The jobs of a forest's clean prompts under each set of interventions, and the hooks that they need. */
async function changedRuns(
  { loaded, forest, dictionaries, outside }: InterventionSetting,
  sets: readonly (readonly Intervention[])[],
  told: (pack: Pack, set: number) => Pick<Job, "metric" | "found">,
): Promise<{ jobs: Job[]; hooks: Map<SiteName, Hook> }> {
  const { dtype } = loaded;
  const hooks = new Map<SiteName, Hook>();
  for (const { site } of sets.flat()) {
    if (!hooks.has(site)) hooks.set(site, await replacingHook(dictionaryAt(dictionaries, site), dtype));
  }
  const changes: ReadonlyMap<SiteName, Change>[] = [];
  for (const set of sets) {
    const bySite = new Map<SiteName, Change>();
    for (const site of hooks.keys()) {
      const own = set.filter((one) => one.site === site);
      bySite.set(site, await changeOf(dictionaries.get(site)!, own, dtype));
    }
    changes.push(bySite);
  }
  const jobs = planMetric(forest).packs.flatMap((pack) =>
    sets.map(
      (_, set): Job => ({
        pack,
        inputs(site) {
          const change = changes[set]!.get(site);
          return change ? inputsOf(change, pack, outside, dtype) : {};
        },
        ...told(pack, set),
      }),
    ),
  );
  return { jobs, hooks };
}

/** What interventions add at a site: f_S(x)·W_S + offset, with (factor − 1)·d and value·d. */
interface Change {
  readonly picked: Picked;
  readonly weights: Inputs;
  /** [D] */
  readonly offset: Float64Array;
}

async function changeOf(
  dictionary: Dictionary,
  interventions: readonly Intervention[],
  dtype: "float32" | "float64",
): Promise<Change> {
  const plain = await pickFeatures(
    dictionary,
    interventions.map(({ feature }) => feature),
  );
  const { width: D, column } = plain;
  const offset = new Float64Array(D);
  const rows = newFloats(dtype, plain.rows.length);
  rows.set(plain.rows);
  interventions.forEach(({ factor, value }, i) => {
    for (let d = 0, at = column[i]! * D; d < D; d++, at++) {
      offset[d]! += value * plain.rows[at]!;
      rows[at] = (factor - 1) * plain.rows[at]!;
    }
  });
  const picked = { ...plain, rows };
  return { picked, weights: pickedInputs(picked, dtype), offset };
}

function inputsOf(
  { picked, weights, offset }: Change,
  pack: Pack,
  outside: OutsideText,
  dtype: "float32" | "float64",
): Inputs {
  const [N, D] = [pack.tokens.length, picked.width];
  const live = newFloats(dtype, N);
  const added = newFloats(dtype, N * D);
  pack.node.forEach((node, row) => {
    if (node < 0 || isOutside(outside, pack.tokens[row]!, pack.positions[row]!)) return;
    live[row] = 1;
    added.set(offset, row * D);
  });
  return replacementInputs({ picked, stay: newFloats(dtype, N).fill(1), live, offset: added }, weights);
}

/** The hook, which then also gives what it puts in place, as `x`. */
function readingToo(hook: Hook): Hook {
  return {
    ...hook,
    trace(x, at) {
      const { y } = hook.trace!(x, at);
      return { y, values: { x: y } };
    },
  };
}

/** The distinct clean prompts of a forest, by end. */
function promptsOf({ ends, backward }: PrefixForest): { readonly of: readonly number[]; readonly count: number } {
  const places = new Map<number, number>();
  const of = ends.map(({ node }) => {
    const prompt = backward.clean[node]!;
    const place = places.get(prompt) ?? places.size;
    places.set(prompt, place);
    return place;
  });
  return { of, count: places.size };
}

/** Pairs by split and case, then those of each split that has several cases. */
function groupsOf({ pairs }: PrefixForest) {
  const about = pairs.map(({ pair }) => pair);
  const groups = groupPairs(about);
  const splits = groupPairs(about.map(({ split }) => ({ split, case: "" })));
  return [...groups, ...splits.filter(({ split }) => groups.filter((group) => group.split === split).length > 1)];
}

/** Weighted sums of distributions [V]. */
function meanSums(V: number) {
  const [before, after] = [new Float64Array(V), new Float64Array(V)];
  return {
    before,
    after,
    add(p: Float64Array, q: Float64Array, weight: number) {
      for (let i = 0; i < V; i++) {
        before[i]! += weight * p[i]!;
        after[i]! += weight * q[i]!;
      }
    },
  };
}

/** The probabilities that logits [V] stand for. */
export function softmax(logits: Floats): Float64Array {
  let highest = Number.NEGATIVE_INFINITY;
  for (const logit of logits) highest = Math.max(highest, logit);
  const p = Float64Array.from(logits, (logit) => Math.exp(logit - highest));
  const total = p.reduce((a, b) => a + b, 0);
  return p.map((value) => value / total);
}

/** The `top` most probable tokens of each of two distributions, in the order of the larger probability. */
export function mostProbable(before: Float64Array, after: Float64Array, top: number): NextToken[] {
  const tokens = new Set([...placesOfLargest(before, top), ...placesOfLargest(after, top)]);
  const most = ({ before, after }: NextToken) => Math.max(before, after);
  return [...tokens]
    .map((token) => ({ token, before: before[token]!, after: after[token]! }))
    .sort((a, b) => most(b) - most(a) || a.token - b.token);
}
