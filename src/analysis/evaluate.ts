import { groupsOf } from "../circuit/meaning.ts";
import { identityDictionary } from "../dictionaries/basis.ts";
import type { Dictionary } from "../dictionaries/dictionary.ts";
import { codeReader } from "../dictionaries/encode.ts";
import { type MethodName, methodNames } from "../effects/method.ts";
import { UnfitOptionError, UsageError, UserError } from "../errors.ts";
import {
  type AblationValue,
  type Activations,
  ablationBase,
  type ErrorTreatment,
  evaluationForest,
  type Features,
  readActivations,
} from "../interventions/ablation.ts";
import { activityOf, matchedByActivity } from "../interventions/baselines.ts";
import {
  bySite,
  chooseAbove,
  chooseCovering,
  chooseStrongest,
  chooseTop,
  rankScores,
  type ScoresBySite,
  sizeOf,
} from "../interventions/choose.ts";
import { clusterPairs, eachPair, ratioInterval, sumByCluster } from "../interventions/clusters.ts";
import { type EvaluationSetting, evaluateSubsets, meanMetric, type Subset } from "../interventions/evaluate.ts";
import {
  areas,
  type Curve,
  type CurvePoint,
  type Evaluation,
  featuresJson,
  featuresOf,
  type GroupEvaluation,
} from "../interventions/evaluation.ts";
import { learnOnHalves } from "../interventions/mask-halves.ts";
import { maskScores } from "../interventions/mask-scores.ts";
import type { MaskPlaces } from "../interventions/mask-states.ts";
import { chooseByMasks } from "../interventions/masks.ts";
import { type ClusterScores, scoresOf, stability } from "../interventions/scores.ts";
import type { LoadedModel } from "../models/weights.ts";
import type { Reporter } from "../progress.ts";
import type { OutsideText } from "../prompts/outside.ts";
import type { Split, TokenPair } from "../prompts/pairs.ts";
import { parseSite, type SiteName, siteName } from "../site.ts";

/** For which pairs one circuit is chosen: all of them, those of a construction (cases that differ in the subject's number alone), or of a case. */
export const groupings = ["set", "construction", "case"] as const;
export type Grouping = (typeof groupings)[number];

/**
 * How the features of a circuit are chosen: by a method's effects, the largest first (`secant`), those that help alone (`secant-signed`), or every site
 * covered alike (`secant-covering`); by effects on the way from the ablated to the whole model (`mask-ig`); or by learned masks. Beside them to measure them by: `random`, features that are active as often as those of the
 * first way; `basis`, single numbers of the activations, and `neurons`, those that MLP outputs are made of, both by their secant effects.
 */
export type Way = "masks" | "mask-ig" | Baseline | MethodName | `${MethodName}-signed` | `${MethodName}-covering`;

const baselines = ["random", "basis", "neurons"] as const;
type Baseline = (typeof baselines)[number];

/** Reads the name of a way, of this flag. @throws UsageError if it is none */
export function parseWay(text: string, flag = "--ways"): Way {
  const known: readonly string[] = [
    "masks",
    "mask-ig",
    ...baselines,
    ...methodNames.flatMap((m) => [m, `${m}-signed`, `${m}-covering`]),
  ];
  if (known.includes(text)) return text as Way;
  throw new UsageError(
    `${flag}: expected masks, mask-ig, random, basis, neurons or one of ${methodNames.join(", ")}, perhaps with -signed or -covering, got "${text}".`,
  );
}

/** Ways that follow from effects alone. */
export const isByScores = (way: Way) =>
  way !== "masks" && way !== "mask-ig" && !(baselines as readonly string[]).includes(way);
/** The method whose effects a way needs; masks choose among the strongest by `secant`. */
export const methodOf = (way: Way): MethodName =>
  isByScores(way) ? (way.replace(/-(signed|covering)$/, "") as MethodName) : "secant";

