import { describe, expect, it } from "vitest";
import { usablePairs } from "../src/analysis/pairs.ts";
import { effectsOf } from "../src/effects/dispatch.ts";
import { prefixForest } from "../src/forest/forest.ts";
import { percentiles, widened } from "../src/interventions/clusters.ts";
import { candidatesOf, overlapSpread, spreadOf, wordDraws } from "../src/interventions/spread.ts";
import { EffectSummer, type FeatureRows, type Units, unitsOf } from "../src/interventions/units.ts";
import { heldWeights, loadedModel } from "../src/models/weights.ts";
import { openJob } from "../src/open/open.ts";
import { postingReporter } from "../src/progress.ts";
import type { Split, TokenPair } from "../src/prompts/pairs.ts";
import { Random } from "../src/random.ts";

const noOutside = { first: new Set<number>(), padding: new Set<number>() };
const bos = 1;

/** Pairs of words: BOS, a word in two forms, then a place and the place's own end, so that pairs of a word share its node. */
function pairsOf(words: readonly number[], split: Split = "train"): TokenPair[] {
  const texts = { clean_prefix: "", patch_prefix: "", clean_answer: "", patch_answer: "", case: "a", split };
  return words.flatMap((count, word) =>
    Array.from({ length: count }, (_, i) => ({
      pair: texts,
      clean: [bos, 1000 + 2 * word, 3000 + i],
      patch: [bos, 1001 + 2 * word, 3000 + i],
      cleanAnswer: 5,
      patchAnswer: 6,
    })),
  );
}

it("counts the words that train and test share, whichever way round", () => {
  const turned = pairsOf([1, 1, 1], "test").map(({ clean, patch, ...rest }) => ({
    ...rest,
    clean: patch,
    patch: clean,
  }));
  const of = (pairs: TokenPair[]) => unitsOf(prefixForest(pairs), noOutside).shared;
  expect(of([...pairsOf([2, 1, 1, 3]), ...turned])).toBe(3);
  expect(of([...pairsOf([0, 0, 0, 3]), ...turned])).toBe(0);
  expect(of(turned)).toBe(0);
});

/** What each pair has of each feature: what its word has, by word and feature, and a part of its own. */
interface Truth {
  readonly pairs: readonly TokenPair[];
  /** [pairs][features] */
  readonly values: readonly (readonly number[])[];
  readonly word: readonly number[];
  readonly units: Units;
  readonly rows: FeatureRows;
}

function invent(
  random: Random,
  counts: readonly number[],
  means: readonly number[],
  [between, within]: [number, number],
): Truth {
  const pairs = pairsOf(counts);
  const forest = prefixForest(pairs);
  const ofWord = counts.map(() => means.map((mean) => mean + between * random.normal()));
  const word = counts.flatMap((count, w) => Array.from({ length: count }, () => w));
  const own = pairs.map(() => means.map(() => within * random.normal()));
  const rows: [node: number, feature: number, effect: number][] = [];
  const seen = new Set<number>();
  pairs.forEach((_, p) => {
    const end = forest.endNodeOfPair[p]!;
    const above = forest.backward.parent[end]!;
    for (const [f] of means.entries()) {
      rows.push([end, f, own[p]![f]!]);
      if (!seen.has(above)) rows.push([above, f, counts[word[p]!]! * ofWord[word[p]!]![f]!]);
    }
    seen.add(above);
  });
  rows.sort((a, b) => a[0] - b[0] || a[1] - b[1]);
  return {
    pairs,
    values: pairs.map((_, p) => means.map((_, f) => ofWord[word[p]!]![f]! + own[p]![f]!)),
    word,
    units: unitsOf(forest, noOutside),
    rows: {
      node: rows.map(([node]) => node),
      feature: rows.map(([, feature]) => feature),
      effect: rows.map(([, , effect]) => effect),
    },
  };
}

const average = (values: readonly number[]) => values.reduce((a, b) => a + b, 0) / values.length;

/** Features by |mean effect|. */
function rankedOf({ values }: Truth): number[] {
  const means = values[0]!.map((_, f) => average(values.map((own) => own[f]!)));
  return [...means.keys()].sort((a, b) => Math.abs(means[b]!) - Math.abs(means[a]!));
}

