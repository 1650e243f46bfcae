import { mkdtemp, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openFolder } from "#file";
import { featureTraits, noDirectPath } from "../src/analysis/feature-traits.ts";
import { type Capture, capture } from "../src/capture/capture.ts";
import { codeReader } from "../src/dictionaries/encode.ts";
import { analyticEffects } from "../src/effects/analytic.ts";
import { codesAt, KeptCodes } from "../src/effects/kept-codes.ts";
import { prefixForest } from "../src/forest/forest.ts";
import { planCapture } from "../src/forest/packs.ts";
import { featurePages } from "../src/hub/feature-pages.ts";
import { saePresets } from "../src/hub/presets.ts";
import { openCheckpoint } from "../src/models/checkpoint.ts";
import { fittedModel } from "../src/models/fitted.ts";
import { heldWeights, loadedModel, streamedWeights } from "../src/models/weights.ts";
import { Random } from "../src/random.ts";
import { type FeatureCards, featureCardsSchema, joinedCards } from "../src/report/cards.ts";
import { reportLimits } from "../src/report/data.ts";
import { readEvidence } from "../src/results/evidence.ts";
import { type EffectRow, readRun } from "../src/results/read-run.ts";
import { readReportData } from "../src/results/report-data.ts";
import { sfc, succeeds } from "./cli-harness.ts";
import { randomDictionary } from "./random-dictionary.ts";
import { tokenPair } from "./toy-model.ts";

const seed = Number(process.env.SEED ?? 1);
console.log(`seed ${seed}`);
const fixtures = new URL("fixtures/", import.meta.url).pathname;

/** The final norm and the unembedding of each, by their names in the checkpoint; Gemma's norms multiply by 1 + w, GPT-2's and GPT-NeoX's take the mean out. */
const ends = [
  { name: "llama-gqa", norm: "model.norm.weight", unembedding: "lm_head.weight", plus: 0, centred: false },
  { name: "gemma2", norm: "model.norm.weight", unembedding: "model.embed_tokens.weight", plus: 1, centred: false },
  { name: "gemma2-untied", norm: "model.norm.weight", unembedding: "lm_head.weight", plus: 1, centred: false },
  { name: "gpt2", norm: "ln_f.weight", unembedding: "wte.weight", plus: 0, centred: true },
  { name: "gpt_neox", norm: "final_layer_norm.weight", unembedding: "embed_out.weight", plus: 0, centred: true },
];

/** Numbers of a parameter whose name ends so. */
function numbersOf(parameters: ReadonlyMap<string, unknown>, weights: (name: string) => unknown, ending: string) {
  const name = [...parameters.keys()].find((one) => one === ending || one.endsWith(`.${ending}`))!;
  return (weights(name) as { source: { data: Float32Array } }).source.data;
}

