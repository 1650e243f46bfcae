import { type Capture, captureAll, runMetric } from "../capture/capture.ts";
import { forestCheckPlans, forestGaps } from "../capture/forest-check.ts";
import type { Share } from "../capture/runner.ts";
import type { Store } from "../capture/store.ts";
import { accuracyOf, type CaseAccuracy, type Check, check, poorEffectsLine, poorFitLine } from "../circuit/checks.ts";
import { type Ablation, measureMeaning } from "../circuit/meaning.ts";
import { exactMiss, type Ranking, type Score, withExact } from "../circuit/ranking.ts";
import type { RankOptions, Tables } from "../circuit/tables.ts";
import type { Dictionary } from "../dictionaries/dictionary.ts";
import { type CodeReader, codeReader } from "../dictionaries/encode.ts";
import { effectsOf, needsOf, wantedBy } from "../effects/dispatch.ts";
import { KeptCodes } from "../effects/kept-codes.ts";
import type { MethodInput, MethodName, Rule, SiteEffects } from "../effects/method.ts";
import { gradientActivation, gradientSums } from "../effects/scores.ts";
import { secantSteps } from "../effects/secant.ts";
import { patchStrongest } from "../effects/strongest.ts";
import { countPairs, nodesTable } from "../effects/sums.ts";
import { unexplainedShare } from "../effects/unexplained.ts";
import { StoppedError, UserError } from "../errors.ts";
import { type PrefixForest, prefixForest } from "../forest/forest.ts";
import { type Plan, planCapture, planMetric, type RowCost } from "../forest/packs.ts";
import { unitsOf } from "../interventions/units.ts";
import type { Model } from "../models/model.ts";
import { isStreamed, type LoadedModel } from "../models/weights.ts";
import type { Reporter, Watch } from "../progress.ts";
import { isOutside } from "../prompts/outside.ts";
import type { PromptPair, Split, TokenPair } from "../prompts/pairs.ts";
import type { Tokenizer } from "../prompts/tokenizer.ts";
import { parseSite, type SiteName } from "../site.ts";
import { manyPairs } from "./options.ts";

/** Σ effects = ⟨g, Δx⟩ must hold to this share of Σ|effects|. */
const sumTolerance = 1e-4;
/** The forest and example by example must agree to this share of the largest Σ|g·Δx| of a node. */
const forestTolerance = 1e-5;
/** The effects of a residual site by `secant` and the metric's change must agree to this share: what four points leave is 3 %. */
const secantTolerance = 0.1;
/** Share of Σ|effect| left out that one is warned of. */
const worthSaying = 0.01;
/** Accuracy below which a behaviour is hardly one. */
const fairAccuracy = 0.8;
/** Pairs on which the forest is checked against example by example: one of so many, within limits. Each takes as much work as ten in the forest. */
const checked = { ofPairs: 25, least: 4, most: 16 };

/** What an analysis computes. */
export interface AnalysisOptions {
  readonly method: MethodName;
  /** Of the integrated methods and `secant`. */
  readonly steps?: number;
  /** Of the integrated methods alone. */
  readonly rule?: Rule;
  readonly score: Score;
  /** Features listed per site and split in the ranking. */
  readonly top: number;
}

/** What all steps of an analysis work on. */
export interface AnalysisInput {
  readonly loaded: LoadedModel;
  readonly tokenizer: Pick<Tokenizer, "token" | "outside">;
  /** The SAEs by site, in order of computation. */
  readonly dictionaries: ReadonlyMap<SiteName, Dictionary>;
  readonly options: AnalysisOptions;
}

/** Pairs, with the forest and the packs that they make. */
export interface Prepared {
  readonly pairs: readonly TokenPair[];
  readonly forest: PrefixForest;
  /** The analysis' own plan, and those by which the forest is checked on a sample of the pairs. */
  readonly plans: readonly [run: Plan, merged: Plan, separate: Plan];
}

