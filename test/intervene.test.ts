import { describe, expect, it } from "vitest";
import { openFolder } from "../src/bytes/file.node.ts";
import type { Activation, Dictionary, Normalization } from "../src/dictionaries/dictionary.ts";
import { UsageError, UserError } from "../src/errors.ts";
import { prefixForest } from "../src/forest/forest.ts";
import { type Intervention, intervene, intervenedMetrics, type NextToken } from "../src/interventions/intervene.ts";
import { type InterventionTexts, readInterventions } from "../src/interventions/read-interventions.ts";
import { openCheckpoint } from "../src/models/checkpoint.ts";
import { fittedModel } from "../src/models/fitted.ts";
import type { Model } from "../src/models/model.ts";
import { heldWeights, loadedModel, streamedWeights } from "../src/models/weights.ts";
import { isOutside } from "../src/prompts/outside.ts";
import type { TokenPair } from "../src/prompts/pairs.ts";
import { Random } from "../src/random.ts";
import { parseSite, type SiteName } from "../src/site.ts";
import { apply } from "./apply-dictionary.ts";
import { randomDictionary } from "./random-dictionary.ts";
import { type HandRunner, handRunner } from "./run-by-hand.ts";
import { tokenPair } from "./toy-model.ts";

const seed = "interventions";
const F = 40;
/** Token 1 is BOS, token 3 padding. */
const outside = { first: new Set([1]), padding: new Set([3]) };

/** Pairs that share prefixes, and two that share the whole clean prompt; BOS again inside one, padding inside another. */
function somePairs(): TokenPair[] {
  const random = new Random(seed);
  const pairs = Array.from({ length: 6 }, (_, i) => {
    const rest = [...Array.from({ length: 2 + (i % 3) }, () => 4 + random.below(3)), i === 2 ? 1 : i === 3 ? 3 : 5];
    return tokenPair([1, 8, ...rest], [1, 9 + (i % 2), ...rest], [20, 22 + (i % 3)], {
      case: i < 4 ? "a" : "b",
      split: i === 1 ? "test" : "train",
    });
  });
  const [first] = pairs as [TokenPair];
  return [...pairs, tokenPair(first.clean, first.patch, [20, 30], { case: "b" })];
}

const [gemma, neox, gpt2] = ["gemma2", "gpt_neox-relu", "gpt2"];
/** Post-norms, parallel blocks with a kink, layer norms. */
const kinds: [string, Activation["kind"], Normalization | undefined][] = [
  [gemma!, "jumprelu", undefined],
  [gpt2!, "jumprelu", undefined],
  [neox!, "jumprelu", undefined],
  [gpt2!, "topk", undefined],
  [gemma!, "relu", "layer_norm"],
  [neox!, "jumprelu", "constant_norm_rescale"],
];

/** Of every kind, at the last site of the model too. */
const interventionsOn = ({ layers }: Model): Intervention[] => [
  { site: "attn_z.0", feature: 7, factor: 0, value: 0 },
  { site: "mlp_out.0", feature: 3, factor: 0, value: 1.5 },
  { site: "resid_post.0", feature: 39, factor: 0, value: -2 },
  ...[0, 5, 11, 17].map((feature) => ({ site: "resid_post.0", feature, factor: 0, value: 0 })),
  ...[2, 12, 22].map((feature) => ({ site: `resid_post.${layers - 1}`, feature, factor: 2.5, value: 0 })),
  { site: `resid_post.${layers - 1}`, feature: 1, factor: 0, value: 0.75 },
];

