import { isMiddle } from "../circuit/meaning.ts";
import type { Dictionary } from "../dictionaries/dictionary.ts";
import type { MethodName } from "../effects/method.ts";
import { strongestCost } from "../effects/strongest.ts";
import type { Plan } from "../forest/packs.ts";
import type { Model } from "../models/model.ts";
import type { SiteName } from "../site.ts";
import { sum } from "../stats.ts";
import type { JobOptions } from "./options.ts";
import { rates } from "./rates.ts";

/** Floating-point operations for patching features by themselves: a share of those of the capture, and at least so many, in GFLOP. */
const exactShare = 0.25;
const leastExact = 100;

/** Floating-point operations that a run may take to patch its strongest features by themselves. */
export const exactBudget = (captureGflop: number) => Math.max(leastExact, exactShare * captureGflop) * 1e9;

/** What a run makes of its effects. */
export type ResultPhase = "exact" | "meaning" | "cards" | "report";

/** Features of each site and split that have cards, and what both splits share of them less. */
const cardsOfSite = { split: 20, both: 23 };

/** Seconds of what grows with cards, with rows of effects, and with numbers that are looked at one by one; as `rates`. */
const seconds = {
  least: 0.3,
  /** A card is put together, written, read and checked. */
  card: 0.0008,
  reportCard: 0.001,
  /** Rows are joined, summed and sorted in one thread for cards, and read for the report. */
  cardRow: 1e-6,
  reportRow: 0.4e-6,
  /** Logits and cosines are sorted. */
  number: 4e-9,
} as const;

interface ResultsInput {
  readonly model: Model;
  readonly dictionaries: ReadonlyMap<SiteName, Dictionary>;
  readonly plan: Plan;
  readonly options: Pick<JobOptions, "method" | "score" | "precision"> & { readonly steps?: number };
  readonly weights: "held" | "streamed";
  /** Rows of effects.parquet that are expected. */
  readonly rows: number;
  readonly gflops: number;
  readonly captureGflop: number;
}

/** The seconds of a run's phases behind its tables, told from counts: of features that are not known yet, as many are taken as there may be. */
export function resultSeconds(input: ResultsInput): Partial<Record<ResultPhase, number>> {
  const { dictionaries, options, rows } = input;
  const { score, method } = options;
  const splits = new Set(input.plan.forest.backward.groups.map(({ split }) => split));
  const cards = score === "gradient" ? 0 : dictionaries.size * cardsOfSite[splits.size > 1 ? "both" : "split"];
  return {
    ...(score === "effect" && method !== "exact" && { exact: exactSeconds(input, method) }),
    ...(score === "effect" && options.precision === "float32" && { meaning: meaningSeconds(input) }),
    ...(cards > 0 && { cards: cardSeconds(input, cards) }),
    report: seconds.least + cards * seconds.reportCard + rows * seconds.reportRow,
  };
}

/** Seconds in which the sessions of so many layers open. */
export const openSeconds = (layers: number) => layers / rates.sessions;

function exactSeconds(
  { model, dictionaries, plan, options, weights, gflops, captureGflop }: ResultsInput,
  method: MethodName,
): number {
  const budget = exactBudget(captureGflop);
  const number = options.precision === "float64" ? 8 : 4;
  const given = { model, dictionaries, steps: options.steps, number, weights } as const;
  const cost = strongestCost(given, method, plan.forest.pairs, budget);
  if (cost === undefined) return 0;
  // The whole model for the capture, and for `secant`; a fifth of that for what is left of it behind each site, which goes forward alone.
  const opened = 2 * model.layers + cost.layers / 5;
  return cost.flops / (rates.passes * gflops * 1e9) + openSeconds(opened);
}

/** The test split twice, without the features of either of two groups. */
function meaningSeconds({ model, dictionaries, plan: { forest }, gflops }: ResultsInput): number {
  const tested = forest.pairs.filter(({ pair }) => pair.split === "test").length;
  if (tested === 0 || ![...dictionaries.keys()].some((site) => isMiddle(site, model))) return 0;
  const rows = 2 * forest.forward.size * (tested / forest.pairs.length);
  return (rows * model.flopsPerToken) / (rates.passes * gflops * 1e9) + openSeconds(model.layers);
}

function cardSeconds({ model, dictionaries, rows, gflops }: ResultsInput, cards: number): number {
  const { width: D, vocabulary: V } = model;
  const all = [...dictionaries.values()];
  const each = cards / all.length;
  const products = 2 * cards * D * V + sum(all.map(({ featureCount: F, outputWidth }) => 2 * each * F * outputWidth));
  const looked = cards * V + sum(all.map(({ featureCount }) => each * featureCount));
  const decoded = sum(all.map(({ featureCount, outputWidth }) => featureCount * outputWidth));
  const traits = products / (gflops * 1e9) + looked * seconds.number + decoded / rates.decoded;
  // The tables are asked while traits are computed.
  return Math.max(traits, rows * seconds.cardRow) + cards * seconds.card;
}
