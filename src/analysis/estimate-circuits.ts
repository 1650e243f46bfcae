import { bytesText, duration } from "../amounts.ts";
import { captureCost, passWork, type Running } from "../capture/cost.ts";
import { inTurn, type Work, workOf } from "../capture/work.ts";
import { edgesKept, edgesWork } from "../circuit/cost.ts";
import { sitesOfEdges } from "../circuit/edges.ts";
import { identityDictionary } from "../dictionaries/basis.ts";
import type { Dictionary } from "../dictionaries/dictionary.ts";
import { needsOf } from "../effects/dispatch.ts";
import { effectsCost, methodCost } from "../effects/estimate.ts";
import type { MethodName } from "../effects/method.ts";
import { prefixForest } from "../forest/forest.ts";
import { type Plan, planCapture } from "../forest/packs.ts";
import type { Device } from "../graph/runtime.ts";
import { type WeightsWay, weightsWay } from "../graph/session.ts";
import { evaluationForest } from "../interventions/ablation.ts";
import { clusterPairs } from "../interventions/clusters.ts";
import {
  activationsWork,
  baseWork,
  encodeWork,
  maskScoresWork,
  masksWork,
  subsetsWork,
} from "../interventions/cost.ts";
import { parameterCount } from "../models/model.ts";
import type { TokenPair } from "../prompts/pairs.ts";
import { parseSite, type SiteName, siteName } from "../site.ts";
import { sum } from "../stats.ts";
import type { Machine, ModelFiles } from "./estimate.ts";
import {
  constructionsOf,
  type EvaluateInput,
  type EvaluateOptions,
  groupsOfPairs,
  isByAblation,
  isByScores,
  isByThreshold,
  maskCandidates,
  methodOf,
  ofSplit,
  randomSeeds,
  type Way,
} from "./evaluate.ts";
import type { JobOptions } from "./options.ts";
import { gflopsFor, nodeBytes, programBytes, rates, secondsOf } from "./rates.ts";

/** What an evaluation or a circuit will take. */
export interface CircuitEstimate {
  readonly weights: "held" | "streamed";
  /** Peak resident memory of the process, in bytes. */
  readonly memory_bytes: number;
  readonly available_memory_bytes: number;
  /** By step, in the order in which they come. */
  readonly seconds: Readonly<Record<string, number>>;
  /** GFLOP/s of this machine's matrix products that the seconds rest on. */
  readonly gflops: number;
  /** What the seconds were counted from. */
  readonly counts: {
    /** Operations of passes through the model, padding and what is computed again included, in GFLOP. */
    readonly pass_gflop: number;
    /** Circuits whose metric is measured, each a forward pass over the prompts of a split. */
    readonly evaluations: number;
    readonly mask_gradients: number;
    /** Products of vectors with the Jacobians of sublayers. */
    readonly edge_products: number;
  };
}

/** What the work is done on. */
export interface CircuitSubject {
  readonly files: ModelFiles;
  readonly dictionaries: ReadonlyMap<SiteName, Dictionary>;
  readonly weights: "held" | "streamed";
  readonly options: Pick<JobOptions, "precision" | "device">;
  /** Points of the secant, where they are not the usual ones. */
  readonly steps?: number | undefined;
}

type Counts = { evaluations: number; mask_gradients: number; edge_products: number };

/** The work of a job's steps, as it is counted. */
class Counted {
  readonly running: Running;
  readonly counts: Counts = { evaluations: 0, mask_gradients: 0, edge_products: 0 };
  readonly #subject: CircuitSubject;
  readonly #steps = new Map<string, Work>();
  readonly #way: WeightsWay;
  /** Bytes that stay in memory from one step to the next. */
  kept = 0;

  constructor(subject: CircuitSubject, way: WeightsWay) {
    const { files, weights, options } = subject;
    this.#subject = subject;
    this.#way = way;
    this.running = {
      model: files.model,
      weights,
      storedType: files.checkpoint.storedType,
      number: options.precision === "float64" ? 8 : 4,
    };
  }

  add(step: string, ...work: readonly Work[]): void {
    this.#steps.set(step, inTurn([this.#steps.get(step) ?? workOf({}), inTurn(work, this.kept)]));
  }

