/**
 * Experimental: rankings of features, how far two of them agree, edges between features, interventions, and circuits as graphs.
 *
 * @module
 */

export { type Picked, pickFeatures } from "../dictionaries/pick.ts";
export type { RankedFeature } from "../effects/strongest.ts";
export { allCases, type NodesTable, type PairCount } from "../effects/sums.ts";
export {
  type AblationBase,
  type AblationKind,
  type AblationValue,
  type Activations,
  ablationBase,
  type ErrorTreatment,
  evaluationForest,
  type Features,
  readActivations,
  type SiteBase,
} from "../interventions/ablation.ts";
export { type Activity, activityOf, matchedByActivity } from "../interventions/baselines.ts";
export {
  bySite,
  chooseAbove,
  chooseCovering,
  chooseTop,
  rankScores,
  type Scored,
  type Scores,
  type ScoresBySite,
  sizeOf,
} from "../interventions/choose.ts";
export {
  type Clusters,
  clusterPairs,
  type Interval,
  type ResampleOptions,
  ratioInterval,
} from "../interventions/clusters.ts";
export { type EvaluationSetting, evaluateSubsets, meanMetric, type Subset } from "../interventions/evaluate.ts";
export {
  type Behaviour,
  type Intervened,
  type IntervenedGroup,
  type Intervention,
  type InterventionSetting,
  intervene,
  intervenedMetrics,
  type NextToken,
} from "../interventions/intervene.ts";
export { type HalvesOptions, learnOnHalves } from "../interventions/mask-halves.ts";
export { maskScores } from "../interventions/mask-scores.ts";
export type { MaskPlaces, MaskState, MaskStates } from "../interventions/mask-states.ts";
export { chooseByMasks, learnMasks, type MaskOptions, type MaskStage, type Masks } from "../interventions/masks.ts";
export { type InterventionTexts, readInterventions } from "../interventions/read-interventions.ts";
export { type SplitUnits, type Units, unitsOf } from "../interventions/units.ts";
export { type CheckEdgesOptions, checkEdges, type EdgeEnds, type MeasuredEdge } from "./check-edges.ts";
export { type CaseAccuracy, type Check, check } from "./checks.ts";
export {
  type EdgeBlock,
  type EdgeOptions,
  edges,
  type Jacobian,
  type SiteEdges,
  type Slope,
  sitesOfEdges,
} from "./edges.ts";
export {
  type AttributionGraph,
  type AttributionMetadata,
  type AttributionNode,
  type AttributionOptions,
  attributionGraph,
  attributionIndex,
} from "./export/attribution.ts";
export { graphMl } from "./export/graphml.ts";
export { lintAttributionGraph } from "./export/lint.ts";
export { graphSvg, type SvgOptions } from "./export/svg.ts";
export {
  type CircuitGraph,
  type GraphAbout,
  type GraphEdge,
  type GraphNode,
  type GraphNodeKind,
  type GraphSubject,
  graphNodeId,
  graphNodeKinds,
  graphNodeName,
} from "./graph.ts";
export { type GraphOptions, graphOf } from "./graph-of.ts";
export { type Influence, influenceOf, type PruneOptions, prune } from "./influence.ts";
export { type Ablation, ablationSchema } from "./meaning.ts";
export { type Path, type PathShape, pathShape, pathsBetween, type Through } from "./paths.ts";
export {
  type FeatureEffects,
  overlap,
  type Ranking,
  rankFeatures,
  rankingSchema,
  rankRun,
  rankSite,
  type SiteRanking,
  spearman,
} from "./ranking.ts";
export type { FeatureRow, FeatureSums, RankOptions, Tables } from "./tables.ts";
