import { describe, expect, it } from "vitest";
import { findingsOf, type MethodResult } from "../src/analysis/compare-results.ts";
import { wordsOf } from "../src/analysis/compare-spread.ts";
import { indexNodes, nodesTable } from "../src/effects/sums.ts";
import { prefixForest } from "../src/forest/forest.ts";
import { widened } from "../src/interventions/clusters.ts";
import type { Split, TokenPair } from "../src/prompts/pairs.ts";
import { Random } from "../src/random.ts";

const site = "mlp_out.0";
const average = (values: readonly number[]) => values.reduce((a, b) => a + b, 0) / values.length;

/** A result of effects that are known pair by pair [pairs][features]. */
function resultOf(values: readonly (readonly number[])[], word: readonly number[], words: number): MethodResult {
  const feature = values[0]!.map((_, f) => f);
  const sumOver = (f: number, own: (p: number) => boolean) => values.reduce((sum, of, p) => sum + (own(p) ? of[f]! : 0), 0); // biome-ignore format: one row
  const each = Array.from({ length: words }, (_, w) => w);
  return {
    seconds: 1,
    loading_seconds: 1,
    loaded_bytes: 1,
    peak_bytes: 2,
    peak_above_loaded: true,
    rows: 1,
    words: { count: words, pairs: each.map((w) => word.filter((of) => of === w).length) },
    m_clean: values.map(() => -1),
    m_patch: values.map(() => 1),
    sites: [
      {
        site,
        feature,
        effect: feature.map((f) => average(values.map((of) => of[f]!))),
        sum: 0,
        pair_sums: null,
        by_word: { feature, sums: feature.map((f) => each.map((w) => sumOver(f, (p) => word[p] === w))) },
      },
    ],
  };
}

const spec = (name: "analytic" | "secant" | "exact") => ({ name, method: name, batch: null, steps: null, rule: null });

function correlation(x: readonly number[], y: readonly number[]): number {
  const [mx, my] = [average(x), average(y)];
  const product = (a: readonly number[], b: readonly number[], ma: number, mb: number) => average(a.map((v, i) => (v - ma) * (b[i]! - mb))); // biome-ignore format: one row
  return product(x, y, mx, my) / Math.sqrt(product(x, x, mx, mx) * product(y, y, my, my));
}

const top = (values: readonly number[], k: number) =>
  [...values.keys()].sort((a, b) => Math.abs(values[b]!) - Math.abs(values[a]!)).slice(0, k);