/**
 * Step 1: builds the prefix forest of some pairs, and cuts it into packs.
 *
 * @param batchSize at most so many pairs end in one pack
 * @param model whose work decides how large packs are
 * @throws StoppedError if asked to stop
 */
export function prepare(
  pairs: readonly TokenPair[],
  { method, score }: Pick<AnalysisOptions, "method" | "score">,
  batchSize: number | null = null,
  model?: RowCost,
  watch: Watch = {},
): Prepared {
  const forest = prefixForest(pairs, watch);
  const plan = planCapture(forest, {
    wanted: score === "effect" ? wantedBy(method) : score === "gradient" ? "none" : "clean",
    ...(batchSize === null ? {} : { batchSize }),
    model,
    beside: "cheaper",
    stopped: watch.stopped,
  });
  const count = Math.min(checked.most, Math.max(checked.least, Math.ceil(pairs.length / checked.ofPairs)));
  const every = Math.max(1, Math.floor(pairs.length / count));
  const sample = pairs.filter((_, i) => i % every === 0).slice(0, count);
  const [merged, separate] = forestCheckPlans(sample, undefined, score === "effect" ? "changed" : "clean");
  return { pairs, forest, plans: [plan, merged, separate] };
}

/** `prepare`, of many pairs as a phase of its own between two of reading. @throws StoppedError if asked to stop */
export function prepareAll(
  pairs: readonly TokenPair[],
  options: Pick<AnalysisOptions, "method" | "score">,
  batchSize: number | null,
  model: RowCost,
  reporter: Reporter,
): Prepared {
  const isLong = pairs.length > manyPairs;
  if (isLong) reporter.begin("forest", pairs.length);
  const watch = { stopped: reporter.stopped, ...(isLong && { onProgress: reporter.set }) };
  const prepared = prepare(pairs, options, batchSize, model, watch);
  if (isLong) reporter.begin("reading", 1);
  return prepared;
}

/** The sites that a capture gives for an analysis: those of the dictionaries, and others that the method begins at. */
export function capturedSites(
  { method }: Pick<AnalysisOptions, "method">,
  dictionaries: ReadonlyMap<SiteName, Dictionary>,
  { layers }: Pick<Model, "layers">,
): SiteName[] {
  return [...needsOf(method, [...dictionaries.keys()], layers).sites];
}

/** The pairs of some that a model gets right, and how many there are by split and case. @throws UserError if there is none */
export async function correctPairs(
  loaded: LoadedModel,
  pairs: readonly TokenPair[],
  watch: Watch = {},
): Promise<{ readonly kept: readonly TokenPair[]; readonly accuracy: CaseAccuracy[] }> {
  const { stopped } = watch;
  const forest = prefixForest(pairs, { stopped });
  const metric = await runMetric(loaded, planMetric(forest, { stopped }), watch);
  const of = (i: number) => metric[forest.endIndexOfPair[i]!]!;
  const kept = pairs.filter((_, i) => of(i) < 0);
  if (kept.length === 0) {
    throw new UserError(
      "--keep correct: expected pairs that the model gets right, got none. Leave --keep out to analyse all of them.",
      { code: "no_pairs" },
    );
  }
  return { kept, accuracy: accuracyOf(pairs, of) };
}

/** Activations, gradients and the metric of a forest; and of a sample of its pairs, with prefixes merged and separately. */
export interface Captured {
  readonly run: Capture;
  readonly merged: Capture;
  readonly separate: Capture;
}

/** How packs are run. */
export interface CaptureShare extends Share {
  /** Of streamed weights: rows of a wave at most, where they are not the usual ones. */
  readonly waveRows?: number | undefined;
}

/**
 * Step 2: runs the model on all packs, or on some (`only` counts those of all plans). What the store has is not computed again.
 *
 * @throws StoppedError if asked to stop; what is finished stays in the store
 */
