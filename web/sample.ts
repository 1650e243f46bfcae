import type { Ablation } from "../src/circuit/meaning.ts";
import { Random } from "../src/random.ts";
import {
  type CaseAccuracy,
  type DriverContext,
  type FeatureDrivers,
  type ReportCheck,
  type ReportData,
  type ReportExample,
  type ReportPrompt,
  reportLimits,
  type SiteAgreement,
  type SiteImportance,
  type TopFeatures,
} from "../src/report/data.ts";
import { sampleCards } from "./sample-cards.ts";
import { sampleCircuit, sampleEvaluation } from "./sample-circuit.ts";

const splits = ["train", "test"] as const;
const kinds = ["attn_out", "mlp_out", "resid_post"];
const constructions = ["simple", "nounpp", "within_rc", "across_rc", "coordinated"];
const nouns = ["pilot", "farmer", "author", "child", "guard", "officer", "senator", "surgeon"];
const plurals = ["pilots", "farmers", "authors", "children", "guards", "officers", "senators", "surgeons"];

/**
 * An invented report that looks like one of agreement on a small model: for work on the page and for its tests. Nothing in it was measured.
 *
 * @param seed the same seed gives the same report
 */
export function sampleReport(seed: number, { layers = 6, width = 1024 } = {}): ReportData {
  const random = new Random(`${seed}/sample report`);
  const cases = constructions.flatMap((c) => [`${c}/singular_plural`, `${c}/plural_singular`]);
  const sites = Array.from({ length: layers }, (_, layer) => kinds.map((kind) => `${kind}.${layer}`)).flat();

  const accuracy: CaseAccuracy[] = splits.flatMap((split) =>
    cases.map((name) => {
      const hard = name.startsWith("across_rc") ? 0.06 : 0.004;
      const clean = -7 + 30 * hard + random.normal() * 0.3;
      const wrong = Math.floor(hard * 96 * random.uniform());
      return {
        split,
        case: name,
        pairs: 96,
        accuracy: 1 - wrong / 96,
        cleanMean: clean,
        patchMean: -clean + random.normal() * 0.2,
      };
    }),
  );

  const checks: ReportCheck[] = sites.map((site) => {
    const scale = 5 + 40 * random.uniform();
    return { name: "feature-sum", site, gap: scale * 4e-7 * random.uniform(), scale, tolerance: 1e-4, passed: true };
  });
  checks.push({ name: "forest", site: "", gap: 3.1e-7, scale: 12.4, tolerance: 1e-5, passed: true });

  const features: TopFeatures[] = [];
  const importance: SiteImportance[] = [];
  const agreement: SiteAgreement[] = [];
  const drivers: FeatureDrivers[] = [];
  for (const site of sites) {
    const [kind, layer] = site.split(".") as [string, string];
    const depth = Number(layer) / (layers - 1);
    const strength = kind === "resid_post" ? 3 : Math.exp(-(((depth - 0.45) / 0.25) ** 2)) * 1.6 + 0.1;
    const ids = random.shuffled(Array.from({ length: width }, (_, i) => i)).slice(0, reportLimits.points);
    const truth = ids.map((_, rank) => (strength * 1.1 * (random.chance(0.82) ? 1 : -0.5)) / (rank + 1.3) ** 1.15);
    const noisy = () => truth.map((v) => v * (1 + 0.12 * random.normal()) + 0.004 * random.normal());
    const bySplit = { train: noisy(), test: noisy() };
    for (const split of splits) {
      const values = bySplit[split];
      const sum = values.reduce((s, v) => s + Math.abs(v), 0);
      const error = 0.05 * strength * (0.6 + random.uniform());
      importance.push({
        split,
        site,
        importance: sum,
        errorShare: error / (sum + error),
        explained: 0.1 + 0.7 * depth,
        leftOut: 0,
      });
      for (const name of ["", ...cases]) {
        const scaled = name === "" ? values : values.map((v) => v * (1 + 0.4 * random.normal()));
        features.push(topOf(split, name, site, ids, scaled, error, split === "train" && name === ""));
      }
    }
    agreement.push({
      site,
      spearman: 0.93 + 0.06 * random.uniform(),
      both: 240 + random.below(200),
      overlap10: (8 + random.below(3)) / 10,
      overlap50: (40 + random.below(9)) / 50,
      overlap10ByWords: { low: 0.7, high: 1 },
      overlap50ByWords: { low: 0.74, high: 0.96 },
      feature: ids,
      train: bySplit.train,
      test: bySplit.test,
    });
    const top = topOf("train", "", site, ids, bySplit.train, 0, true);
    for (let i = 0; i < reportLimits.drivers; i++) {
      const contexts = Array.from({ length: reportLimits.contexts }, () => context(random, cases, depth));
      const effect = top.effect[i] as number;
      drivers.push({
        site,
        feature: top.feature[i] as number,
        effect,
        exact: top.exact[i] ?? null,
        contexts: contexts
          .map((c) => ({ ...c, effect: Math.abs(c.effect) * Math.sign(effect) }))
          .sort((a, b) => Math.abs(b.effect) - Math.abs(a.effect)),
      });
    }
  }

  return {
    format: 1,
    run: {
      model: { name: "models/demo", sha256: "4f0c1d8ab2e39d5c7766010b9fd1c2aa3e8f54d20f7b6c1199a0e2b3c4d5e6f7" },
      dictionaries: { name: "models/demo/saes", dummy: false, sha256: "9b2f6c" },
      task: "agreement",
      method: "analytic",
      score: "effect",
      command: `sfc run --task agreement --num_examples 96 --seed ${seed}`,
      seed,
      status: "finished",
      versions: [
        { name: "analytic-sfc", value: "0.1.0" },
        { name: "onnxruntime-node", value: "1.30.0" },
        { name: "node", value: "20.20.2" },
      ],
      options: [
        { name: "sites", value: "attn_out, mlp_out, resid_post" },
        { name: "precision", value: "float32" },
      ],
      counts: [
        { name: "tokens", value: 24_960 },
        { name: "forward nodes", value: 3_412 },
        { name: "backward nodes", value: 3_120 },
        { name: "effect rows", value: 1_284_221 },
      ],
      phases: [
        { name: "load", seconds: 0.62 },
        { name: "pairs", seconds: 0.18 },
        { name: "forward", seconds: 1.41 },
        { name: "backward", seconds: 2.87 },
        { name: "encode", seconds: 3.02 },
        { name: "write", seconds: 1.18 },
      ],
      peakBytes: 812 * 2 ** 20,
    },
    warnings: [],
    accuracy,
    checks,
    importance,
    features,
    words: { train: 48, test: 46 },
    wordsShared: 0,
    change: { train: 8.917, test: 8.793 },
    unexplained: { "resid_post.0": 0.004, "resid_post.1": 0.021 },
    exact: {
      split: "train",
      pairs: 64,
      of: 960,
      distance: 0.48,
      worst: { site: "resid_post.2", feature: features[0]!.feature[0]!, effect: 0.61, exact: 4.6 },
    },
    agreement,
    examples: cases.map((name) => example(random, name, sites, layers)),
    drivers,
    meaning: meaning(drivers, cases, layers),
    cards: sampleCards(seed, features, drivers),
    circuit: sampleCircuit(seed),
    evaluation: sampleEvaluation(seed),
    limits: reportLimits,
  };
}