describe.each(ends)("features of $name", ({ name, norm, unembedding, plus, centred }) => {
  it.each(["held", "streamed"] as const)("promote the tokens of U·(w ∘ d), weights %s", async (where) => {
    const checkpoint = await openCheckpoint(await openFolder(fixtures + name));
    const { model } = await fittedModel(checkpoint);
    const held = await heldWeights(model, checkpoint);
    const loaded = loadedModel(model, where === "held" ? held : streamedWeights(checkpoint));
    const site = "resid_post.0";
    const [D, V, F] = [model.width, model.vocabulary, 24];
    const dictionary = randomDictionary(site, D, F, `${seed}/${name}`);
    const random = new Random(`${seed}/tokens`);
    const prompt = () => Array.from({ length: 6 }, () => random.below(V));
    const pairs = Array.from({ length: 8 }, () => {
      const [clean, other] = [prompt(), prompt()];
      return tokenPair(clean, [clean[0]!, ...other.slice(1)], [1, 2]);
    });
    const forest = prefixForest(pairs);
    const captured = await capture(loaded, planCapture(forest, { wanted: "changed" }), { sites: [site] });
    const codes = codeReader(loaded);
    const outside = { first: new Set<number>(), padding: new Set<number>() };
    const features = [3, 7, 20];
    const traits = await featureTraits(
      { loaded, captured, codes, dictionaries: new Map([[site, dictionary]]), outside, hasText: (id) => id !== 5 },
      new Map([[site, features]]),
    );
    const keptCodes = new KeptCodes();
    await analyticEffects(captured, dictionary, codes, undefined, { keptCodes, onFit: () => {} });
    const noReader = {
      encode: () => Promise.reject(new Error("encoded what is known")),
      release: () => Promise.resolve(),
    };
    const again = await featureTraits(
      {
        loaded,
        captured,
        codes: noReader,
        keptCodes,
        dictionaries: new Map([[site, dictionary]]),
        outside,
        hasText: (id) => id !== 5,
      },
      new Map([[site, features]]),
    );
    // The vocabulary in pieces that do not divide it.
    const inPieces = await featureTraits(
      {
        loaded,
        captured,
        codes,
        dictionaries: new Map([[site, dictionary]]),
        outside,
        hasText: (id) => id !== 5,
        tokensAtOnce: 7,
      },
      new Map([[site, features]]),
    );
    for (const [i, { promotes, suppresses }] of inPieces.entries()) {
      for (const [got, whole] of [
        [promotes!, traits[i]!.promotes!],
        [suppresses!, traits[i]!.suppresses!],
      ] as const) {
        expect(got.token).toEqual(whole.token);
        for (const [k, logit] of got.logit.entries()) expect(logit).toBeCloseTo(whole.logit[k]!, 5);
      }
    }
    // What is not kept is encoded as for effects, whose rows go into one product: the same bits, whoever asks first.
    const later = new KeptCodes();
    const prefixes = forest.backward.clean.filter((node) => captured.plan.row[node]! >= 0);
    const rows = [...prefixes].map((node) => captured.plan.row[node]!);
    const encodedLater = await codesAt(captured, dictionary, codes, [...prefixes.slice(0, 1)], later);
    expect(later.at(site, captured.plan, rows)).toEqual(keptCodes.at(site, captured.plan, rows));
    expect(encodedLater).toEqual(keptCodes.at(site, captured.plan, rows.slice(0, 1)));
    const withCodes = (all: typeof traits) =>
      all.map(({ codeAt, ...trait }) => ({ ...trait, codes: [...forest.forward.token.keys()].map(codeAt) }));
    expect(withCodes(again)).toEqual(withCodes(traits));
    await codes.release();
    const w = numbersOf(model.parameters, held, norm);
    const U = numbersOf(model.parameters, held, unembedding);
    const decoder = await dictionary.decoder();
    const row = (f: number) => [...decoder.subarray(f * D, (f + 1) * D)];
    const length = (d: readonly number[]) => Math.sqrt(d.reduce((sum, x) => sum + x * x, 0));

    const encoder = await dictionary.encoder();
    const { x } = await captured.site(site);
    const { threshold } = encoder.activation as { threshold: Float32Array };
    const clean = [...new Set(forest.backward.clean)].filter((node) => captured.plan.row[node]! >= 0);
    const active = clean.map((node) => {
      const at = captured.plan.row[node]! * D;
      return Array.from({ length: F }, (_, f) => {
        let z = encoder.bias[f]!;
        for (let d = 0; d < D; d++) z += (x[at + d]! - encoder.inputBias![d]!) * encoder.weight[d * F + f]!;
        return z > threshold[f]! ? z : 0;
      });
    });

    for (const [i, feature] of features.entries()) {
      const found = traits[i]!;
      const d = row(feature);
      const mean = centred ? d.reduce((sum, value) => sum + value, 0) / D : 0;
      const logits = Array.from({ length: V }, (_, token) => {
        let sum = 0;
        for (let k = 0; k < D; k++) sum += U[token * D + k]! * (w[k]! + plus) * (d[k]! - mean);
        return { token, sum };
      }).filter(({ token }) => token !== 5);
      const largest = Math.max(...logits.map(({ sum }) => Math.abs(sum)));
      for (const [kind, sign] of [
        ["promotes", 1],
        ["suppresses", -1],
      ] as const) {
        const expected = logits.toSorted((a, b) => sign * (b.sum - a.sum)).slice(0, 10);
        expect(found[kind]!.token).toEqual(expected.map(({ token }) => token));
        for (const [k, { sum }] of expected.entries()) {
          expect(Math.abs(found[kind]!.logit[k]! - sum)).toBeLessThan(1e-4 * largest);
        }
      }

      const cosines = Array.from({ length: F }, (_, f) => {
        const other = row(f);
        const product = other.reduce((sum, value, k) => sum + value * d[k]!, 0);
        return { f, cosine: product / length(d) / length(other) };
      }).filter(({ f }) => f !== feature);
      const nearest = cosines.toSorted((a, b) => b.cosine - a.cosine).slice(0, 5);
      expect(found.similar.feature).toEqual(nearest.map(({ f }) => f));
      for (const [k, { cosine }] of nearest.entries()) expect(found.similar.cosine[k]).toBeCloseTo(cosine, 5);

      const own = active.map((all) => all[feature]!);
      expect(found.activations.tokens).toBe(clean.length);
      expect(found.activations.active).toBe(own.filter((code) => code > 0).length);
      expect(found.activations.max).toBeCloseTo(Math.max(0, ...own), 4);
      for (const [k, node] of clean.entries()) expect(found.codeAt(node)).toBeCloseTo(own[k]!, 4);
      const jaccard = (f: number) => {
        const either = active.filter((all) => all[feature]! > 0 || all[f]! > 0).length;
        return either === 0 ? 0 : active.filter((all) => all[feature]! > 0 && all[f]! > 0).length / either;
      };
      const shares = Array.from({ length: F }, (_, f) => (f === feature ? 0 : jaccard(f))).toSorted((a, b) => b - a);
      expect(found.together.jaccard).toEqual(shares.slice(0, 5).filter((share) => share > 0));
      expect(found.together.feature.map(jaccard)).toEqual(found.together.jaccard);
    }
    await checkpoint.close();
  });
});

