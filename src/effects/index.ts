/**
 * Experimental: SAEs and their codes, and the effects of their features, one method each.
 *
 * @module
 */

export { identityDictionary } from "../dictionaries/basis.ts";
export type { Activation, Dictionary, Encoder, Normalization, TrainedOn } from "../dictionaries/dictionary.ts";
export { type CodeReader, codeReader, type SparseCodes } from "../dictionaries/encode.ts";
export { fitDictionary, type Host } from "../dictionaries/fit.ts";
export { closeDictionaries, openDictionaries, openDictionary } from "../dictionaries/open.ts";
export { type Loops, openLoops } from "../graph/loops/loops.ts";
export { analyticEffects } from "./analytic.ts";
export { effectsOf, needsOf } from "./dispatch.ts";
export {
  type Method,
  type MethodInput,
  type MethodName,
  methodNames,
  type Rule,
  rules,
  type SiteEffects,
  type SumCheck,
} from "./method.ts";
export { type EffectRows, errorFeature } from "./rows.ts";
export { type GroupSums, gradientActivation, gradientSums } from "./scores.ts";