function spread(truth: Truth, top = 40) {
  const ranked = rankedOf(truth);
  const summer = new EffectSummer(truth.units, [candidatesOf(ranked, top)]);
  // In parts, as they come from a file.
  const middle = truth.rows.node.length >> 1;
  const part = (from: number, to?: number): FeatureRows => ({
    node: Array.from(truth.rows.node).slice(from, to),
    feature: Array.from(truth.rows.feature).slice(from, to),
    effect: Array.from(truth.rows.effect).slice(from, to),
  });
  summer.add(part(0, middle));
  summer.add(part(middle));
  const [sums] = summer.finish();
  return { ranked, found: spreadOf(sums!, wordDraws(truth.units.splits[0]!)) };
}

/** Draws with replacement, `times` times: members of `units`, each a list of pairs; of the pairs together every feature's mean. */
function plainBootstrap(
  random: Random,
  { values }: Truth,
  units: readonly (readonly number[])[],
  times: number,
): number[][] {
  return Array.from({ length: times }, () => {
    const drawn: number[] = [];
    for (let i = 0; i < units.length; i++) drawn.push(...units[Math.floor(random.uniform() * units.length)]!);
    return values[0]!.map((_, f) => average(drawn.map((p) => values[p]![f]!)));
  });
}

function middleOf(values: readonly number[], level: number): [number, number] {
  const sorted = [...values].sort((a, b) => a - b);
  const at = (share: number) => sorted[Math.round(share * (sorted.length - 1))]!;
  return [at((1 - level) / 2), at((1 + level) / 2)];
}

