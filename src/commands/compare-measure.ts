import { rm } from "node:fs/promises";
import { join } from "node:path";
import { setImmediate as turn } from "node:timers/promises";
import { runtimeName } from "#session";
import type { MethodSpec } from "../analysis/compare-methods.ts";
import type { MethodResult } from "../analysis/compare-results.ts";
import type { WorkOptions } from "../analysis/options.ts";
import { checkFiniteEffects } from "../circuit/tables.ts";
import { effectsOf } from "../effects/dispatch.ts";
import type { MethodInput } from "../effects/method.ts";
import { type EffectRows, errorFeature } from "../effects/rows.ts";
import { countPairs, indexNodes, type NodeIndex, nodesTable, type Sums, sumRows } from "../effects/sums.ts";
import { StoppedError } from "../errors.ts";
import { type PrefixForest, prefixForest } from "../forest/forest.ts";
import type { Device } from "../graph/runtime.ts";
import { silent } from "../hub/pull.ts";
import { heldWeights, streamedWeights } from "../models/weights.ts";
import { openJob } from "../open/open.ts";
import { usablePairs } from "../open/open-pairs.ts";
import type { Reporter } from "../progress.ts";
import type { TokenPair } from "../prompts/pairs.ts";
import type { SiteName } from "../site.ts";
import { makeFolder, writeFileAtomic } from "../storage/files.ts";
import { type FileState, InputFiles } from "../storage/input-files.ts";
import { peakBytes, resetPeak, residentBytes } from "../storage/resident.ts";
import { seal } from "../storage/seal.ts";

/** What a method is to do, and where its results go. */
export interface MethodRequest {
  readonly setting: WorkOptions;
  readonly weights: "held" | "streamed";
  readonly spec: MethodSpec;
  /** Whether effects are kept apart for every pair. */
  readonly byPair: boolean;
  /** Which features `exact` patches: by site, or the so many strongest of `analytic` at each; null for all. */
  readonly features: readonly (readonly [SiteName, readonly number[]])[] | number | null;
  /** The folder for its results. */
  readonly folder: string;
  /** How the files that it reads were when they were hashed. */
  readonly inputs: readonly (readonly [path: string, state: FileState])[];
}

/** The work of a method that takes long, told before it begins. */
export type Work = Parameters<NonNullable<MethodInput["onWork"]>>[0];

/** The name of a method's checkpoint. */
export const resultFile = "result.json";

/** The name of a method's table. */
export const featuresFile = "features.parquet";

/** Seals result and table, see `seal`. */
export const resultSeal = "result.seal";

/**
 * Runs a method and measures what it takes; then writes `features.parquet` and `result.json` into its folder. It is alone in its process, which has
 * loaded neither the database nor anything else that the method does not need.
 *
 * @throws UserError for bad input; StoppedError if asked to stop
 */
export async function measureMethod(
  request: MethodRequest,
  reporter: Reporter,
  onWork: (work: Work) => void,
): Promise<void> {
  const { setting } = request;
  reporter.begin("reading", 1);
  await using opened = await openJob(setting, { ...silent, cachedOnly: true });
  const { dictionaries } = opened;
  const { kept } = usablePairs(opened.source, opened, setting, reporter);
  const { model, checkpoint, tokenizer } = opened;
  const began = performance.now();
  const weights =
    request.weights === "held" ? await heldWeights(model, checkpoint, setting.precision) : streamedWeights(checkpoint);
  const loading = (performance.now() - began) / 1000;
  const forest = forestOf(kept, request.spec, request.byPair);
  const index = indexNodes(
    nodesTable(forest, () => ""),
    tokenizer.outside,
  );
  const sites = [...dictionaries.keys()];
  const { result: found, sums } = await measure(
    request,
    { model, weights, forest, dictionaries },
    index,
    reporter,
    onWork,
  );
  reporter.begin("writing", 1);
  new InputFiles(request.inputs).check();
  await writeFeatures(request.folder, sites, kept, index, sums);
  const whole: MethodResult = { ...found, loading_seconds: loading };
  const result = join(request.folder, resultFile);
  await writeFileAtomic(result, JSON.stringify(whole));
  await seal(join(request.folder, resultSeal), [result, join(request.folder, featuresFile)]);
  reporter.end();
}

/** The forest on which a method works: in batches nothing is merged, and effects by pair need a path for each. */
export function forestOf(pairs: readonly TokenPair[], { batch }: MethodSpec, byPair: boolean): PrefixForest {
  return prefixForest(pairs, { merge: batch !== null ? "none" : byPair ? "forward" : "all" });
}