export async function captureStep(
  input: AnalysisInput,
  { plans }: Prepared,
  store: Store,
  { waveRows, ...share }: CaptureShare = {},
): Promise<Captured> {
  const { loaded } = input;
  const sites = capturedSites(input.options, input.dictionaries, loaded.model);
  const options = { sites, store, ...(waveRows && { waveRows }), ...share };
  const [own, ...checks] = plans;
  // The few rows of the check are done as soon as they would be read, and go through sessions of blocks, which open at once.
  const isApart = share.only === undefined && !isStreamed(loaded.weights) && loaded.dtype === "float32";
  const [run, ...others] = await captureAll(loaded, isApart ? [own] : plans, options);
  const { stopped } = share;
  const [merged, separate] = isApart
    ? await captureAll({ ...loaded, byBlock: true }, checks, { sites, stopped })
    : others;
  return { run: run!, merged: merged!, separate: separate! };
}

/** What happens while effects are computed. */
export interface EffectsEvents {
  /** Told how well the effects of a site add up, before its rows are written. */
  readonly onCheck?: (line: Check) => void;
  /** Told how well a site's SAE fits, before its rows are written, where the method encodes the activations that this is judged by; see `fitStep`. */
  readonly onFit?: MethodInput["onFit"];
  /** Keeps codes that are computed for effects. */
  readonly keptCodes?: KeptCodes;
  /** Called before a site's rows are written; what it throws keeps them out. */
  readonly beforeWrite?: () => Promise<void> | void;
  /** Told the work before it begins, where it is long. */
  readonly onWork?: MethodInput["onWork"];
}

/**
 * Step 3: the effects, or the score asked for, of each site that the tables do not have yet.
 *
 * @throws StoppedError if asked to stop; sites that are finished stay in the tables
 */
export async function effectsStep(
  input: AnalysisInput,
  captured: Capture,
  codes: CodeReader,
  tables: Tables,
  reporter: Pick<Reporter, "set" | "stopped">,
  events: EffectsEvents = {},
): Promise<void> {
  if (input.options.score === "effect") return writeEffects(input, captured, tables, reporter, events);
  for (const [done, dictionary] of [...input.dictionaries.values()].entries()) {
    if (reporter.stopped()) throw new StoppedError();
    await writeScore(input, dictionary, captured, codes, tables, { stopped: reporter.stopped }, events);
    reporter.set(done + 1);
  }
}

async function writeEffects(
  { loaded, dictionaries, options }: AnalysisInput,
  captured: Capture,
  tables: Tables,
  reporter: Pick<Reporter, "set" | "stopped">,
  { onCheck, onFit, keptCodes, beforeWrite, onWork }: EffectsEvents,
): Promise<void> {
  const { method, rule } = options;
  const steps = settledSteps(options, dictionaries);
  const left: [SiteName, Dictionary][] = [];
  for (const entry of dictionaries) if (!(await tables.hasEffects(entry[0]))) left.push(entry);
  if (left.length === 0) return;
  // Where SAEs are spliced in together, the effects of one depend on the others.
  const together = method === "sfc" || method === "spliced";
  const work = effectsOf(method, {
    ...loaded,
    ...watchOf(reporter),
    forest: captured.plan.forest,
    captured,
    dictionaries: together ? dictionaries : new Map(left),
    ...(steps !== undefined && { steps }),
    ...(rule !== undefined && { rule }),
    ...(onFit && { onFit }),
    ...(keptCodes && { keptCodes }),
    ...(onWork && { onWork }),
  });
  const write = async ({ rows, check: sum }: SiteEffects) => {
    // The check first: a site whose effects are there is not computed again.
    if (sum) onCheck?.(check("sum of effects", rows.site, sum.gap, sum.scale, sumTolerance));
    await beforeWrite?.();
    if (!(await tables.hasEffects(rows.site))) await tables.writeEffects(rows);
  };
  // A site's rows are written while the next ones are computed: no more than one waits to be written.
  let writing: Promise<void> | undefined;
  try {
    for await (const found of work) {
      await writing;
      writing = write(found);
      // Whoever waits for it has the error.
      writing.catch(() => {});
      if (reporter.stopped()) throw new StoppedError();
    }
  } finally {
    await writing?.catch(() => {});
  }
  await writing;
}

