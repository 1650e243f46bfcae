import { runtimeName } from "#session";
import { rankOrder } from "../circuit/ranking.ts";
import { checkFiniteEffects } from "../circuit/tables.ts";
import type { Dictionary } from "../dictionaries/dictionary.ts";
import { effectsOf } from "../effects/dispatch.ts";
import type { MethodInput } from "../effects/method.ts";
import { type EffectRows, errorFeature } from "../effects/rows.ts";
import { indexNodes, type NodeIndex, nodesTable, type Sums, sumRows } from "../effects/sums.ts";
import { StoppedError } from "../errors.ts";
import { type PrefixForest, prefixForest } from "../forest/forest.ts";
import type { LoadedModel } from "../models/weights.ts";
import type { Reporter } from "../progress.ts";
import type { TokenPair } from "../prompts/pairs.ts";
import type { Tokenizer } from "../prompts/tokenizer.ts";
import type { SiteName } from "../site.ts";
import type { MethodSpec } from "./compare-methods.ts";
import type { FeatureChoice, MethodResult } from "./compare-results.ts";
import { keptStrongest, wordsOf } from "./compare-spread.ts";

/** What the methods of a comparison work on. */
export interface ComparedInput {
  readonly loaded: LoadedModel;
  readonly tokenizer: Pick<Tokenizer, "outside">;
  /** The SAEs by site, in order of computation. */
  readonly dictionaries: ReadonlyMap<SiteName, Dictionary>;
  readonly pairs: readonly TokenPair[];
}

/** A method, and how it is run. */
export interface MethodRun {
  readonly spec: MethodSpec;
  /** Whether effects are kept apart for every pair. */
  readonly byPair: boolean;
  /** Which features `exact` patches. */
  readonly features: FeatureChoice;
}

/** Measures the memory of the process that a method runs in. */
export interface MemoryMeter {
  /**
   * Begins anew.
   *
   * @returns resident memory now, garbage left out, in bytes; and whether the peak counts from here on, else from the beginning of the process
   */
  begin(): { readonly bytes: number; readonly isReset: boolean };
  /** The largest resident memory since, in bytes. */
  peak(): number;
}

/** What happens while a method runs. */
export interface MeasureEvents {
  /** Told the work before it begins, where it is long. */
  readonly onWork?: MethodInput["onWork"];
  /** Awaited after every site: lets a message in that asks to stop. */
  readonly afterSite?: () => Promise<void>;
}

/** What a method found: its result, without the time that loading took, and the sums that its table is made from. */
export interface Measured {
  readonly result: Omit<MethodResult, "loading_seconds">;
  readonly index: NodeIndex;
  readonly sums: ReadonlyMap<SiteName, Sums>;
}

/** The forest on which a method works: in batches nothing is merged, and effects by pair need a path for each. */
export function forestOf(pairs: readonly TokenPair[], { batch }: MethodSpec, byPair: boolean): PrefixForest {
  return prefixForest(pairs, { merge: batch !== null ? "none" : byPair ? "forward" : "all" });
}

/**
 * Runs a method, and measures what it takes from the loaded model to the last effect.
 *
 * @throws UserError if an effect is not finite; StoppedError if asked to stop
 */
export async function measureStep(
  { loaded, tokenizer, dictionaries, pairs }: ComparedInput,
  { spec, byPair, features }: MethodRun,
  meter: MemoryMeter,
  reporter: Reporter,
  { onWork, afterSite }: MeasureEvents = {},
): Promise<Measured> {
  const forest = forestOf(pairs, spec, byPair);
  const index = indexNodes(
    nodesTable(forest, () => ""),
    tokenizer.outside,
  );
  const words = wordsOf(forest);
  const pairOf = byPair ? pairOfNode(forest) : undefined;
  const progress = methodProgress(reporter, dictionaries.size);
  let metric: { readonly clean: Float64Array; readonly patch: Float64Array } | undefined;
  const input: MethodInput = {
    ...loaded,
    forest,
    dictionaries,
    ...(spec.batch === null ? {} : { batch: spec.batch }),
    ...(spec.steps === null ? {} : { steps: spec.steps }),
    ...(spec.rule === null ? {} : { rule: spec.rule }),
    ...(features === null ? {} : { features: typeof features === "number" ? { top: features } : new Map(features) }),
    onProgress: progress.passes,
    stopped: reporter.stopped,
    onMetric: (clean, patch) => {
      metric = { clean, patch };
    },
    ...(onWork && { onWork }),
  };

  const sums = new Map<SiteName, Sums>();
  const found: MethodResult["sites"] = [];
  let rowCount = 0;
  // The runtime's library is no method's own.
  await runtimeName();
  const { bytes, isReset } = meter.begin();
  const began = performance.now();
  for await (const { rows } of effectsOf(spec.method, input)) {
    rowCount += rows.node.length;
    const ofSite = sumRows(rows, index);
    checkFiniteEffects(rows);
    sums.set(rows.site, ofSite);
    const means = meansOf(ofSite, pairs.length);
    const strongest = strongestFeatures(means, keptStrongest);
    const by_word = words.sums(rows, index, strongest);
    found.push({ site: rows.site, ...means, ...totalsOf(rows, pairs.length, pairOf), by_word });
    progress.site();
    await afterSite?.();
    if (reporter.stopped()) throw new StoppedError();
  }
  const seconds = (performance.now() - began) / 1000;
  const peak = meter.peak();
  if (!metric) throw new Error(`internal: ${spec.method} told no metric`);
  const { clean, patch } = metric;
  const ofPairs = (values: Float64Array) => Array.from(forest.endIndexOfPair, (entry) => values[entry]!);
  return {
    index,
    sums,
    result: {
      seconds,
      loaded_bytes: bytes,
      peak_bytes: Math.max(bytes, peak),
      peak_above_loaded: isReset,
      rows: rowCount,
      words: { count: words.count, pairs: words.pairs },
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
  let width = 0;
  for (let i = 0; i < feature.length; i++) width = Math.max(width, feature[i]! + 1);
  const sums = new Float64Array(width);
  const isThere = new Uint8Array(width);
  for (let i = 0; i < feature.length; i++) {
    const f = feature[i]!;
    if (f === errorFeature) continue;
    sums[f]! += total[i]!;
    isThere[f] = 1;
  }
  const found: { feature: number[]; effect: number[] } = { feature: [], effect: [] };
  for (let f = 0; f < width; f++) {
    if (isThere[f] === 0) continue;
    found.feature.push(f);
    found.effect.push(sums[f]! / pairs);
  }
  return found;
}

/** The features with the largest |effect|, the strongest first, ties by lower feature. */
function strongestFeatures({ feature, effect }: { feature: number[]; effect: number[] }, most: number): number[] {
  // Sizes alone are sorted without a function that compares two, which the rest is not worth.
  const sizes = Float64Array.from(effect, Math.abs).sort();
  const least = sizes[Math.max(0, sizes.length - most)] ?? 0;
  const strong = [...effect.keys()].filter((row) => Math.abs(effect[row]!) >= least);
  const features = strong.map((row) => feature[row]!);
  const order = rankOrder(
    features,
    strong.map((row) => effect[row]!),
  );
  return Array.from(order.subarray(0, most), (row) => features[row]!);
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