describe.each(kinds)(`interventions on %s with %s, normalised: %s (seed ${seed})`, (name, kind, normalization) => {
  it.each(["held", "streamed"] as const)("are what replacing activations by hand gives, weights %s", async (where) => {
    const checkpoint = await openCheckpoint(await openFolder(new URL(`fixtures/${name}`, import.meta.url).pathname));
    const { model } = await fittedModel(checkpoint);
    const interventions = interventionsOn(model);
    const dictionaries = new Map(
      [...new Set(interventions.map(({ site }) => site))].map((site) => [
        site,
        randomDictionary(site, model.sites[parseSite(site).kind]!, F, seed, {
          kind,
          threshold: 0.2,
          ...(normalization && { normalization }),
        }),
      ]),
    );
    const weights = await heldWeights(model, checkpoint, "float64");
    const given = loadedModel(model, where === "held" ? weights : streamedWeights(checkpoint), { dtype: "float64" });
    const pairs = somePairs();
    const forest = prefixForest(pairs);
    const setting = { loaded: given, forest, dictionaries, outside };
    const found = await intervene(setting, interventions);
    const [plain, changed] = await intervenedMetrics(setting, [[], interventions]);
    await checkpoint.close();

    const hand = handRunner(model, weights);
    const expected: { before: number[]; after: number[] }[] = [];
    for (const { clean } of pairs) {
      expected.push({
        before: softmax((await hand.run(clean)).logits),
        after: softmax(await changedLogits(hand, dictionaries, interventions, clean)),
      });
    }
    await hand.release();
    const right = { before: [] as number[], after: [] as number[] };
    for (const [p, { cleanAnswer, patchAnswer }] of pairs.entries()) {
      const end = forest.endIndexOfPair[p]!;
      for (const when of ["before", "after"] as const) {
        const probabilities = expected[p]![when];
        const m = Math.log(probabilities[patchAnswer]!) - Math.log(probabilities[cleanAnswer]!);
        right[when].push(m);
        expect(Math.abs(found[when][end]! - m), `m ${when}, pair ${p}`).toBeLessThan(1e-9);
        expect(Math.abs((when === "before" ? plain : changed)![end]! - m)).toBeLessThan(1e-9);
      }
      expectNext(found.next[end]!, expected[p]!.before, expected[p]!.after);
    }
    expect(Math.max(...right.after.map((m, p) => Math.abs(m - right.before[p]!)))).toBeGreaterThan(0.05);

    expect(found.groups.map(({ split, case: name, pairs }) => [split, name, pairs])).toEqual([
      ["train", "a", 3],
      ["test", "a", 1],
      ["train", "b", 3],
      ["train", "", 6],
    ]);
    for (const { split, case: name, next, ...group } of found.groups) {
      const members = [...pairs.keys()].filter(
        (p) => pairs[p]!.pair.split === split && (name === "" || pairs[p]!.pair.case === name),
      );
      for (const when of ["before", "after"] as const) {
        const own = members.map((p) => right[when][p]!);
        expect(group[when].metric).toBeCloseTo(own.reduce((a, b) => a + b) / own.length, 9);
        expect(group[when].accuracy).toBe(own.filter((m) => m < 0).length / own.length);
      }
      const [before, after] = (["before", "after"] as const).map((when) =>
        expected[0]![when].map((_, v) => members.reduce((sum, p) => sum + expected[p]![when][v]!, 0) / members.length),
      );
      expectNext(next, before!, after!);
    }
  });
});

it("features and sites that there are not are refused", async () => {
  const checkpoint = await openCheckpoint(await openFolder(new URL("fixtures/llama-gqa", import.meta.url).pathname));
  const { model } = await fittedModel(checkpoint);
  const loaded = loadedModel(model, await heldWeights(model, checkpoint));
  await checkpoint.close();
  const dictionaries = new Map([["resid_post.0", randomDictionary("resid_post.0", model.width, F, seed)]]);
  const setting = { loaded, forest: prefixForest(somePairs()), dictionaries, outside };
  for (const [site, feature] of [
    ["resid_post.1", 1],
    ["resid_post.0", F],
    ["resid_post.0", -1],
    ["resid_post.0", 0.5],
  ] as const) {
    await expect(intervene(setting, [{ site, feature, factor: 0, value: 0 }])).rejects.toThrow(UserError);
  }
});

function expectNext(next: readonly NextToken[], before: readonly number[], after: readonly number[]): void {
  const top = (p: readonly number[]) => [...p.keys()].sort((a, b) => p[b]! - p[a]!).slice(0, 10);
  expect(next.map(({ token }) => token).sort()).toEqual([...new Set([...top(before), ...top(after)])].sort());
  for (const one of next) {
    expect(one.before).toBeCloseTo(before[one.token]!, 9);
    expect(one.after).toBeCloseTo(after[one.token]!, 9);
  }
  const most = next.map(({ before, after }) => Math.max(before, after));
  expect(most).toEqual(most.toSorted((a, b) => b - a));
}

/** The logits after a prompt when interventions are done by hand, site after site. */
async function changedLogits(
  hand: HandRunner,
  dictionaries: ReadonlyMap<SiteName, Dictionary>,
  interventions: readonly Intervention[],
  tokens: readonly number[],
): Promise<Float64Array> {
  const replaced = new Map<SiteName, Float64Array>();
  for (const [site, dictionary] of dictionaries) {
    const x = (await hand.run(tokens, replaced)).x.get(site)!;
    const [{ codes }, rows, D] = [await apply(dictionary, x), await dictionary.decoder(), dictionary.inputWidth];
    const changed = x.slice();
    tokens.forEach((token, t) => {
      if (isOutside(outside, token, t)) return;
      for (const one of interventions.filter((one) => one.site === site)) {
        const f = codes[t * F + one.feature]!;
        const by = one.factor * f + one.value - f;
        for (let d = 0; d < D; d++) changed[t * D + d]! += by * rows[one.feature * D + d]!;
      }
    });
    replaced.set(site, changed);
  }
  return (await hand.run(tokens, replaced)).logits;
}

