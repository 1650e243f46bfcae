import { describe, expect, it } from "vitest";
import {
  joined,
  likenessOf,
  type PairedEffects,
  pearson,
  relativeError,
  relativeGap,
  setSideBySide,
  sharedStrongest,
  strongestFeatures,
  strongestOf,
} from "../src/circuit/likeness.ts";
import { median } from "../src/stats.ts";

const paired = (x: number[], y: number[]): PairedEffects => ({
  site: x.map(() => "resid_post.0"),
  feature: x.map((_, i) => i),
  x,
  y,
});

describe("two methods side by side", () => {
  const a = { site: "resid_post.0", feature: [7, 2], effect: [0.5, -1] };
  const b = { site: "resid_post.0", feature: [2, 9], effect: [-1.5, 0.25] };

  it("have the features that either has, missing ones with an effect of 0", () => {
    expect(setSideBySide(a, b)).toEqual({
      site: ["resid_post.0", "resid_post.0", "resid_post.0"],
      feature: [2, 7, 9],
      x: [-1, 0.5, 0],
      y: [-1.5, 0, 0.25],
    });
  });

  it("have those of the second alone where it computed only some", () => {
    expect(setSideBySide(a, b, "second")).toMatchObject({ feature: [2, 9], x: [-1, 0], y: [-1.5, 0.25] });
  });

  it("of several sites stand one after the other, the same feature number at each", () => {
    const other = setSideBySide({ ...a, site: "embed" }, { ...b, site: "embed" });
    const all = joined([other, setSideBySide(a, b)]);
    expect(all.feature).toEqual([2, 7, 9, 2, 7, 9]);
    expect(all.site.slice(2, 4)).toEqual(["embed", "resid_post.0"]);
  });

  it("are of the same site", () => {
    expect(() => setSideBySide(a, { ...b, site: "embed" })).toThrow("internal: effects of resid_post.0 beside");
  });
});

describe("likeness", () => {
  it("by hand", () => {
    // Deviations (−1.5, −.5, .5, 1.5) and (0, −2, 1, 1): Σxy = 3, Σxx = 5, Σyy = 6. Ranks of y: 2, 1, 3.5, 3.5.
    const { pearson, spearman, ...rest } = likenessOf(paired([1, 2, 3, 4], [0, -2, 1, 1]));
    expect(pearson).toBeCloseTo(3 / Math.sqrt(30), 14);
    // Deviations of the ranks (−1.5, −.5, .5, 1.5) and (−.5, −1.5, 1, 1): Σ = 3.5, 5 and 4.5.
    expect(spearman).toBeCloseTo(3.5 / Math.sqrt(22.5), 14);
    expect(rest).toEqual({ features: 4, sign: 2 / 3, difference: 4, scale: 4 });
  });

  it("is 1 or −1 for multiples, which differ all the same", () => {
    expect(likenessOf(paired([1, -2, 4], [2, -4, 8]))).toEqual({
      features: 3,
      pearson: 1,
      spearman: 1,
      sign: 1,
      difference: 4,
      scale: 8,
    });
    expect(likenessOf(paired([1, -2, 4], [-1, 2, -4]))).toMatchObject({ pearson: -1, spearman: -1, sign: 0 });
  });

  it("is undefined where there is nothing to correlate", () => {
    const none = { pearson: null, spearman: null, sign: null };
    expect(likenessOf(paired([], []))).toEqual({ features: 0, ...none, difference: 0, scale: 0 });
    expect(likenessOf(paired([1, 1], [0, 2]))).toMatchObject({ pearson: null, spearman: null, sign: 1 });
    expect(likenessOf(paired([3], [-3]))).toMatchObject({ pearson: null, sign: 0, difference: 6 });
  });

  it("takes columns of one length", () => {
    expect(() => pearson([1], [1, 2])).toThrow("internal: pearson of 1 and 2");
  });
});

describe("the strongest features that two methods share", () => {
  it("by hand", () => {
    // Strongest two by x: rows 0 and 1. The second largest |y| is 4, which row 0 has and row 1 has not.
    const effects = paired([-9, 8, 1, 0], [4, -3, 5, 0]);
    expect(sharedStrongest(effects, 2)).toBe(0.5);
    expect(sharedStrongest(effects, 3)).toBe(1);
    expect(sharedStrongest({ ...effects, x: effects.y, y: effects.x }, 1)).toBe(0);
  });

  it("counts what is tied with the last: within 1e-4 of the largest", () => {
    expect(sharedStrongest(paired([2, 1, 0], [1, 0.99985, 1]), 1)).toBe(1);
    expect(sharedStrongest(paired([1, 2, 0], [1, 0.99991, 0]), 1)).toBe(1);
    expect(sharedStrongest(paired([1, 2, 0], [1, 0.99985, 0]), 1)).toBe(0);
  });

  it("counts none twice or for nothing where most effects are tiny or 0", () => {
    // Two methods with no feature in common.
    const apart = paired([5, 4, 3, 2, 1e-6, 0, 0, 0], [0, 0, 0, 0, 0, 7, 1e-6, 1e-7]);
    for (const k of [1, 2, 5, 50]) expect(sharedStrongest(apart, k)).toBe(0);
    // The second's third is far below 1e-4 of its largest, and still not everything is as strong.
    expect(sharedStrongest(paired([9, 8, 7, 0], [10, 1e-5, 0, 1e-6]), 3)).toBeCloseTo(2 / 3, 12);
    expect(sharedStrongest(paired([1, 2, 0, 0], [1, 2, 0, 0]), 100)).toBe(1);
  });

  it("have no correlation where one is constant", () => {
    expect(pearson([0.1, 0.1, 0.1], [1, 2, 3])).toBeNaN();
    expect(pearson([1, 2, 3], [0.1, 0.1, 0.1])).toBeNaN();
  });

  it("counts no more than there are", () => {
    expect(sharedStrongest(paired([1, 2], [2, 1]), 100)).toBe(1);
    expect(sharedStrongest(paired([], []), 10)).toBeNull();
  });

  it("are chosen by the larger effect of the two for a plot", () => {
    const effects = paired([1, -5, 0, 2], [-3, 1, 4, 2]);
    expect(strongestOf(effects, 3)).toMatchObject({ feature: [1, 2, 0], x: [-5, 0, 1], y: [1, 4, -3] });
    expect(strongestOf(effects, 10).feature).toHaveLength(4);
  });

  it("of any method are those that exact patches", () => {
    const site = "resid_post.0";
    const one = { site, feature: [4, 8, 1], effect: [0.1, -3, 2] };
    const other = { site, feature: [4, 8], effect: [5, -1] };
    expect(strongestFeatures([one, other], 1)).toEqual([4, 8]);
    expect(strongestFeatures([one], 2)).toEqual([1, 8]);
  });
});

it("the relative error is Σ|x − y| / Σ|y|", () => {
  expect(relativeError(paired([1, -2, 0], [2, -2, 3]))).toBeCloseTo(4 / 7, 14);
  expect(relativeError(paired([1], [0]))).toBeNull();
});

it("a sum's gap is its distance from the total, as a share of it", () => {
  expect(relativeGap(-3, -4)).toBe(0.25);
  expect(relativeGap(1, 0)).toBeNull();
});

it("the median is the middle one, or the mean of two", () => {
  expect(median([5, 1, 3])).toBe(3);
  expect(median([4, 1, 3, 2])).toBe(2.5);
  expect(median([])).toBeNull();
});
