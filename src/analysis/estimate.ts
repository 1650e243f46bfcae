import { bytesText, duration } from "../amounts.ts";
import { type CaptureCost, captureCost } from "../capture/cost.ts";
import type { Dictionary } from "../dictionaries/dictionary.ts";
import { needsOf } from "../effects/dispatch.ts";
import { type EffectsCost, effectsCost, type MethodCost, methodCost } from "../effects/estimate.ts";
import type { MethodName } from "../effects/method.ts";
import { UserError } from "../errors.ts";
import { type Pack, type Plan, rowCounts } from "../forest/packs.ts";
import type { Device } from "../graph/runtime.ts";
import { weightsWay } from "../graph/session.ts";
import type { Checkpoint } from "../models/checkpoint.ts";
import { largestParameter, type Model, parameterCount } from "../models/model.ts";
import type { Reporter } from "../progress.ts";
import type { TokenPair } from "../prompts/pairs.ts";
import type { SiteName } from "../site.ts";
import { sum } from "../stats.ts";
import { openSeconds, type ResultPhase, resultSeconds } from "./estimate-results.ts";
import type { JobOptions } from "./options.ts";
import { assumedGflops, gflopsFor, nodeBytes, programBytes, rates, tablesThreadBytes } from "./rates.ts";
import { countsOf, prepareAll } from "./steps.ts";

/** What an estimate asks of the machine that is to do the work. */
export interface Machine {
  /** Bytes of memory that can be had without pushing others out. */
  availableMemory(): number;
  /** Bytes of memory that work may ask for before it is refused: more than those, where the system gives back what it holds. */
  mostMemory(): number;
  /** Whether it lacks the device that the work is for, which may be done elsewhere; false by default. */
  readonly lacksDevice?: boolean;
}

/** The files of a model, of which an estimate reads headers alone. */
export interface ModelFiles {
  readonly model: Model;
  readonly checkpoint: Pick<Checkpoint, "bytes" | "storedType">;
}

/** What a run will take, told before its weights are read. */
export interface Estimate {
  readonly weights: "held" | "streamed";
  /** Peak resident memory of the process, in bytes. */
  readonly memory_bytes: number;
  /** The run's folder: at its peak, and when the run is complete. */
  readonly disk_bytes: { readonly peak: number; readonly end: number };
  /** By phase. */
  readonly seconds: Readonly<
    Record<"reading" | "capture" | "effects" | "writing", number> & Partial<Record<ResultPhase, number>>
  >;
  /** GFLOP/s of this machine's matrix products that the seconds rest on. */
  readonly gflops: number;
  /** The work of the capture, padding and what is computed again included, in GFLOP. */
  readonly capture_gflop: number;
  /** Where it is not the CPU: its memory for the weights and the largest run of a session, in bytes. */
  readonly device?: { readonly name: Exclude<Device, "cpu">; readonly memory_bytes: number };
}

/** Bytes of memory while the tables are put together, per row of effects.parquet and of features.parquet; beyond a limit they go through the disk. */
const tableBytes = { effects: 50, features: 130, most: 1.1e9 };

/** Bytes of a row of effects.parquet, and of a feature's rows in features.parquet, per split and case. */
const rowBytes = { effects: 20, features: 5 };

/** Seconds that the capture of a run may lose by holding its weights: what comes behind it, as exact patches, is faster with them. */
const worthHolding = 1;

/** The options that bear on what a run takes. */
export type EstimateOptions = Pick<JobOptions, "weights" | "method" | "steps" | "score" | "precision" | "device">;

/**
 * Estimates a run, and decides where its weights are kept unless the options say so: held if there is plenty of memory for that and it is faster, or
 * hardly slower, which it is for small models (their passes save activations instead of computing them again), else streamed.
 */
