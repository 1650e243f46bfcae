import { z } from "zod";
import type { Capture } from "../capture/capture.ts";
import type { Dictionary } from "../dictionaries/dictionary.ts";
import type { CodeReader } from "../dictionaries/encode.ts";
import type { KeptCodes } from "../effects/kept-codes.ts";
import { prefixForest } from "../forest/forest.ts";
import { intervenedMetrics } from "../interventions/intervene.ts";
import type { Model } from "../models/model.ts";
import type { LoadedModel } from "../models/weights.ts";
import type { Watch } from "../progress.ts";
import type { OutsideText } from "../prompts/outside.ts";
import { groupPairs, type Split, type TokenPair } from "../prompts/pairs.ts";
import { parseSite, type SiteName } from "../site.ts";
import { type Firing, firing } from "./firing.ts";
import type { Ranking } from "./ranking.ts";

const share = z.number().min(0).max(1);
const split = z.enum(["train", "test"]);
const count = z.number().int().nonnegative();

/**
 * `ablation.json`: what single features stand for, and what the model does without them. Groups are any partition of tokens that a task cares
 * about: singular and plural subjects, female and male names.
 */
export const ablationSchema = z.strictObject({
  format: z.literal(1),
  /** What a group's members are and where codes are read, e.g. `held-out subject nouns`: "fires on 98 % of <members>". */
  members: z.string(),
  /** Strongest first. */
  features: z.array(
    z.strictObject({
      site: z.string(),
      feature: count,
      /** Mean effect per pair in logits, signed. */
      effect: z.number(),
      fires: z.array(
        z.strictObject({
          group: z.string(),
          split,
          /** Members that were looked at. */
          n: count,
          /** Share of them with a code above 0. */
          share,
          /** Mean code over all of them, zeros included. */
          mean: z.number(),
          /** Probability that a random member's code is larger than a random other group's, ties counted half; null without another group, and where either has fewer than five members. */
          auc: share.nullable(),
        }),
      ),
    }),
  ),
  ablations: z.array(
    z.strictObject({
      /** What is taken away, e.g. `the plural features`. */
      label: z.string(),
      /** `resid_post.3/41`, … */
      features: z.array(z.string()),
      /** What their codes are set to. */
      value: z.enum(["zero", "mean"]),
      accuracy: z.array(z.strictObject({ case: z.string(), split, n: count, before: share, after: share })),
    }),
  ),
});

/** The contents of `ablation.json`. */
export type Ablation = z.infer<typeof ablationSchema>;

interface MeaningInput {
  readonly loaded: LoadedModel;
  readonly captured: Capture;
  readonly codes: CodeReader;
  readonly keptCodes?: KeptCodes | undefined;
  readonly dictionaries: ReadonlyMap<SiteName, Dictionary>;
  readonly ranking: Ranking;
  readonly outside: OutsideText;
}

/** Features of each site that are looked at, the strongest on train. */
const looked = 5;
/** A feature tells a group from the others if on train its code does so with at least this area under the ROC curve. */
const telling = 0.95;

/**
 * What the strongest residual features of the middle third of the layers stand for: on which share of the test split's groups each fires at the
 * first token in which the prompts differ (for agreement, subjects of train were other nouns), and what the model still gets right without those
 * that tell one group from the others. Both choices are made on train, everything that is told is measured on test.
 *
 * @returns undefined if there is no such site, or no test split
 */
