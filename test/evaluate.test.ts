import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openFolder } from "../src/bytes/file.node.ts";
import { subfolder } from "../src/bytes/folder.ts";
import type { Dictionary } from "../src/dictionaries/dictionary.ts";
import { codeReader } from "../src/dictionaries/encode.ts";
import { closeDictionaries, openDictionaries } from "../src/dictionaries/open.ts";
import {
  type AblationKind,
  ablationBase,
  evaluationForest,
  type Features,
  readActivations,
} from "../src/interventions/ablation.ts";
import { rankScores } from "../src/interventions/choose.ts";
import { evaluateSubsets, meanMetric, type Subset } from "../src/interventions/evaluate.ts";
import { maskScores } from "../src/interventions/mask-scores.ts";
import { openCheckpoint } from "../src/models/checkpoint.ts";
import { fittedModel } from "../src/models/fitted.ts";
import { heldWeights, type LoadedModel, loadedModel, streamedWeights } from "../src/models/weights.ts";
import { tokenizePairs } from "../src/prompts/check.ts";
import type { PromptPair, TokenPair } from "../src/prompts/pairs.ts";
import { loadTokenizer, type Tokenizer } from "../src/prompts/tokenizer.ts";
import { parseSite, type SiteName } from "../src/site.ts";

interface ExpectedSet {
  readonly sites: "resid" | "all";
  readonly ablation: "mean" | "patch" | "zero";
  readonly errors: "mean" | "patch" | "zero" | "clean" | "keep" | "remove";
  readonly [name: string]: number | string;
}

interface Expected {
  readonly pairs: PromptPair[];
  readonly effects: Record<SiteName, { features: { feature: number; analytic: number }[] }>;
  readonly evaluation: {
    readonly sets: ExpectedSet[];
    readonly mask_ig_10: Record<"resid" | "all", { node: string; score: number }[]>;
    readonly circuits_by_analytic: Record<"resid" | "all", Record<string, Record<SiteName, number[]>>>;
  };
}

const data = join(process.env.SFC_TEST_DATA ?? "../shared/data", "circuits/expected.json");

describe.skipIf(!existsSync(data))("evaluations of the embedded model (SFC_TEST_DATA)", () => {
  const expected = existsSync(data) ? (JSON.parse(readFileSync(data, "utf8")) as Expected) : undefined;
  const sets = expected?.evaluation.sets ?? [];
  let dictionaries: ReadonlyMap<SiteName, Dictionary>;
  let tokenizer: Tokenizer;
  let pairs: readonly TokenPair[];
  let open: (dtype: "float32" | "float64", weights: "held" | "streamed") => Promise<LoadedModel>;
  let close = async () => {};

  beforeAll(async () => {
    const folder = await openFolder(new URL("../models/demo", import.meta.url).pathname);
    const checkpoint = await openCheckpoint(folder);
    const { model } = await fittedModel(checkpoint);
    tokenizer = loadTokenizer(checkpoint.tokenizer, checkpoint.tokenizerConfig);
    pairs = tokenizePairs(
      expected!.pairs.map((pair) => ({ ...pair, split: "train" })),
      tokenizer,
    ).kept;
    dictionaries = await openDictionaries(subfolder(folder, "saes"));
    open = async (dtype, weights) =>
      loadedModel(
        model,
        weights === "held" ? await heldWeights(model, checkpoint, dtype) : streamedWeights(checkpoint),
        { dtype },
      );
    close = async () => {
      await closeDictionaries(dictionaries);
      await checkpoint.close();
    };
  });
  afterAll(() => close());

  const chosen = (sites: "resid" | "all", size: string): Features => {
    const { circuits_by_analytic: circuits } = expected!.evaluation;
    return new Map(Object.entries(circuits[sites][size]!) as [SiteName, number[]][]);
  };

  const measure = async (set: ExpectedSet, loaded: LoadedModel) => {
    const own = new Map(
      [...dictionaries].filter(([site]) => set.sites === "all" || parseSite(site).kind === "resid_post"),
    );
    const errors = ({ clean: "clean", keep: "kept", remove: "removed" } as const)[set.errors as "clean"] ?? "ablated";
    const kind: AblationKind = { values: set.ablation, errors };
    const forest = evaluationForest(pairs, () => "all");
    const codes = codeReader(loaded);
    const setting = { loaded, forest, dictionaries: own, outside: tokenizer.outside };
    try {
      const activations = await readActivations(loaded, forest, [...own.keys()]);
      const base = await ablationBase(activations, own, codes, chosen(set.sites, "60"), kind, { whole: true });
      const subsets: [string, Subset][] = [
        ["F_empty", { kind: "circuit", features: new Map() }],
        ["F_all_features", { kind: "whole" }],
        ...(["30", "60"] as const).flatMap((size): [string, Subset][] => [
          [`F_top${size}`, { kind: "circuit", features: chosen(set.sites, size) }],
          [`complement_top${size}`, { kind: "complement", features: chosen(set.sites, size) }],
        ]),
      ];
      const results = await evaluateSubsets(
        setting,
        base,
        subsets.map(([, subset]) => subset),
      );
      const found = new Map(subsets.map(([name], i) => [name, meanMetric(forest, results[i]!)]));
      return { F_model: meanMetric(forest, activations.cleanMetric), found };
    } finally {
      await codes.release();
    }
  };

  const expectSet = async (set: ExpectedSet, loaded: LoadedModel, tolerance: number) => {
    const { F_model, found } = await measure(set, loaded);
    const largest = Math.abs(set.F_model as number);
    for (const [name, F] of [["F_model", F_model] as const, ...found]) {
      const right = set[name];
      if (typeof right === "number")
        expect(Math.abs(F - right) / largest, `${name}: ${F} for ${right}`).toBeLessThan(tolerance);
    }
  };
  const named = (some: readonly ExpectedSet[]) =>
    some.map((set) => [`${set.sites}, ${set.ablation}, errors ${set.errors}`, set] as const);

  it.each(named(sets))("%s: those of PyTorch in float64", async (_, set) => {
    await expectSet(set, await open("float64", "held"), 1e-6);
  });

  it.each(named(sets.filter(({ sites, errors }, i) => sites === "all" && (errors === "keep" || i % 3 === 0))))(
    "%s: in float32 with streamed weights to 1e-4",
    async (_, set) => {
      await expectSet(set, await open("float32", "streamed"), 1e-4);
    },
  );

  it.each(["resid", "all"] as const)(
    "scores by ablation at 10 points, %s: those of PyTorch in float64",
    async (sites) => {
      const loaded = await open("float64", "held");
      const own = new Map(
        [...dictionaries].filter(([site]) => sites === "all" || parseSite(site).kind === "resid_post"),
      );
      const forest = evaluationForest(pairs, () => "all");
      const setting = { loaded, forest, dictionaries: own, outside: tokenizer.outside };
      const codes = codeReader(loaded);
      const activations = await readActivations(loaded, forest, [...own.keys()]);
      const scores = await maskScores(setting, activations, "mean", codes, { points: 10 });
      const right = expected!.evaluation.mask_ig_10[sites];
      const ranked = rankScores(scores);
      right.forEach(({ node, score }, i) => {
        const got = ranked[i]!;
        expect(`${got.site}/${got.feature}`, `rank ${i}`).toBe(node);
        expect(Math.abs(got.score - score) / Math.abs(right[0]!.score), node).toBeLessThan(1e-6);
      });
      await codes.release();
    },
  );
});