/** How many steps a method takes: for `secant` that depends on all sites, not on those that are left or sampled. */
function settledSteps(
  { method, steps }: AnalysisOptions,
  dictionaries: ReadonlyMap<SiteName, Dictionary>,
): number | undefined {
  return steps ?? (method === "secant" ? secantSteps([...dictionaries.keys()]) : undefined);
}

/** The score asked for, of one site, unless the tables have it. */
async function writeScore(
  { tokenizer, options }: AnalysisInput,
  dictionary: Dictionary,
  captured: Capture,
  codes: CodeReader,
  tables: Tables,
  watch: Watch,
  { beforeWrite }: EffectsEvents,
): Promise<void> {
  const { writes: site } = dictionary;
  const { backward } = captured.plan.forest;
  if (options.score === "gradient-activation") {
    if (await tables.hasEffects(site)) return;
    const rows = await gradientActivation(captured, dictionary, codes, watch);
    await beforeWrite?.();
    await tables.writeEffects(rows);
    return;
  }
  if (await tables.hasFeatureSums(site)) return;
  const excluded = (node: number) => isOutside(tokenizer.outside, backward.token[node]!, backward.position[node]!);
  const sums = await gradientSums(captured, dictionary, excluded, watch);
  await beforeWrite?.();
  await tables.writeFeatureSums(
    site,
    backward.groups.map((group, i) => ({ ...group, sums: sums[i]! })),
  );
}

/** Compares the forest with separate examples at each of the dictionaries' sites. */
export async function checkForest({ merged, separate }: Captured, sites: readonly SiteName[]): Promise<Check[]> {
  const gaps = await forestGaps(merged, separate, sites);
  return gaps.map(({ site, gap, scale }) =>
    check("forest equals example by example", site, gap, scale, forestTolerance),
  );
}

/** A pair with what the model makes of it. */
export interface PairResult {
  readonly pair: PromptPair;
  /** m at the clean prompt, in logits: below 0 where the model prefers the clean answer. */
  readonly m_clean: number;
  /** m at the patch prompt; null where there is none. */
  readonly m_patch: number | null;
  /** The backward node of the whole prompts. */
  readonly end: number;
}

/** The metric of every pair. */
export function pairResults({ pairs, forest }: Prepared, { cleanMetric, patchMetric }: Capture): PairResult[] {
  return pairs.map(({ pair }, i) => {
    const entry = forest.endIndexOfPair[i]!;
    const m_patch = pair.patch_prefix === null ? null : patchMetric[entry]!;
    return { pair, m_clean: cleanMetric[entry]!, m_patch, end: forest.endNodeOfPair[i]! };
  });
}

/** Mean of m(patch) − m(clean) over the pairs of each split, in logits. */
function meanChange({ pairs, forest }: Prepared, { cleanMetric, patchMetric }: Capture): Ranking["change"] {
  const sums = new Map<Split, { pairs: number; sum: number }>();
  pairs.forEach(({ pair }, i) => {
    const entry = forest.endIndexOfPair[i]!;
    const { pairs: count, sum } = sums.get(pair.split) ?? { pairs: 0, sum: 0 };
    sums.set(pair.split, { pairs: count + 1, sum: sum + patchMetric[entry]! - cleanMetric[entry]! });
  });
  return Object.fromEntries([...sums].map(([split, { pairs: count, sum }]) => [split, sum / count]));
}

/** What step 5 asks of the tables: to rank the features of all sites, and to tell how much effects and ranks would change with other words. */
export function rankOptions(
  { tokenizer, dictionaries, options: { score, top } }: AnalysisInput,
  prepared: Prepared,
  captured: Capture,
): RankOptions {
  const options = { sites: [...dictionaries.keys()], pairs: countPairs(prepared.pairs), score, top };
  if (score !== "effect") return { ...options, change: {} };
  const units = unitsOf(prepared.forest, tokenizer.outside);
  return { ...options, change: meanChange(prepared, captured), units };
}