/** What is evaluated. */
export interface EvaluateOptions {
  readonly by: Grouping;
  readonly ways: readonly Way[];
  readonly sizes: readonly number[];
  /** Besides circuits of these sizes, of ways by effects alone: those of all features of at least so large a |mean effect per pair|, in logits. */
  readonly thresholds?: readonly number[];
  readonly ablations: readonly AblationValue[];
  readonly errors: ErrorTreatment;
  /** The size of the circuits whose transfer between groups is measured; null for none. */
  readonly transfer: number | null;
  /** A circuit from elsewhere, to be measured as it is, beside the ways. */
  readonly given?: Features | null;
}

export interface EvaluateInput {
  readonly loaded: LoadedModel;
  /** The sites at which everything outside a circuit is ablated. */
  readonly dictionaries: ReadonlyMap<SiteName, Dictionary>;
  readonly outside: OutsideText;
  readonly pairs: readonly TokenPair[];
  /** Points of `secant`; its default otherwise. */
  readonly steps?: number;
  /** All cases of the run, by which constructions are told; those of the pairs by default. */
  readonly cases?: readonly string[];
}

/** Where the results of groups are kept, so that an interrupted evaluation goes on. */
export interface EvaluationPlaces {
  read(group: string): Promise<GroupEvaluation | undefined>;
  write(group: string, found: GroupEvaluation): Promise<void>;
  /** Of a group's masks that are fitted to an ablation. */
  masks(group: string, ablation: AblationValue): MaskPlaces;
}

/** Candidates of learned masks: the strongest on the way from the ablated model, and the strongest by secant effects. */
export const maskCandidates = 300;
/** Random circuits of each size. */
export const randomSeeds = [0, 1, 2];
/** The way whose circuits are transferred; undefined where none chooses features. */
const transferWay = (ways: readonly Way[]): Way | undefined =>
  ways.includes("masks") ? "masks" : (ways.find(isByScores) ?? ways.find((way) => way === "mask-ig"));

/**
 * Chooses circuits on train pairs and measures them on train and test: faithfulness and completeness over sizes, for each group of pairs, way of choosing
 * and kind of ablation.
 *
 * @throws UserError if there are no train pairs and no circuit is given, neurons are asked for where more than MLP outputs is ablated, random circuits
 *   beside none, or a transfer of circuits that are not chosen; StoppedError if asked to stop, finished groups stay in their places
 */
export async function evaluateCircuits(
  input: EvaluateInput,
  options: EvaluateOptions,
  places: EvaluationPlaces,
  reporter: Reporter,
): Promise<Evaluation> {
  checkEvaluation(input, options);
  const groups = groupsOfPairs(input, options.by);
  const found: GroupEvaluation[] = [];
  for (const [name, pairs] of groups) {
    const known = await places.read(name);
    const own = known ?? (await evaluateGroup(input, name, pairs, options, places, reporter));
    if (!known) await places.write(name, own);
    found.push(own);
  }
  return {
    format: 1,
    sites: [...input.dictionaries.keys()],
    pairs: found.flatMap(({ pairs }) => pairs),
    candidates: Object.fromEntries([...groups.keys()].map((name, i) => [name, found[i]!.candidates])),
    circuits: found.flatMap(({ circuits }) => circuits),
    curves: found.flatMap(({ curves }) => curves),
    transfer: await transferOf(input, groups, found, options, reporter),
  };
}

/** The pairs of a split. */
export const ofSplit = (pairs: readonly TokenPair[], split: Split) => pairs.filter(({ pair }) => pair.split === split);