  /** The effects of a method over some pairs, captured in memory. */
  effects(method: MethodName, pairs: readonly TokenPair[], dictionaries = this.#subject.dictionaries): Work {
    const { model, weights, storedType, number } = this.running;
    const { wanted, sites } = needsOf(method, [...dictionaries.keys()], model.layers);
    const plan = planCapture(prefixForest(pairs), { wanted });
    const capture = captureCost(model, [plan], sites, weights, storedType, number, this.#way);
    const own = methodCost(method, model, plan, dictionaries, this.#subject.steps, number, weights);
    const runs = method === "analytic" ? 0 : passWork(this.running, plan.packs, sites, { back: true }).memory;
    const passes = workOf({
      passes: capture.flops,
      read: weights === "held" ? 0 : capture.read,
      sessions: 2,
      memory: capture.memory() - capture.held + capture.stored.peak,
    });
    const works = workOf({
      passes: own.flops,
      read: own.sweeps * this.#subject.files.checkpoint.bytes,
      sessions: 2,
      memory: own.memory + runs,
    });
    const ofSites = [...dictionaries.values()].map((one) => effectsWork(one, plan, number));
    return inTurn([passes, inTurn([works, ...ofSites], capture.stored.end)]);
  }

  /** Effects by words, which stay in memory: bytes. */
  clusterScores(pairs: readonly TokenPair[], dictionaries = this.#subject.dictionaries): number {
    const plan = planCapture(prefixForest(pairs), { wanted: "changed" });
    const found = sum(
      [...dictionaries.values()].map((one) => Math.min(one.featureCount, effectsCost(one, plan, "effect").rows)),
    );
    return 8 * found * (1 + clusterPairs(pairs).count);
  }

  async finish(nodes: number, machine: Machine): Promise<CircuitEstimate> {
    const { files, dictionaries, weights } = this.#subject;
    const { model, number } = this.running;
    const steps = [...this.#steps];
    const passes = sum(steps.map(([, work]) => work.passes));
    const gflops = await gflopsFor(passes, model.width, this.#subject.options.device as Device);
    const saes = sum(
      [...dictionaries.values()].map(({ inputWidth, outputWidth, featureCount: F }) => (inputWidth + outputWidth) * F),
    );
    const held = weights === "held" ? number * parameterCount(model) : 0;
    return {
      weights,
      memory_bytes: programBytes + nodeBytes * nodes + held + Math.max(...steps.map(([, { memory }]) => memory)),
      available_memory_bytes: machine.availableMemory(),
      seconds: {
        reading: rates.least / 2 + (files.checkpoint.bytes + 4 * saes) / rates.hashed + held / rates.read,
        ...Object.fromEntries(steps.map(([step, work]) => [step, secondsOf(work, gflops)])),
      },
      gflops,
      counts: { pass_gflop: passes / 1e9, ...this.counts },
    };
  }
}

/** What the effects of a site take, once gradients are there. */
function effectsWork(dictionary: Dictionary, plan: Plan, number: 4 | 8): Work {
  const { flops, weights, products, rows, memory } = effectsCost(dictionary, plan, "effect", number);
  return workOf({ codes: flops, dictionaries: weights, products, rows, memory });
}

const nodesOf = (pairs: readonly TokenPair[]) => {
  const { forward, backward } = prefixForest(pairs);
  return forward.size + backward.size;
};

/** What an evaluation will take (`sfc evaluate`). */
export async function estimateEvaluation(
  subject: CircuitSubject,
  input: Pick<EvaluateInput, "pairs" | "cases">,
  options: EvaluateOptions,
  machine: Machine,
): Promise<CircuitEstimate> {
  const counted = new Counted(subject, await weightsWay(subject.options.device as Device));
  const groups = [...groupsOfPairs(input, options.by).values()];
  for (const group of groups) evaluationOfGroup(counted, subject.dictionaries, group, options);
  if (options.transfer !== null) {
    for (const group of groups) {
      const test = ofSplit(group, "test");
      const forest = forestOf(test.length > 0 ? test : group);
      const { kept, work } = activationsWork(counted.running, forest, subject.dictionaries);
      counted.kept = kept;
      const size = options.transfer * groups.length;
      counted.add(
        "transfer",
        work,
        ...measuring(counted, subject.dictionaries, forest, size, groups.length + 1, 0, options, options.ablations[0]!),
      );
    }
  }
  return counted.finish(nodesOf(input.pairs), machine);
}

const forestOf = (pairs: readonly TokenPair[]) => {
  const construction = constructionsOf(pairs.map(({ pair }) => pair.case));
  return evaluationForest(pairs, ({ case: name }) => construction(name));
};

/** The base of an ablation, and the metric of some circuits over it. */
function measuring(
  { running, counts }: Counted,
  dictionaries: CircuitSubject["dictionaries"],
  forest: ReturnType<typeof forestOf>,
  features: number,
  own: number,
  whole: number,
  { errors }: Pick<EvaluateOptions, "errors">,
  ablation: EvaluateOptions["ablations"][number],
): Work[] {
  const { rows } = planCapture(forest, { wanted: "both" });
  const most = Math.max(...[...dictionaries.values()].map(({ featureCount }) => featureCount));
  const perSite = Math.min(most, Math.ceil(features / dictionaries.size));
  counts.evaluations += own + whole;
  const all = errors === "kept" ? { own: 0, whole: own + whole } : { own, whole };
  return [
    baseWork(running, rows, dictionaries, perSite, {
      whole: whole > 0 || errors !== "ablated",
      zero: ablation === "zero",
    }),
    subsetsWork(running, forest, dictionaries, all),
  ];
}

function evaluationOfGroup(
  counted: Counted,
  dictionaries: CircuitSubject["dictionaries"],
  pairs: readonly TokenPair[],
  options: EvaluateOptions,
): void {
  const { running } = counted;
  const { ways, sizes, thresholds = [], ablations, errors, given } = options;
  const train = ofSplit(pairs, "train");
  const splits = [train, ofSplit(pairs, "test")].filter((own) => own.length > 0);
  const forests = splits.map(forestOf);
  counted.kept = 0;
  const measured = forests.map((forest) => activationsWork(running, forest, dictionaries));
  for (const { kept, work } of measured) {
    counted.kept += kept;
    counted.add("capture", work);
  }
  const chosenWays = train.length > 0 ? ways : [];
  const scored = chosenWays.filter((way) => isByScores(way) || way === "masks");
  for (const method of new Set(scored.map(methodOf))) {
    counted.add("scores", counted.effects(method, train));
    counted.kept += counted.clusterScores(train);
  }
  const byScores =
    sizes.length * chosenWays.filter(isByScores).length + thresholds.length * chosenWays.filter(isByThreshold).length;
  const byAblation = sizes.length * chosenWays.filter(isByAblation).length;
  const random = chosenWays.includes("random") ? sizes.length * randomSeeds.length : 0;
  const circuits = byScores + byAblation + random + (given ? 1 : 0);
  const longest = Math.max(0, ...sizes);
  for (const ablation of ablations) {
    addChoosing(counted, dictionaries, forests[0]!, chosenWays, sizes.length);
    if (random > 0) counted.add("evaluation", encodeWork(running, measured[0]!.rows, dictionaries));
    for (const forest of forests) {
      const features = longest * Math.max(1, circuits / Math.max(1, sizes.length));
      counted.add(
        "evaluation",
        ...measuring(counted, dictionaries, forest, features, 1 + 2 * circuits, 1, { errors }, ablation),
      );
    }
  }
  for (const way of ["basis", "neurons"] as const) {
    if (!chosenWays.includes(way)) continue;
    const numbers = numbersOf(way, running, dictionaries);
    counted.add(way, counted.effects("secant", train, numbers));
    for (const _ of ablations) {
      for (const forest of forests) {
        const { work: again } = activationsWork(running, forest, numbers);
        counted.add(
          way,
          ...(way === "neurons" ? [again] : []),
          ...measuring(counted, numbers, forest, longest, 1 + 2 * sizes.length, 1, { errors }, "mean"),
        );
      }
    }
  }
}

/** What depends on the ablation: scores on the way from it, and masks. */
function addChoosing(
  counted: Counted,
  dictionaries: CircuitSubject["dictionaries"],
  forest: ReturnType<typeof forestOf>,
  ways: readonly Way[],
  sizes: number,
): void {
  if (!ways.some(isByAblation)) return;
  const { running, counts } = counted;
  counted.add("mask scores", maskScoresWork(running, forest, dictionaries));
  if (!ways.includes("masks")) return;
  const { rows } = planCapture(forest, { wanted: "both" });
  const perSite = Math.ceil(maskCandidates / dictionaries.size);
  const base = baseWork(running, rows, dictionaries, perSite, { whole: false, zero: false });
  const { gradients, ...work } = masksWork(running, forest, dictionaries, maskCandidates, sizes);
  counts.mask_gradients += gradients;
  counted.add("masks", base, work);
}

/** The dictionaries of single numbers at some sites. */
function numbersOf(
  way: "basis" | "neurons",
  { model: { sites } }: Running,
  dictionaries: CircuitSubject["dictionaries"],
): ReadonlyMap<SiteName, Dictionary> {
  const places = [...dictionaries.keys()].map((site) =>
    way === "basis" ? site : siteName({ kind: "mlp_act", layer: parseSite(site).layer }),
  );
  return new Map(places.map((site) => [site, identityDictionary(site, sites[parseSite(site).kind]!)]));
}

/** What is asked of a circuit, as far as that bears on what it takes. */
export interface CircuitWork {
  readonly way: Way;
  /** Features in the circuit. */
  readonly size: number;
  readonly jacobian: "gradient" | "secant";
  /** Points of the edges' secant. */
  readonly points: number;
}

/**
 * What a circuit will take (`sfc circuit`).
 *
 * @param pairs those it is chosen from, and `drawn` those over which edges are taken
 */
export async function estimateCircuit(
  subject: CircuitSubject,
  pairs: readonly TokenPair[],
  drawn: readonly TokenPair[],
  { way, size, jacobian, points }: CircuitWork,
  machine: Machine,
): Promise<CircuitEstimate> {
  const { dictionaries } = subject;
  const counted = new Counted(subject, await weightsWay(subject.options.device as Device));
  const { running } = counted;
  const train = ofSplit(pairs, "train");
  if (isByAblation(way)) {
    const forest = forestOf(train);
    const { kept, work } = activationsWork(running, forest, dictionaries);
    counted.kept = kept;
    counted.add("choosing", work);
    if (way === "masks") counted.add("choosing", counted.effects("secant", train));
    addChoosing(counted, dictionaries, forest, [way], 1);
  } else counted.add("choosing", counted.effects(methodOf(way), train));
  counted.kept = 0;

  const forest = prefixForest(drawn);
  const { model, weights, storedType, number } = running;
  const plan = planCapture(forest, { wanted: "both" });
  const sites = [...dictionaries.keys()];
  const all = sitesOfEdges(sites, model.layers);
  const capture = captureCost(model, [plan], all, weights, storedType, number);
  counted.add(
    "capture",
    workOf({
      passes: capture.flops,
      read: weights === "streamed" ? capture.read : 0,
      sessions: 4,
      memory: capture.memory() - capture.held + capture.stored.peak,
    }),
  );
  counted.kept = edgesKept(running, plan.rows, forest.backward.size, dictionaries, jacobian);
  if (jacobian === "secant") {
    const secant = methodCost("secant", model, plan, dictionaries, points, number, weights);
    counted.add(
      "gradients",
      workOf({
        passes: secant.flops,
        read: secant.sweeps * subject.files.checkpoint.bytes,
        // One of all layers, forward and back, opens as slowly as as many of a single layer.
        sessions: weights === "streamed" ? 4 : 2 * model.layers + 2,
        memory: secant.memory + passWork(running, plan.packs, sites, { back: true }).memory,
      }),
    );
  }
  counted.add("effects", ...sites.map((site) => effectsWork(dictionaries.get(site)!, plan, number)));
  // Chosen by effects a circuit may have all of its features at some sites: the work is that of all together.
  const targets = new Map(sites.map((site) => [site, size / sites.length]));
  const { vectors, ...edges } = edgesWork(running, forest, dictionaries, targets, {
    jacobian,
    steps: points,
  });
  counted.counts.edge_products = Math.round(vectors);
  counted.add("edges", edges);
  return counted.finish(nodesOf([...pairs, ...drawn]), machine);
}

/** Seconds of a whole job. */
export const secondsOfCircuit = ({ seconds }: Pick<CircuitEstimate, "seconds">): number => sum(Object.values(seconds));

/** One line for those who are about to wait. */
export function circuitEstimateLine(e: CircuitEstimate): string {
  const little =
    e.memory_bytes > e.available_memory_bytes ? `, of which ${bytesText(e.available_memory_bytes)} are available` : "";
  return `Estimate: about ${duration(secondsOfCircuit(e))}, ${bytesText(e.memory_bytes)} of memory${little}; weights ${e.weights}.`;
}
