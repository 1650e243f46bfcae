import { describe, expect, test } from "vitest";
import { Random } from "../src/random.ts";
import { aucInterval, shareInterval } from "../src/stats.ts";

describe("shareInterval", () => {
  // Newcombe, Two-sided confidence intervals for the single proportion, Statistics in Medicine 17 (1998), table I, method 3.
  test.each([
    [81, 263, 0.2553, 0.3662],
    [15, 148, 0.0624, 0.1605],
    [0, 20, 0, 0.1611],
    [1, 29, 0.0061, 0.1718],
  ])("%i of %i has Newcombe's published interval", (of, n, low, high) => {
    const interval = shareInterval(of / n, n);
    expect(interval.low).toBeCloseTo(low, 4);
    expect(interval.high).toBeCloseTo(high, 4);
  });

  test("all of a few says less than all of many", () => {
    expect(shareInterval(1, 4).low).toBeLessThan(0.52);
    expect(shareInterval(1, 400).low).toBeGreaterThan(0.98);
  });
});

describe("aucInterval", () => {
  test("covers the true area in about 95 % of samples, for small and unequal groups and large areas", () => {
    const seed = 20261127;
    const random = new Random(`${seed}/auc`);
    const report: string[] = [];
    for (const [n, m, distance, truth] of [
      [10, 10, 0.5, 0.638163],
      [30, 12, 1, 0.76025],
      [40, 40, 2.5, 0.96145],
    ] as const) {
      // P(X > Y) of two normals that lie `distance` apart is Φ(distance/√2).
      let covered = 0;
      const draws = 600;
      for (let draw = 0; draw < draws; draw++) {
        const a = Array.from({ length: n }, () => distance + random.normal());
        const b = Array.from({ length: m }, () => random.normal());
        const auc = a.flatMap((x) => b.map((y) => Number(x > y))).reduce((s, v) => s + v, 0) / (n * m);
        const { low, high } = aucInterval(auc, n, m);
        if (low <= truth && truth <= high) covered++;
      }
      report.push(`seed ${seed}: ${n} against ${m}, area ${truth}: ${covered} of ${draws}`);
      expect(covered / draws, report.at(-1)).toBeGreaterThan(0.92);
      expect(covered / draws, report.at(-1)).toBeLessThan(0.985);
    }
  });

  test("an area of 1 has an interval that narrows with the members, and mirrors that of 0", () => {
    const five = aucInterval(1, 5, 5);
    const many = aucInterval(1, 100, 100);
    expect(five.high).toBe(1);
    expect(five.low).toBeLessThan(0.7);
    expect(many.low).toBeGreaterThan(0.95);
    const none = aucInterval(0, 5, 5);
    expect(none.low).toBe(0);
    expect(none.high).toBeCloseTo(1 - five.low, 9);
  });
});