/**
 * Step 6: patches the strongest features by themselves, on a sample of train pairs, and puts what they do beside their effects.
 *
 * @param flops floating-point operations that the patches may take
 * @returns undefined where the method is `exact`, or so few operations allow none
 */
export async function exactStep(
  { loaded, tokenizer, dictionaries, options }: AnalysisInput,
  { pairs }: Prepared,
  ranking: Ranking,
  flops: number,
  watch: Watch = {},
): Promise<Ranking | undefined> {
  const { method, rule } = options;
  if (method === "exact") return undefined;
  const steps = settledSteps(options, dictionaries);
  const split = pairs.some(({ pair }) => pair.split === "train") ? "train" : "test";
  const members = pairs.filter(({ pair }) => pair.split === split);
  const ranked = new Map(ranking.sites.map(({ site, splits }) => [site, splits[split]?.top ?? []]));
  const setting = {
    ...loaded,
    ...watch,
    dictionaries,
    ...(steps !== undefined && { steps }),
    ...(rule !== undefined && { rule }),
  };
  const sample = await patchStrongest(setting, method, members, ranked, tokenizer.outside, flops);
  return sample && withExact(ranking, split, members.length, sample);
}

/** Step 7: what the strongest features stand for, and what the model does without them; undefined where that cannot be told. */
export function meaningStep(
  { loaded, tokenizer, dictionaries }: AnalysisInput,
  captured: Capture,
  codes: CodeReader,
  ranking: Ranking,
  watch: Watch = {},
  keptCodes?: KeptCodes,
): Promise<Ablation | undefined> {
  return measureMeaning(
    { loaded, captured, codes, keptCodes, dictionaries, ranking, outside: tokenizer.outside },
    watch,
  );
}

/** What an analysis has found so far, filled step by step; an interrupted one is resumed with what it had. */
export interface AnalysisRecord {
  counts: {
    pairs: number;
    nodes_forward: number;
    nodes_backward: number;
    /** That the same job has without merging prefixes: clean and patch forward, clean backward. */
    tokens: number;
    /** Rows of effects. */
    rows: number;
  };
  accuracy: CaseAccuracy[];
  /** The share of the variance of each site's activations on these prompts that its SAE leaves unexplained; null where there is none to explain. */
  unexplained?: Record<SiteName, number | null> | undefined;
  checks: Check[];
  warnings: string[];
}

/** Where an analysis puts what it finds: on disk for `sfc run`, in memory for the library and for tests. */
export interface Places {
  readonly tables: Tables;
  /** Where the capture of these plans is kept, which is also its checkpoint. */
  store(plans: readonly Plan[]): Store;
  /** Called when the record has changed in a way that a resumed analysis needs. */
  save(record: AnalysisRecord): Promise<void>;
  /** Called before results are kept. @throws UserError if a file that they were made of has changed meanwhile */
  checkInputs(): void;
  writePairs(pairs: readonly PairResult[]): Promise<void>;
  /** Takes the tables' ranking once more, where patches of the strongest features have been added to it. */
  writeRanking(ranking: Ranking): Promise<void>;
  writeAblation(ablation: Ablation): Promise<void>;
}

export interface AnalysisExtent {
  /** Whether only the pairs are analysed that the model gets right. */
  readonly keep?: "all" | "correct";
  readonly batchSize?: number | null;
  /** Floating-point operations for patching the strongest features by themselves; none by default. */
  readonly exactFlops?: number;
  /** Whether step 6 is taken, in float32; false by default. */
  readonly meaning?: boolean;
  readonly onWork?: EffectsEvents["onWork"];
  readonly waveRows?: CaptureShare["waveRows"];
}

