import { describe, expect, test } from "vitest";
import type { ReportData, TopFeatures } from "../src/report/data.ts";
import { type Finding, findingsOf } from "../src/report/findings.ts";
import { sampleReport } from "../web/sample.ts";

const full = sampleReport(3);
const nothing = {
  accuracy: [],
  importance: [],
  features: [],
  change: {},
  words: {},
  wordsShared: null,
  exact: null,
  agreement: [],
  meaning: null,
  circuit: null,
  evaluation: null,
};
const only = (part: Partial<ReportData>) => findingsOf({ run: full.run, ...nothing, ...part });
const text = ({ claim, grounds }: Finding) => `${claim} ${grounds}`;

const group = (part: Partial<TopFeatures>): TopFeatures => ({
  split: "train",
  case: "",
  site: "resid_post.2",
  feature: [1035, 649, 7],
  effect: [0.5, -0.3, 0.1],
  nodes: [4, 4, 4],
  error: 0.01,
  exact: [4.4, null, null],
  beside: [],
  spread: [null, null, null],
  stability10: null,
  ...part,
});

describe("findings", () => {
  test("an empty run has none, and all parts of a full one have one", () => {
    expect(only({})).toEqual([]);
    expect(new Set(findingsOf(full).map(({ section }) => section))).toEqual(
      new Set(["meaning", "features", "worth", "importance", "circuit", "agreement", "accuracy"]),
    );
  });

  const fires = (auc: number | null, share: number) => [
    { group: "singular", split: "test" as const, n: 90, share: 1 - share, mean: 1, auc: auc === null ? null : 1 - auc },
    { group: "plural", split: "test" as const, n: 80, share, mean: 5, auc },
  ];
  const meaning: NonNullable<ReportData["meaning"]> = {
    format: 1,
    members: "subject nouns",
    features: [
      { site: "resid_post.2", feature: 1035, effect: 0.5, fires: fires(0.998, 1) },
      { site: "resid_post.2", feature: 649, effect: 0.3, fires: fires(0.01, 0) },
    ],
    ablations: [
      {
        label: "the singular features",
        features: ["resid_post.2/649"],
        value: "zero",
        accuracy: [{ case: "a_singular", split: "test", n: 32, before: 1, after: 1 }],
      },
      {
        label: "the plural features",
        features: ["resid_post.2/1035"],
        value: "zero",
        accuracy: [
          { case: "a_plural", split: "test", n: 20, before: 1, after: 0.55 },
          { case: "b_plural", split: "test", n: 20, before: 1, after: 0 },
          { case: "a_singular", split: "test", n: 40, before: 0.95, after: 0.95 },
        ],
      },
    ],
  };

  test("what a feature fires on, and what falls without it, the largest loss first, with n and intervals", () => {
    const [first, second] = only({ meaning });
    expect(first!.claim).toBe("resid_post.2/1035 fires on plural; without it b_plural falls from 100 % to 0 %.");
    // 0 of 20 by Wilson: 0 to 16.1 % (Newcombe 1998). All: (11 + 0 + 38)/80 after, (20 + 20 + 38)/80 before.
    expect(first!.grounds).toContain("80 plural against 90 other subject nouns");
    expect(first!.grounds).toContain("0 % [0–16] of 20 pairs");
    expect(first!.grounds).toContain("all 3 cases, from 97.5 % to 61.3 %");
    expect(second!.claim).toContain("resid_post.2/649 fires on singular");
    expect(second!.claim).toContain("no case loses any accuracy");
  });

  test("of too few members no AUC is told", () => {
    const few = { ...meaning, features: meaning.features.map((row) => ({ ...row, fires: fires(null, 1) })) };
    for (const one of only({ meaning: few })) expect(text(one)).not.toMatch(/AUC|fires on/);
  });

  test("exact effects are told beside the method's own, with the sample they are of", () => {
    const found = only({
      features: [group({ spread: [spread(0.45, 0.55), null, null] })],
      importance: [importance(1, 0.13)],
      change: { train: 8.9 },
      exact: {
        split: "train",
        pairs: 64,
        of: 512,
        distance: 0.4,
        worst: { site: "", feature: 0, effect: 0, exact: 0 },
      },
    });
    const exact = found.find(({ claim }) => claim.includes("by itself"))!;
    expect(exact.claim).toBe(
      "Patched by itself, resid_post.2/1035 moves m by +4.40 of the +8.90 logits between clean and patch.",
    );
    expect(exact.grounds).toContain("64 of 512 train pairs");
    expect(exact.grounds).toContain("first-order effect is +0.500 [+0.450, +0.550] on all of them: too small");
  });

  test("the share that few features hold is of one site, and sites of the stream are never added up", () => {
    const found = only({
      features: [group({}), group({ site: "resid_post.3", effect: [0.3, 0.3, 0.3] }), group({ site: "mlp_out.1" })],
      importance: [
        importance(1, 0.13),
        { ...importance(2, 0.8), site: "resid_post.3" },
        { ...importance(0.5, 0), site: "mlp_out.1" },
      ],
      change: { train: 8.9 },
    });
    // 0.5 of 1 is half already; at resid_post.3 three hold .9 of 2. mlp_out is part of the stream and not asked.
    expect(found[0]!.claim).toBe("1 feature at resid_post.2 holds 50 % of its Σ|effect|: resid_post.2/1035.");
    expect(found[1]!.claim).toBe(
      "First-order effects and errors add up to 13 % at resid_post.2 and 80 % at resid_post.3 of the change of +8.90 logits.",
    );
    expect(found[1]!.grounds).toContain("do not add up");
    expect(found.map(text).join()).not.toContain("Strongest");
  });

  test("where the strongest hold less than half, that is said; of a short list, that nothing stands out is not", () => {
    const twenty = group({
      feature: Array.from({ length: 20 }, (_, i) => i),
      effect: Array.from({ length: 20 }, () => 0.045),
    });
    expect(only({ features: [twenty], importance: [importance(3, 0.13)], change: {} })[0]!.claim).toBe(
      "At resid_post.2 no few features stand out: the 20 strongest features (resid_post.2/0, resid_post.2/1, resid_post.2/2 and 17 more) hold 30 % of Σ|effect|.",
    );
    expect(only({ features: [group({})], importance: [importance(3, 0.13)], change: {} })[0]!.claim).toBe(
      "The 3 strongest features of resid_post.2 (resid_post.2/1035, resid_post.2/649, resid_post.2/7) hold 30 % of its Σ|effect|.",
    );
    const one = group({ feature: [1035], effect: [0.5], spread: [null] });
    expect(only({ features: [one], importance: [importance(2, 0.13)], change: {} })[0]!.claim).toBe(
      "The strongest feature of resid_post.2 (resid_post.2/1035) holds 25 % of its Σ|effect|.",
    );
  });

  test("an exact effect of the other sign is called that, and a single pair is no mean", () => {
    const exact = {
      split: "train" as const,
      pairs: 1,
      of: 1,
      distance: 2,
      worst: { site: "", feature: 0, effect: 0, exact: 0 },
    };
    const found = only({ features: [group({ exact: [-0.5, null, null] })], importance: [importance(1, 1)], exact });
    expect(found[0]!.grounds).toBe(
      "Exact, of the only train pair. Its first-order effect is +0.500: of the other sign, so take sign and size from exact.",
    );
  });

  test.each([
    [[1.02, 0.95], "secant", "Effects are shares of it; what a feature does by itself is exact."],
    [[2.5, 1], "secant", "trust the order more than the sizes"],
    [[-1, 1], "analytic", "trust the order, not the sizes"],
    [[1.8, 0.9], "exact", "sums may be anything"],
  ])("where effects add up to %s of the change by %s, sizes are called %s", (explained, method, said) => {
    const found = only({
      run: { ...full.run, method },
      importance: explained.map((share, i) => ({ ...importance(1, share), site: `resid_post.${i}` })),
      change: { train: 8.9 },
    });
    expect(found[0]!.grounds).toContain(said);
  });

  test("that features hold on test words is said where test has other words", () => {
    const agreement = [{ ...full.agreement[0]!, site: "resid_post.2", overlap10: 0.9, overlap10ByWords: null }];
    const words = { train: 6, test: 5 };
    const hold = (wordsShared: number | null) => text(only({ agreement, words, wordsShared })[0]!);
    expect(hold(0)).toContain("hold on test words: train and test share 90 %");
    expect(hold(null)).toContain("hold on the test split: ");
    expect(hold(2)).toMatch(
      /hold on the test split: .* 5 on test, 2 of them on both: of other words this says less\.$/,
    );
    expect(hold(5)).toMatch(
      /hold on the test split: .* 5 on test, 5 of them on both: of other words this says nothing\.$/,
    );
  });

  test("of pairs kept because the model gets them right no accuracy is told", () => {
    const accuracy = [{ ...full.accuracy[0]!, pairs: 50, accuracy: 1 }];
    const run = { ...full.run, options: [{ name: "keep", value: "correct" }] };
    expect(only({ run, accuracy })[0]!.claim).toBe(
      "All numbers are of the 50 pairs that the model gets right (--keep correct).",
    );
  });

  test("of three pairs or fewer it is not said how often the model does it", () => {
    const accuracy = [{ ...full.accuracy[0]!, pairs: 1, accuracy: 1 }];
    expect(only({ accuracy })[0]!.claim).toBe(
      "The model prefers the clean answer in 1 of 1 pair: too few to say how often it does.",
    );
  });

  test("a circuit is the smallest that keeps 80 % on test pairs, baselines left out; else that is said", () => {
    const curve = full.evaluation!.curves[0]!;
    const point = (size: number, faithfulness: number) => ({
      ...curve.points[0]!,
      size,
      faithfulness,
      by_words: { low: faithfulness - 0.1, high: faithfulness + 0.05 },
      completeness: -0.011,
    });
    const at = (way: string, split: "train" | "test", ...points: ReturnType<typeof point>[]) => ({
      ...curve,
      group: "all",
      way,
      split,
      points,
    });
    const curves = [
      at("secant", "train", point(10, 0.99)),
      at("random", "test", point(5, 0.95)),
      at("secant", "test", point(20, 0.3), point(60, 0.81)),
      at("masks", "test", point(20, 0.4), point(60, 0.86)),
    ];
    const pairs = [{ group: "all", split: "test" as const, cases: [], pairs: 120, words: 22 }];
    const [found] = only({ evaluation: { ...full.evaluation!, curves, pairs } });
    expect(found!.claim).toBe("60 features at 6 sites keep 86 % [76–91] of the behaviour.");
    expect(found!.grounds).toContain(
      "chosen by masks on train) on 120 test pairs of 22 words; without them −1.10 % is left",
    );
    const low = curves.map((one) => ({ ...one, points: one.points.filter(({ size }) => size <= 20) }));
    expect(only({ evaluation: { ...full.evaluation!, curves: low, pairs } })[0]!.claim).toBe(
      "No circuit that was measured keeps 80 % of the behaviour: the best, of 20 features, keeps 40 % [30–45].",
    );
  });

  test("a behaviour that is hardly there is called that", () => {
    const accuracy = [{ ...full.accuracy[0]!, pairs: 100, accuracy: 0.6 }];
    expect(only({ accuracy })[0]!.claim).toBe(
      "The model hardly does it: it prefers the clean answer in 60.0 % [50–69] of 100 pairs.",
    );
  });

  test("scores are called first-order scores and add up to nothing", () => {
    const run = { ...full.run, score: "gradient" as const };
    const found = findingsOf({
      ...nothing,
      run,
      features: [group({ exact: [null, null, null] })],
      importance: [{ ...importance(1, 0), explained: null }],
    });
    expect(found).toHaveLength(1);
    expect(found[0]!.claim).toContain("Σ|score|");
    expect(found[0]!.grounds).toContain("Gradient score, first-order; Σ|score| 1.00 logits per unit of code");
  });
});

function spread(low: number, high: number) {
  return { by_words: { low, high }, by_pairs: { low, high }, ranks: { low: 1, high: 1 }, in_top_10: 1 };
}

function importance(all: number, explained: number): ReportData["importance"][number] {
  return { split: "train", site: "resid_post.2", importance: all, errorShare: 0.02, explained, leftOut: 0 };
}
