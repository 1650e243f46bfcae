import { resolve } from "node:path";
import { checkFits } from "../analysis/estimate.ts";
import type { JobOptions } from "../analysis/options.ts";
import { usablePairs } from "../analysis/pairs.ts";
import type { ShardPart } from "../analysis/shards.ts";
import {
  type AnalysisInput,
  analyseSites,
  capturedSites,
  captureStep,
  prepareAll,
  type SitePlaces,
} from "../analysis/steps.ts";
import { StoppedError, UserError } from "../errors.ts";
import type { Device } from "../graph/runtime.ts";
import { slurmLocking } from "../jobs/slurm.ts";
import { heldWeights, loadedModel, streamedWeights } from "../models/weights.ts";
import { checkRuntime } from "../open/device.ts";
import { openJob } from "../open/open.ts";
import type { Reporter } from "../progress.ts";
import { inspectRunFolder, type OpenShard, openShard } from "../results/folder.ts";
import type { Manifest } from "../results/manifest.ts";
import { openPlaces } from "../results/places.ts";
import {
  findShards,
  readAllShards,
  readShard,
  type ShardedRun,
  type ShardState,
  unfinished,
  writeShard,
} from "../results/shards.ts";
import { jobProblem } from "../storage/files.ts";
import { thisMachine } from "../storage/machine.ts";
import { programIdentity, versions } from "../storage/package.ts";
import { checkDevice } from "./check-device.ts";
import { captureIdentity, notDivided, PlanCheck } from "./shard-inputs.ts";

export interface ShardRequest {
  /** The run's folder. */
  readonly folder: string;
  /** Counted from 1. */
  readonly shard: number;
  /** The part to compute; null for whatever can be computed. */
  readonly part: ShardPart | null;
}

/** What is left to say after a shard. */
export interface ShardOutcome {
  readonly folder: string;
  readonly shard: number;
  /** How many there are. */
  readonly of: number;
  readonly finished: Readonly<Record<ShardPart, boolean>>;
  /** Shards whose packs its sites wait for. */
  readonly waitsFor: readonly number[];
  /** Whether the run is complete already. */
  readonly merged: boolean;
}

/** Seconds between two notes of how far a shard is. */
const noteEvery = 2;

/**
 * Computes one shard of a run (`sfc run --shard K FOLDER`), or what is left of it: its packs, then the effects of its sites if all shards have their
 * packs. Safe to be called again, also while another machine works on another shard.
 *
 * @throws UserError if the run is not divided, its inputs are not those of the plan, or another process works on this shard; StoppedError
 */
export async function runShard({ folder, shard, part }: ShardRequest, reporter: Reporter): Promise<ShardOutcome> {
  const path = resolve(folder);
  reporter.begin("reading", 1);
  const done = await mergedOutcome(path, shard);
  if (done !== null) return done;
  const divided = await findShards(path);
  const found = await inspectRunFolder(path);
  if (divided === null || found.state !== "unfinished") throw notDivided(path);
  const of = divided.plan.shards.length;
  if (shard > of) throw new UserError(`--shard: expected at most ${of}, got ${shard} for ${path}. Choose one of them.`);
  const wanted = async () => {
    const states = await readAllShards(divided);
    const { packs, sites } = states[shard - 1]!;
    const waitsFor = unfinished(states, "packs");
    return {
      packs: !packs.finished && part !== "sites",
      sites: !sites.finished && part !== "packs" && waitsFor.every((one) => one === shard),
      outcome: (): ShardOutcome => ({
        folder: path,
        shard,
        of,
        finished: { packs: packs.finished, sites: sites.finished },
        waitsFor: sites.finished ? [] : waitsFor,
        merged: false,
      }),
    };
  };
  const before = await wanted();
  if (!before.packs && !before.sites) return before.outcome();
  const lock = await openShard(path, shard, slurmLocking());
  try {
    await new ShardJob(path, divided, shard, found.manifest, lock, reporter).work(async () => {
      const { packs, sites } = await wanted();
      return packs ? "packs" : sites ? "sites" : null;
    });
  } catch (error) {
    // A twin of this process may have finished the shard, and the run have been merged meanwhile.
    const merged = await mergedOutcome(path, shard);
    if (merged !== null) return merged;
    throw jobProblem(error, path);
  } finally {
    await lock.release();
  }
  reporter.end();
  return (await wanted()).outcome();
}

async function mergedOutcome(folder: string, shard: number): Promise<ShardOutcome | null> {
  if ((await inspectRunFolder(folder)).state !== "complete") return null;
  return { folder, shard, of: shard, finished: { packs: true, sites: true }, waitsFor: [], merged: true };
}

type Mutable<T> = { -readonly [K in keyof T]: T[K] };

class ShardJob {
  readonly #path: string;
  readonly #run: ShardedRun;
  readonly #shard: number;
  readonly #manifest: Manifest;
  readonly #options: JobOptions;
  readonly #reporter: Reporter;
  #state: Mutable<ShardState> | undefined;
  #secondsBefore: Readonly<Record<string, number>> = {};
  #noted = 0;
  #writing: Promise<void> = Promise.resolve();

