/**
 * Experimental: the files of a run's folder.
 *
 * @module
 */

export { type Manifest, manifestSchema, readManifest } from "./manifest.ts";
export { type EffectQuery, type EffectRow, type NodeRow, type Run, type RunPair, readRun } from "./read-run.ts";
export { type FeatureQuery, readFeatures } from "./tables.ts";
