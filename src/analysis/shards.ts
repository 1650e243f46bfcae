import { defaultWaveRows, wavesOf } from "../capture/streamed.ts";
import { isBySite } from "../effects/dispatch.ts";
import type { MethodName } from "../effects/method.ts";
import { UsageError } from "../errors.ts";
import type { Pack, Plan } from "../forest/packs.ts";
import type { SiteName } from "../site.ts";
import { sum } from "../stats.ts";
import type { WorkParts } from "./estimate.ts";

/** The two parts of a shard: packs of the model's passes, then, once all shards have theirs, the effects of some sites. */
export const shardParts = ["packs", "sites"] as const;
export type ShardPart = (typeof shardParts)[number];

/** One shard's share of an analysis. */
export interface Shard {
  /** Its packs among those of all plans, one plan after another: from the first to the one before the second number. */
  readonly packs: readonly [from: number, to: number];
  readonly sites: readonly SiteName[];
  /** What it is estimated to take, on the machine that planned. */
  readonly seconds: Readonly<Record<ShardPart, number>>;
}

export interface Shards {
  readonly shards: readonly Shard[];
  /** Of streamed weights: rows of a wave at most; undefined where they are the usual ones. */
  readonly waveRows: number | undefined;
}

/**
 * Divides an analysis into shards of equal estimated work. Their packs are those of the undivided run, and stretches of its order, in which the
 * subtrees of the forest follow one another: so no prefix is computed more often than there, and every number has the same bits.
 *
 * @param count how many
 * @param seconds of the parts, see `estimateParts`
 * @throws UsageError if there is nothing to do for some of them
 */
export function planShards(
  count: number,
  plans: readonly Plan[],
  method: MethodName,
  weights: "held" | "streamed",
  seconds: WorkParts,
): Shards {
  const packs = plans.flatMap((plan) => plan.packs);
  const waveRows = weights === "streamed" ? evenWaves(packs, count) : undefined;
  const units = weights === "held" ? packs.map((_, i) => i) : wavesOf(packs, waveRows);
  const unitSeconds = Array.from({ length: units.at(-1)! + 1 }, (_, unit) =>
    sum(seconds.packs.filter((_, i) => units[i] === unit)),
  );
  const sites = [...seconds.sites.keys()];
  const groups = isBySite(method) ? sites.map((site) => [site]) : [sites];
  const most = Math.max(unitSeconds.length, groups.length);
  if (count > most) {
    throw new UsageError(
      `--shards: expected at most ${most}, as many as this run has packs or sites to share, got ${count}. Choose fewer.`,
    );
  }
  const cuts = cutEvenly(unitSeconds, count).map((unit) => {
    const at = units.indexOf(unit);
    return at < 0 ? packs.length : at;
  });
  const groupSeconds = (group: readonly SiteName[]) => sum(group.map((site) => seconds.sites.get(site)!));
  const shared = shareOut(groups.map(groupSeconds), count).map((members) => members.flatMap((g) => groups[g]!));
  return {
    waveRows,
    shards: shared.map((own, k) => {
      const [from, to] = [cuts[k]!, cuts[k + 1]!];
      return {
        packs: [from, to],
        sites: sites.filter((site) => own.includes(site)),
        seconds: { packs: sum(seconds.packs.slice(from, to)), sites: groupSeconds(own) },
      };
    }),
  };
}

/** Rows of a wave with which there are as many waves as shards, or a multiple: each reads all weights. */
function evenWaves(packs: readonly Pack[], count: number): number {
  const rows = sum(packs.map(({ tokens }) => tokens.length));
  const wanted = count * Math.ceil(rows / (count * defaultWaveRows));
  const step = Math.min(...packs.map(({ tokens }) => tokens.length));
  let waveRows = Math.ceil(rows / wanted);
  while (waveRows < defaultWaveRows && wavesOf(packs, waveRows).at(-1)! >= wanted) waveRows += step;
  return Math.min(waveRows, defaultWaveRows);
}

/**
 * Cuts a row of weights into stretches of which the heaviest is as light as can be.
 *
 * @returns where each stretch begins, and the end: `count` + 1 places
 */
export function cutEvenly(weights: readonly number[], count: number): number[] {
  /** The stretches that hold at most so much each. */
  const cutsAt = (most: number) => {
    const cuts = [0];
    let held = 0;
    weights.forEach((weight, i) => {
      if (held > 0 && held + weight > most) {
        cuts.push(i);
        held = 0;
      }
      held += weight;
    });
    return cuts;
  };
  let [low, high] = [Math.max(0, ...weights), sum(weights)];
  for (let i = 0; i < 60 && high > low * (1 + 1e-9); i++) {
    const middle = (low + high) / 2;
    if (cutsAt(middle).length <= count) high = middle;
    else low = middle;
  }
  const cuts = cutsAt(high);
  return [...cuts, ...Array<number>(count + 1 - cuts.length).fill(weights.length)];
}

/** Shares out weights: the heaviest first, each to whoever has least so far. @returns the places of those that each has, in order */
export function shareOut(weights: readonly number[], count: number): number[][] {
  const shares = Array.from({ length: count }, () => ({ total: 0, members: [] as number[] }));
  const order = weights.map((_, i) => i).sort((a, b) => weights[b]! - weights[a]! || a - b);
  for (const i of order) {
    const least = shares.reduce((a, b) => (b.total < a.total ? b : a));
    least.total += weights[i]!;
    least.members.push(i);
  }
  return shares.map(({ members }) => members.sort((a, b) => a - b));
}