it("codes are kept as long as they fit, and given again only where all rows are there", async () => {
  const random = new Random(`${seed}/kept`);
  const dictionary = randomDictionary("resid_post.0", 8, 16, `${seed}/kept`);
  const x = Float32Array.from({ length: 6 * 8 }, () => random.uniform() - 0.5);
  const reader = codeReader();
  const codes = await reader.encode(dictionary, x);
  const row = (of: typeof codes, r: number) => ({
    features: [...of.features.subarray(of.offsets[r]!, of.offsets[r + 1]!)],
    values: [...of.values.subarray(of.offsets[r]!, of.offsets[r + 1]!)],
  });
  // Rows 0 to 5 of the codes are rows 9, 2, 7, 4, 0 and 5 of a capture of ten.
  const rows = [9, 2, 7, 4, 0, 5];
  const kept = new KeptCodes();
  const plan = { rows: 10 };
  kept.keep("resid_post.0", plan, codes, rows);
  const some = kept.at("resid_post.0", plan, [4, 9, 5])!;
  expect(some.rows).toBe(3);
  expect([0, 1, 2].map((r) => row(some, r))).toEqual([3, 0, 5].map((r) => row(codes, r)));
  // A prefix of two groups of prompts is named twice, and so there may be more codes than were kept.
  const often = kept.at("resid_post.0", plan, [...rows, ...rows])!;
  expect([...often.values]).toEqual([...codes.values, ...codes.values]);
  expect(kept.at("resid_post.0", plan, [4, 3])).toBeUndefined();
  expect(kept.at("resid_post.1", plan, [4])).toBeUndefined();
  // Rows of another plan are others.
  expect(kept.at("resid_post.0", { rows: 10 }, [4])).toBeUndefined();

  const bytes = 8 * codes.features.length + 4 * (7 + 10);
  for (const [most, isThere] of [
    [2 * bytes - 1, false],
    [2 * bytes, true],
  ] as const) {
    const both = new KeptCodes(most);
    both.keep("resid_post.0", plan, codes, rows);
    both.keep("resid_post.1", plan, codes, rows);
    expect(both.at("resid_post.0", plan, rows)).toBeDefined();
    expect(both.at("resid_post.1", plan, rows) !== undefined).toBe(isThere);
  }

  // What is missing is encoded: node n has the activation of row 5 − n.
  const captured = {
    plan: { row: Int32Array.from({ length: 6 }, (_, n) => 5 - n) },
    site: async () => ({ x, width: 8 }),
  } as unknown as Capture;
  const now = await codesAt(captured, dictionary, reader, [1, 5]);
  expect([0, 1].map((r) => row(now, r))).toEqual([4, 0].map((r) => row(codes, r)));
  await reader.release();
});

it("only sites that are added to the residual stream have a direct path", () => {
  expect(["embed", "attn_out.3", "mlp_out.0", "resid_post.5"].map(noDirectPath)).toEqual([null, null, null, null]);
  expect(noDirectPath("attn_z.1")).toContain("output projection");
  expect(noDirectPath("mlp_act.1")).toContain("output projection");
});

