import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  type FeatureEffects,
  overlap,
  rankingSchema,
  rankOrder,
  rankRun,
  rankSite,
  spearman,
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

describe("rankSite", () => {
  const train = effects([[4, -3], [2, 1], [9, 0.5]], -1.5); // biome-ignore format: one row
  const test = effects([[2, 2], [4, -1], [5, 0.25]], 0); // biome-ignore format: one row

  it("lists the strongest features and counts all of them in the importance, the error beside it", () => {
    const { splits } = rankSite("resid_post.1", { train, test }, 2);
    expect(splits.train).toEqual({
      importance: 4.5,
      error: -1.5,
      error_share: 1.5 / 6,
      features: 3,
      top: [
        { rank: 1, feature: 4, effect: -3, nodes_active: 5 },
        { rank: 2, feature: 2, effect: 1, nodes_active: 3 },
      ],
    });
    expect(splits.test?.error_share).toBe(0);
  });

  it("compares train with test over the features that both have", () => {
    const { train_test } = rankSite("resid_post.1", { train, test }, 2);
    // Features 4 and 2: −3 < 1 in train, −1 < 2 in test. Of the three strongest, two are shared.
    expect(train_test).toEqual({ features: 2, spearman: 1, overlap_10: 2 / 3, overlap_50: 2 / 3 });
    expect(rankSite("resid_post.1", { train }, 2).train_test).toBeNull();
  });

  it("has no error share where there is no error or nothing at all", () => {
    expect(rankSite("embed", { train: effects([[1, 1]], null) }, 5).splits.train?.error_share).toBeNull();
    expect(rankSite("embed", { train: effects([], 0) }, 5).splits.train?.error_share).toBeNull();
  });
});

describe("rankRun", () => {
  it("puts sites in the order of computation and sums them by layer, embed left out", () => {
    const one = (error: number | null) => ({ train: effects([[1, -1], [2, 1]], error) }); // biome-ignore format: one row
    const ranking = rankRun("effect", 20, [
      rankSite("resid_post.1", one(2), 20),
      rankSite("resid_post.0", one(-1), 20),
      rankSite("embed", one(1), 20),
      rankSite("attn_out.0", one(3), 20),
    ]);
    expect(ranking.sites.map(({ site }) => site)).toEqual(["embed", "attn_out.0", "resid_post.0", "resid_post.1"]);
    expect(ranking.layers).toEqual([
      { layer: 0, splits: { train: { importance: 4, error_share: 4 / 8 } } },
      { layer: 1, splits: { train: { importance: 2, error_share: 2 / 4 } } },
    ]);
  });

  it("fits its schema, also after a way through JSON, even where nothing is defined", () => {
    const sites = [rankSite("mlp_out.0", { train: effects([], null), test: effects([[1, 2]], null) }, 3)];
    const ranking = rankRun("gradient", 3, sites);
    expect(rankingSchema.parse(JSON.parse(JSON.stringify(ranking)))).toEqual(ranking);
  });
});
