import { readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { readRegular } from "../bytes/file.node.ts";
import { sha256OfText } from "../bytes/sha256.ts";
import { type Capture, captureAll, runMetric } from "../capture/capture.ts";
import { forestGaps } from "../capture/forest-check.ts";
import { memoryStore } from "../capture/store.ts";
import { measureMeaning } from "../circuit/meaning.ts";
import { type Ranking, withExact } from "../circuit/ranking.ts";
import type { Dictionary } from "../dictionaries/dictionary.ts";
import { codeReader } from "../dictionaries/encode.ts";
import type { MethodSetting } from "../effects/method.ts";
import { effectsOf, needsOf } from "../effects/methods.ts";
import { gradientActivation, gradientSums } from "../effects/scores.ts";
import { patchStrongest } from "../effects/strongest.ts";
import { countPairs, nodesTable } from "../effects/sums.ts";
import { messageOf, StoppedError, UserError } from "../errors.ts";
import { type PrefixForest, prefixForest } from "../forest/forest.ts";
import { planMetric } from "../forest/packs.ts";
import type { Device } from "../graph/runtime.ts";
import { heldWeights, isStreamed, loadedModel, streamedWeights } from "../models/weights.ts";
import type { Reporter } from "../progress.ts";
import { isOutside } from "../prompts/outside.ts";
import type { PromptPair, Split, TokenPair } from "../prompts/pairs.ts";
import { importPairs } from "../prompts/read-pairs.ts";
import { completeRunFolder, type OpenFolder, openRunFolder } from "../results/folder.ts";
import { type Check, check, type Manifest, startManifest, writeManifest } from "../results/manifest.ts";
import { fileStore } from "../results/pack-store.ts";
import { reportTemplate, writeReport } from "../results/report.ts";
import { RunTables } from "../results/tables.ts";
import type { SiteName } from "../site.ts";
import { jobProblem, makeFolder, writeFileAtomic, writeProblem } from "../storage/files.ts";
import { versions } from "../storage/package.ts";
import { checkRuntime } from "./device.ts";
import { checkFits, estimateLine, estimateRun, plansOf, tokensOf, totalSeconds, workLine } from "./estimate.ts";
import { dictionaryWarnings, type OpenJob, type OpenModel, openJob } from "./open.ts";
import { usablePairs } from "./open-pairs.ts";
import type { JobOptions } from "./options.ts";

export interface RunRequest {
  readonly command: string;
  readonly options: JobOptions;
  /** The run's folder. */
  readonly folder: string;
  readonly force: boolean;
}

/** What is left to say after a run. */
export interface RunOutcome {
  readonly manifest: Manifest;
  /** Whether the run had been finished before and nothing was computed. */
  readonly again: boolean;
}

/** Σ effects = ⟨g, Δx⟩ must hold to this share of Σ|effects|. */
const sumTolerance = 1e-4;
/** The forest and example by example must agree to this share of the largest Σ|g·Δx| of a node. */
const forestTolerance = 1e-5;
/** Seconds of work that one is told of before they begin. */
const longWork = 20;
/** Floating-point operations for patching features by themselves: a share of those of the capture, and at least so many, in GFLOP. */
const exactShare = 0.25;
const leastExact = 100;
/** Share of Σ|effect| left out that one is warned of. */
const worthSaying = 0.01;
/** Accuracy below which a behaviour is hardly one. */
const fairAccuracy = 0.8;

/**
 * The whole analysis (`sfc run`): pairs → effects on train and test → rankings → report, in a run's folder.
 *
 * @throws UserError for bad input; StoppedError if asked to stop, what is done stays for the next call
 */
export async function run(request: RunRequest, reporter: Reporter): Promise<RunOutcome> {
  const { options } = request;
  reporter.begin("reading", 1);
  // Better now than at the end of the work.
  await reportTemplate();
  await checkRuntime(options.device as Device, reporter);
  await using opened = await openJob(options, reporter, { patchless: options.score !== "effect" });
  return await analyse(request, opened, reporter);
}

async function analyse(
  { command, options, folder: path, force }: RunRequest,
  opened: OpenJob,
  reporter: Reporter,
): Promise<RunOutcome> {
  const { dictionaries } = opened;
  const checked = usablePairs(opened.source, opened, options, reporter);
  // The size of packs and where weights are kept never change results, so a run may go on with others.
  const { batch_size: _, weights: __, ...recorded } = options;
  const start = { command, options: recorded, seed: options.seed, versions: await versions() };
  const folder = await openRunFolder(path, recorded, force);
  if (folder.state === "finished") {
    await checkSameInputs(path, folder.manifest, opened, dictionaries, checked.kept, options.keep);
    opened.inputs.check();
    reporter.end();
    return { manifest: folder.manifest, again: true };
  }
  const manifest = folder.manifest ?? startManifest(start, new Date());
  const job = new Job(options, opened, dictionaries, folder, { ...manifest, versions: start.versions }, reporter);
  try {
    if (folder.state === "resume") reporter.line(`Resuming the interrupted run in ${path}.`);
    const about = dictionaryWarnings(dictionaries, checked.kept, opened);
    for (const warning of [...opened.warnings, ...checked.warnings, ...about]) job.warn(warning);
    await job.work(checked.kept);
  } catch (error) {
    const problem = jobProblem(opened.inputs.reasonOf(error), path);
    if (!(error instanceof StoppedError)) await job.fail(messageOf(problem)).catch(() => {});
    throw problem;
  } finally {
    await folder.release();
  }
  return { manifest: job.manifest, again: false };
}

type Dictionaries = ReadonlyMap<SiteName, Dictionary>;

class Job {
  manifest: Manifest;
  readonly #options: JobOptions;
  readonly #opened: OpenModel;
  readonly #dictionaries: Dictionaries;
  readonly #folder: OpenFolder;
  readonly #reporter: Reporter;
  readonly #secondsBefore: Readonly<Record<string, number>>;
  readonly #identities = new Map<Dictionary, string>();

  constructor(
    options: JobOptions,
    opened: OpenModel,
    dictionaries: Dictionaries,
    folder: OpenFolder,
    manifest: Manifest,
    reporter: Reporter,
  ) {
    this.#options = options;
    this.#opened = opened;
    this.#dictionaries = dictionaries;
    this.#folder = folder;
    this.#reporter = reporter;
    this.#secondsBefore = manifest.seconds;
    // Every sitting finds the warnings again.
    this.manifest = { ...manifest, status: "running", error: null, warnings: [] };
  }

  async work(allPairs: readonly TokenPair[]): Promise<void> {
    const { score, precision: dtype, device, keep, top } = this.#options;
    const { model, checkpoint, tokenizer } = this.#opened;
    const sites = [...this.#dictionaries.keys()];
    const capturedSites = needsOf(this.#options.method, sites).sites;
    await this.#save();

    const all = plansOf(allPairs, this.#options);
    const estimated = await estimateRun(this.#opened, this.#dictionaries, all.plans, {
      ...this.#options,
      // An interrupted run goes on as it began: with the weights in the other place its last digits would be others.
      weights: this.#options.weights === "auto" ? (this.manifest.estimate?.weights ?? "auto") : this.#options.weights,
    });
    this.manifest.estimate = estimated;
    checkFits(estimated, all.plans, this.#options.method);
    if (totalSeconds(estimated) > longWork) this.#reporter.line(estimateLine(estimated));
    const identity = await checkpoint.sha256();
    this.manifest.model = { name: this.#options.model_name, model_type: model.modelType, sha256: identity };
    this.manifest.dictionaries = await this.#describeDictionaries();
    const partial = await this.#partialFor(identity, allPairs, estimated.weights);
    const weights =
      estimated.weights === "held" ? await heldWeights(model, checkpoint, dtype) : streamedWeights(checkpoint);
    const loaded = loadedModel(model, weights, { dtype, device: device as Device });
    await this.#save();

    const watch = {
      onProgress: (done: number, total: number) => this.#reporter.set(done, total),
      stopped: this.#reporter.stopped,
    };
    if (keep === "correct") this.#reporter.begin("accuracy", 1);
    const pairs =
      keep === "correct"
        ? await this.#correctOnly(allPairs, (forest) => runMetric(loaded, planMetric(forest), watch))
        : allPairs;
    // The check's packs run along with the others: streamed weights are read once for all of them.
    const { forest, plans } = pairs === allPairs ? all : plansOf(pairs, this.#options);
    this.manifest.counts = {
      pairs: pairs.length,
      nodes_forward: forest.forward.size,
      nodes_backward: forest.backward.size,
      tokens: tokensOf(pairs),
      rows: 0,
    };

    this.#reporter.begin("capture", 1);
    const planIdentity = sha256OfText(
      JSON.stringify([
        identity,
        capturedSites,
        isStreamed(weights),
        plans.map(({ packs }) => packs.map((p) => [p.kind, [...p.tokens], [...p.node]])),
      ]),
    );
    const files = fileStore(partial, planIdentity, () => this.#opened.inputs.check());
    const tables = await RunTables.open(partial);
    const codes = codeReader(loaded);
    try {
      const [captured, merged, separate] = (await captureAll(loaded, plans, {
        sites: capturedSites,
        store: dtype === "float32" ? files : memoryStore(),
        ...watch,
      })) as [Capture, Capture, Capture];
      if (keep === "all") this.#countAccuracy(pairs, (i) => captured.cleanMetric[forest.entryOfPair[i]!]!);
      await tables.writeNodes(
        nodesTable(forest, (id) => tokenizer.token(id)),
        tokenizer.outside,
      );

      this.#reporter.begin("effects", sites.length);
      if (score === "effect") await this.#writeEffects({ ...loaded, forest, captured, ...watch }, tables);
      else {
        for (const [done, dictionary] of [...this.#dictionaries.values()].entries()) {
          if (this.#reporter.stopped()) throw new StoppedError();
          await this.#writeScore(dictionary, captured, codes, tables);
          this.#reporter.set(done + 1);
        }
      }

      this.#reporter.begin("checks", 1);
      for (const { site, gap, scale } of await forestGaps(merged, separate, sites)) {
        this.#addCheck(check("forest equals example by example", site, gap, scale, forestTolerance));
      }

      this.#reporter.begin("writing", 1);
      await writeFileAtomic(join(this.#folder.path, "pairs.jsonl"), pairLines(pairs, forest, captured));
      const counts = countPairs(pairs);
      const change = score === "effect" ? meanChange(pairs, forest, captured) : {};
      const finished = await tables.finish(this.#folder.path, { sites, pairs: counts, score, top, change });
      this.manifest.counts.rows = finished.rows;
      this.#warnOfLeftOut(finished.ranking);
      if (score === "effect") {
        await this.#patchStrongest({ ...loaded, ...watch }, pairs, finished.ranking);
      }

      if (score === "effect" && dtype === "float32") {
        this.#reporter.begin("meaning", 1);
        const setting = {
          loaded,
          captured,
          codes,
          dictionaries: this.#dictionaries,
          ranking: finished.ranking,
          outside: tokenizer.outside,
        };
        const meaning = await measureMeaning(setting, { stopped: this.#reporter.stopped });
        if (meaning) {
          await writeFileAtomic(join(this.#folder.path, "ablation.json"), `${JSON.stringify(meaning, null, 2)}\n`);
        }
      }
    } finally {
      tables.close();
      await codes.release();
      await files.close();
    }
    this.#reporter.end();
    const manifest = await this.#save();
    await writeReport(this.#folder.path, "finished");
    this.#opened.inputs.check();
    this.manifest = await completeRunFolder(this.#folder, manifest);
  }

  warn(text: string): void {
    if (this.manifest.warnings.includes(text)) return;
    this.manifest.warnings.push(text);
    this.#reporter.line(text);
  }

  async fail(error: string): Promise<void> {
    await writeManifest(this.#folder.path, { ...this.#current(), status: "failed", error });
  }

  /**
   * The folder for the unfinished work of just these versions on just this model, these dictionaries and these pairs. What was made of others, before
   * a file changed, is removed.
   */
  async #partialFor(model: string, pairs: readonly TokenPair[], weights: "held" | "streamed"): Promise<string> {
    const dictionaries: string[] = [];
    for (const d of this.#dictionaries.values()) dictionaries.push(await this.#identityOf(d));
    const name = sha256OfText(JSON.stringify([this.manifest.versions, model, dictionaries, pairs, weights])).slice(
      0,
      16,
    );
    const partial = join(this.#folder.partial, name);
    try {
      const others = (await readdir(this.#folder.partial)).filter((other) => other !== name);
      if (others.length > 0) {
        this.#reporter.line(
          "The model, the SAEs, the pairs, --weights or this program changed since the interruption, so the run starts over.",
        );
        this.manifest.checks = [];
        // The one result that not every run has, so that nothing need replace it.
        await rm(join(this.#folder.path, "ablation.json"), { force: true });
        for (const other of others) await rm(join(this.#folder.partial, other), { recursive: true, force: true });
      }
      await makeFolder(partial);
    } catch (error) {
      throw writeProblem(error, partial);
    }
    return partial;
  }

  /** Effects by the method asked for, of the sites that an earlier sitting does not have. */
  async #writeEffects(setting: Omit<MethodSetting, "dictionaries">, tables: RunTables): Promise<void> {
    const { method, steps, rule } = this.#options;
    const left: [SiteName, Dictionary][] = [];
    for (const entry of this.#dictionaries) if (!(await tables.hasEffects(entry[0]))) left.push(entry);
    if (left.length === 0) return;
    // Where SAEs are spliced in together, the effects of one depend on the others.
    const together = method === "sfc" || method === "spliced";
    const analytic = method === "analytic";
    const work = effectsOf(method, {
      ...setting,
      dictionaries: together ? this.#dictionaries : new Map(left),
      ...(steps !== undefined && { steps }),
      ...(rule !== undefined && { rule }),
      onWork: ({ patches, flops }) => this.#reporter.line(workLine(patches, flops, this.manifest.estimate!.gflops)),
    });
    let done = this.#dictionaries.size - left.length;
    for await (const { rows, check: sum } of work) {
      // The check first: a site whose effects are there is not computed again.
      if (sum) this.#addCheck(check("sum of effects", rows.site, sum.gap, sum.scale, sumTolerance));
      await this.#save();
      this.#opened.inputs.check();
      if (!(await tables.hasEffects(rows.site))) await tables.writeEffects(rows);
      if (this.#reporter.stopped()) throw new StoppedError();
      // The other methods count their passes.
      if (analytic) this.#reporter.set(++done, this.#dictionaries.size);
    }
  }

  /** Patches the strongest features by themselves and writes what they do beside their effects into the ranking. */
  async #patchStrongest(
    setting: Omit<MethodSetting, "forest" | "dictionaries">,
    pairs: readonly TokenPair[],
    ranking: Ranking,
  ): Promise<void> {
    const { method, steps, rule } = this.#options;
    if (method === "exact") return;
    this.#reporter.begin("exact", 1);
    const split = pairs.some(({ pair }) => pair.split === "train") ? "train" : "test";
    const members = pairs.filter(({ pair }) => pair.split === split);
    const ranked = new Map(ranking.sites.map(({ site, splits }) => [site, splits[split]?.top ?? []]));
    const sample = await patchStrongest(
      {
        ...setting,
        dictionaries: this.#dictionaries,
        ...(steps !== undefined && { steps }),
        ...(rule !== undefined && { rule }),
      },
      method,
      members,
      ranked,
      this.#opened.tokenizer.outside,
      Math.max(leastExact, exactShare * this.manifest.estimate!.capture_gflop) * 1e9,
    );
    if (!sample) return;
    const text = JSON.stringify(withExact(ranking, split, members.length, sample), null, 2);
    await writeFileAtomic(join(this.#folder.path, "ranking.json"), `${text}\n`);
  }

  /** Says how much of Σ|effect| is not in the ranking, where that is more than a trace. */
  #warnOfLeftOut(ranking: Ranking): void {
    const shares = ranking.sites.flatMap(({ site, splits }) =>
      Object.entries(splits).map(([split, { left_out }]) => ({ site, split, share: left_out ?? 0 })),
    );
    const largest = shares.reduce((a, b) => (b.share > a.share ? b : a), { site: "", split: "", share: 0 });
    if (largest.share < worthSaying) return;
    this.warn(
      `The ranking leaves out BOS and padding, up to ${(100 * largest.share).toFixed(1)} % of Σ|effect| (${largest.site}, ${largest.split}); effects.parquet has their rows.`,
    );
  }

  /** The score asked for, of one site, unless an earlier sitting has it. */
  async #writeScore(
    dictionary: Dictionary,
    captured: Capture,
    codes: ReturnType<typeof codeReader>,
    tables: RunTables,
  ): Promise<void> {
    const { site } = dictionary;
    const { backward } = captured.plan.forest;
    if (this.#options.score === "gradient-activation") {
      if (await tables.hasEffects(site)) return;
      const rows = await gradientActivation(captured, dictionary, codes);
      this.#opened.inputs.check();
      await tables.writeEffects(rows);
      return;
    }
    if (await tables.hasFeatureSums(site)) return;
    const { outside } = this.#opened.tokenizer;
    const sums = await gradientSums(captured, dictionary, (node) =>
      isOutside(outside, backward.token[node]!, backward.position[node]!),
    );
    this.#opened.inputs.check();
    await tables.writeFeatureSums(
      site,
      backward.groups.map((group, i) => ({ ...group, sums: sums[i]! })),
    );
  }

  async #correctOnly(pairs: readonly TokenPair[], metricOf: (forest: PrefixForest) => Promise<Float64Array>) {
    const forest = prefixForest(pairs);
    const metric = await metricOf(forest);
    const of = (i: number) => metric[forest.entryOfPair[i]!]!;
    this.#countAccuracy(pairs, of);
    const kept = pairs.filter((_, i) => of(i) < 0);
    if (kept.length === 0) {
      throw new UserError(
        "--keep correct: expected pairs that the model gets right, got none. Leave --keep out to analyse all of them.",
      );
    }
    if (kept.length < pairs.length)
      this.warn(
        `Left out ${pairs.length - kept.length} of ${pairs.length} pairs that the model gets wrong (--keep correct).`,
      );
    return kept;
  }

  #countAccuracy(pairs: readonly TokenPair[], metric: (i: number) => number): void {
    const counts = new Map<string, { split: "train" | "test"; case: string; pairs: number; correct: number }>();
    pairs.forEach(({ pair }, i) => {
      const key = `${pair.split}/${pair.case}`;
      const count = counts.get(key) ?? { split: pair.split, case: pair.case, pairs: 0, correct: 0 };
      counts.set(key, count);
      count.pairs++;
      if (metric(i) < 0) count.correct++;
    });
    this.manifest.accuracy = [...counts.values()].map((c) => ({ ...c, accuracy: c.correct / c.pairs }));
    const low = this.manifest.accuracy.filter((c) => c.accuracy < fairAccuracy).sort((a, b) => a.accuracy - b.accuracy);
    if (low.length === 0) return;
    const { split, case: name, accuracy } = low[0]!;
    this.warn(
      `Accuracy below 80 % in ${low.length} of ${counts.size} cases (lowest: ${(100 * accuracy).toFixed(0)} % on ${split} ${name}): their effects explain a behaviour that the model hardly has.`,
    );
  }

  async #describeDictionaries(): Promise<Manifest["dictionaries"]> {
    const described: Manifest["dictionaries"] = [];
    const dummy = this.#options.sae_source === "dummy";
    for (const d of this.#dictionaries.values()) {
      const sha256 = dummy ? null : await this.#identityOf(d);
      described.push({
        site: d.site,
        source: dummy ? "dummy" : (this.#options.sae_source ?? "the model's own"),
        kind: d.kind,
        features: d.width,
        sha256,
        dummy,
      });
    }
    if (dummy)
      this.warn(
        "DUMMY dictionaries: random directions in place of trained features. No feature in this run means anything.",
      );
    return described;
  }

  /** A dictionary's SHA-256, taken once: of large ones it is seconds of work. */
  async #identityOf(dictionary: Dictionary): Promise<string> {
    const known = this.#identities.get(dictionary) ?? (await dictionary.sha256());
    this.#identities.set(dictionary, known);
    return known;
  }

  #addCheck(line: Check): void {
    this.manifest.checks = [...this.manifest.checks.filter((c) => c.name !== line.name || c.site !== line.site), line];
  }

  #current(): Manifest {
    const seconds = { ...this.#secondsBefore };
    for (const [phase, value] of Object.entries(this.#reporter.seconds)) seconds[phase] = (seconds[phase] ?? 0) + value;
    const peak = Math.max(this.manifest.peak_rss_bytes, process.resourceUsage().maxRSS * 1024);
    return { ...this.manifest, seconds, peak_rss_bytes: peak };
  }

  async #save(): Promise<Manifest> {
    const manifest = this.#current();
    await writeManifest(this.#folder.path, manifest);
    return manifest;
  }
}

/** Refuses to show a finished run again that was made of other files than those that the same options name now. */
async function checkSameInputs(
  path: string,
  manifest: Manifest,
  { checkpoint }: OpenModel,
  dictionaries: Dictionaries,
  pairs: readonly TokenPair[],
  keep: JobOptions["keep"],
): Promise<void> {
  const changed: string[] = [];
  if (manifest.model?.sha256 !== (await checkpoint.sha256())) changed.push("another model");
  const there = new Map(manifest.dictionaries.map((d) => [d.site, d]));
  const sites = [...new Set([...there.keys(), ...dictionaries.keys()])];
  const same = async (site: SiteName) => {
    const [then, now] = [there.get(site), dictionaries.get(site)];
    // Random directions follow from the seed and the model.
    return then !== undefined && now !== undefined && (then.dummy || then.sha256 === (await now.sha256()));
  };
  const others: SiteName[] = [];
  for (const site of sites) if (!(await same(site))) others.push(site);
  if (others.length > 0)
    changed.push(`other SAEs at ${others.length > 3 ? `${others.length} sites` : others.join(", ")}`);
  if (!(await hasSamePairs(path, pairs, keep))) changed.push("other pairs");
  if (changed.length === 0) return;
  throw new UserError(
    `output folder: expected the model, SAEs and pairs of its finished run, got ${changed.join(" and ")} for ${path}. Choose another --output_dir, or --force to replace that run.`,
  );
}

/** Whether a finished run's pairs are those that the same options give now. */
async function hasSamePairs(path: string, pairs: readonly TokenPair[], keep: JobOptions["keep"]): Promise<boolean> {
  const text = await readRegular(join(path, "pairs.jsonl"))
    .then(String)
    .catch(() => "");
  const key = (pair: PromptPair) => textOfPair(pair, {});
  const here = text === "" ? [] : importPairs(text, `${path}/pairs.jsonl`, { patchless: true }).pairs.map(key);
  const asked = new Set(pairs.map(({ pair }) => key(pair)));
  return here.every((pair) => asked.has(pair)) && (keep === "correct" || here.length === pairs.length);
}

/** Mean of m(patch) − m(clean) over the pairs of each split, in logits. */
function meanChange(
  pairs: readonly TokenPair[],
  { entryOfPair }: PrefixForest,
  { cleanMetric, patchMetric }: Capture,
): Ranking["change"] {
  const sums = new Map<Split, { pairs: number; sum: number }>();
  pairs.forEach(({ pair }, i) => {
    const entry = entryOfPair[i]!;
    const { pairs: count, sum } = sums.get(pair.split) ?? { pairs: 0, sum: 0 };
    sums.set(pair.split, { pairs: count + 1, sum: sum + patchMetric[entry]! - cleanMetric[entry]! });
  });
  return Object.fromEntries([...sums].map(([split, { pairs: count, sum }]) => [split, sum / count]));
}

/** `pairs.jsonl`: the public format's fields, with split, case, the metric at both prompts and the end node. */
function pairLines(pairs: readonly TokenPair[], forest: PrefixForest, { cleanMetric, patchMetric }: Capture): string {
  const lines = pairs.map(({ pair }, i) => {
    const entry = forest.entryOfPair[i]!;
    const m_patch = pair.patch_prefix === null ? null : patchMetric[entry];
    return textOfPair(pair, { m_clean: cleanMetric[entry], m_patch, end: forest.endOfPair[i] });
  });
  return `${lines.join("\n")}\n`;
}

function textOfPair(pair: PromptPair, more: object): string {
  const { clean_prefix, patch_prefix, clean_answer, patch_answer, split, case: name } = pair;
  return JSON.stringify({ clean_prefix, patch_prefix, clean_answer, patch_answer, split, case: name, ...more });
}