describe("the spread of effects", () => {
  it("is that of drawing words, and pairs, one by one: intervals, ranks, share in the top 10, stability", () => {
    const seed = "plain bootstrap";
    const random = new Random(seed);
    const counts = Array.from({ length: 24 }, () => 1 + random.below(9));
    const truth = invent(
      random,
      counts,
      Array.from({ length: 14 }, (_, f) => 2 - 0.1 * f),
      [0.6, 0.4],
    );
    const { ranked, found } = spread(truth);
    const byWord = counts.map((_, w) => [...truth.word.keys()].filter((p) => truth.word[p] === w));
    const words = plainBootstrap(random, truth, byWord, 3000);
    const pairs = plainBootstrap(
      random,
      truth,
      truth.pairs.map((_, p) => [p]),
      3000,
    );
    const rankOf = (means: readonly number[], f: number) =>
      1 + means.filter((value) => Math.abs(value) > Math.abs(means[f]!)).length;
    let off = 0;
    for (const [i, f] of ranked.entries()) {
      const own = found!.features[i]!;
      const [low, high] = middleOf(
        words.map((means) => means[f]!),
        widened(0.95, 24),
      );
      const width = high - low;
      expect(Math.abs(own.by_words.low - low) / width, seed).toBeLessThan(0.12);
      expect(Math.abs(own.by_words.high - high) / width, seed).toBeLessThan(0.12);
      off += (own.by_words.high - own.by_words.low) / width / ranked.length;
      const [left, right] = middleOf(
        pairs.map((means) => means[f]!),
        0.95,
      );
      expect(Math.abs(own.by_pairs.low - left) / (right - left), seed).toBeLessThan(0.06);
      expect(Math.abs(own.by_pairs.high - right) / (right - left), seed).toBeLessThan(0.06);
      const [first, last] = middleOf(
        words.map((means) => rankOf(means, f)),
        0.95,
      );
      expect(Math.abs(own.ranks.low - first), seed).toBeLessThanOrEqual(1);
      expect(Math.abs(own.ranks.high - last), seed).toBeLessThanOrEqual(1);
      const inTen = average(words.map((means) => (rankOf(means, f) <= 10 ? 1 : 0)));
      expect(Math.abs(own.in_top_10 - inTen), seed).toBeLessThan(0.07);
    }
    expect(Math.abs(off - 1), seed).toBeLessThan(0.04);
    const jaccard = words.map((means) => {
      const both = ranked.slice(0, 10).filter((f) => rankOf(means, f) <= 10).length;
      return both / (20 - both);
    });
    expect(Math.abs(found!.stability_10 - average(jaccard)), seed).toBeLessThan(0.02);
  });

  it("is wider by words than by pairs by what pairs of a word have in common: √((m b² + w²)/(b² + w²))", () => {
    const seed = "known clusters";
    const random = new Random(seed);
    const [words, m, between, within] = [60, 16, 1, 1];
    const truth = invent(random, Array.from({ length: words }, () => m), Array.from({ length: 40 }, (_, f) => 5 + f), [between, within]); // biome-ignore format: one row
    const ratios = spread(truth).found!.features.map(
      ({ by_words: a, by_pairs: b }) => (a.high - a.low) / (b.high - b.low),
    );
    const known = Math.sqrt((m * between ** 2 + within ** 2) / (between ** 2 + within ** 2));
    expect(average(ratios) / known, seed).toBeCloseTo(1, 1);
    expect(Math.abs(average(ratios) / known - 1), seed).toBeLessThan(0.06);
  });

  it("holds the mean of all words about as often as it says, where that by pairs hardly does", () => {
    const seed = "coverage";
    const random = new Random(seed);
    for (const [words, least] of [
      [24, 0.92],
      [6, 0.88],
    ] as const) {
      // biome-ignore format: one row
      let [held, heldByPairs, trials] = [0, 0, 0];
      for (let repeat = 0; repeat < 40; repeat++) {
        const truth = invent(random, Array.from({ length: words }, () => 3 + random.below(12)), Array.from({ length: 40 }, () => 2), [1, 0.5]); // biome-ignore format: one row
        for (const { by_words: a, by_pairs: b } of spread(truth).found!.features) {
          trials++;
          if (a.low <= 2 && 2 <= a.high) held++;
          if (b.low <= 2 && 2 <= b.high) heldByPairs++;
        }
      }
      expect(trials).toBe(1600);
      expect(held / trials, `${seed}, ${words} words`).toBeGreaterThan(least);
      expect(held / trials, `${seed}, ${words} words`).toBeLessThan(0.98);
      expect(heldByPairs / trials, `${seed}, ${words} words`).toBeLessThan(0.65);
    }
  });

  it("is not told of fewer than five words, and draws more than 64 in groups", () => {
    const random = new Random("few words");
    const few = invent(random, [9, 9, 9, 9], [1, 2, 3], [1, 1]);
    expect(few.units.splits[0]!.words).toBe(4);
    expect(spread(few).found).toBeNull();
    expect(overlapSpread(null, spread(invent(random, [1, 2, 3, 4, 5], [1, 2], [1, 1])).found, [1, 1])).toEqual([
      null,
      null,
    ]);
    const many = invent(
      random,
      Array.from({ length: 200 }, () => 3),
      Array.from({ length: 40 }, () => 2),
      [1, 0],
    );
    expect(many.units.splits[0]).toMatchObject({ words: 200, pairs: 600 });
    expect(many.units.splits[0]!.pairsOfGroup.length).toBe(64);
    // Words differ by 1, pairs of one do not: 1/√200.
    const widths = spread(many).found!.features.map(({ by_words: { low, high } }) => high - low);
    expect(Math.abs(average(widths) / (2 * 1.96 * Math.sqrt(1 / 200)) - 1)).toBeLessThan(0.08);
  });

  it("of what two splits share lies around it and is wide where words disagree", () => {
    const random = new Random("overlap");
    const means = Array.from({ length: 30 }, (_, f) => 1 + 0.02 * f);
    const of = (between: number) =>
      spread(
        invent(
          random,
          Array.from({ length: 20 }, () => 5),
          means,
          [between, 0],
        ),
      ).found;
    const widths = [0.01, 1].map((between) => {
      const [ten] = overlapSpread(of(between), of(between), [0.8, 0.9]);
      expect(ten!.low).toBeLessThanOrEqual(0.8);
      expect(ten!.high).toBeGreaterThanOrEqual(0.8);
      return ten!.high - ten!.low;
    });
    expect(widths[1]!).toBeGreaterThan(widths[0]! + 0.1);
  });
});