export async function estimateRun(
  { model, checkpoint }: ModelFiles,
  dictionaries: ReadonlyMap<SiteName, Dictionary>,
  plans: readonly Plan[],
  options: EstimateOptions,
  machine: Machine,
): Promise<Estimate> {
  const { method } = options;
  const half = machine.availableMemory() / 2;
  const { sites } = needsOf(method, [...dictionaries.keys()], model.layers);
  const number = options.precision === "float64" ? 8 : 4;
  const way = await weightsWay(options.device as Device);
  const costs = (["held", "streamed"] as const).map((weights) => ({
    weights,
    ...captureCost(model, plans, sites, weights, checkpoint.storedType, number, way),
  }));
  const effects = [...dictionaries.values()].map((dictionary) =>
    effectsCost(dictionary, plans[0]!, options.score, number),
  );
  const works = (["held", "streamed"] as const).map((weights) =>
    methodCost(method, model, plans[0]!, dictionaries, options.steps, number, weights),
  );
  const most = Math.max(works[0]!.flops, ...costs.map(({ flops }) => flops), sum(effects.map(({ flops }) => flops)));
  const device = options.device as Device;
  const gflops = machine.lacksDevice ? assumedGflops : await gflopsFor(most, model.width, device);

  const captureSeconds = ({ flops, read, compiled }: CaptureCost) =>
    flops / (rates.passes * gflops * 1e9) + read / rates.read + compiled / rates.compiled;
  const workSeconds = (work: MethodCost) => methodSeconds(work, checkpoint, gflops);
  const fits = way !== "on device" || number === 8 || 4 * largestParameter(model) <= largestBuffer;
  const mayHold = (cost: CaptureCost) =>
    fits && cost.compiled / 2 < largestGraph && cost.held < half && cost.memory() < half;
  const [held, streamed] = costs as [(typeof costs)[0], (typeof costs)[0]];
  const secondsOf = (i: 0 | 1) => captureSeconds(costs[i]!) + workSeconds(works[i]!);
  const chosen =
    options.weights === "held" ||
    (options.weights === "auto" && secondsOf(0) < secondsOf(1) + worthHolding && mayHold(held))
      ? held
      : streamed;
  const work = works[costs.indexOf(chosen)]!;
  if (chosen === held && held.compiled / 2 > largestGraph) {
    throw new UserError(
      `--weights held: expected a model of at most ${bytesText(largestGraph)} in ${options.precision}, got ${bytesText(held.compiled / 2)}. Use --weights streamed.`,
    );
  }
  if (chosen === held) checkRoom(model, options.precision, machine);
  // In float64 results of the capture are kept in memory, not in the run's folder; held weights stay in it until the end.
  const inMemory = number === 8;
  const capturing = chosen.memory();
  const kept = chosen.held + (inMemory ? chosen.stored.end : 0);
  // All methods but `analytic` run the model's passes once more.
  const passes = method === "analytic" ? 0 : capturing - chosen.held;
  const nodes = sum(plans.map(({ forest }) => forest.forward.size + forest.backward.size));
  const onDisk = inMemory ? { peak: 0, end: 0 } : chosen.stored;

  const rows = sum(effects.map((e) => e.rows));
  const groups = plans[0]!.forest.backward.groups.length + 2;
  const features = sum(
    [...dictionaries.values()].map(({ featureCount }) => Math.min(featureCount, rows / dictionaries.size)),
  );
  // A row of effects counts for its case, for its split, and for all cases.
  const featureRows = Math.min(groups * features, 3 * rows);
  const tables = rowBytes.effects * rows + rowBytes.features * featureRows;
  const tableMemory = Math.min(tableBytes.most, tableBytes.effects * rows + tableBytes.features * featureRows);
  return {
    weights: chosen.weights,
    memory_bytes:
      programBytes +
      tablesThreadBytes +
      nodeBytes * nodes +
      Math.max(
        capturing + (inMemory ? chosen.stored.peak : 0),
        ...effects.map(({ memory }) => kept + passes + memory + work.memory),
        // Tables are put together beside exact patches, which with streamed weights take about what effects took.
        kept + tableMemory + (chosen === streamed ? Math.max(...effects.map(({ memory }) => memory)) : 0),
      ),
    disk_bytes: { peak: Math.max(onDisk.peak, onDisk.end + 2 * tables), end: tables },
    seconds: {
      reading: rates.least / 2 + (checkpoint.bytes + 4 * sum(effects.map(({ weights }) => weights))) / rates.hashed,
      // Two graphs: forward and back for the run's pairs, and for those of the check.
      capture: captureSeconds(chosen) + openSeconds(chosen === held ? 2 * model.layers : 0),
      effects: workSeconds(work) + sum(effects.map((cost) => effectsSeconds(cost, gflops))),
      writing: rates.least / 2 + rows / (4 * rates.rows),
      ...resultSeconds({
        model,
        dictionaries,
        plan: plans[0]!,
        options,
        weights: chosen.weights,
        rows,
        gflops,
        captureGflop: chosen.flops / 1e9,
      }),
    },
    gflops,
    capture_gflop: chosen.flops / 1e9,
    ...(device !== "cpu" && { device: { name: device, memory_bytes: chosen.onDevice() } }),
  };
}

