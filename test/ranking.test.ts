import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  exactMiss,
  type FeatureEffects,
  overlap,
  rankingSchema,
  rankOrder,
  rankRun,
  rankSite,
  spearman,
  withExact,
} from "../src/circuit/ranking.ts";

const effects = (
  rows: readonly (readonly [feature: number, effect: number])[],
  error: number | null,
): FeatureEffects => ({
  feature: rows.map(([feature]) => feature),
  effect: rows.map(([, effect]) => effect),
  nodesActive: rows.map(([feature]) => feature + 1),
  error,
});

describe("spearman", () => {
  it("gives the textbook value, with average ranks for ties", () => {
    // IQ against hours of television, a worked example that appears in many textbooks: −29/165.
    const iq = [86, 97, 99, 100, 101, 103, 106, 110, 112, 113];
    const hours = [2, 20, 28, 27, 50, 29, 7, 17, 6, 12];
    expect(spearman(iq, hours)).toBeCloseTo(-29 / 165, 12);
    // By hand: ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4: Σdxdy = 4.5, Σdx² = 4.5, Σdy² = 5.
    expect(spearman([1, 2, 2, 3], [10, 20, 30, 40])).toBeCloseTo(4.5 / Math.sqrt(4.5 * 5), 12);
  });

  it("is 1 for any increasing map, −1 for a decreasing one, and undefined for a constant", () => {
    fc.assert(
      fc.property(fc.uniqueArray(fc.integer({ min: -1000, max: 1000 }), { minLength: 2 }), (x) => {
        expect(
          spearman(
            x,
            x.map((v) => v ** 3 + 7),
          ),
        ).toBeCloseTo(1, 12);
        expect(
          spearman(
            x,
            x.map((v) => -Math.atan(v)),
          ),
        ).toBeCloseTo(-1, 12);
      }),
    );
    expect(spearman([1, 2, 3], [5, 5, 5])).toBeNaN();
    expect(spearman([1], [1])).toBeNaN();
    expect(spearman([], [])).toBeNaN();
  });
});

describe("overlap", () => {
  it("counts the shared first entries, whatever their order", () => {
    expect(overlap([1, 2, 3, 4], [2, 1, 9, 3], 2)).toBe(1);
    expect(overlap([1, 2, 3, 4], [2, 1, 9, 3], 4)).toBe(3 / 4);
    expect(overlap([1, 2], [3, 4], 2)).toBe(0);
  });

  it("takes lists shorter than k as far as they go, and misses what one of them lacks", () => {
    expect(overlap([1, 2, 3], [3, 2, 1], 10)).toBe(1);
    expect(overlap([1, 2, 3], [1], 10)).toBe(1 / 3);
    expect(overlap([], [], 10)).toBeNaN();
  });
});

describe("rankOrder", () => {
  it("orders by |effect| and gives ties to the lower feature", () => {
    expect([...rankOrder([7, 3, 5, 1], [-2, 2, 0.5, -9])]).toEqual([3, 1, 0, 2]);
  });
});

const noSpread = { by_words: null, by_pairs: null, ranks: null, in_top_10: null };

describe("rankSite", () => {
  const train = effects([[4, -3], [2, 1], [9, 0.5]], -1.5); // biome-ignore format: one row
  const test = effects([[2, 2], [4, -1], [5, 0.25]], 0); // biome-ignore format: one row

  it("lists the strongest features and counts all of them in the importance, the error beside it", () => {
    const { splits } = rankSite("resid_post.1", { train, test }, 2);
    expect(splits.train).toEqual({
      importance: 4.5,
      error: -1.5,
      error_share: 1.5 / 6,
      explained: null,
      left_out: null,
      features: 3,
      stability_10: null,
      top: [
        { rank: 1, feature: 4, effect: -3, nodes_active: 5, exact: null, ...noSpread },
        { rank: 2, feature: 2, effect: 1, nodes_active: 3, exact: null, ...noSpread },
      ],
    });
    expect(splits.test?.error_share).toBe(0);
  });

  it("compares train with test over the features that both have", () => {
    const { train_test } = rankSite("resid_post.1", { train, test }, 2);
    // Features 4 and 2: −3 < 1 in train, −1 < 2 in test. Of the three strongest, two are shared.
    expect(train_test).toEqual({
      features: 2,
      spearman: 1,
      overlap_10: 2 / 3,
      overlap_50: 2 / 3,
      overlap_10_by_words: null,
      overlap_50_by_words: null,
    });
    expect(rankSite("resid_post.1", { train }, 2).train_test).toBeNull();
  });

  it("has no error share where there is no error or nothing at all", () => {
    expect(rankSite("embed", { train: effects([[1, 1]], null) }, 5).splits.train?.error_share).toBeNull();
    expect(rankSite("embed", { train: effects([], 0) }, 5).splits.train?.error_share).toBeNull();
  });
});