  constructor(
    path: string,
    run: ShardedRun,
    shard: number,
    manifest: Manifest,
    lock: Pick<OpenShard, "isLost">,
    reporter: Reporter,
  ) {
    this.#path = path;
    this.#run = run;
    this.#shard = shard;
    this.#manifest = manifest;
    const { batch_size, weights } = run.plan;
    this.#options = { ...(manifest.options as unknown as JobOptions), batch_size, weights };
    this.#reporter = {
      ...reporter,
      seconds: reporter.seconds,
      stopped: () => {
        if (lock.isLost()) {
          throw new UserError(
            `shard ${shard}: expected its lock in ${path}, got another process's, which took it over. That one goes on.`,
          );
        }
        return reporter.stopped();
      },
    };
  }

  /** @param next the part that comes next; null if there is none */
  async work(next: () => Promise<ShardPart | null>): Promise<void> {
    const { plan, partial } = this.#run;
    const options = this.#options;
    const check = new PlanCheck(plan, `shard ${this.#shard}`, this.#path);
    check.versions(await versions());
    check.program(await programIdentity());
    await checkRuntime(options.device as Device, this.#reporter);
    await using opened = await openJob(options, this.#reporter, { patchless: options.score !== "effect" });
    try {
      const { kept } = usablePairs(opened.source, opened, options, this.#reporter);
      const prepared = prepareAll(kept, options, plan.batch_size, opened.model, this.#reporter);
      check.pairs(kept, prepared.plans);
      const { model, checkpoint, dictionaries } = opened;
      const identity = await checkpoint.sha256();
      check.model(identity);
      const { estimate } = this.#manifest;
      if (estimate) checkFits(estimate, prepared.plans, options.method, thisMachine);
      const state = await this.#begin();
      const dtype = options.precision;
      const weights =
        plan.weights === "held" ? await heldWeights(model, checkpoint, dtype) : streamedWeights(checkpoint);
      const loaded = loadedModel(model, weights, { dtype, device: options.device as Device });
      await checkDevice({ loaded, dictionaries, pairs: kept }, options.device_tolerance, this.#reporter);
      const input: AnalysisInput = { ...opened, loaded, options };
      const captured = capturedSites(options, dictionaries, model);
      const places = await openPlaces({
        path: this.#path,
        partial,
        inputs: opened.inputs,
        captureOf: captureIdentity(identity, captured, plan.weights, plan),
        spill: `spill-${this.#shard}`,
        stopped: this.#reporter.stopped,
        save: async () => {},
      });
      const waveRows = plan.wave_rows ?? undefined;
      const { packs, sites } = plan.shards[this.#shard - 1]!;
      try {
        for (let part = await next(); part !== null; part = await next()) {
          if (part === "packs") {
            this.#reporter.begin("capture", 1);
            const only = (pack: number) => packs[0] <= pack && pack < packs[1];
            const share = { only, waveRows, ...this.#watch("packs") };
            await captureStep(input, prepared, places.store(prepared.plans), share);
          } else {
            const own = new Map([...dictionaries].filter(([site]) => sites.includes(site)));
            await check.dictionaries(own);
            const ofSites: SitePlaces = {
              ...places,
              save: async (record) => {
                state.checks = record.checks;
                state.unexplained = record.unexplained ?? {};
                await this.#note();
              },
            };
            const record = { checks: state.checks, unexplained: state.unexplained };
            await analyseSites(input, prepared, sites, ofSites, record, this.#ofSites(), { waveRows });
          }
          this.#reporter.end();
          opened.inputs.check();
          state[part] = { done: state[part].total, total: state[part].total, finished: true };
          await this.#note();
        }
      } finally {
        await places.close();
      }
    } catch (error) {
      throw error instanceof StoppedError ? error : opened.inputs.reasonOf(error);
    } finally {
      await this.#note().catch(() => {});
    }
  }

  async #begin(): Promise<Mutable<ShardState>> {
    const state = await readShard(this.#run, this.#shard);
    this.#secondsBefore = state.seconds;
    this.#state = state;
    await this.#note();
    return state;
  }

  /** The reporter of the second part, which notes how far the effects are. */
  #ofSites(): Reporter {
    const reporter = this.#reporter;
    const { onProgress } = this.#watch("sites");
    let phase = "reading";
    return {
      ...reporter,
      seconds: reporter.seconds,
      begin(next, total) {
        phase = next;
        reporter.begin(next, total);
      },
      set: (done, total) => (phase === "effects" ? onProgress(done, total) : reporter.set(done, total)),
    };
  }

  /** Watches a part's progress and takes a note of it now and then. */
  #watch(part: ShardPart) {
    return {
      stopped: this.#reporter.stopped,
      onProgress: (done: number, total?: number) => {
        this.#reporter.set(done, total);
        const state = this.#state!;
        state[part] = { ...state[part], done, total: total ?? state[part].total };
        if (performance.now() - this.#noted < 1000 * noteEvery) return;
        this.#note().catch(() => {});
      },
    };
  }

  /** Writes down how far the shard is. */
  #note(): Promise<void> {
    const state = this.#state;
    if (state === undefined) return Promise.resolve();
    this.#noted = performance.now();
    const seconds = { ...this.#secondsBefore };
    for (const [phase, value] of Object.entries(this.#reporter.seconds)) seconds[phase] = (seconds[phase] ?? 0) + value;
    state.seconds = seconds;
    state.peak_rss_bytes = Math.max(state.peak_rss_bytes, process.resourceUsage().maxRSS * 1024);
    const { host: _, written: __, ...found } = state;
    this.#writing = this.#writing.catch(() => {}).then(() => writeShard(this.#run, this.#shard, found));
    return this.#writing;
  }
}
