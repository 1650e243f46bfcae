/**
 * Experimental: language models as traced computation, their files and their weights.
 *
 * @module
 */

export { openFile, openFolder } from "#file";
export { type Folder, memoryFolder, subfolder } from "../bytes/folder.ts";
export type { ByteSource } from "../bytes/source.ts";
export { openUrl } from "../bytes/url.ts";
export { modelFromConfig } from "./architectures.ts";
export { type Checkpoint, openCheckpoint, type StoredType } from "./checkpoint.ts";
export { type FittedModel, fittedModel } from "./fitted.ts";
export type { AttentionParts, Context, Model, Sight, Tap, Weights } from "./model.ts";
export {
  heldWeights,
  type LoadedModel,
  loadedModel,
  type ModelWeights,
  type StreamedWeights,
  streamedWeights,
} from "./weights.ts";
