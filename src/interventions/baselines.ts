import type { Dictionary } from "../dictionaries/dictionary.ts";
import type { CodeReader } from "../dictionaries/encode.ts";
import type { OutsideText } from "../prompts/outside.ts";
import { isOutside } from "../prompts/outside.ts";
import { Random } from "../random.ts";
import type { SiteName } from "../site.ts";
import type { Activations, Features } from "./ablation.ts";

/** For each feature of a site [F], the share of tokens at which it is active, 0 to 1. */
export type Activity = ReadonlyMap<SiteName, Float64Array>;

/**
 * How often features are active in the clean and patch prompts of a forest: each token of the text counts as often as pairs have it.
 *
 * @param activations of the sites of all the dictionaries
 * @param outside tokens that do not count
 */
export async function activityOf(
  { plan, x }: Activations,
  dictionaries: ReadonlyMap<SiteName, Dictionary>,
  codes: CodeReader,
  outside: OutsideText,
): Promise<Activity> {
  const { backward } = plan.forest;
  const counted = new Float64Array(plan.rows);
  let total = 0;
  for (let node = 0; node < backward.size; node++) {
    const position = backward.position[node]!;
    for (const [token, forward] of [
      [backward.token[node]!, backward.clean[node]!],
      [backward.patchToken[node]!, backward.patch[node]!],
    ] as const) {
      if (isOutside(outside, token, position)) continue;
      counted[plan.row[forward]!]! += backward.weight[node]!;
      total += backward.weight[node]!;
    }
  }
  const activity = new Map<SiteName, Float64Array>();
  for (const [site, dictionary] of dictionaries) {
    const { offsets, features, rows } = await codes.encode(dictionary, x.get(site)!);
    const share = new Float64Array(dictionary.featureCount);
    for (let row = 0; row < rows; row++) {
      for (let at = offsets[row]!; at < offsets[row + 1]!; at++) share[features[at]!]! += counted[row]! / total;
    }
    activity.set(site, share);
  }
  return activity;
}

/** Among how many features, those that come closest in activity, one is chosen at random. */
const closest = 8;

/**
 * A random circuit to measure another one by: for each feature another of the same site that is active about as often, none twice and none of the
 * circuit itself. Where a site's other features do not suffice, all of them are taken.
 *
 * @param seed equal seeds give equal circuits
 */
export function matchedByActivity(features: Features, activity: Activity, seed: number | string): Features {
  return new Map(
    [...features].map(([site, own]) => [
      site,
      matchedAt(own, activity.get(site)!, new Random(`${seed}/matched/${site}`)),
    ]),
  );
}

/** @param share by feature */
function matchedAt(own: readonly number[], share: Float64Array, random: Random): number[] {
  const taken = new Set(own);
  // Shuffled first, so that of features that are active equally often each is as likely as the others.
  const others = random
    .shuffled([...share.keys()].filter((feature) => !taken.has(feature)))
    .sort((a, b) => share[a]! - share[b]!);
  const found: number[] = [];
  for (const feature of random.shuffled(own)) {
    if (others.length === 0) break;
    const [from, to] = closestTo(others, share, share[feature]!);
    found.push(...others.splice(from + random.below(to - from), 1));
  }
  return found.sort((a, b) => a - b);
}

/** The range of `others`, which ascend by share, that comes closest to a share: [from, to). */
function closestTo(others: readonly number[], share: Float64Array, wanted: number): [from: number, to: number] {
  let to = others.findIndex((feature) => share[feature]! > wanted);
  if (to < 0) to = others.length;
  let from = to;
  const gap = (i: number) =>
    i < 0 || i >= others.length ? Number.POSITIVE_INFINITY : Math.abs(share[others[i]!]! - wanted);
  while (to - from < Math.min(closest, others.length)) {
    if (gap(from - 1) <= gap(to)) from--;
    else to++;
  }
  return [from, to];
}