/** Refuses what cannot be evaluated, before any work. @throws UserError as `evaluateCircuits` does */
export function checkEvaluation(
  input: Pick<EvaluateInput, "dictionaries" | "pairs" | "cases">,
  { by, ways, sizes, thresholds = [], given, transfer }: EvaluateOptions,
): void {
  const { dictionaries } = input;
  const other = [...dictionaries.keys()].find((site) => parseSite(site).kind !== "mlp_out");
  if (ways.includes("neurons") && other !== undefined) {
    throw new UserError(
      `--ways neurons: expected --sites mlp_out with it, got ${other}. Neurons are what MLP outputs are made of.`,
    );
  }
  if (by === "construction") checkConstructions(input);
  const untrained = [...groupsOfPairs(input, by)].find(([, own]) => ofSplit(own, "train").length === 0)?.[0];
  if (untrained !== undefined && (!given || transfer !== null)) {
    throw new UserError(
      `pairs: expected train pairs, on which circuits are chosen, got only test pairs of ${untrained}. Name some train, or give a circuit with --circuit and no --transfer.`,
    );
  }
  if (thresholds.length > 0 && !ways.some(isByThreshold)) {
    throw new UserError(
      `--thresholds: expected a way by effects alone with it, got --ways ${ways.join(",")}. Add secant to them.`,
    );
  }
  if (ways.includes("random") && !given && ways.every((way) => (baselines as readonly string[]).includes(way))) {
    throw new UserError(
      `--ways random: expected a way that chooses features with it, got ${ways.join(",")}. Random circuits are like those of the first such way: add secant.`,
    );
  }
  if (transfer === null) return;
  if (!sizes.includes(transfer)) {
    throw new UserError(`--transfer: expected one of --sizes ${sizes.join(",")}, got ${transfer}. Add it to them.`);
  }
  if (transferWay(ways) === undefined) {
    throw new UserError(
      `--transfer: expected a way that chooses features, got --ways ${ways.join(",")}. Add secant to them.`,
    );
  }
}

/** The construction of each case: what is left of its name without the group that `groupsOf` finds in it. */
export function constructionsOf(cases: readonly string[]): (name: string) => string {
  const groupOf = groupsOf(cases);
  return (name) => {
    const ending = `_${groupOf(name)}`;
    return name.endsWith(ending) && name.length > ending.length ? name.slice(0, -ending.length) : name;
  };
}

/** @throws UserError if cases do not tell constructions from the subject's number */
function checkConstructions(input: Pick<EvaluateInput, "pairs" | "cases">): void {
  const [cases, construction] = [casesOf(input), constructionIn(input)];
  if (cases.some((name) => construction(name) !== name)) return;
  throw new UserError(
    `--by construction: expected a run whose cases end alike, as simple_plural and nounpp_plural, got ${cases.join(", ")}. Use --by set or --by case.`,
  );
}

/** All cases that an input knows of. */
const casesOf = ({ pairs, cases }: Pick<EvaluateInput, "pairs" | "cases">) => [
  ...new Set(cases ?? pairs.map(({ pair }) => pair.case)),
];

const constructionIn = (input: Pick<EvaluateInput, "pairs" | "cases">) => constructionsOf(casesOf(input));

/** The construction of a pair. Pairs of one construction share their means. */
function constructionOf(input: Pick<EvaluateInput, "pairs" | "cases">): (pair: TokenPair["pair"]) => string {
  const construction = constructionIn(input);
  return ({ case: name }) => construction(name);
}

/** The pairs for which one circuit is chosen, by the name of their group. */
export function groupsOfPairs(input: Pick<EvaluateInput, "pairs" | "cases">, by: Grouping): Map<string, TokenPair[]> {
  const { pairs } = input;
  const construction = constructionIn(input);
  const nameOf = ({ pair }: TokenPair) => (by === "set" ? "all" : by === "case" ? pair.case : construction(pair.case));
  const groups = new Map<string, TokenPair[]>();
  for (const pair of pairs) groups.set(nameOf(pair), [...(groups.get(nameOf(pair)) ?? []), pair]);
  return groups;
}

/** The pairs of one split of a group, and what the plain model makes of them. */
interface Measured {
  readonly split: Split;
  readonly pairs: readonly TokenPair[];
  readonly setting: EvaluationSetting;
  readonly activations: Activations;
}

