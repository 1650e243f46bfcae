import { checkFits, type Estimate, estimateLine, estimateRun, totalSeconds, workLine } from "../analysis/estimate.ts";
import type { JobOptions } from "../analysis/options.ts";
import { dictionaryWarnings, usablePairs } from "../analysis/pairs.ts";
import { type AnalysisInput, analysePairs, capturedSites, type Prepared, prepare } from "../analysis/steps.ts";
import type { Dictionary } from "../dictionaries/dictionary.ts";
import { messageOf, StoppedError, UserError } from "../errors.ts";
import type { Device } from "../graph/runtime.ts";
import { heldWeights, loadedModel, streamedWeights } from "../models/weights.ts";
import { checkRuntime } from "../open/device.ts";
import { type OpenJob, type OpenModel, openJob } from "../open/open.ts";
import type { Reporter } from "../progress.ts";
import type { TokenPair } from "../prompts/pairs.ts";
import { completeRunFolder, type OpenFolder, openRunFolder, partialFor } from "../results/folder.ts";
import { type Manifest, startManifest, writeManifest } from "../results/manifest.ts";
import { hasSamePairs, openPlaces, removeAblation } from "../results/places.ts";
import { reportTemplate, writeReport } from "../results/report.ts";
import type { SiteName } from "../site.ts";
import { jobProblem } from "../storage/files.ts";
import { thisMachine } from "../storage/machine.ts";
import { versions } from "../storage/package.ts";

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

/** Seconds of work that one is told of before they begin. */
const longWork = 20;
/** Floating-point operations for patching features by themselves: a share of those of the capture, and at least so many, in GFLOP. */
const exactShare = 0.25;
const leastExact = 100;

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
    const about = dictionaryWarnings(dictionaries, checked.kept, opened.tokenizer);
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
    // Warnings are found again when a run resumes.
    this.manifest = { ...manifest, status: "running", error: null, warnings: [] };
  }

  async work(pairs: readonly TokenPair[]): Promise<void> {
    const { precision: dtype, keep, batch_size: batchSize } = this.#options;
    const { model, checkpoint } = this.#opened;
    await this.#save();

    const prepared = prepare(pairs, this.#options, batchSize);
    const estimated = await this.#estimate(prepared);
    const identity = await checkpoint.sha256();
    this.manifest.model = { name: this.#options.model_name, model_type: model.modelType, sha256: identity };
    this.manifest.dictionaries = await this.#describeDictionaries();
    const partial = await this.#partialFor(identity, pairs, estimated.weights);
    const weights =
      estimated.weights === "held" ? await heldWeights(model, checkpoint, dtype) : streamedWeights(checkpoint);
    const loaded = loadedModel(model, weights, { dtype, device: this.#options.device as Device });
    await this.#save();

    const places = await openPlaces({
      path: this.#folder.path,
      partial,
      inputs: this.#opened.inputs,
      // In float64 what is captured stays in memory.
      captureOf:
        dtype === "float32"
          ? [identity, capturedSites(this.#options, this.#dictionaries, model), estimated.weights === "streamed"]
          : null,
      save: async () => void (await this.#save()),
    });
    try {
      const input: AnalysisInput = {
        ...this.#opened,
        loaded,
        dictionaries: this.#dictionaries,
        options: this.#options,
      };
      await analysePairs(input, prepared, places, this.manifest, this.#reporter, {
        keep,
        batchSize,
        exactFlops: Math.max(leastExact, exactShare * estimated.capture_gflop) * 1e9,
        meaning: true,
        onWork: ({ patches, flops }) => this.#reporter.line(workLine(patches, flops, estimated.gflops)),
      });
    } finally {
      await places.close();
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
    return partialFor(this.#folder, [this.manifest.versions, model, dictionaries, pairs, weights], async () => {
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