async function measure(
  { spec, setting, byPair, features }: MethodRequest,
  on: Pick<MethodInput, "model" | "weights" | "forest" | "dictionaries">,
  index: NodeIndex,
  reporter: Reporter,
  onWork: (work: Work) => void,
): Promise<{ result: Omit<MethodResult, "loading_seconds">; sums: ReadonlyMap<SiteName, Sums> }> {
  const { forest, dictionaries } = on;
  const pairs = forest.pairs.length;
  const pairOf = byPair ? pairOfNode(forest) : undefined;
  const progress = methodProgress(reporter, dictionaries.size);
  let metric: { readonly clean: Float64Array; readonly patch: Float64Array } | undefined;
  const input: MethodInput = {
    ...on,
    dtype: setting.precision,
    device: setting.device as Device,
    ...(spec.batch === null ? {} : { batch: spec.batch }),
    ...(spec.steps === null ? {} : { steps: spec.steps }),
    ...(spec.rule === null ? {} : { rule: spec.rule }),
    ...(features === null ? {} : { features: typeof features === "number" ? { top: features } : new Map(features) }),
    onProgress: progress.passes,
    stopped: reporter.stopped,
    onMetric: (clean, patch) => {
      metric = { clean, patch };
    },
    onWork,
  };

  const sums = new Map<SiteName, Sums>();
  const found: MethodResult["sites"] = [];
  let rowCount = 0;
  // The runtime's library is no method's own.
  await runtimeName();
  globalThis.gc?.();
  const loaded = residentBytes();
  const reset = resetPeak();
  const began = performance.now();
  for await (const { rows } of effectsOf(spec.method, input)) {
    rowCount += rows.node.length;
    const ofSite = sumRows(rows, index);
    checkFiniteEffects(rows);
    sums.set(rows.site, ofSite);
    found.push({ site: rows.site, ...meansOf(ofSite, pairs), ...totalsOf(rows, pairs, pairOf) });
    progress.site();
    // Lets a message in that asks to stop.
    await turn();
    if (reporter.stopped()) throw new StoppedError();
  }
  const seconds = (performance.now() - began) / 1000;
  const peak = peakBytes();
  if (!metric) throw new Error(`internal: ${spec.method} told no metric`);
  const { clean, patch } = metric;
  const ofPairs = (values: Float64Array) => Array.from(forest.endIndexOfPair, (entry) => values[entry]!);
  return {
    sums,
    result: {
      seconds,
      loaded_bytes: loaded,
      peak_bytes: Math.max(loaded, peak),
      peak_above_loaded: reset,
      rows: rowCount,
      m_clean: ofPairs(clean),
      m_patch: ofPairs(patch),
      sites: [...dictionaries.keys()].map((site) => {
        const one = found.find((of) => of.site === site);
        if (!one) throw new Error(`internal: ${spec.method} has no effects at ${site}`);
        return one;
      }),
    },
  };
}

/** Shows a method's passes, and after them its sites; a method that tells of passes all the way to its last site shows those alone. */
function methodProgress(reporter: Reporter, sites: number) {
  let [done, told, showing] = [0, false, "passes"];
  reporter.begin("passes", 1);
  return {
    passes(at: number, total: number) {
      told = true;
      if (showing === "passes") reporter.set(at, total);
    },
    site() {
      done++;
      if (!told && showing === "passes") {
        showing = "features";
        reporter.begin("features", sites);
      }
      told = false;
      if (showing === "features") reporter.set(done, sites);
    },
  };
}

/** The pair that each backward node belongs to, in a forest that keeps pairs apart. */
function pairOfNode({ backward, endNodeOfPair }: PrefixForest): Int32Array {
  const pairOf = new Int32Array(backward.size).fill(-1);
  endNodeOfPair.forEach((end, pair) => {
    for (let node = end; node >= 0 && pairOf[node]! < 0; node = backward.parent[node]!) pairOf[node] = pair;
  });
  return pairOf;
}

/** Effects of features over all splits and cases, means over the pairs, features in ascending order. */
function meansOf({ feature, total }: Sums, pairs: number): { feature: number[]; effect: number[] } {
  const sums = new Map<number, number>();
  feature.forEach((f, i) => {
    if (f !== errorFeature) sums.set(f, (sums.get(f) ?? 0) + total[i]!);
  });
  const features = [...sums.keys()].sort((a, b) => a - b);
  return { feature: features, effect: features.map((f) => sums.get(f)! / pairs) };
}

/** Σ of all rows: the mean over the pairs, and of each pair where it is known which one a node belongs to. */
function totalsOf({ node, effect }: EffectRows, pairs: number, pairOf: Int32Array | undefined) {
  const ofPair = pairOf && new Float64Array(pairs);
  let sum = 0;
  for (let i = 0; i < effect.length; i++) {
    sum += effect[i]!;
    if (ofPair) ofPair[pairOf[node[i]!]!]! += effect[i]!;
  }
  return { sum: sum / pairs, pair_sums: ofPair ? [...ofPair] : null };
}

/** `features.parquet`, as a run has it. The database comes in here, after all measuring. */
async function writeFeatures(
  folder: string,
  sites: readonly SiteName[],
  pairs: readonly TokenPair[],
  index: NodeIndex,
  sums: ReadonlyMap<SiteName, Sums>,
): Promise<void> {
  const { RunTables } = await import("../results/tables.ts");
  const parts = join(folder, "parts");
  // What an interrupted run left may be anything.
  await rm(folder, { recursive: true, force: true });
  await makeFolder(folder);
  const tables = await RunTables.open(parts);
  try {
    tables.takeIndex(index);
    for (const site of sites) await tables.writeSums(site, sums.get(site)!);
    await tables.writeFeatures(folder, sites, countPairs(pairs));
  } finally {
    tables.close();
  }
  await rm(parts, { recursive: true, force: true });
}