async function measure(
  input: EvaluateInput,
  split: Split,
  pairs: readonly TokenPair[],
  reporter: Reporter,
): Promise<Measured> {
  const { loaded, dictionaries, outside } = input;
  const forest = evaluationForest(pairs, constructionOf(input));
  reporter.begin("capture", 1);
  const activations = await readActivations(loaded, forest, [...dictionaries.keys()], watchOf(reporter));
  return { split, pairs, setting: { loaded, forest, dictionaries, outside }, activations };
}

/** A reporter as the engine tells of its work. */
export const watchOf = ({ set, stopped }: Reporter) => ({
  onProgress: (done: number, total: number) => set(done, total),
  stopped,
});

/** A circuit that was chosen, and how. */
interface Chosen {
  readonly way: string;
  readonly features: Features;
  readonly ablation?: AblationValue;
  readonly stability?: number | null;
  readonly seed?: number;
}

async function evaluateGroup(
  input: EvaluateInput,
  group: string,
  pairs: readonly TokenPair[],
  options: EvaluateOptions,
  places: EvaluationPlaces,
  reporter: Reporter,
): Promise<GroupEvaluation> {
  const train = ofSplit(pairs, "train");
  if (train.length === 0 && options.ways.length > 0) {
    reporter.line(
      `There are no train pairs of ${group}, on which circuits are chosen: the given one alone is measured.`,
    );
    return evaluateGroup(input, group, pairs, { ...options, ways: [] }, places, reporter);
  }
  const test = ofSplit(pairs, "test");
  const measured = train.length > 0 ? [await measure(input, "train", train, reporter)] : [];
  if (test.length > 0) measured.push(await measure(input, "test", test, reporter));

  reporter.begin("scores", 1);
  const methods = new Set(options.ways.filter((way) => isByScores(way) || way === "masks").map(methodOf));
  const scores = new Map<MethodName, ClusterScores>();
  for (const method of methods) {
    scores.set(method, await scoresOf(method, input, train, watchOf(reporter)));
  }
  const byScores = options.ways
    .filter(isByScores)
    .flatMap((way) => chosenByScores(way, scores.get(methodOf(way))!, options, group, reporter));
  const given: Chosen[] = options.given ? [{ way: "given", features: options.given }] : [];

  const circuits: Chosen[] = [...given, ...byScores];
  const curves: Curve[] = [];
  let candidates = Math.max(0, ...[...scores.values()].map(({ scores: of }) => rankScores(of).length));
  for (const ablation of options.ablations) {
    const secant = scores.get("secant")?.scores;
    const masks = places.masks(group, ablation);
    const masked = await chosenByAblation(measured[0]!, input, secant, ablation, options, masks, reporter);
    // Where no effects are computed circuits are chosen among what mask-ig gives a score.
    if (scores.size === 0) candidates = Math.max(candidates, masked.candidates);
    const chosen = [...given, ...byScores, ...masked.chosen];
    const random = options.ways.includes("random") ? await randomLike(chosen, measured[0]!, input) : [];
    circuits.push(...masked.chosen, ...random);
    for (const one of measured) {
      curves.push(
        ...(await curvesOf(one, input, group, [...chosen, ...random], ablation, candidates, options, reporter)),
      );
    }
  }
  for (const way of ["basis", "neurons"] as const) {
    if (!options.ways.includes(way)) continue;
    const numbers = await evaluateNumbers(way, input, group, measured, options, reporter);
    circuits.push(...numbers.circuits);
    curves.push(...numbers.curves);
  }
  return {
    pairs: measured.map(({ split, pairs: own }) => ({
      group,
      split,
      cases: [...new Set(own.map(({ pair }) => pair.case))],
      pairs: own.length,
      words: clusterPairs(own).count,
    })),
    candidates,
    circuits: circuits.map(({ way, features, ablation = null, stability: overlap = null, seed = null }) => ({
      group,
      way,
      ablation,
      seed,
      size: sizeOf(features),
      features: featuresJson(features),
      stability: overlap,
    })),
    curves,
  };
}