/**
 * Step 4: how much of the variance of the run's own prompts each SAE leaves unexplained.
 *
 * @param known what is known already, from computing effects; those SAEs are not read again
 */
export async function fitStep(
  { dictionaries }: Pick<AnalysisInput, "dictionaries">,
  captured: Capture,
  codes: CodeReader,
  known: Readonly<Record<SiteName, number | null>> = {},
  { onProgress, stopped }: Watch = {},
): Promise<Record<SiteName, number | null>> {
  const shares: Record<SiteName, number | null> = {};
  for (const [site, dictionary] of dictionaries) {
    if (stopped?.()) throw new StoppedError();
    const share = known[site];
    if (share !== undefined) {
      shares[site] = share;
      continue;
    }
    shares[site] = await unexplainedShare(captured, dictionary, codes);
    onProgress?.(Object.keys(shares).length, dictionaries.size);
  }
  return shares;
}

/** What all steps together have found. */
export interface Analysis {
  readonly prepared: Prepared;
  readonly captured: Capture;
  /** Codes of its activations, of sites whose effects were computed in this call. */
  readonly keptCodes: KeptCodes;
  readonly pairs: readonly PairResult[];
  readonly ranking: Ranking;
  readonly ablation: Ablation | undefined;
}

/**
 * All steps of an analysis, one after another. Each finds again what an earlier, interrupted call has put into its places.
 *
 * @param all what `prepare` makes of the pairs
 * @param record is filled as the work goes on
 * @throws UserError for bad input; StoppedError if asked to stop
 */
export async function analysePairs(
  input: AnalysisInput,
  all: Prepared,
  places: Places,
  record: AnalysisRecord,
  reporter: Reporter,
  { keep = "all", batchSize = null, exactFlops = 0, meaning = false, onWork, waveRows }: AnalysisExtent = {},
): Promise<Analysis> {
  const { loaded, dictionaries, tokenizer, options } = input;
  const sites = [...dictionaries.keys()];
  const watch = watchOf(reporter);
  const warn = (text: string) => {
    if (record.warnings.includes(text)) return;
    record.warnings.push(text);
    reporter.line(text);
  };
  const addCheck = (line: Check) => addTo(record, line);
  const countAccuracy = (accuracy: CaseAccuracy[]) => {
    record.accuracy = accuracy;
    const line = lowAccuracy(accuracy);
    if (line !== undefined) warn(line);
  };

  let prepared = all;
  if (keep === "correct") {
    reporter.begin("accuracy", 1);
    const { kept, accuracy } = await correctPairs(loaded, all.pairs, watch);
    countAccuracy(accuracy);
    const [left, total] = [all.pairs.length - kept.length, all.pairs.length];
    if (left > 0) warn(`Left out ${left} of ${total} pairs that the model gets wrong (--keep correct).`);
    prepared = prepare(kept, options, batchSize, loaded.model, { stopped: reporter.stopped });
  }
  record.counts = { ...countsOf(prepared), rows: 0 };

  reporter.begin("capture", 1);
  const store = places.store(prepared.plans);
  const codes = codeReader(loaded);
  const keptCodes = new KeptCodes();
  try {
    const capturedAll = await captureStep(input, prepared, store, { ...watch, waveRows });
    const { run: captured } = capturedAll;
    const entryOf = prepared.forest.endIndexOfPair;
    if (keep === "all") countAccuracy(accuracyOf(prepared.pairs, (i) => captured.cleanMetric[entryOf[i]!]!));
    await places.tables.writeNodes(
      nodesTable(prepared.forest, (id) => tokenizer.token(id)),
      tokenizer.outside,
    );

    const asked = rankOptions(input, prepared, captured);
    await places.tables.expect?.(asked);

    reporter.begin("effects", sites.length);
    await effectsStep(input, captured, codes, places.tables, reporter, {
      ...recording(record, options, places),
      keptCodes,
      ...(onWork && { onWork }),
    });

    if (options.score !== "gradient") {
      const known = record.unexplained ?? {};
      if (sites.some((site) => known[site] === undefined)) reporter.begin("fit", sites.length);
      record.unexplained = await fitStep(input, captured, codes, known, watch);
      const line = poorFitLine(record.unexplained);
      if (line !== undefined) warn(line);
    }

    reporter.begin("checks", 1);
    for (const line of await checkForest(capturedAll, sites)) addCheck(line);

    reporter.begin("writing", 1);
    const pairs = pairResults(prepared, captured);
    await places.writePairs(pairs);
    const ranked = await places.tables.rank(asked);
    let { ranking } = ranked;
    record.counts.rows = ranked.rows;
    if (options.method === "secant") {
      const sums = secantSums(ranking);
      for (const line of sums) addCheck(line);
      if (sums.some(({ passed }) => !passed))
        warn(tooFewPoints(options.steps ?? secantSteps([...dictionaries.keys()])));
    }
    const leftOut = leftOutLine(ranking);
    if (leftOut !== undefined) warn(leftOut);

    if (options.score === "effect" && exactFlops > 0 && options.method !== "exact") {
      reporter.begin("exact", 1);
      const exact = await exactStep(input, prepared, ranking, exactFlops, watch);
      if (exact) {
        ranking = exact;
        await places.writeRanking(ranking);
        const line = poorEffectsLine(exactMiss(ranking)?.distance ?? null);
        if (line !== undefined) warn(line);
      }
    }

    let ablation: Ablation | undefined;
    if (meaning && options.score === "effect" && loaded.dtype === "float32") {
      reporter.begin("meaning", 1);
      ablation = await meaningStep(input, captured, codes, ranking, { stopped: reporter.stopped }, keptCodes);
      if (ablation) await places.writeAblation(ablation);
    }
    await places.tables.written?.();
    return { prepared, captured, keptCodes, pairs, ranking, ablation };
  } finally {
    await codes.release();
  }
}