describe("pages of features", () => {
  it("are known for presets that Neuronpedia has, by its own names", () => {
    const page = (preset: string | null, site: string) => featurePages(preset, site);
    const at = "https://www.neuronpedia.org/";
    expect(page("gpt2-res-jb", "embed")).toBe(`${at}gpt2-small/0-res-jb`);
    expect(page("gpt2-res-jb", "resid_post.5")).toBe(`${at}gpt2-small/6-res-jb`);
    expect(page("gpt2-res-jb", "resid_post.11")).toBe(`${at}gpt2-small/12-res-jb`);
    expect(page("gpt2-v5-32k", "resid_post.4")).toBe(`${at}gpt2-small/4-res_post_32k-oai`);
    expect(page("gemma-scope-2b-pt-16k", "attn_z.12")).toBe(`${at}gemma-2-2b/12-gemmascope-att-16k`);
    expect(page("gemma-scope-2b-pt-res-65k", "resid_post.25")).toBe(`${at}gemma-2-2b/25-gemmascope-res-65k`);
    expect(page("gemma-2b-res-jb", "resid_post.12")).toBe(`${at}gemma-2b/12-res-jb`);
    expect(page("gemma-2b-res-jb", "resid_post.17")).toBe(null);
    expect(page("pythia-70m-deduped-sm", "mlp_out.5")).toBe(`${at}pythia-70m-deduped/5-mlp-sm`);
    for (const none of [null, "dummy", "./saes", "qwen-scope-1.7b-base-l0-50"]) expect(page(none, "embed")).toBe(null);
  });

  it("are of sites that presets have", () => {
    const linked = saePresets.filter(({ name, saes }) => saes.some(({ site }) => featurePages(name, site) !== null));
    expect(linked.map(({ name }) => name)).toEqual(
      saePresets.map(({ name }) => name).filter((name) => !/^(gemma-scope-2-|qwen)/.test(name)),
    );
  });
});