/** How one circuit is chosen. */
export interface Choice {
  readonly way: Way;
  /** So many features, or those of at least so large a |mean effect per pair| in logits. */
  readonly size: number | null;
  readonly threshold: number | null;
  /** What learned masks and `mask-ig` are fitted to. */
  readonly ablation: AblationValue;
}

/** Whether what a way chooses depends on the ablation. */
export const isByAblation = (way: Way) => way === "masks" || way === "mask-ig";

/**
 * Chooses one circuit on train pairs, the same as `evaluateCircuits` chooses of that way and size.
 *
 * @param masks where masks in the making are kept
 * @throws UserError if the way chooses no features of SAEs, there are fewer candidates than asked for, or none reaches the threshold
 */
export async function chooseCircuit(
  input: EvaluateInput,
  train: readonly TokenPair[],
  { way, size, threshold, ablation }: Choice,
  masks: MaskPlaces,
  reporter: Reporter,
): Promise<Features> {
  if (!isByAblation(way) && !isByScores(way)) {
    throw new UnfitOptionError(`--way: expected one that chooses features, got ${way}. Measure it with sfc evaluate.`);
  }
  if (threshold !== null && !isByThreshold(way)) {
    throw new UnfitOptionError(`--threshold: expected a way by effects alone, got ${way}. Give --size instead.`);
  }
  const enough = (features: Features, candidates: number) => {
    if (size === null || sizeOf(features) === size) return features;
    throw new UnfitOptionError(`--size: expected at most ${candidates} candidates of ${way}, got ${size}. Give fewer.`);
  };
  if (isByAblation(way)) {
    const one = await measure(input, "train", train, reporter);
    reporter.begin("scores", 1);
    const secant = way === "masks" ? await scoresOf("secant", input, train, watchOf(reporter)) : undefined;
    const options = { by: "set", ways: [way], sizes: [size!], errors: "ablated", ablations: [ablation] } as const;
    const full = { ...options, transfer: null };
    const {
      chosen: [found],
    } = await chosenByAblation(one, input, secant?.scores, ablation, full, masks, reporter);
    return enough(found?.features ?? new Map(), found ? sizeOf(found.features) : maskCandidates);
  }
  reporter.begin("scores", 1);
  const { scores } = await scoresOf(methodOf(way), input, train, watchOf(reporter));
  if (threshold === null) {
    const features = choiceOf(way, size!)(scores);
    return enough(features, sizeOf(features));
  }
  const features = aboveOf(way, threshold)(scores);
  if (sizeOf(features) > 0) return features;
  const largest = Math.abs(rankScores(scores)[0]?.score ?? 0).toPrecision(3);
  throw new UnfitOptionError(
    `--threshold: expected at most ${largest}, the largest |effect|, got ${threshold}. Lower it.`,
  );
}

/** The circuits of a way by effects alone: one of each size, and of each threshold that some effects reach. */
function chosenByScores(
  way: Way,
  scores: ClusterScores,
  { sizes, thresholds = [] }: EvaluateOptions,
  group: string,
  reporter: Reporter,
): Chosen[] {
  const candidates = rankScores(scores.scores).length;
  if (sizes.some((n) => n > candidates)) {
    reporter.line(`${way} of ${group}: ${candidates} features have an effect, so larger circuits hold just these.`);
  }
  const above = (isByThreshold(way) ? thresholds : []).filter((threshold) => {
    const some = sizeOf(aboveOf(way, threshold)(scores.scores)) > 0;
    if (!some) reporter.line(`${way} of ${group}: no |effect| reaches --thresholds ${threshold}.`);
    return some;
  });
  return [...sizes.map((n) => choiceOf(way, n)), ...above.map((threshold) => aboveOf(way, threshold))].map(
    (choose) => ({
      way,
      features: choose(scores.scores),
      stability: stability(scores, choose),
    }),
  );
}