/** Puts a check in place of an earlier one of its name and site. */
function addTo(record: Pick<AnalysisRecord, "checks">, line: Check): void {
  record.checks = [...record.checks.filter((c) => c.name !== line.name || c.site !== line.site), line];
}

/** Keeps in the record what is told of effects, and saves it before they are written. */
function recording<R extends SiteRecord>(
  record: R,
  { score }: Pick<AnalysisOptions, "score">,
  places: { save(record: R): Promise<void>; checkInputs(): void },
): EffectsEvents {
  return {
    onCheck: (line) => addTo(record, line),
    onFit: (site, share) => {
      record.unexplained = { ...record.unexplained, [site]: share };
    },
    async beforeWrite() {
      if (score === "effect") await places.save(record);
      places.checkInputs();
    },
  };
}

/** What is found of sites while their effects are computed. */
export type SiteRecord = Pick<AnalysisRecord, "checks" | "unexplained">;

/** Where the effects of some sites are put, and what is found of them. */
export interface SitePlaces extends Pick<Places, "tables" | "store" | "checkInputs"> {
  save(record: SiteRecord): Promise<void>;
}

/**
 * The effects of some of the sites, and how well their SAEs fit, from packs that the store has: a part of what `analysePairs` does, which finds them
 * in the tables then. Those of a method that is not `isBySite` are computed for all sites or none.
 *
 * @throws as `analysePairs`
 */