describe("a run", () => {
  let home: string;
  let run: string;
  let evidence: string;
  let cards: FeatureCards;
  beforeAll(async () => {
    home = await mkdtemp(join(tmpdir(), "sfc-cards-"));
    [run, evidence] = [join(home, "run"), join(home, "contexts")];
    await succeeds(["contexts", "--layers", "2", "--tokens", "3000", "--output_dir", evidence]);
    await succeeds(["run", "--num_examples", "4", "--layers", "2-3", "--contexts", evidence, "--output_dir", run]);
    cards = featureCardsSchema.parse(JSON.parse(await readFile(join(run, "feature-cards.json"), "utf8")));
  });
  afterAll(() => rm(home, { recursive: true, force: true }));

  it("has a card for each feature of its ranking, whose parts add up to its effect", async () => {
    const { ranking } = await readRun(run);
    const expected = ranking.sites.flatMap(({ site, splits }) =>
      Object.values(splits).flatMap(({ top }) => top.map(({ feature }) => `${site}/${feature}`)),
    );
    const names = cards.cards.map(({ site, feature }) => `${site}/${feature}`);
    expect(new Set(names).size).toBe(names.length);
    for (const name of expected) expect(names).toContain(name);
    let exact = 0;
    for (const card of cards.cards) {
      const sites = ranking.sites.find(({ site }) => site === card.site)!.splits;
      for (const { split, effect, positions, tokens, other_tokens, cases } of card.effects) {
        const ranked = sites[split]!.top.find(({ feature }) => feature === card.feature);
        const sum = (list: readonly number[]) => list.reduce((a, b) => a + b, 0);
        const size = sum([...positions.effect, ...cases.effect].map(Math.abs)) + 1e-9;
        if (ranked) expect(Math.abs(effect - ranked.effect)).toBeLessThan(1e-4 * Math.abs(effect));
        expect(Math.abs(sum(positions.effect) - effect)).toBeLessThan(1e-4 * size);
        expect(Math.abs(sum(tokens.effect) + other_tokens - effect)).toBeLessThan(1e-4 * size);
        const weighted = sum(cases.effect.map((e, i) => e * cases.pairs[i]!)) / sum(cases.pairs);
        expect(Math.abs(weighted - effect)).toBeLessThan(1e-4 * size);
        if (ranked?.exact && ranking.exact!.split === split) {
          exact++;
          expect(card.exact!.effect).toBeCloseTo(ranked.exact.effect, 3);
        }
      }
    }
    expect(exact).toBeGreaterThan(3);
  });

  it("shows contexts of its own prompts with the effects and codes of its tables", async () => {
    const found = await readRun(run);
    const nodes = await found.nodes();
    const card = cards.cards.find(({ site, contexts }) => site === "resid_post.3" && contexts.length > 2)!;
    const rows: EffectRow[] = [];
    for await (const row of found.effects({ site: card.site, feature: card.feature })) rows.push(row);
    const [first] = rows
      .filter(({ position }) => position > 0)
      .map((row) => ({ ...row, each: row.effect / nodes[row.node]!.weight }))
      .toSorted((a, b) => Math.abs(b.each) - Math.abs(a.each));
    const [shown] = card.contexts;
    expect(shown!.effect).toBeCloseTo(first!.each, 3);
    expect(shown!.position).toBe(first!.position);
    expect(shown!.codes[shown!.position]).toBe(Number(first!.f_clean!.toPrecision(3)));
    const prompt = cards.prompts[shown!.prompt]!;
    expect(shown!.codes).toHaveLength(prompt.clean.length);
    expect(shown!.codes[0]).toBe(null);
    expect(cards.tokens[prompt.clean[shown!.position]!]).toBe(nodes[first!.node]!.token);
  });

  it("takes over the evidence of a corpus, site by site", async () => {
    const withCorpus = cards.sites.filter(({ corpus }) => corpus !== null);
    expect(withCorpus.map(({ site }) => site)).toEqual(["attn_out.2", "mlp_out.2", "resid_post.2"]);
    const card = cards.cards.find(({ site, corpus }) => site === "resid_post.2" && (corpus?.contexts.length ?? 0) > 5)!;
    const row = (await readEvidence(evidence, card.site, [card.feature])).get(card.feature)!;
    expect(card.corpus).toMatchObject({ active: row.active, histogram: { width: row.bin_width, counts: row.bins } });
    expect(card.corpus!.contexts[0]!.codes).toEqual(row.contexts[0]!.codes.map((code) => Number(code.toPrecision(3))));
    expect(cards.cards.filter(({ site }) => site.endsWith(".3")).every(({ corpus }) => corpus === null)).toBe(true);
  });

  it("leaves out evidence of another SAE, and says so", async () => {
    const path = join(evidence, "resid_post.2.json");
    const text = await readFile(path, "utf8");
    await writeFile(
      path,
      text.replace(/"sae": \{\s+"sha256": "../, (start) => `${start.slice(0, -2)}zz`),
    );
    const other = join(home, "other");
    const { stderr } = await sfc(
      ...["run", "--num_examples", "2", "--layers", "2", "--sites", "resid_post"],
      ...["--contexts", evidence, "--output_dir", other],
    );
    expect(stderr).toContain("are of another SAE or model at resid_post.2 and left out");
    const found = JSON.parse(await readFile(join(other, "feature-cards.json"), "utf8")) as FeatureCards;
    expect(found.cards.every(({ corpus }) => corpus === null)).toBe(true);
    await writeFile(path, text);
  });

  it("brings its cards into the report, those of its circuit with them", async () => {
    await succeeds(["circuit", run, "--way", "secant-covering", "--size", "60", "--sites", "resid_post"]);
    const data = await readReportData(run);
    const { nodes } = data.circuit!;
    const names = new Set(data.cards!.cards.map(({ site, feature }) => `${site}/${feature}`));
    const inCircuit = nodes.filter(({ kind }) => kind === "feature").map(({ site, feature }) => `${site}/${feature}`);
    expect(inCircuit.length).toBeGreaterThan(40);
    for (const name of inCircuit) expect(names).toContain(name);
    expect(names.size).toBeGreaterThan(cards.cards.length);
    const marked = data.cards!.cards.filter(({ named_by }) => named_by.includes("circuit"));
    expect(marked.map(({ site, feature }) => `${site}/${feature}`).sort()).toEqual(inCircuit.sort());
    expect((await stat(join(run, "report.html"))).size).toBeLessThan(8e6);
  });

  it("keeps the strongest cards where there are too many, with the texts of their own tokens", () => {
    const few = joinedCards([cards], new Set(), 3);
    expect(few.cards).toHaveLength(3);
    const strength = (card: FeatureCards["cards"][number]) => Math.max(...card.effects.map((e) => Math.abs(e.effect)));
    const strongest = cards.cards.map(strength).toSorted((a, b) => b - a);
    expect(few.cards.map(strength).toSorted((a, b) => b - a)).toEqual(strongest.slice(0, 3));
    const texts = (of: FeatureCards, { promotes, effects, contexts }: FeatureCards["cards"][number]) => [
      promotes!.token.map((id) => of.tokens[id]),
      effects.map((e) => e.tokens.token.map((id) => of.tokens[id])),
      contexts.map(({ prompt }) => of.prompts[prompt]!.clean.map((id) => of.tokens[id])),
    ];
    for (const card of few.cards) {
      const whole = cards.cards.find(({ site, feature }) => site === card.site && feature === card.feature)!;
      expect(texts(few, card)).toEqual(texts(cards, whole));
    }
    expect(few.tokens.length).toBeLessThan(cards.tokens.length);
    expect(reportLimits.cards).toBeGreaterThan(100);
  });
});
