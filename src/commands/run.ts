import { join } from "node:path";
import { countText } from "../amounts.ts";
import {
  checkFits,
  type Estimate,
  estimateLine,
  estimateParts,
  estimateRun,
  totalSeconds,
  workLine,
} from "../analysis/estimate.ts";
import { exactBudget } from "../analysis/estimate-results.ts";
import type { JobOptions } from "../analysis/options.ts";
import { dictionaryWarnings, usablePairs } from "../analysis/pairs.ts";
import type { ParitySubject } from "../analysis/parity.ts";
import { planShards, type Shard } from "../analysis/shards.ts";
import {
  type Analysis,
  type AnalysisInput,
  analysePairs,
  capturedSites,
  type Prepared,
  prepareAll,
  type SiteRecord,
} from "../analysis/steps.ts";
import type { Dictionary } from "../dictionaries/dictionary.ts";
import { hasOnePass } from "../effects/method.ts";
import { messageOf, StoppedError, UserError } from "../errors.ts";
import type { Device } from "../graph/runtime.ts";
import { slurmLocking } from "../jobs/slurm.ts";
import { heldWeights, type LoadedModel, loadedModel, streamedWeights } from "../models/weights.ts";
import { checkRuntime } from "../open/device.ts";
import { type OpenJob, type OpenModel, openJob } from "../open/open.ts";
import type { Reporter } from "../progress.ts";
import type { TokenPair } from "../prompts/pairs.ts";
import { reportLimits } from "../report/data.ts";
import { completeRunFolder, type OpenFolder, openRunFolder, partialFor } from "../results/folder.ts";
import { type Manifest, startManifest, writeManifest } from "../results/manifest.ts";
import { hasSamePairs, openPlaces, removeAblation } from "../results/places.ts";
import { pairsDigest } from "../results/read-run.ts";
import { reportTemplate, writeReport } from "../results/report.ts";
import { cardsFile } from "../results/report-cards.ts";
import { type ReportTables, readReportTables } from "../results/report-data.ts";
import {
  findShards,
  foundBy,
  readAllShards,
  type ShardedRun,
  type ShardState,
  writeShards,
} from "../results/shards.ts";
import type { SiteName } from "../site.ts";
import { jobProblem } from "../storage/files.ts";
import { thisMachine } from "../storage/machine.ts";
import { programIdentity, versions } from "../storage/package.ts";
import { checkDevice } from "./check-device.ts";
import { evidenceOfRun, namedByRun, writeCards } from "./feature-cards.ts";
import { longWork } from "./open-run.ts";
import { captureIdentity, notDivided, PlanCheck, packsIdentity, pairsIdentity, undoneText } from "./shard-inputs.ts";
import { tablesInThread } from "./tables-thread.ts";

/** Rows of effects up to which the report's tables are read while cards are made. */
const mostBeside = 5_000_000;

export interface RunRequest {
  readonly command: string;
  readonly options: JobOptions;
  /** The run's folder. */
  readonly folder: string;
  readonly force: boolean;
  /** What else than the whole analysis: only to plan it as so many shards, or to complete one whose shards are all done. */
  readonly divided?: { readonly shards: number; readonly from: string } | "merge";
}

/** What is left to say after a run. */
export interface RunOutcome {
  readonly manifest: Manifest;
  /** Whether the run had been finished before and nothing was computed. */
  readonly again: boolean;
  /** How the run is divided, where it was only planned. */
  readonly shards?: readonly Shard[];
}