export async function measureMeaning(
  { loaded, captured, codes, keptCodes, dictionaries, ranking, outside }: MeaningInput,
  watch: Watch = {},
): Promise<Ablation | undefined> {
  const { model } = loaded;
  const { forest } = captured.plan;
  const { backward } = forest;
  const groupOfCase = groupsOf(backward.groups.map((g) => g.case));
  const middle = ranking.sites.filter(({ site }) => isMiddle(site, model));
  if (middle.length === 0 || !backward.groups.some((g) => g.split === "test")) return undefined;

  const features: Ablation["features"] = [];
  const byTold = new Map<string, Map<SiteName, number[]>>();
  for (const { site, splits } of middle) {
    const top = (splits.train?.top ?? []).slice(0, looked);
    const firingOn = (wanted: Split) =>
      firing(
        captured,
        dictionaries.get(site)!,
        codes,
        top.map((f) => f.feature),
        (node) => {
          const { split, case: name } = backward.groups[backward.group[node]!]!;
          return split === wanted ? groupOfCase(name) : undefined;
        },
        { stopped: watch.stopped, keptCodes },
      );
    const [onTrain, onTest] = [await firingOn("train"), await firingOn("test")];
    top.forEach(({ feature, effect }, i) => {
      features.push({
        site,
        feature,
        effect,
        fires: [...onTest[i]!].map(([group, { n, share, mean, auc }]) => ({
          group,
          split: "test" as const,
          n,
          share,
          mean,
          auc: Number.isNaN(auc) ? null : auc,
        })),
      });
      const group = toldApart(onTrain[i]!);
      if (group === undefined) return;
      const bySite = byTold.get(group) ?? new Map<SiteName, number[]>();
      bySite.set(site, [...(bySite.get(site) ?? []), feature]);
      byTold.set(group, bySite);
    });
  }
  features.sort((a, b) => Math.abs(b.effect) - Math.abs(a.effect));

  const tested = forest.pairs.map((_, p) => p).filter((p) => forest.pairs[p]!.pair.split === "test");
  const held = prefixForest(tested.map((p) => forest.pairs[p]!));
  const before = tested.map((p) => captured.cleanMetric[forest.endIndexOfPair[p]!]!);
  const ablations: Ablation["ablations"] = [];
  const told = [...byTold].sort(([a], [b]) => (a < b ? -1 : 1));
  const without = told.map(([, bySite]) =>
    [...bySite].flatMap(([site, list]) => list.map((feature) => ({ site, feature, factor: 0, value: 0 }))),
  );
  const metrics = await intervenedMetrics({ loaded, forest: held, dictionaries, outside }, without, watch);
  for (const [i, [group]] of told.entries()) {
    const after = tested.map((_, p) => metrics[i]![held.endIndexOfPair[p]!]!);
    ablations.push({
      label: `the ${group} features`,
      features: without[i]!.map(({ site, feature }) => `${site}/${feature}`),
      value: "zero",
      accuracy: changeByCase(held.pairs, before, after),
    });
  }
  return { format: 1, members: "first tokens in which the prompts of the test split differ", features, ablations };
}

/** Whether a site is a residual stream in the middle third of the layers. */
export function isMiddle(site: SiteName, { layers }: Pick<Model, "layers">): boolean {
  const { kind, layer } = parseSite(site);
  return kind === "resid_post" && layer >= Math.floor(layers / 3) && layer < Math.ceil((2 * layers) / 3);
}

/** The group that a feature tells from all others, if there is one. */
function toldApart(byGroup: ReadonlyMap<string, Firing>): string | undefined {
  return [...byGroup].find(([, { auc }]) => auc >= telling)?.[0];
}

/**
 * The group of a case, which is the subject's number in the field's sets: what stands behind its last underscore (`nounpp_plural` → `plural`) where that
 * makes fewer groups than there are cases; what stands before it where both sides have the same words (`plural_singular`: the subject's number, then
 * that of the noun between it and the verb); else the case itself.
 */
export function groupsOf(cases: readonly string[]): (name: string) => string {
  const ending = (name: string) => name.slice(name.lastIndexOf("_") + 1);
  const start = (name: string) => name.slice(0, Math.max(0, name.lastIndexOf("_")));
  const [all, endings, starts] = [new Set(cases), new Set(cases.map(ending)), new Set(cases.map(start))];
  if (endings.size === all.size) return (name) => name;
  const alike = endings.size > 1 && endings.size === starts.size && [...starts].every((word) => endings.has(word));
  return alike ? start : ending;
}

function changeByCase(pairs: readonly TokenPair[], before: readonly number[], after: readonly number[]) {
  return groupPairs(pairs.map(({ pair }) => pair)).map(({ case: name, members }) => {
    const share = (m: readonly number[]) => members.filter((i) => m[i]! < 0).length / members.length;
    return { case: name, split: "test" as const, n: members.length, before: share(before), after: share(after) };
  });
}
