/** The library: what a run is made of, from files to ranked features. Every part can be used by itself. */

export { openFile, openFolder } from "#file";
export { type Folder, memoryFolder, subfolder } from "./bytes/folder.ts";
export { openUrl } from "./bytes/url.ts";
export { type Capture, capture, captureAll, type SiteCapture } from "./capture/capture.ts";
export { planCapture, planMetric } from "./capture/packs.ts";
export { heldWeights, streamedWeights } from "./capture/weights.ts";
export { overlap, type RankedFeature, rankFeatures, spearman } from "./circuit/ranking.ts";
export type { Dictionary } from "./dictionaries/dictionary.ts";
export { type CodeReader, codeReader, type SparseCodes } from "./dictionaries/encode.ts";
export { openDictionaries, openDictionary } from "./dictionaries/open.ts";
export { analyticEffects } from "./effects/analytic.ts";
export { effectsOf, type MethodName, type MethodSetting, methodNames, type SiteEffects } from "./effects/method.ts";
export { type EffectRows, errorFeature } from "./effects/rows.ts";
export { gradientActivation, gradientSums } from "./effects/scores.ts";
export { UserError } from "./errors.ts";
export { modelFromConfig } from "./models/architectures.ts";
export { type Checkpoint, openCheckpoint } from "./models/checkpoint.ts";
export type { Model } from "./models/model.ts";
export { agreementCases, agreementPairs } from "./prompts/agreement.ts";
export { tokenizePairs } from "./prompts/check.ts";
export { type PrefixForest, prefixForest } from "./prompts/forest.ts";
export { commonLexicon } from "./prompts/lexicon-common.ts";
export { demoLexicon } from "./prompts/lexicon-demo.ts";
export type { PromptPair, TokenPair } from "./prompts/pairs.ts";
export { readPairs, writePairs } from "./prompts/read-pairs.ts";
export { loadTokenizer, type Tokenizer } from "./prompts/tokenizer.ts";
export type { SiteName } from "./site.ts";