function topOf(
  split: "train" | "test",
  name: string,
  site: string,
  ids: readonly number[],
  values: readonly number[],
  error: number,
  patched: boolean,
): TopFeatures {
  const order = values.map((_, i) => i).sort((a, b) => Math.abs(values[b] as number) - Math.abs(values[a] as number));
  const top = order.slice(0, reportLimits.features);
  return {
    split,
    case: name,
    site,
    feature: top.map((i) => ids[i] as number),
    effect: top.map((i) => values[i] as number),
    nodes: top.map((i) => 40 + (i % 7) * 31),
    error,
    exact: top.map((i, rank) => (patched && rank < 3 ? 1.8 * (values[i] as number) : null)),
    beside: patched
      ? [{ kind: "secant", effect: top.map((i, rank) => (rank < 3 ? 1.6 * (values[i] as number) : null)) }]
      : [],
    spread: top.map((i, rank) => (name === "" ? spreadOf(values[i] as number, rank) : null)),
    stability10: name === "" ? 0.87 : null,
  };
}

function spreadOf(effect: number, rank: number): TopFeatures["spread"][number] {
  const [wide, narrow] = [0.2 * Math.abs(effect) + 0.01, 0.06 * Math.abs(effect) + 0.003];
  return {
    by_words: { low: effect - wide, high: effect + wide },
    by_pairs: { low: effect - narrow, high: effect + narrow },
    ranks: { low: Math.max(1, rank - 1), high: rank + 2 + (rank >> 1) },
    in_top_10: rank < 6 ? 1 : Math.max(0, 1.6 - 0.1 * rank - 0.05),
  };
}

