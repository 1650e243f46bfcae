/**
 * Finds the sparse features that cause a behaviour of a language model: open a model and its SAEs, analyse prompt pairs, read what was found.
 *
 * What an analysis is made of can be used by itself: `analytic-sfc/models`, `/graph`, `/capture`, `/effects`, `/circuit` and `/results`. These
 * parts are experimental: their names and types may change in any version.
 *
 * @module
 */

export { type AnalyseOptions, type AnalysisResult, analyse, type TopQuery } from "./analysis/analyse.ts";
export type { LanguageModel } from "./analysis/language-model.ts";
export type { Rejected } from "./analysis/pairs.ts";
export type { AnsweredPrompt, PromptActivations, PromptGradients } from "./analysis/prompts.ts";
export type { PairResult } from "./analysis/steps.ts";
export type { Floats } from "./capture/hooks.ts";
export type { CaseAccuracy, Check } from "./circuit/checks.ts";
export type { Ablation } from "./circuit/meaning.ts";
export { type Ranking, type Score, scores } from "./circuit/ranking.ts";
export type { FeatureRow } from "./circuit/tables.ts";
export type { Activation, Dictionary, Encoder, Normalization, TrainedOn } from "./dictionaries/dictionary.ts";
export { type MethodName, methodNames, type Rule, rules } from "./effects/method.ts";
export type { EffectRows } from "./effects/rows.ts";
export type { NodesTable } from "./effects/sums.ts";
export { type ErrorCode, errorCodes, StoppedError, UsageError, UserError } from "./errors.ts";
export type { Device } from "./graph/runtime.ts";
export type { LoadedModel } from "./models/weights.ts";
export { type ModelOptions, openModel, openSaes, type SaeOptions, type Saes } from "./open/library.ts";
export type { Progress, Watching } from "./progress.ts";
export { type BosChoice, bosChoices } from "./prompts/bos.ts";
export type { AnswerTokens } from "./prompts/check.ts";
export {
  type AgreementCase,
  type AgreementOptions,
  agreementCases,
  agreementPairs,
} from "./prompts/english/agreement.ts";
export { type Construction, constructions } from "./prompts/english/constructions.ts";
export {
  type Adjective,
  type Frame,
  type Gender,
  type Grammatical,
  type Lexicon,
  type Name,
  type Noun,
  type NounKind,
  nounKinds,
  type Preposition,
  type Verb,
} from "./prompts/english/lexicon.ts";
export { commonLexicon } from "./prompts/english/lexicon-common.ts";
export { demoLexicon } from "./prompts/english/lexicon-demo.ts";
export type { OutsideText } from "./prompts/outside.ts";
export type { PromptPair, Split } from "./prompts/pairs.ts";
export {
  type ImportedPairs,
  type ImportOptions,
  importPairs,
  type RejectedLine,
  readPairs,
  writePairs,
} from "./prompts/read-pairs.ts";
export { loadTokenizer, type Tokenizer } from "./prompts/tokenizer.ts";
export { type EffectQuery, type EffectRow, type NodeRow, type Run, type RunPair, readRun } from "./results/read-run.ts";
export type { FeatureQuery } from "./results/tables.ts";
export { type SiteKind, type SiteName, siteKinds } from "./site.ts";