function methodSeconds({ flops, sweeps }: MethodCost, { bytes }: Pick<Checkpoint, "bytes">, gflops: number): number {
  return passSeconds(flops, gflops) + (sweeps * bytes) / rates.read;
}

const effectsSeconds = ({ flops, weights, products, rows }: EffectsCost, gflops: number) =>
  flops / (gflops * 1e9) + weights / rates.decoded + products / rates.products + rows / rates.rows;

/** Seconds of passes through the model that take so many floating-point operations. */
const passSeconds = (flops: number, gflops: number) => flops / (rates.passes * gflops * 1e9);

/** The work of an analysis in parts that can be done apart, in seconds. */
export interface WorkParts {
  /** Of each pack of all plans, one plan after another. */
  readonly packs: readonly number[];
  /** Of each site's effects. */
  readonly sites: ReadonlyMap<SiteName, number>;
}

/** The seconds of an analysis by its parts, at a rate of matrix products and with weights as an estimate has them. */
export function estimateParts(
  { model, checkpoint }: ModelFiles,
  dictionaries: ReadonlyMap<SiteName, Dictionary>,
  plans: readonly Plan[],
  { method, steps, score }: EstimateOptions,
  { weights, gflops }: Pick<Estimate, "weights" | "gflops">,
): WorkParts {
  const { sites } = needsOf(method, [...dictionaries.keys()], model.layers);
  const packSeconds = (plan: Plan, pack: Pack) =>
    passSeconds(captureCost(model, [{ ...plan, packs: [pack] }], sites, weights, checkpoint.storedType).flops, gflops);
  const siteSeconds = (dictionary: Dictionary) => {
    const alone = new Map([[dictionary.writes, dictionary]]);
    return (
      effectsSeconds(effectsCost(dictionary, plans[0]!, score), gflops) +
      methodSeconds(methodCost(method, model, plans[0]!, alone, steps, 4, weights), checkpoint, gflops)
    );
  };
  return {
    packs: plans.flatMap((plan) => plan.packs.map((pack) => packSeconds(plan, pack))),
    sites: new Map([...dictionaries].map(([site, dictionary]) => [site, siteSeconds(dictionary)])),
  };
}

/** A graph with its weights inside has to stay below protobuf's 2 GiB. */
const largestGraph = 1.9e9;

/** Bytes of the largest array that adapters usually take at once, some of them twice as much; Gemma 2 2B's table of tokens is larger. */
const largestBuffer = 2 ** 30;

/**
 * Refuses to hold weights that do not fit into the memory that is free.
 *
 * @throws UserError saying what to do instead
 */
