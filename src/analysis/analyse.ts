import type { CaseAccuracy, Check } from "../circuit/checks.ts";
import type { Ablation } from "../circuit/meaning.ts";
import type { Ranking, Score } from "../circuit/ranking.ts";
import type { FeatureRow } from "../circuit/tables.ts";
import type { Dictionary } from "../dictionaries/dictionary.ts";
import type { MethodName, Rule } from "../effects/method.ts";
import type { EffectRows } from "../effects/rows.ts";
import { allCases, type NodesTable } from "../effects/sums.ts";
import { UserError } from "../errors.ts";
import type { Watching } from "../progress.ts";
import type { AnswerTokens } from "../prompts/check.ts";
import type { PromptPair, Split } from "../prompts/pairs.ts";
import { compareSites, type SiteName } from "../site.ts";
import { type LanguageModel, watched } from "./language-model.ts";
import { memoryPlaces } from "./memory.ts";
import { dictionaryWarnings, type Rejected, usablePairs } from "./pairs.ts";
import { type AnalysisRecord, analysePairs, type PairResult, prepareAll } from "./steps.ts";

/** What `analyse` computes. */
export interface AnalyseOptions extends Watching {
  /** Default: `analytic`. */
  readonly method?: MethodName;
  /** Of the integrated methods, 10 by default; points of `secant`, 4 by default, 8 with the site `embed`. */
  readonly steps?: number;
  /** Of the integrated methods. Default: `midpoint`. */
  readonly rule?: Rule;
  /** What features are ranked by. Default: `effect`; the other two need no patch prompts. */
  readonly score?: Score;
  /** Features per site and split in the result's `ranking`. Default: 20. */
  readonly top?: number;
  /** `correct`: only the pairs that the model gets right. Default: `all`. */
  readonly keep?: "all" | "correct";
  /** How many tokens answers may have. Default: one. */
  readonly answerTokens?: AnswerTokens;
  /** Floating-point operations for patching the strongest features by themselves, which adds `exact` to the ranking; 1e11 is a second or two. Default: 0. */
  readonly exactFlops?: number;
  /** Whether to measure what the strongest features stand for, and what the model does without them. Default: false. */
  readonly meaning?: boolean;
}

/** Which features `top` gives. */
export interface TopQuery {
  readonly site: SiteName;
  /** How many. Default: 10. */
  readonly k?: number;
  /** Default: train, or test where there are no train pairs. */
  readonly split?: Split;
  /** Default: all cases together. */
  readonly case?: string;
}

/** What an analysis has found. */
export interface AnalysisResult {
  readonly sites: readonly SiteName[];
  /** The pairs that were analysed, with the metric at both prompts, in logits. */
  readonly pairs: readonly PairResult[];
  /** Those that could not be used, and why. */
  readonly rejected: readonly Rejected[];
  /** What the model gets right, by split and case. */
  readonly accuracy: readonly CaseAccuracy[];
  /** Whether the effects add up at every site, and whether the prefix forest agrees with separate examples. */
  readonly checks: readonly Check[];
  /** By site, the share of the variance of its activations on these prompts that its SAE leaves unexplained; null where there is none to explain. */
  readonly unexplained: Readonly<Record<SiteName, number | null>>;
  readonly warnings: readonly string[];
  /** Sites and layers with their strongest features: what `sfc run` writes to ranking.json. */
  readonly ranking: Ranking;
  /** What the strongest features stand for, if it was asked for and can be told. */
  readonly ablation: Ablation | undefined;
  /** The nodes of the prefix forest that rows of effects belong to. */
  readonly nodes: NodesTable;
  /**
   * The strongest features of a site, effects as means over the pairs in logits, signed.
   *
   * @throws UserError if there is no such site, split or case
   */
  top(query: TopQuery): readonly FeatureRow[];
  /**
   * All rows of a site: one per node and feature whose code changes, the error's with feature −1; none with the score `gradient`.
   *
   * @throws UserError if there is no such site
   */
  effects(site: SiteName): EffectRows;
}

