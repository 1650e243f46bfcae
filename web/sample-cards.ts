import { Random } from "../src/random.ts";
import type { CardSite, FeatureCard, FeatureCards } from "../src/report/cards.ts";
import type { FeatureDrivers, TopFeatures } from "../src/report/data.ts";

const words = ["The", "pilot", "pilots", "near", "the", "old", "farmers", "that", "admire", "guard", "is", "are", "."];

/**
 * Invented cards of the features that a sample report names, for work on the page and for its tests.
 *
 * @param seed the same seed gives the same cards
 */
export function sampleCards(
  seed: number,
  features: readonly TopFeatures[],
  drivers: readonly FeatureDrivers[],
): FeatureCards {
  const random = new Random(`${seed}/sample cards`);
  const tokens = new Places<string>();
  const prompts = new Places<FeatureCards["prompts"][number]>();
  const named = new Map<string, { site: string; feature: number }>();
  for (const { site, feature, case: name } of features) {
    if (name === "") for (const f of feature.slice(0, 8)) named.set(`${site}/${f}`, { site, feature: f });
  }
  const sites = [...new Set(features.map(({ site }) => site))];
  const cards = [...named.values()].map(({ site, feature }): FeatureCard => {
    const own = features.filter((group) => group.site === site && group.feature.includes(feature));
    const inGroup = (group: TopFeatures) => group.feature.indexOf(feature);
    const driving = drivers.find((d) => d.site === site && d.feature === feature)?.contexts ?? [];
    // Not every site has evidence from a corpus, and not every feature a direct path.
    const hasCorpus = !site.startsWith("attn_out");
    const isDirect = site !== "mlp_out.0";
    const max = 1 + 5 * random.uniform();
    const lists = <T>(n: number, make: (i: number) => T) => Array.from({ length: n }, (_, i) => make(i));
    const word = () => tokens.of(` ${random.pick(words)}`);
    const others = () => lists(5, () => random.below(1024));
    const falling = (n: number, from: number) => lists(n, (i) => from / (1 + 0.2 * i));
    const histogramOf = (active: number) => {
      const bins = 20 + random.below(12);
      const counts = lists(bins, (i) => Math.round(active * Math.exp(-i / 6) * (1 - Math.exp(-1 / 6))));
      return { width: max / bins, counts };
    };
    return {
      site,
      feature,
      named_by: random.chance(0.2) ? ["ranking", "ablation"] : ["ranking"],
      effects: own
        .filter((group) => group.case === "")
        .map((group) => {
          const at = inGroup(group);
          const effect = group.effect[at]!;
          const byCase = own.filter((other) => other.split === group.split && other.case !== "");
          return {
            split: group.split,
            effect,
            rank: at + 1,
            cases: {
              case: byCase.map((other) => other.case),
              effect: byCase.map((other) => other.effect[inGroup(other)]!),
              nodes: byCase.map((other) => other.nodes[inGroup(other)]!),
              pairs: byCase.map(() => 96),
            },
            positions: {
              position: [2, 3, 5, 7],
              effect: [0.55, 0.1, 0.05, 0.3].map((part) => part * effect),
              nodes: [80, 61, 20, 96],
              pairs: [960, 700, 210, 960],
            },
            tokens: {
              token: lists(6, word),
              patch: lists(6, (i) => (i % 2 === 0 ? word() : null)),
              effect: falling(6, 0.2 * effect),
              nodes: lists(6, () => 1 + random.below(30)),
              pairs: lists(6, () => 30 + random.below(300)),
            },
            other_tokens: 0.2 * effect,
          };
        }),
      exact: random.chance(0.4)
        ? { effect: 1.8 * max, first_order: max, secant: 1.6 * max, split: "train", pairs: 64 }
        : null,
      contexts: driving.map((c) => ({
        prompt: prompts.of({
          split: c.split,
          case: c.case,
          clean: c.prompt.clean.map((token) => tokens.of(token)),
          patch: c.prompt.patch.map((token) => (token === null ? null : tokens.of(token))),
        }),
        position: c.position,
        codes: c.prompt.clean.map((_, t) => (t === c.position ? c.codeClean : random.chance(0.2) ? 0.3 * max : 0)),
        patch_code: c.codePatch,
        effect: c.effect,
        pairs: c.pairs,
      })),
      activations: { tokens: 3120, active: 410, max, histogram: histogramOf(410) },
      corpus: hasCorpus
        ? {
            tokens: 1_000_000,
            active: 21_540,
            max: 1.3 * max,
            histogram: histogramOf(21_540),
            top_tokens: { token: lists(8, word), rows: lists(8, (i) => Math.round(4000 / (i + 1))) },
            contexts: falling(10, 1.3 * max).map((code) => {
              const length = 9 + random.below(8);
              const top = 5 + random.below(4);
              return {
                tokens: lists(length, word),
                top,
                codes: lists(length, (t) => (t === top ? code : random.chance(0.15) ? 0.4 * code : 0)),
              };
            }),
          }
        : null,
      promotes: isDirect ? { token: lists(10, word), logit: falling(10, 1.1) } : null,
      suppresses: isDirect ? { token: lists(10, word), logit: falling(10, -0.9) } : null,
      similar: { feature: others(), cosine: falling(5, 0.8) },
      together: { feature: others(), jaccard: falling(5, 0.9) },
    };
  });
  return {
    format: 1,
    tokens: tokens.values,
    prompts: prompts.values,
    sites: sites.map((site): CardSite => {
      const direct = site === "mlp_out.0" ? "the model normalises mlp_out before it is added" : null;
      const corpus = site.startsWith("attn_out") ? null : { name: "generated English", tokens: 1_000_000 };
      const page = site.startsWith("resid_post") ? `https://www.neuronpedia.org/sample/${site}` : null;
      return { site, features: 1024, direct, corpus, page };
    }),
    cards,
  };
}

/** Different values, each with its place. */
class Places<T> {
  readonly values: T[] = [];
  readonly #places = new Map<string, number>();

  of(value: T): number {
    const key = JSON.stringify(value);
    const known = this.#places.get(key);
    if (known !== undefined) return known;
    this.#places.set(key, this.values.length);
    return this.values.push(value) - 1;
  }
}
