import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { cutEvenly, planShards, shareOut } from "../src/analysis/shards.ts";
import { prefixForest } from "../src/forest/forest.ts";
import { planCapture } from "../src/forest/packs.ts";
import type { TokenPair } from "../src/prompts/pairs.ts";
import { Random } from "../src/random.ts";

const weights = fc.array(fc.integer({ min: 1, max: 50 }), { minLength: 1, maxLength: 9 });
const sumOf = (list: readonly number[]) => list.reduce((a, b) => a + b, 0);

/** The lightest that the heaviest of `count` stretches can be, by trying all cuts. */
function lightest(list: readonly number[], count: number): number {
  if (count === 1 || list.length === 0) return sumOf(list);
  return Math.min(...list.map((_, i) => Math.max(sumOf(list.slice(0, i + 1)), lightest(list.slice(i + 1), count - 1))));
}

it("stretches cover everything once, and the heaviest is as light as can be", () => {
  fc.assert(
    fc.property(weights, fc.integer({ min: 1, max: 5 }), (list, count) => {
      const cuts = cutEvenly(list, count);
      expect(cuts).toHaveLength(count + 1);
      expect([cuts[0], cuts.at(-1)]).toEqual([0, list.length]);
      const stretches = cuts.slice(1).map((end, i) => list.slice(cuts[i], end));
      expect(stretches.flat()).toEqual(list);
      expect(Math.max(...stretches.map(sumOf))).toBe(lightest(list, count));
    }),
  );
});

it("shares hold everything once, and none is heavier than the mean and one more", () => {
  fc.assert(
    fc.property(weights, fc.integer({ min: 1, max: 5 }), (list, count) => {
      const shares = shareOut(list, count);
      expect(shares.flat().sort((a, b) => a - b)).toEqual([...list.keys()]);
      const heaviest = Math.max(...shares.map((share) => sumOf(share.map((i) => list[i]!))));
      expect(heaviest).toBeLessThanOrEqual(sumOf(list) / count + Math.max(...list));
    }),
  );
});

describe("a plan", () => {
  const random = new Random("shards");
  const word = () => Math.floor(3 * random.uniform());
  const pairs = Array.from({ length: 200 }, (): TokenPair => {
    const clean = [0, word(), word(), word(), word(), word()];
    const patch = clean.map((token, i) => (i === 2 ? token + 3 : token));
    const pair = { split: "train", case: "one" } as TokenPair["pair"];
    return { pair, clean, patch, cleanAnswer: 7, patchAnswer: 8 };
  });
  const plan = planCapture(prefixForest(pairs), { wanted: "changed", nodes: 64, tileSize: 16 });
  const seconds = {
    packs: plan.packs.map(() => 1),
    sites: new Map(["resid_post.0", "resid_post.1", "resid_post.2"].map((site) => [site, 1])),
  };

  it("shares stretches of packs and all sites", () => {
    const { shards, waveRows } = planShards(2, [plan], "analytic", "held", seconds);
    expect(waveRows).toBeUndefined();
    expect(shards[0]!.packs[0]).toBe(0);
    expect(shards[0]!.packs[1]).toBe(shards[1]!.packs[0]);
    expect(shards[1]!.packs[1]).toBe(plan.packs.length);
    expect(shards.flatMap(({ sites }) => sites).sort()).toEqual([...seconds.sites.keys()]);
    expect(Math.abs(shards[0]!.seconds.packs - shards[1]!.seconds.packs)).toBeLessThanOrEqual(1);
  });

  it("gives one shard all sites where they are computed together", () => {
    const { shards } = planShards(2, [plan], "secant", "held", seconds);
    expect(shards.map(({ sites }) => sites.length).sort()).toEqual([0, 3]);
  });

  it("has a wave of streamed weights for each shard, or none", () => {
    const { shards, waveRows } = planShards(2, [plan], "analytic", "streamed", seconds);
    const rows = sumOf(plan.packs.map(({ tokens }) => tokens.length));
    expect(waveRows).toBeGreaterThanOrEqual(rows / 2);
    expect(waveRows).toBeLessThan(rows);
    const rowsOf = (from: number, to: number) => sumOf(plan.packs.slice(from, to).map(({ tokens }) => tokens.length));
    for (const { packs } of shards) expect(rowsOf(...packs)).toBeLessThanOrEqual(waveRows!);
  });

  it("has no more shards than there is to share", () => {
    expect(() => planShards(500, [plan], "analytic", "held", seconds)).toThrow(
      /--shards: expected at most \d+, as many/,
    );
  });
});