/**
 * The whole analysis in memory: pairs → effects → ranked features. `sfc run` takes the same steps, with its results on disk.
 *
 * @param saes of the model, as `openSaes` opens them
 * @throws UserError if no pair can be used (`code` no_pairs), or a number is not finite; the signal's reason if it is aborted
 */
export function analyse(
  model: LanguageModel,
  saes: ReadonlyMap<SiteName, Dictionary>,
  pairs: readonly PromptPair[],
  options: AnalyseOptions = {},
): Promise<AnalysisResult> {
  const { method = "analytic", score = "effect", top = 20, steps, rule, answerTokens = "one", ...extent } = options;
  return watched(options, async (reporter) => {
    const { loaded, tokenizer, files } = model;
    const source = {
      name: "the pairs",
      choose: () => ({ pairs: withPatch(pairs, score), lines: null, rejected: [], notes: [] }),
    };
    const usable = usablePairs(source, files, { answer_tokens: answerTokens, num_examples: null }, reporter);
    const record: AnalysisRecord = {
      counts: { pairs: 0, nodes_forward: 0, nodes_backward: 0, tokens: 0, rows: 0 },
      accuracy: [],
      checks: [],
      warnings: [...model.warnings, ...usable.warnings, ...dictionaryWarnings(saes, usable.kept, tokenizer)],
    };
    const dictionaries = new Map([...saes].sort(([a], [b]) => compareSites(a, b)));
    const analysisOptions = { method, score, top, ...(steps && { steps }), ...(rule && { rule }) };
    const input = { loaded, tokenizer, dictionaries, options: analysisOptions };
    const places = { ...memoryPlaces(), checkInputs: () => files.inputs.check() };
    const prepared = prepareAll(usable.kept, analysisOptions, null, loaded.model, reporter);
    const found = await analysePairs(input, prepared, places, record, reporter, extent);
    const { tables } = places;
    const sites = [...dictionaries.keys()];
    const checkSite = (site: SiteName) => oneOf("site", site, sites);
    return {
      sites,
      pairs: found.pairs,
      rejected: usable.rejected,
      accuracy: record.accuracy,
      checks: record.checks,
      unexplained: record.unexplained ?? {},
      warnings: record.warnings,
      ranking: found.ranking,
      ablation: found.ablation,
      nodes: tables.nodes!,
      top({ site, k = 10, split: wanted, case: name = allCases }) {
        checkSite(site);
        const splits = [...new Set(record.accuracy.map((row) => row.split))];
        const split = wanted ?? (splits.includes("train") ? "train" : "test");
        oneOf("split", split, splits);
        const cases = record.accuracy.filter((row) => row.split === split).map((row) => row.case);
        if (name !== allCases) oneOf("case", name, cases);
        return tables
          .features(site, split, name)
          .filter(({ rank }) => rank !== null)
          .slice(0, k);
      },
      effects(site) {
        checkSite(site);
        const rows = tables.effects.get(site);
        if (rows) return rows;
        throw new UserError("effects: expected a score with rows, got gradient, which has sums alone. Use top().");
      },
    };
  });
}

/** @throws UserError if an effect is asked for of pairs without a patch prompt */
function withPatch(pairs: readonly PromptPair[], score: Score): readonly PromptPair[] {
  const without = pairs.find((pair) => pair.patch_prefix === null);
  if (score !== "effect" || without === undefined) return pairs;
  throw new UserError(
    `pairs: expected a patch prompt, got none beside "${without.clean_prefix}". Use the score gradient or gradient-activation.`,
  );
}

/** @throws UserError if there is no such site, split or case */
function oneOf(what: string, got: string, there: readonly string[]): void {
  if (there.includes(got)) return;
  throw new UserError(`${what}: expected one of ${there.join(", ")}, got ${got}. Choose one of them.`, {
    code: "not_found",
  });
}