describe("exact values", () => {
  const effectsOf = { train: effects([[4, -3], [2, 1], [9, 0.5]], -1.5) }; // biome-ignore format: one row
  const ranking = rankRun("effect", 3, [rankSite("resid_post.1", effectsOf, 3)], { train: 2 });
  const features = [
    { site: "resid_post.1", feature: 4, exact: -6, method: -2, firstOrder: -3, secant: -5 },
    { site: "resid_post.1", feature: 9, exact: 1, method: 1.5, firstOrder: 2, secant: null },
  ];

  it("stand beside the features that were patched, and say how far the effects are off", () => {
    const patched = withExact(ranking, "train", 40, { pairs: 8, patches: 99, features });
    expect(patched.exact).toEqual({ split: "train", pairs: 8, of: 40, patches: 99 });
    expect(patched.sites[0]?.splits.train?.top.map(({ exact }) => exact)).toEqual([
      { effect: -6, method: -2, first_order: -3, secant: -5 },
      null,
      { effect: 1, method: 1.5, first_order: 2, secant: null },
    ]);
    // |−2 − −6| + |1.5 − 1| over 6 + 1.
    const worst = { site: "resid_post.1", feature: 4, effect: -2, exact: -6 };
    expect(exactMiss(patched)).toEqual({ distance: 4.5 / 7, worst });
    expect(rankingSchema.parse(JSON.parse(JSON.stringify(patched)))).toEqual(patched);
  });

  it("of a run of before are read without what the other methods say", () => {
    const patched = JSON.parse(JSON.stringify(withExact(ranking, "train", 40, { pairs: 8, patches: 99, features })));
    for (const { exact } of patched.sites[0].splits.train.top) {
      delete exact?.first_order;
      delete exact?.secant;
    }
    expect(rankingSchema.parse(patched).sites[0]?.splits.train?.top[0]?.exact).toEqual({
      effect: -6,
      method: -2,
      first_order: null,
      secant: null,
    });
  });

  it("are not there in rankings of before", () => {
    expect(exactMiss(ranking)).toBeNull();
    const { change: _, exact: __, ...before } = ranking;
    expect(rankingSchema.parse(JSON.parse(JSON.stringify(before)))).toEqual({ ...ranking, change: {} });
  });
});

describe("explained", () => {
  it("is the sum of the effects and the error over the change of the metric", () => {
    const of = (change: number | null) => {
      const train = { ...effects([[4, -3], [2, 1]], -1.5), change }; // biome-ignore format: one row
      return rankSite("resid_post.1", { train }, 3).splits.train?.explained;
    };
    expect(of(-7)).toBe(0.5);
    expect(of(null)).toBeNull();
    expect(of(0)).toBeNull();
  });
});

describe("rankRun", () => {
  it("takes a layer's residual stream for the layer, and what is added to it only where that is missing", () => {
    const one = (effect: number) => ({ train: effects([[1, effect]], null) });
    const of = (...sites: [string, number][]) =>
      rankRun(
        "effect",
        5,
        sites.map(([site, effect]) => rankSite(site, one(effect), 5)),
      ).layers.map(({ splits }) => splits.train?.importance);
    expect(of(["attn_z.0", 1], ["attn_out.0", 2], ["mlp_out.0", 4], ["resid_post.0", 8])).toEqual([8]);
    expect(of(["attn_z.0", 1], ["attn_out.0", 2], ["mlp_out.0", 4], ["mlp_out.1", 16])).toEqual([6, 16]);
    expect(of(["attn_z.0", 1], ["mlp_out.0", 4])).toEqual([5]);
    expect(of(["attn_z.0", 1], ["attn_out.0", 2])).toEqual([2]);
    expect(of(["attn_z.0", 1], ["mlp_act.0", 4], ["mlp_act.1", 8], ["mlp_out.1", 16])).toEqual([5, 16]);
  });

  it("puts sites in the order of computation, and tells layers apart, embed left out", () => {
    const one = (error: number | null) => ({ train: effects([[1, -1], [2, 1]], error) }); // biome-ignore format: one row
    const ranking = rankRun("effect", 20, [
      rankSite("resid_post.1", one(2), 20),
      rankSite("resid_post.0", one(-1), 20),
      rankSite("embed", one(1), 20),
      rankSite("attn_out.0", one(3), 20),
    ]);
    expect(ranking.sites.map(({ site }) => site)).toEqual(["embed", "attn_out.0", "resid_post.0", "resid_post.1"]);
    expect(ranking.layers).toEqual([
      { layer: 0, splits: { train: { importance: 2, error_share: 1 / 3 } } },
      { layer: 1, splits: { train: { importance: 2, error_share: 2 / 4 } } },
    ]);
  });

  it("fits its schema, also after a way through JSON, even where nothing is defined", () => {
    const sites = [rankSite("mlp_out.0", { train: effects([], null), test: effects([[1, 2]], null) }, 3)];
    const ranking = rankRun("gradient", 3, sites);
    expect(rankingSchema.parse(JSON.parse(JSON.stringify(ranking)))).toEqual(ranking);
  });
});
