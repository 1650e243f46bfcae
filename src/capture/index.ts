/**
 * Experimental: the prefix forest of prompt pairs, and a model run on it with hooks that read, differentiate and replace activations.
 *
 * @module
 */

export {
  type BackwardNodes,
  type End,
  type ForwardNodes,
  type Merge,
  type PrefixForest,
  prefixForest,
  type Tree,
} from "../forest/forest.ts";
export {
  type MetricRows,
  type Pack,
  type Plan,
  type PlanOptions,
  planCapture,
  planMetric,
  type Wanted,
} from "../forest/packs.ts";
export type { Watch } from "../progress.ts";
export {
  type CheckedPairs,
  type CheckOptions,
  type Dropped,
  type DropReason,
  dropReasons,
  tokenizePairs,
} from "../prompts/check.ts";
export type { TokenPair } from "../prompts/pairs.ts";
export { loadTokenizer } from "../prompts/tokenizer.ts";
export { type Capture, type CaptureOptions, capture, captureAll, runMetric, type SiteCapture } from "./capture.ts";
export {
  type Entry,
  type Floats,
  type Found,
  type Hook,
  type Hooked,
  type Hooks,
  type Inputs,
  type Job,
  type Place,
  readingHooks,
  type Tensors,
} from "./hooks.ts";
export { openRunner, runModel } from "./run.ts";
export type { Objective, Results, Runner, RunOptions } from "./runner.ts";
export { memoryStore, type Store } from "./store.ts";