describe("widened", () => {
  it("is Student's t with n − 1 degrees of freedom, for means of n: values of tables", () => {
    // t(0.975, 4) = 2.776, t(0.975, 19) = 2.093; 2 Φ(t √(n/(n−1))) − 1.
    expect(widened(0.95, 5)).toBeCloseTo(0.9981, 3);
    expect(widened(0.95, 20)).toBeCloseTo(0.9682, 3);
    expect(widened(0.95, 100_000)).toBeCloseTo(0.95, 4);
    expect(percentiles([Number.NaN, 2, 1, Number.POSITIVE_INFINITY, 3], 1)).toEqual({ low: 1, high: 3 });
  });
});

describe("a word's sum of effects", () => {
  it("over merged nodes is that of its pairs, each with nodes of its own", async () => {
    const options = { model_name: "demo", sae_source: null, layers: "3", sites: "resid_post", num_examples: 12, batch_size: null, task: "agreement", pairs: null, seed: 1, method: "analytic", score: "effect", precision: "float32", device: "cpu", top: 20, keep: "all", weights: "held" } as const; // biome-ignore format: one row
    const opened = await openJob(options);
    try {
      const pairs = usablePairs(opened.source, opened, options, postingReporter(() => {}, () => false)).kept; // biome-ignore format: one row
      const loaded = loadedModel(opened.model, await heldWeights(opened.model, opened.checkpoint));
      const rowsOf = async (merge: "all" | "forward") => {
        const forest = prefixForest(pairs, { merge });
        for await (const { rows } of effectsOf("analytic", { ...loaded, forest, dictionaries: opened.dictionaries }))
          return { forest, rows };
        throw new Error("no site");
      };
      const apart = await rowsOf("forward");
      const { backward, endNodeOfPair } = apart.forest;
      // Each pair's own effects, by walking its path; its word is the first token in which its prompts differ.
      const pairOf = new Map<number, number>();
      endNodeOfPair.forEach((end, p) => {
        for (let node = end; node >= 0; node = backward.parent[node]!) pairOf.set(node, p);
      });
      const wordOf = ({ clean, patch }: TokenPair) => {
        const at = clean.findIndex((token, t) => token !== patch[t]);
        return [clean[at]!, patch[at]!].sort((a, b) => a - b).join("/");
      };
      const expected = new Map<string, number>();
      const isFirst = (node: number) => backward.position[node] === 0 && opened.tokenizer.outside.first.has(backward.token[node]!); // biome-ignore format: one row
      apart.rows.feature.forEach((f, i) => {
        const pair = pairs[pairOf.get(apart.rows.node[i]!)!]!;
        if (f < 0 || pair.pair.split !== "train" || isFirst(apart.rows.node[i]!)) return;
        const key = `${wordOf(pair)} ${f}`;
        expected.set(key, (expected.get(key) ?? 0) + apart.rows.effect[i]!);
      });

      const merged = await rowsOf("all");
      const units = unitsOf(merged.forest, opened.tokenizer.outside);
      const features = Int32Array.from(new Set(merged.rows.feature)).filter((f) => f >= 0);
      const summer = new EffectSummer(units, units.splits.map(() => ({ feature: features, listed: 0 }))); // biome-ignore format: one row
      summer.add(merged.rows);
      const [train] = summer.finish();
      const words = [...new Set(pairs.filter(({ pair }) => pair.split === "train").map(wordOf))];
      expect(train!.units.words).toBe(words.length);
      expect(train!.units.pairsOfGroup.length).toBe(Math.min(64, words.length));
      const largest = Math.max(...[...expected.values()].map(Math.abs));
      let worst = 0;
      words.slice(0, 64).forEach((_, group) => {
        for (const [i, f] of features.entries()) {
          // Words of a group are every 64th.
          const own = words.filter((_, w) => w % 64 === group).reduce((sum, word) => sum + (expected.get(`${word} ${f}`) ?? 0), 0); // biome-ignore format: one row
          worst = Math.max(worst, Math.abs(own - train!.byGroup[i * train!.units.pairsOfGroup.length + group]!));
        }
      });
      expect(worst / largest).toBeLessThan(1e-5);
    } finally {
      await opened.close();
    }
  });
});