export async function analyseSites(
  input: AnalysisInput,
  prepared: Prepared,
  sites: readonly SiteName[],
  places: SitePlaces,
  record: SiteRecord,
  reporter: Reporter,
  { onWork, waveRows }: Pick<AnalysisExtent, "onWork" | "waveRows"> = {},
): Promise<void> {
  const { loaded, tokenizer, options } = input;
  const watch = watchOf(reporter);
  const codes = codeReader(loaded);
  try {
    const { run } = await captureStep(input, prepared, places.store(prepared.plans), { ...watch, waveRows });
    await places.tables.writeNodes(
      nodesTable(prepared.forest, (id) => tokenizer.token(id)),
      tokenizer.outside,
    );
    reporter.begin("effects", sites.length);
    const own = { ...input, dictionaries: new Map([...input.dictionaries].filter(([site]) => sites.includes(site))) };
    await effectsStep(own, run, codes, places.tables, reporter, {
      ...recording(record, options, places),
      ...(onWork && { onWork }),
    });
    if (options.score !== "gradient") record.unexplained = await fitStep(own, run, codes, record.unexplained, watch);
    await places.save(record);
  } finally {
    await codes.release();
  }
}

/** A reporter as the engine tells of its work. */
function watchOf({ set, stopped }: Pick<Reporter, "set" | "stopped">): Required<Watch> {
  return { onProgress: set, stopped };
}

/** How much there is to compute. */
export function countsOf({ pairs, forest }: Prepared): Omit<AnalysisRecord["counts"], "rows"> {
  return {
    pairs: pairs.length,
    nodes_forward: forest.forward.size,
    nodes_backward: forest.backward.size,
    tokens: tokensOf(pairs),
  };
}

/** Tokens that go through the model without merging prefixes: clean and patch prompts forward, clean ones backward. */
export function tokensOf(pairs: readonly TokenPair[]): number {
  return pairs.reduce(
    (sum, { pair, clean, patch }) => sum + 2 * clean.length + (pair.patch_prefix === null ? 0 : patch.length),
    0,
  );
}

/** Says where a model hardly shows the behaviour; undefined if it does. */
function lowAccuracy(cases: readonly CaseAccuracy[]): string | undefined {
  const low = cases.filter((c) => c.accuracy < fairAccuracy).sort((a, b) => a.accuracy - b.accuracy);
  if (low.length === 0) return undefined;
  const { split, case: name, accuracy } = low[0]!;
  return `Accuracy below 80 % in ${low.length} of ${cases.length} cases (lowest: ${(100 * accuracy).toFixed(0)} % on ${split} ${name}): their effects explain a behaviour that the model hardly has.`;
}

/** How far a residual site's secant effects and error are from adding up to the metric's change; of more points, the nearer. */
function secantSums({ change, sites }: Ranking): Check[] {
  const residual = sites.filter(({ site }) => ["embed", "resid_post"].includes(parseSite(site).kind));
  return residual.flatMap(({ site, splits }) => {
    const gaps = (["train", "test"] as const).flatMap((split) => {
      const [explained, total] = [splits[split]?.explained ?? null, change[split]];
      if (explained === null || total === undefined) return [];
      return [{ gap: Math.abs((explained - 1) * total), scale: Math.abs(total) }];
    });
    if (gaps.length === 0) return [];
    const { gap, scale } = gaps.reduce((a, b) => (b.gap * a.scale > a.gap * b.scale ? b : a));
    return [check("secant effects are the whole change", site, gap, scale, secantTolerance)];
  });
}

/** What to do where secant effects do not add up: the gap falls with the square of the points. */
const tooFewPoints = (points: number) =>
  `${points} points are too few for these prompts: secant effects do not add up to the metric's change. Run it again with --steps ${2 * points} and --force.`;

/** Says how much of Σ|effect| is not in the ranking; undefined where that is a trace. */
function leftOutLine(ranking: Ranking): string | undefined {
  const shares = ranking.sites.flatMap(({ site, splits }) =>
    Object.entries(splits).map(([split, { left_out }]) => ({ site, split, share: left_out ?? 0 })),
  );
  const largest = shares.reduce((a, b) => (b.share > a.share ? b : a), { site: "", split: "", share: 0 });
  if (largest.share < worthSaying) return undefined;
  return `The ranking leaves out BOS and padding, up to ${(100 * largest.share).toFixed(1)} % of Σ|effect| (${largest.site}, ${largest.split}); effects.parquet has their rows.`;
}