/** Whether a way takes all features from some |effect| on. */
export const isByThreshold = (way: Way) => isByScores(way) && !way.endsWith("-covering");

/** How a way by effects alone chooses those of at least a threshold. */
const aboveOf = (way: Way, threshold: number) => (scores: ScoresBySite) =>
  chooseAbove(way.endsWith("-signed") ? positive(scores) : scores, threshold);

/** How a way that follows from effects alone chooses n features. */
const choiceOf = (way: Way, n: number) => (scores: ScoresBySite) => {
  if (way.endsWith("-covering")) return chooseCovering(scores, n);
  return way.endsWith("-signed") ? chooseTop(positive(scores), n) : chooseTop(scores, n);
};

/** Random circuits that are active as often as those of the first way, on train. */
async function randomLike(
  chosen: readonly Chosen[],
  { activations }: Measured,
  { loaded, dictionaries, outside }: EvaluateInput,
): Promise<Chosen[]> {
  const codes = codeReader(loaded);
  try {
    const activity = await activityOf(activations, dictionaries, codes, outside);
    const first = chosen.filter(({ way }) => way === chosen[0]?.way);
    return randomSeeds.flatMap((seed) =>
      first.map(
        ({ features }): Chosen => ({ way: "random", seed, features: matchedByActivity(features, activity, seed) }),
      ),
    );
  } finally {
    await codes.release();
  }
}

/**
 * Single numbers in place of features, by their secant effects, the largest first: those of the activations themselves, or where MLP outputs are looked
 * at those of the neurons that they are made of.
 */
async function evaluateNumbers(
  way: "basis" | "neurons",
  input: EvaluateInput,
  group: string,
  measured: readonly Measured[],
  options: EvaluateOptions,
  reporter: Reporter,
): Promise<{ circuits: Chosen[]; curves: Curve[] }> {
  const { sites } = input.loaded.model;
  const placeOf = (site: SiteName) =>
    way === "basis" ? site : siteName({ kind: "mlp_act", layer: parseSite(site).layer });
  const places = [...input.dictionaries.keys()].map(placeOf);
  const dictionaries = new Map(places.map((site) => [site, identityDictionary(site, sites[parseSite(site).kind]!)]));
  const own = { ...input, dictionaries };
  const { scores } = await scoresOf("secant", own, measured[0]!.pairs, watchOf(reporter));
  const circuits = options.sizes.map((n): Chosen => ({ way, features: chooseTop(scores, n) }));
  const curves: Curve[] = [];
  for (const ablation of options.ablations) {
    for (const one of measured) {
      const at =
        way === "basis"
          ? { ...one, setting: { ...one.setting, dictionaries } }
          : await measure(own, one.split, one.pairs, reporter);
      curves.push(
        ...(await curvesOf(at, own, group, circuits, ablation, rankScores(scores).length, options, reporter)),
      );
    }
  }
  return { circuits, curves };
}

/** Scores of the features that support the clean answer, 0 for the others. */
const positive = (scores: ScoresBySite): ScoresBySite =>
  new Map(
    [...scores].map(([site, of]) => [site, { ...of, scores: Array.from(of.scores, (score) => Math.max(0, score)) }]),
  );

