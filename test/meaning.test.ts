import { describe, expect, it } from "vitest";
import { capture } from "../src/capture/capture.ts";
import { measureMeaning } from "../src/circuit/meaning.ts";
import type { Ranking } from "../src/circuit/ranking.ts";
import { codeReader } from "../src/dictionaries/encode.ts";
import { prefixForest } from "../src/forest/forest.ts";
import { planCapture } from "../src/forest/packs.ts";
import { coordinates, tokenPair, toyModel } from "./toy-model.ts";

// Coordinates of a noun: 0 plural, 1 singular, 2 says "are" as well, 3 always 1, 4 singular on test alone, 5 plural again.
const bos = [0, 0, 0, 1, 0, 0];
const plural = (evidence: 0 | 1) => [1, 0, evidence, 1, 0, 1];
const singular = (evidence: 0 | 1) => [0, 2, evidence, 1, 1, 0];
/** Plural, but the model says "is": 1.5 > 1. */
const irregular = [1, 1.5, 0, 1, 0, 1];
/** On train, coordinate 2 tells plural nouns from singular ones, and coordinate 4 does not. */
const trained = [plural(1), [0, 2, 0, 1, 0, 0]];
const embedding = [
  bos,
  ...[plural(1), plural(1), plural(1), plural(0), plural(0), irregular],
  ...[singular(1), singular(1), singular(1), singular(0), singular(0), singular(0)],
  ...[...Array(5).fill(trained[0]), ...Array(5).fill(trained[1])],
  ...[bos, bos],
];
const [are, is] = [23, 24];
const toy = toyModel(
  embedding,
  new Map([
    [are, [1, 0, 1, 0, 0, 0]],
    [is, [0, 1, 0, 0, 0, 0]],
  ]),
  4,
);
const test = "test" as const;
const plurals = [1, 2, 3, 4, 5, 6].map((noun) =>
  tokenPair([0, noun], [0, noun + 6], [are, is], { case: noun > 4 ? "y_plural" : "x_plural", split: test }),
);
const singulars = [7, 8, 9, 10, 11, 12].map((noun) =>
  tokenPair([0, noun], [0, noun - 6], [is, are], { case: "x_singular", split: test }),
);
const train = [13, 14, 15, 16, 17].flatMap((noun) => [
  tokenPair([0, noun], [0, noun + 5], [are, is], { case: "x_plural", split: "train" }),
  tokenPair([0, noun + 5], [0, noun], [is, are], { case: "x_singular", split: "train" }),
]);

/** Features of every layer, strongest on train first: the one that tells plural best comes sixth. */
const top = [3, 0, 2, 1, 4, 5].map((feature, i) => ({ feature, effect: i % 2 === 0 ? 6 - i : i - 6 }));
const sites = [0, 1, 2, 3].map((layer) => `resid_post.${layer}`);

describe("what the strongest features stand for, on a model whose blocks add nothing", async () => {
  const pairs = [...train, ...plurals, ...singulars];
  const plan = planCapture(prefixForest(pairs), { wanted: "changed" });
  const captured = await capture(toy.loaded, plan, { sites });
  const inputAt = (of: readonly string[] = sites) => ({
    loaded: toy.loaded,
    captured,
    codes: codeReader(),
    dictionaries: new Map(of.map((site) => [site, coordinates(site, 6)])),
    ranking: {
      // On test another feature alone would be among the strongest.
      sites: of.map((site) => ({ site, splits: { train: { top }, test: { top: [{ feature: 4, effect: 1 }] } } })),
    } as unknown as Ranking,
    outside: { first: new Set([0]), padding: new Set<number>() },
  });
  const result = (await measureMeaning(inputAt()))!;

  it("looks at the five strongest of train in the middle third of the layers, and lists the strongest first", () => {
    // Of four layers the middle third begins in layer 1 (4/3) and ends in layer 2 (8/3).
    expect(result.features.map(({ site, feature, effect }) => [site, feature, effect])).toEqual([
      ["resid_post.1", 3, 6],
      ["resid_post.2", 3, 6],
      ["resid_post.1", 0, -5],
      ["resid_post.2", 0, -5],
      ["resid_post.1", 2, 4],
      ["resid_post.2", 2, 4],
      ["resid_post.1", 1, -3],
      ["resid_post.2", 1, -3],
      ["resid_post.1", 4, 2],
      ["resid_post.2", 4, 2],
    ]);
  });

  it("says how often each fires on the nouns of test, and how well it tells them apart", () => {
    const fires = (feature: number) =>
      result.features
        .find((f) => f.feature === feature)!
        .fires.map(({ group, split, n, share, mean, auc }) => [group, split, n, share, mean, auc]);
    expect(fires(0)).toEqual([
      ["plural", "test", 6, 1, 1, 1],
      ["singular", "test", 6, 0, 0, 0],
    ]);
    // Codes 2 in all singular nouns, 1.5 in one plural noun.
    expect(fires(1)).toEqual([
      ["plural", "test", 6, 1 / 6, 0.25, 0],
      ["singular", "test", 6, 1, 2, 1],
    ]);
    expect(fires(2)).toEqual([
      ["plural", "test", 6, 0.5, 0.5, 0.5],
      ["singular", "test", 6, 0.5, 0.5, 0.5],
    ]);
    expect(fires(3)).toEqual([
      ["plural", "test", 6, 1, 1, 0.5],
      ["singular", "test", 6, 1, 1, 0.5],
    ]);
    expect(fires(4)).toEqual([
      ["plural", "test", 6, 0, 0, 0],
      ["singular", "test", 6, 1, 1, 1],
    ]);
  });

  it("says what the model gets right on test without those that tell a group apart on train, before and after, case by case", () => {
    const accuracy = (name: string, n: number, before: number, after: number) => ({
      case: name,
      split: test,
      n,
      before,
      after,
    });
    expect(result.ablations).toEqual([
      {
        label: "the plural features",
        features: ["resid_post.1/0", "resid_post.1/2", "resid_post.2/0", "resid_post.2/2"],
        value: "zero",
        accuracy: [accuracy("x_plural", 4, 1, 0), accuracy("y_plural", 2, 1 / 2, 0), accuracy("x_singular", 6, 1, 1)],
      },
      {
        label: "the singular features",
        features: ["resid_post.1/1", "resid_post.2/1"],
        value: "zero",
        // The irregular plural loses what misled it, singular nouns all they had.
        accuracy: [accuracy("x_plural", 4, 1, 1), accuracy("y_plural", 2, 1 / 2, 1), accuracy("x_singular", 6, 1, 0)],
      },
    ]);
  });

  it("is nothing without residual sites in the middle", async () => {
    expect(await measureMeaning(inputAt(["resid_post.0", "resid_post.3"]))).toBeUndefined();
  });
});