describe("how alike two methods are", () => {
  it("has the intervals of drawing words one by one, all pairs of a word at once, for both methods", () => {
    const seed = "methods";
    const random = new Random(seed);
    const words = 20;
    const word = Array.from({ length: words }, (_, w) => Array.from({ length: 1 + random.below(8) }, () => w)).flat();
    const features = Array.from({ length: 30 }, (_, f) => 2 / (1 + 0.2 * f));
    const ofWord = Array.from({ length: words }, () => features.map((mean) => mean + 0.8 * random.normal()));
    const extra = Array.from({ length: words }, () => features.map(() => 0.9 * random.normal()));
    const a = word.map((w) => features.map((_, f) => ofWord[w]![f]! + 0.2 * random.normal()));
    const b = word.map((w) => features.map((_, f) => 0.8 * ofWord[w]![f]! + extra[w]![f]!));
    const [first, second] = [resultOf(a, word, words), resultOf(b, word, words)];
    const found = findingsOf(
      [
        { spec: spec("analytic"), result: first },
        { spec: spec("exact"), result: second },
      ],
      null,
    );
    expect(found.words).toBe(20);
    const whole = found.agreement.find((row) => row.site === "")!;
    const truth = found.exactness.find((row) => row.site === "")!;

    const drawn = Array.from({ length: 2500 }, () => {
      const pairs = Array.from({ length: words }, () => random.below(words)).flatMap((w) => [...word.keys()].filter((p) => word[p] === w)); // biome-ignore format: one row
      const means = (values: readonly (readonly number[])[]) => features.map((_, f) => average(pairs.map((p) => values[p]![f]!))); // biome-ignore format: one row
      const [x, y] = [means(a), means(b)];
      return {
        pearson: correlation(x, y),
        top_10: top(x, 10).filter((f) => top(y, 10).includes(f)).length / 10,
        error: average(x.map((v, i) => Math.abs(v - y[i]!))) / average(y.map(Math.abs)),
      };
    });
    const level = widened(0.95, words);
    for (const [name, own] of [
      ["pearson", whole.pearson_by_words],
      ["top_10", whole.top_10_by_words],
      ["pearson", truth.pearson_by_words],
      ["error", truth.error_by_words],
    ] as const) {
      // biome-ignore format: one row
      const sorted = drawn.map((of) => of[name]).sort((p, q) => p - q);
      const at = (share: number) => sorted[Math.round(share * (sorted.length - 1))]!;
      const [low, high] = [at((1 - level) / 2), at((1 + level) / 2)];
      expect(high - low, name).toBeGreaterThan(0.05);
      expect(Math.abs(own!.low - low) / (high - low), `${seed}, ${name}`).toBeLessThan(0.2);
      expect(Math.abs(own!.high - high) / (high - low), `${seed}, ${name}`).toBeLessThan(0.2);
    }
    expect(found.agreement.filter((row) => row.site !== "").every((row) => row.pearson_by_words === null)).toBe(true);
  });

  it("is the same in every draw for equal effects, and has no interval with fewer than five words or from results of before", () => {
    const random = new Random("equal");
    const word = Array.from({ length: 24 }, (_, i) => i % 8);
    const values = word.map(() => Array.from({ length: 12 }, () => random.normal()));
    const one = resultOf(values, word, 8);
    const of = (result: MethodResult) => findingsOf([{ spec: spec("analytic"), result }, { spec: spec("secant"), result }], null).agreement[0]!; // biome-ignore format: one row
    expect(of(one)).toMatchObject({ pearson_by_words: { low: 1, high: 1 }, top_10_by_words: { low: 1, high: 1 } });
    const few = resultOf(values, word.map((w) => w % 4), 4); // biome-ignore format: one row
    expect(of(few).pearson_by_words).toBeNull();
    const { words: _, ...before } = one;
    expect(of(before).top_50_by_words).toBeNull();
  });
});

describe("a method's words", () => {
  it("are of both splits together, and have the sums of their pairs without BOS", () => {
    const random = new Random("words of a method");
    const texts = { clean_prefix: "", patch_prefix: "", clean_answer: "", patch_answer: "", case: "a" };
    const pairs = Array.from({ length: 40 }, (_, i): TokenPair => {
      const forms = [100 + (i % 7), 200 + (i % 7)];
      const [clean, patch] = i % 2 === 0 ? forms : forms.toReversed();
      const split: Split = i % 3 === 0 ? "test" : "train";
      return { pair: { ...texts, split }, clean: [1, clean!, 5, i % 4], patch: [1, patch!, 5, i % 4], cleanAnswer: 8, patchAnswer: 9 }; // biome-ignore format: one row
    });
    const outside = { first: new Set([1]), padding: new Set<number>() };
    for (const merge of ["all", "forward", "none"] as const) {
      const forest = prefixForest(pairs, { merge });
      const index = indexNodes(nodesTable(forest, () => ""), outside); // biome-ignore format: one row
      const words = wordsOf(forest);
      expect(words.count).toBe(7);
      expect(words.pairs).toEqual(Array.from({ length: 7 }, (_, w) => pairs.filter((_, i) => i % 7 === w).length));
      // Every node has the number of its pairs: a word's sum is three nodes times its pairs; the error and BOS do not count.
      const nodes = [...forest.backward.parent.keys()];
      const rows = nodes.flatMap((node) => [-1, 3, 4].map((feature) => ({ node, feature, effect: (feature === 3 ? 1 : random.normal()) * forest.backward.weight[node]! }))); // biome-ignore format: one row
      const column = (name: "node" | "feature" | "effect") => rows.map((row) => row[name]);
      const none = new Float32Array(rows.length);
      const { feature, sums } = words.sums(
        { site, node: Int32Array.from(column("node")), feature: Int32Array.from(column("feature")), effect: Float64Array.from(column("effect")), fClean: none, fPatch: none, gradient: none }, // biome-ignore format: one row
        index,
        [3, 9],
      );
      expect(feature).toEqual([3, 9]);
      expect(sums[0]).toEqual(words.pairs.map((count) => 3 * count));
      expect(sums[1]).toEqual(words.pairs.map(() => 0));
    }
  });
});