/** Circuits that depend on the ablation: by effects on the way from the ablated model, and by learned masks. */
async function chosenByAblation(
  { setting, activations, pairs }: Measured,
  input: EvaluateInput,
  secant: ScoresBySite | undefined,
  ablation: AblationValue,
  { ways, sizes, errors }: EvaluateOptions,
  places: MaskPlaces,
  reporter: Reporter,
): Promise<{ readonly chosen: Chosen[]; readonly candidates: number }> {
  if (!ways.includes("masks") && !ways.includes("mask-ig")) return { chosen: [], candidates: 0 };
  const { loaded, dictionaries } = input;
  const codes = codeReader(loaded);
  try {
    reporter.begin("mask scores", 1);
    const scores = await maskScores(setting, activations, ablation, codes, watchOf(reporter));
    const byScores = ways.includes("mask-ig")
      ? sizes.map((n): Chosen => ({ way: "mask-ig", ablation, features: chooseTop(scores, n) }))
      : [];
    const candidates = rankScores(scores).length;
    if (!ways.includes("masks") || secant === undefined) return { chosen: byScores, candidates };
    const features = chooseStrongest([scores, secant], maskCandidates);
    // Errors that are kept would take the whole dictionary at each step.
    const kind = { values: ablation, errors: errors === "kept" ? "ablated" : errors } as const;
    const base = await ablationBase(activations, dictionaries, codes, features, kind);
    if (sizes.some((n) => n > sizeOf(features))) {
      reporter.line(`masks choose among ${sizeOf(features)} candidates, so there are no larger circuits of theirs.`);
    }
    reporter.begin("masks", 1);
    const target = activations.cleanMetric;
    const onResume = (steps: number, of: number) => reporter.line(`Masks resume after ${steps} of ${of} steps.`);
    const options = { groupOf: constructionOf(input), places, onResume };
    const stages = await learnOnHalves(setting, pairs, features, kind, codes, options, watchOf(reporter));
    reporter.begin("choosing", 1);
    // Of all sizes at least the smallest, whatever there is.
    const fitting = sizes.filter((n) => n <= sizeOf(features) || n === Math.min(...sizes));
    const chosen = await chooseByMasks(setting, base, stages, target, fitting, watchOf(reporter));
    const learned = chosen.map((own): Chosen => ({ way: "masks", features: own, ablation }));
    return { chosen: [...byScores, ...learned], candidates };
  } finally {
    await codes.release();
  }
}

/** The curves of all ways on the pairs of one split. */
async function curvesOf(
  { split, pairs, setting, activations }: Measured,
  { loaded, dictionaries }: EvaluateInput,
  group: string,
  chosen: readonly Chosen[],
  ablation: AblationValue,
  candidates: number,
  { errors }: EvaluateOptions,
  reporter: Reporter,
): Promise<Curve[]> {
  reporter.begin("evaluation", 1);
  const codes = codeReader(loaded);
  try {
    const all = union(chosen.map(({ features }) => features));
    const base = await ablationBase(
      activations,
      dictionaries,
      codes,
      all,
      { values: ablation, errors },
      { whole: true },
    );
    const subsets: Subset[] = [
      { kind: "circuit", features: new Map() },
      { kind: "whole" },
      ...chosen.flatMap(({ features }): Subset[] => [
        { kind: "circuit", features },
        { kind: "complement", features },
      ]),
    ];
    const metrics = await evaluateSubsets(setting, base, subsets, watchOf(reporter));
    const faith = faithfulness(pairs, setting.forest, activations.cleanMetric, metrics[0]!);
    if (!Number.isFinite(faith.of(activations.cleanMetric))) {
      throw new UnfitOptionError(
        `circuits: expected ablation at ${[...dictionaries.keys()].join(", ")} to change the metric, got no change on ${split} pairs of ${group}. Choose other --sites or --layers.`,
      );
    }
    const whole = faith.of(metrics[1]!);
    const pointOf = (i: number): CurvePoint => {
      const m = metrics[2 + 2 * i]!;
      return {
        size: sizeOf(chosen[i]!.features),
        f: meanMetric(setting.forest, m),
        faithfulness: faith.of(m),
        by_words: faith.interval(m, "words"),
        by_pairs: faith.interval(m, "pairs"),
        completeness: faith.of(metrics[3 + 2 * i]!),
        cases: faith.byCase(m),
      };
    };
    const kinds = new Map(chosen.map((one) => [`${one.way} ${one.seed}`, one]));
    return [...kinds.values()].map(({ way, seed }): Curve => {
      const points = chosen.flatMap((one, i) => (one.way === way && one.seed === seed ? [pointOf(i)] : []));
      return {
        group,
        split,
        ablation,
        errors,
        way,
        seed: seed ?? null,
        f_model: meanMetric(setting.forest, activations.cleanMetric),
        f_empty: meanMetric(setting.forest, metrics[0]!),
        whole,
        points,
        ...areas(points, Math.max(candidates, ...points.map(({ size }) => size)), whole),
      };
    });
  } finally {
    await codes.release();
  }
}