/**
 * The whole analysis (`sfc run`): pairs → effects on train and test → rankings → report, in a run's folder. Or its plan as shards, or what is left of
 * it once they are done.
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

async function analyse(request: RunRequest, opened: OpenJob, reporter: Reporter): Promise<RunOutcome> {
  const { command, options, folder: path, force } = request;
  const { dictionaries } = opened;
  const checked = usablePairs(opened.source, opened, options, reporter);
  // The size of packs and where weights are kept never change results, so a run may go on with others.
  const { batch_size: _, weights: __, ...recorded } = options;
  const start = { command, options: recorded, seed: options.seed, versions: await versions() };
  const folder = await openRunFolder(path, recorded, force, slurmLocking());
  if (folder.state === "finished") {
    await checkSameInputs(path, folder.manifest, opened, dictionaries, checked.kept, options.keep);
    opened.inputs.check();
    reporter.end();
    return { manifest: folder.manifest, again: true };
  }
  const manifest = { ...(folder.manifest ?? startManifest(start, new Date())), options: recorded };
  const job = new Job(request, opened, dictionaries, folder, { ...manifest, versions: start.versions }, reporter);
  try {
    if (folder.state === "resume" && request.divided === undefined) {
      const anew = hasOnePass(options.method)
        ? ` Sites that are done stay; the passes of ${options.method} start over.`
        : "";
      reporter.line(`Resuming the interrupted run in ${path}.${anew}`);
    }
    const about = dictionaryWarnings(dictionaries, checked.kept, opened.tokenizer);
    for (const warning of [...opened.warnings, ...checked.warnings, ...about]) job.warn(warning);
    const shards = await job.work(checked.kept);
    return { manifest: job.manifest, again: false, ...(shards && { shards }) };
  } catch (error) {
    const problem = jobProblem(opened.inputs.reasonOf(error), path);
    if (!(error instanceof StoppedError)) await job.fail(messageOf(problem)).catch(() => {});
    throw problem;
  } finally {
    await folder.release();
  }
}

type Dictionaries = ReadonlyMap<SiteName, Dictionary>;

class Job {
  manifest: Manifest;
  readonly #options: JobOptions;
  readonly #divided: RunRequest["divided"];
  readonly #opened: OpenModel;
  readonly #dictionaries: Dictionaries;
  readonly #folder: OpenFolder;
  readonly #reporter: Reporter;
  readonly #secondsBefore: Record<string, number>;
  readonly #identities = new Map<Dictionary, string>();

  constructor(
    { options, divided }: RunRequest,
    opened: OpenModel,
    dictionaries: Dictionaries,
    folder: OpenFolder,
    manifest: Manifest,
    reporter: Reporter,
  ) {
    this.#options = options;
    this.#divided = divided;
    this.#opened = opened;
    this.#dictionaries = dictionaries;
    this.#folder = folder;
    this.#reporter = reporter;
    this.#secondsBefore = { ...manifest.seconds };
    // Warnings are found again when a run resumes.
    this.manifest = { ...manifest, status: "running", error: null, warnings: [] };
  }

  /** @returns the shards, where the run was only planned */
  async work(pairs: readonly TokenPair[]): Promise<readonly Shard[] | undefined> {
    const { precision: dtype, keep, batch_size: batchSize } = this.#options;
    const { model, checkpoint } = this.#opened;
    const divided = await findShards(this.#folder.path);
    await this.#save();

    const prepared = prepareAll(pairs, this.#options, batchSize, this.#opened.model, this.#reporter);
    const estimated = await this.#estimate(prepared);
    const identity = await checkpoint.sha256();
    this.manifest.model = { name: this.#options.model_name, model_type: model.modelType, sha256: identity };
    this.manifest.dictionaries = await this.#describeDictionaries();
    if (this.#divided === "merge") await this.#refuseUndone(divided, identity, pairs, prepared);
    const partial = await this.#partialFor(identity, pairs, estimated.weights);
    if (typeof this.#divided === "object") {
      return this.#plan(this.#divided, partial, { identity, pairs, prepared, estimated });
    }
    // A plan of another model, or of other pairs, is gone with its work.
    const shared = divided?.partial === partial ? divided : null;
    const states = shared === null ? [] : await readAllShards(shared);
    if (shared !== null) this.#takeFound(foundBy(states, [...this.#dictionaries.keys()]));
    const weights =
      estimated.weights === "held" ? await heldWeights(model, checkpoint, dtype) : streamedWeights(checkpoint);
    const loaded = loadedModel(model, weights, { dtype, device: this.#options.device as Device });
    await this.#checkDevice({ loaded, dictionaries: this.#dictionaries, pairs });
    await this.#save();

    const places = await openPlaces({
      path: this.#folder.path,
      partial,
      inputs: this.#opened.inputs,
      // In float64 what is captured stays in memory.
      captureOf:
        dtype === "float32"
          ? captureIdentity(
              identity,
              capturedSites(this.#options, this.#dictionaries, model),
              estimated.weights,
              shared?.plan,
            )
          : null,
      save: async () => void (await this.#save()),
      stopped: this.#reporter.stopped,
      openTables: tablesInThread,
    });
    let tables: Promise<ReportTables> | undefined;
    try {
      const input: AnalysisInput = {
        ...this.#opened,
        loaded,
        dictionaries: this.#dictionaries,
        options: this.#options,
      };
      const found = await analysePairs(input, prepared, places, this.manifest, this.#reporter, {
        keep,
        batchSize,
        exactFlops: exactBudget(estimated.capture_gflop),
        meaning: true,
        ...(shared?.plan.wave_rows && { waveRows: shared.plan.wave_rows }),
        onWork: ({ patches, flops }) => this.#reporter.line(workLine(patches, flops, estimated.gflops)),
      });
      // The report's tables are read on DuckDB's threads while cards are made, unless both together would take much memory.
      if (this.manifest.counts.rows <= mostBeside) {
        tables = readReportTables(this.#folder.path, reportLimits, this.#reporter.stopped);
        tables.catch(() => {});
      }
      // Of gradients alone no activations are kept.
      if (this.#options.score !== "gradient") await this.#writeCards(loaded, identity, found);
    } finally {
      await tables?.catch(() => {});
      await places.close();
    }
    this.#reporter.end();
    this.#addWorkOf(states);
    this.manifest.pairs_sha256 = await pairsDigest(this.#folder.path);
    const manifest = await this.#save();
    this.#reporter.begin("report", 1);
    const known = await tables;
    await writeReport(this.#folder.path, {
      status: "finished",
      stopped: this.#reporter.stopped,
      ...(known && { tables: known }),
    });
    this.#opened.inputs.check();
    this.manifest = await completeRunFolder(this.#folder, manifest);
    this.#reporter.end();
    return undefined;
  }

  /** What is known of the features that the run names. */
  async #writeCards(
    loaded: LoadedModel,
    sha256: string,
    { captured, keptCodes, ranking, ablation }: Analysis,
  ): Promise<void> {
    const { path } = this.#folder;
    const input = {
      loaded,
      captured,
      keptCodes,
      dictionaries: this.#dictionaries,
      tokenizer: this.#opened.tokenizer,
      ranking,
      named: namedByRun(ranking, ablation),
      model: sha256,
      identityOf: (dictionary: Dictionary) => this.#identityOf(dictionary),
      ...(await evidenceOfRun(this.#options, this.#opened.folder)),
    };
    await writeCards(path, join(path, cardsFile), input, { ...this.#reporter, line: (text) => this.warn(text) });
  }

  /** Divides the work. @throws UserError if the run cannot be divided so */
  async #plan(
    { shards: count, from }: Exclude<RunRequest["divided"], "merge" | undefined>,
    partial: string,
    {
      identity,
      pairs,
      prepared: { plans },
      estimated,
    }: {
      readonly identity: string;
      readonly pairs: readonly TokenPair[];
      readonly prepared: Prepared;
      readonly estimated: Estimate;
    },
  ): Promise<readonly Shard[]> {
    const { method, batch_size } = this.#options;
    const { weights } = estimated;
    const seconds = estimateParts(this.#opened, this.#dictionaries, plans, this.#options, estimated);
    const { shards, waveRows } = planShards(count, plans, method, weights, seconds);
    const dictionaries: Record<SiteName, string> = {};
    for (const [site, dictionary] of this.#dictionaries) dictionaries[site] = await this.#identityOf(dictionary);
    await writeShards(partial, {
      folder: from,
      versions: this.manifest.versions,
      inputs: {
        program: await programIdentity(),
        model: identity,
        dictionaries,
        pairs: pairsIdentity(pairs),
        packs: packsIdentity(plans),
      },
      batch_size,
      weights,
      wave_rows: waveRows ?? null,
      shards: shards.map(({ packs: [first, end], sites, seconds }) => ({
        packs: [first, end],
        sites: [...sites],
        seconds,
      })),
    });
    this.#opened.inputs.check();
    this.#reporter.end();
    await this.#save();
    return shards;
  }

  /** @throws UserError if the run is not divided, was planned on something else, or a shard is not done */
  async #refuseUndone(
    divided: ShardedRun | null,
    identity: string,
    pairs: readonly TokenPair[],
    { plans }: Prepared,
  ): Promise<void> {
    const { path } = this.#folder;
    if (divided === null) throw notDivided(path);
    const check = new PlanCheck(divided.plan, "merge", path);
    check.versions(this.manifest.versions);
    check.program(await programIdentity());
    check.pairs(pairs, plans);
    check.model(identity);
    await check.dictionaries(this.#dictionaries);
    const undone = undoneText(await readAllShards(divided));
    if (undone === null) return;
    throw new UserError(
      `merge: expected ${countText(divided.plan.shards.length, "finished shard")}, got ${undone} in ${path}. Compute them with sfc run --shard K ${path}, or with sfc slurm ${path}.`,
    );
  }

  /** Takes what shards have found of their sites, as if it had been found here. */
  #takeFound({ checks, unexplained }: SiteRecord): void {
    const known = new Set(checks.map(({ name, site }) => `${name}/${site}`));
    this.manifest.checks = [...checks, ...this.manifest.checks.filter((c) => !known.has(`${c.name}/${c.site}`))];
    this.manifest.unexplained = { ...unexplained, ...this.manifest.unexplained };
  }

  /** Counts the time and the memory that shards took. Once, when the run is complete: what is saved before is added to when it resumes. */
  #addWorkOf(states: readonly ShardState[]): void {
    for (const { seconds, peak_rss_bytes } of states) {
      this.manifest.peak_rss_bytes = Math.max(this.manifest.peak_rss_bytes, peak_rss_bytes);
      for (const [phase, value] of Object.entries(seconds)) {
        this.#secondsBefore[phase] = (this.#secondsBefore[phase] ?? 0) + value;
      }
    }
  }

  async #checkDevice(subject: ParitySubject): Promise<void> {
    const found = await checkDevice(subject, this.#options.device_tolerance, this.#reporter);
    const names = found.map(({ name }) => name);
    this.manifest.checks = [...found, ...this.manifest.checks.filter(({ name }) => !names.includes(name))];
  }

  warn(text: string): void {
    if (this.manifest.warnings.includes(text)) return;
    this.manifest.warnings.push(text);
    this.#reporter.line(text);
  }

  async fail(error: string): Promise<void> {
    await writeManifest(this.#folder.path, { ...this.#current(), status: "failed", error });
  }

  /** What the run will take. @throws UserError if that is more than there is */
  async #estimate({ plans }: Prepared): Promise<Estimate> {
    // An interrupted run goes on as it began: with the weights in the other place its last digits would be others.
    const weights =
      this.#options.weights === "auto" ? (this.manifest.estimate?.weights ?? "auto") : this.#options.weights;
    const estimated = await estimateRun(
      this.#opened,
      this.#dictionaries,
      plans,
      { ...this.#options, weights },
      thisMachine,
    );
    this.manifest.estimate = estimated;
    checkFits(estimated, plans, this.#options.method, thisMachine);
    if (totalSeconds(estimated) > longWork) this.#reporter.line(estimateLine(estimated));
    return estimated;
  }

  /** The folder for the unfinished work of just these versions on just this model, these dictionaries and these pairs. */
  async #partialFor(model: string, pairs: readonly TokenPair[], weights: "held" | "streamed"): Promise<string> {
    const dictionaries: string[] = [];
    for (const d of this.#dictionaries.values()) dictionaries.push(await this.#identityOf(d));
    const { stopped } = this.#reporter;
    const identity = pairsIdentity(pairs, { stopped });
    return partialFor(this.#folder, [this.manifest.versions, model, dictionaries, identity, weights], async () => {
      this.#reporter.line(
        "The model, the SAEs, the pairs, --weights or this program changed since the interruption, so the run starts over.",
      );
      this.manifest.checks = [];
      this.manifest.unexplained = undefined;
      await removeAblation(this.#folder.path);
    });
  }

  async #describeDictionaries(): Promise<Manifest["dictionaries"]> {
    const described: Manifest["dictionaries"] = [];
    const dummy = this.#options.sae_source === "dummy";
    for (const d of this.#dictionaries.values()) {
      const sha256 = dummy ? null : await this.#identityOf(d);
      described.push({
        site: d.writes,
        source: dummy ? "dummy" : (this.#options.sae_source ?? "the model's own"),
        kind: d.kind,
        features: d.featureCount,
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
    { code: "changed_input" },
  );
}