/** A prompt of the case, and where its subject stands. */
function prompt(random: Random, name: string): { prompt: ReportPrompt; subject: number; plural: boolean } {
  const [construction, direction] = name.split("/") as [string, string];
  const plural = direction.startsWith("plural");
  const [i, j] = [random.below(nouns.length), random.below(nouns.length)];
  const other = random.chance(0.5) ? nouns[j] : plurals[j];
  const subject = (plural ? plurals : nouns)[i] as string;
  const changed = (plural ? nouns : plurals)[i] as string;
  const rest: Record<string, string[]> = {
    simple: [],
    nounpp: ["near", "the", `${other}`],
    within_rc: ["that", "the", `${other}`],
    across_rc: ["that", "the", "old", `${plurals[j]}`, "admire"],
    coordinated: ["who", "smiled", "and", "laughed", "with", "the", "tall", `${other}`],
  };
  const clean = ["<s>", " The", ` ${subject}`, ...(rest[construction] as string[]).map((t) => ` ${t}`)];
  return {
    prompt: { clean, patch: clean.map((_, t) => (t === 2 ? ` ${changed}` : null)) },
    subject: 2,
    plural,
  };
}

function context(random: Random, cases: readonly string[], depth: number): DriverContext {
  const name = random.pick(cases);
  const { prompt: p, subject } = prompt(random, name);
  const last = p.clean.length - 1;
  const on = random.chance(0.5);
  const code = 0.5 + 4 * random.uniform();
  return {
    split: random.pick(splits),
    case: name,
    prompt: p,
    position: depth < 0.5 ? subject : last,
    codeClean: on ? code : 0,
    codePatch: on ? 0 : code,
    effect: 0.2 + 1.5 * random.uniform(),
    pairs: 1 + random.below(24),
  };
}

/** Effects that start at the subject and move to the last token in the middle layers, as they do in real models. */
function example(random: Random, name: string, sites: readonly string[], layers: number): ReportExample {
  const { prompt: p, subject, plural } = prompt(random, name);
  const length = p.clean.length;
  const total = 12 + random.normal();
  const moved = (depth: number) => 1 / (1 + Math.exp(-14 * (depth - 0.45)));
  return {
    split: "test",
    case: name,
    prompt: p,
    cleanAnswer: plural ? " are" : " is",
    patchAnswer: plural ? " is" : " are",
    cleanMetric: -total / 2,
    patchMetric: total / 2,
    sites: sites.map((site) => {
      const [kind, layer] = site.split(".") as [string, string];
      const [here, before] = [moved(Number(layer) / (layers - 1)), moved((Number(layer) - 1) / (layers - 1))];
      const atLast = kind === "resid_post" ? here : kind === "attn_out" ? here - before : 0.3 * (here - before);
      const atSubject = kind === "resid_post" ? 1 - here : 0.1 * (1 - here);
      const values = p.clean.map((_, t) => {
        if (t < subject) return 0;
        const at = (t === subject ? atSubject : 0) + (t === length - 1 ? atLast : 0);
        return total * (at + 0.03 * random.normal());
      });
      const top = values.map((value) =>
        value === 0 ? { feature: [], effect: [] } : { feature: [11, 7], effect: [0.7 * value, 0.2 * value] },
      );
      return { site, features: values, error: values.map((v) => v * 0.08 * random.normal()), top };
    }),
  };
}

function meaning(drivers: readonly FeatureDrivers[], cases: readonly string[], layers: number): Ablation {
  const middle = Math.floor(layers / 2);
  const strongest = drivers.filter((d) => d.site === `resid_post.${middle}`);
  const shares: [number, number][] = [
    [0, 1],
    [0.99, 0.004],
    [0, 0.97],
    [0.41, 0.48],
    [0.93, 0.11],
  ];
  return {
    format: 1,
    members: "held-out subject nouns",
    features: strongest.map((d, i) => ({
      site: d.site,
      feature: d.feature,
      effect: d.effect,
      fires: ["singular", "plural"].map((group, g) => {
        const share = (shares[i % shares.length] as [number, number])[g] as number;
        return { group, split: "test" as const, n: 240, share, mean: 2.7 * share, auc: g === 0 ? 0.5 : share };
      }),
    })),
    ablations: ["plural", "singular"].map((label) => ({
      label: `the ${label} features`,
      features: strongest.slice(0, 3).map((d) => `${d.site}/${d.feature}`),
      value: "zero" as const,
      accuracy: cases.map((name, i) => ({
        case: name,
        split: "test" as const,
        n: 96,
        before: 1 - 0.004 * (i % 3),
        after: name.includes(`/${label}`) ? 0.03 + 0.02 * (i % 4) : 0.99,
      })),
    })),
  };
}