/** Faithfulness of metrics by end, as a ratio of means over pairs: (F(C) − F(∅))/(F(M) − F(∅)). */
function faithfulness(
  pairs: readonly TokenPair[],
  { endIndexOfPair }: EvaluationSetting["forest"],
  model: Float64Array,
  empty: Float64Array,
) {
  const gain = (m: Float64Array) => Float64Array.from(endIndexOfPair, (end) => m[end]! - empty[end]!);
  const whole = gain(model);
  const clusters = { words: clusterPairs(pairs), pairs: eachPair(pairs.length) };
  const ratio = (top: Float64Array, members: (p: number) => boolean = () => true) => {
    let [a, b] = [0, 0];
    top.forEach((value, p) => {
      if (!members(p)) return;
      a += value;
      b += whole[p]!;
    });
    return a / b;
  };
  return {
    of: (m: Float64Array) => ratio(gain(m)),
    interval: (m: Float64Array, over: keyof typeof clusters) =>
      ratioInterval(sumByCluster(clusters[over], gain(m)), sumByCluster(clusters[over], whole)),
    byCase(m: Float64Array): Record<string, number> {
      const top = gain(m);
      const cases = [...new Set(pairs.map(({ pair }) => pair.case))];
      const of = cases.map((name) => [name, ratio(top, (p) => pairs[p]!.pair.case === name)] as const);
      return Object.fromEntries(of.filter(([, value]) => Number.isFinite(value)));
    },
  };
}

/** Faithfulness of each group's circuit on every other group's test pairs. */
async function transferOf(
  input: EvaluateInput,
  groups: ReadonlyMap<string, readonly TokenPair[]>,
  found: readonly GroupEvaluation[],
  { transfer: size, ways, ablations, errors }: EvaluateOptions,
  reporter: Reporter,
): Promise<Evaluation["transfer"]> {
  if (size === null) return null;
  const way = transferWay(ways)!;
  const ablation = ablations[0]!;
  const names = [...groups.keys()];
  const circuits = found.map(({ circuits: of }) => {
    const own = of.filter((one) => one.way === way && (one.ablation === null || one.ablation === ablation));
    const nearest = own.reduce((a, b) => (Math.abs(b.size - size) < Math.abs(a.size - size) ? b : a));
    return featuresOf(nearest.features);
  });
  const columns: number[][] = [];
  for (const pairs of groups.values()) {
    const test = ofSplit(pairs, "test");
    const one = await measure(input, "test", test.length > 0 ? test : pairs, reporter);
    reporter.begin("transfer", 1);
    const codes = codeReader(input.loaded);
    try {
      const base = await ablationBase(one.activations, input.dictionaries, codes, union(circuits), {
        values: ablation,
        errors,
      });
      const subsets = [new Map(), ...circuits].map((features): Subset => ({ kind: "circuit", features }));
      const metrics = await evaluateSubsets(one.setting, base, subsets, watchOf(reporter));
      const faith = faithfulness(one.pairs, one.setting.forest, one.activations.cleanMetric, metrics[0]!);
      columns.push(metrics.slice(1).map((m) => faith.of(m)));
    } finally {
      await codes.release();
    }
  }
  return { way, size, ablation, groups: names, faithfulness: names.map((_, i) => columns.map((column) => column[i]!)) };
}

/** All features of some circuits. */
function union(all: readonly Features[]): Features {
  const keys = new Map(
    all.flatMap((features) =>
      [...features].flatMap(([site, list]) =>
        list.map((feature) => [`${site}/${feature}`, { site, feature }] as const),
      ),
    ),
  );
  return bySite([...keys.values()]);
}