export function checkRoom(model: Model, precision: JobOptions["precision"], machine: Machine): void {
  const bytes = parameterCount(model) * (precision === "float64" ? 8 : 4);
  const free = machine.availableMemory();
  if (bytes < free) return;
  throw new UserError(
    `weights: expected ${bytesText(bytes)} of free memory to hold them in ${precision}, got ${bytesText(free)}. Use --weights streamed.`,
    { code: "no_memory" },
  );
}

/**
 * Refuses work that needs more memory than there is.
 *
 * @param plans what it runs
 * @throws UserError saying what to do instead
 */
export function checkFits(
  { memory_bytes: needed, weights }: Pick<Estimate, "memory_bytes" | "weights">,
  plans: readonly Plan[],
  method: MethodName,
  machine: Machine,
): void {
  const free = machine.mostMemory();
  if (needed <= free) return;
  const instead = [
    ...(weights === "streamed" ? [] : ["--weights streamed"]),
    ...(plans.some(({ packs }) => packs.some(({ tiles }) => tiles > 1)) ? ["a small --batch_size"] : []),
    "shorter prompts",
    "fewer pairs (--num_examples)",
  ];
  throw new UserError(
    `memory: expected about ${bytesText(needed)} to be free for ${method}, got ${bytesText(free)}. Use ${instead.join(", ")} or fewer sites (--layers, --sites).`,
    { code: "no_memory" },
  );
}

/** The seconds of all parts of an estimate. */
export function totalSeconds({ seconds }: Estimate): number {
  return sum(Object.values(seconds));
}

/** What `sfc estimate` tells. */
export interface EstimateResult extends Estimate {
  readonly model: { readonly name: string; readonly parameters: number; readonly bytes: number };
  readonly saes: { readonly sites: number; readonly features: number; readonly bytes: number };
  readonly pairs: number;
  readonly nodes: { readonly forward: number; readonly backward: number; readonly tokens: number };
  /** Rows of the analysis' own passes: what is computed, and what is needed of it (`rowCounts`). */
  readonly rows: { readonly computed: number; readonly needed: number };
  readonly available_memory_bytes: number;
}

/**
 * What an analysis of some pairs would take. It reads no weights.
 *
 * @throws UserError if weights are to be held, and there is no room for them
 */
export async function estimateStep(
  files: ModelFiles & { readonly name: string },
  dictionaries: ReadonlyMap<SiteName, Dictionary>,
  pairs: readonly TokenPair[],
  options: EstimateOptions & Pick<JobOptions, "batch_size">,
  machine: Machine,
  reporter: Reporter,
): Promise<EstimateResult> {
  const prepared = prepareAll(pairs, options, options.batch_size, files.model, reporter);
  const estimated = await estimateRun(files, dictionaries, prepared.plans, options, machine);
  const all = [...dictionaries.values()];
  const { nodes_forward, nodes_backward, tokens } = countsOf(prepared);
  return {
    model: { name: files.name, parameters: parameterCount(files.model), bytes: files.checkpoint.bytes },
    saes: {
      sites: all.length,
      features: sum(all.map(({ featureCount }) => featureCount)),
      bytes: sum(all.map(({ inputWidth, outputWidth, featureCount }) => 4 * (inputWidth + outputWidth) * featureCount)),
    },
    pairs: pairs.length,
    nodes: { forward: nodes_forward, backward: nodes_backward, tokens },
    rows: rowCounts(prepared.plans[0]),
    available_memory_bytes: machine.availableMemory(),
    ...estimated,
  };
}

/** What is told before effects are computed patch by patch. */
export function workLine(patches: number, flops: number, gflops: number): string {
  return `exact: ${patches.toLocaleString("en")} patches, about ${duration(flops / (rates.passes * gflops * 1e9))}.`;
}

/** One line for those who are about to wait. */
export function estimateLine(e: Estimate): string {
  return `Estimate: about ${duration(totalSeconds(e))}, ${bytesText(e.memory_bytes)} of memory, ${bytesText(e.disk_bytes.peak)} of disk; weights ${e.weights}.`;
}