function softmax(logits: Float64Array): number[] {
  const exp = Array.from(logits, Math.exp);
  const total = exp.reduce((a, b) => a + b);
  return exp.map((value) => value / total);
}

describe("interventions as they are typed", () => {
  const model = { layers: 4, sites: { embed: 8, attn_out: 8, mlp_out: 8, resid_post: 8 } };
  const dictionaries = new Map(
    ["mlp_out.0", "resid_post.2", "resid_post.3"].map((site) => [site, randomDictionary(site, 8, F, seed)]),
  );
  const read = (texts: InterventionTexts) => readInterventions(texts, model, dictionaries);

  it("are read from lists with commas, by site and feature", () => {
    expect(
      read({
        ablate: ["resid_post.3/39, mlp_out.0/0", "resid_post.2/5"],
        scale: ["resid_post.2/3=-.5"],
        set: ["mlp_out.0/12=2.5,resid_post.3/1=1e-2"],
      }),
    ).toEqual([
      { site: "mlp_out.0", feature: 0, factor: 0, value: 0 },
      { site: "mlp_out.0", feature: 12, factor: 0, value: 2.5 },
      { site: "resid_post.2", feature: 3, factor: -0.5, value: 0 },
      { site: "resid_post.2", feature: 5, factor: 0, value: 0 },
      { site: "resid_post.3", feature: 1, factor: 0, value: 0.01 },
      { site: "resid_post.3", feature: 39, factor: 0, value: 0 },
    ]);
  });

  it.each<[InterventionTexts, string]>([
    [{}, "interventions: expected at least one, got none. Name features, as --ablate resid_post.2/1035."],
    [
      { ablate: ["resid_post.2"] },
      '--ablate: expected features, as resid_post.2/1035, got "resid_post.2". Put commas between them.',
    ],
    [
      { ablate: ["resid_post.2/1,"] },
      '--ablate: expected features, as resid_post.2/1035, got "". Put commas between them.',
    ],
    [
      { ablate: ["resid_post.2/-1"] },
      '--ablate: expected features, as resid_post.2/1035, got "resid_post.2/-1". Put commas between them.',
    ],
    [
      { ablate: ["resid_post.2/1=2"] },
      '--ablate: expected features, as resid_post.2/1035, got "resid_post.2/1=2". Put commas between them.',
    ],
    [
      { scale: ["resid_post.2/1"] },
      '--scale: expected features with a number each, as resid_post.2/1035=0.5, got "resid_post.2/1". Put commas between them.',
    ],
    ...["", "x", "0x10", "Infinity", "1e999", "2=3", "1 2"].map((number): [InterventionTexts, string] => [
      { set: [`resid_post.2/1=${number}`] },
      `--set: expected a number behind =, got "${number}" in "resid_post.2/1=${number}". Write it as in resid_post.3/43=2.5.`,
    ]),
    ...["resid_post.4", "attn_z.0", "embed.0", "resid.1", ""].map((site): [InterventionTexts, string] => [
      { set: [`${site}/1=2`] },
      `--set: expected a site of the model, which are embed and attn_out, mlp_out, resid_post with layers 0 to 3, got "${site}". There are SAEs at mlp_out.0, resid_post.2, resid_post.3.`,
    ]),
    ...["embed", "resid_post.1"].map((site): [InterventionTexts, string] => [
      { ablate: [`${site}/1`] },
      `--ablate: expected a site with an SAE, got ${site}. There are SAEs at mlp_out.0, resid_post.2, resid_post.3.`,
    ]),
    [
      { ablate: ["resid_post.2/40"] },
      "--ablate: expected a feature from 0 to 39, got 40 at resid_post.2. Its SAE has 40.",
    ],
    [
      { ablate: ["resid_post.2/1,resid_post.2/01"] },
      "--ablate: expected each feature once, got resid_post.2/1 twice. Leave one of them out.",
    ],
    [
      { ablate: ["resid_post.2/1"], set: ["resid_post.2/1=1"] },
      "--set: expected each feature once, got resid_post.2/1 also with --ablate. Leave one of them out.",
    ],
  ])("%o: one line says what is wrong", (texts, message) => {
    expect(() => read(texts)).toThrow(new UsageError(message));
  });
});
