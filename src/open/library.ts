import { memoryPlaces } from "../analysis/memory.ts";
import { embeddedModel } from "../analysis/options.ts";
import {
  type AnsweredPrompt,
  capturePrompts,
  type PromptActivations,
  type PromptGradients,
} from "../analysis/prompts.ts";
import { type AnalysisRecord, analysePairs, type PairResult, prepare } from "../analysis/steps.ts";
import type { CaseAccuracy, Check } from "../circuit/checks.ts";
import type { Ablation } from "../circuit/meaning.ts";
import type { Ranking, Score } from "../circuit/ranking.ts";
import type { FeatureRow } from "../circuit/tables.ts";
import type { Dictionary } from "../dictionaries/dictionary.ts";
import { closeDictionaries } from "../dictionaries/open.ts";
import type { MethodName, Rule } from "../effects/method.ts";
import type { EffectRows } from "../effects/rows.ts";
import { allCases, type NodesTable } from "../effects/sums.ts";
import { StoppedError, UserError } from "../errors.ts";
import type { Device } from "../graph/runtime.ts";
import { parameterCount } from "../models/model.ts";
import { heldWeights, type LoadedModel, loadedModel, streamedWeights } from "../models/weights.ts";
import { type Reporter, type Watching, watchingReporter } from "../progress.ts";
import type { BosChoice } from "../prompts/bos.ts";
import type { AnswerTokens } from "../prompts/check.ts";
import type { PromptPair, Split } from "../prompts/pairs.ts";
import type { Tokenizer } from "../prompts/tokenizer.ts";
import { compareSites, parseSite, type SiteKind, type SiteName, siteKinds, siteName } from "../site.ts";
import { InputFiles } from "../storage/input-files.ts";
import { thisMachine } from "../storage/machine.ts";
import { packageRoot } from "../storage/package.ts";
import { checkRuntime } from "./device.ts";
import { chooseSites, dictionaryWarnings, type OpenModel, openChosenSaes, openModel as openFiles } from "./open.ts";
import { type Rejected, usablePairs } from "./open-pairs.ts";

/** How a model is opened. */
export interface ModelOptions extends Watching {
  /** Default: `cpu`. */
  readonly device?: Device;
  /** What is computed in. Default: `float32`. */
  readonly precision?: "float32" | "float64";
  /** Where weights are kept: all in memory, or in their files, read layer by layer. Default: held if they take at most a quarter of the free memory. */
  readonly weights?: "held" | "streamed";
  /** Whether prompts begin with BOS. Default: as the tokenizer says. */
  readonly bos?: BosChoice;
  /** Fields of config.json that are not understood and are to be ignored. */
  readonly allowConfigFields?: readonly string[];
  /** Whether only files on this machine may be used; default false: what is missing is downloaded. */
  readonly cachedOnly?: boolean;
}

/** A language model that is ready to run. */
export interface LanguageModel extends AsyncDisposable {
  /** As asked for. */
  readonly name: string;
  /** L */
  readonly layers: number;
  /** D, the width of the residual stream. */
  readonly width: number;
  /** All sites of the model, in order of computation. */
  readonly sites: readonly SiteName[];
  readonly tokenizer: Tokenizer;
  /** What whoever reads its numbers has to know. */
  readonly warnings: readonly string[];
  /** The model bound to its weights, device and precision, for the parts of this library (`analytic-sfc/capture` and others). */
  readonly loaded: LoadedModel;
  /**
   * The model's files.
   *
   * @internal
   */
  readonly files: OpenModel;
  /**
   * Activations of prompts at some sites, x[T,D] for each prompt. Prefixes that prompts share are computed once.
   *
   * @throws UserError if a site does not exist or a prompt is too long
   */
  capture<S extends SiteName>(
    prompts: readonly string[],
    sites: readonly S[],
    watching?: Watching,
  ): Promise<PromptActivations<S>>;
  /**
   * Activations of prompts with answers, and the gradients of the metric m = logit(patch answer) − logit(clean answer) at the prompt's end:
   * x[T,D] and g[T,D] = ∂m/∂x for each prompt by itself, m[P] in logits.
   *
   * @throws UserError if a site does not exist, a prompt is too long, or an answer is not one token
   */
  capture<S extends SiteName>(
    prompts: readonly AnsweredPrompt[],
    sites: readonly S[],
    watching?: Watching,
  ): Promise<PromptGradients<S>>;
  /** Closes the model's files; those of SAEs stay open. */
  close(): Promise<void>;
}

/**
 * Opens a language model with its tokenizer.
 *
 * @param source `demo` (the embedded model), a folder in Hugging Face layout, a GGUF file, a preset (`sfc models` lists them) or
 *   organisation/name[@revision] of the hub, which is downloaded where it is not cached
 * @throws UserError if there is no such model, or it cannot be run (`code` says which); the signal's reason if it is aborted
 */
export function openModel(source: string, options: ModelOptions = {}): Promise<LanguageModel> {
  const { device = "cpu", precision = "float32", bos, allowConfigFields = [], cachedOnly = false } = options;
  return watched(options, async (reporter) => {
    await checkRuntime(device, reporter);
    const files = await openFiles(source, { ...reporter, cachedOnly }, new InputFiles(), allowConfigFields, bos);
    try {
      const { model, checkpoint, tokenizer, warnings } = files;
      const bytes = parameterCount(model) * (precision === "float64" ? 8 : 4);
      const held = options.weights ? options.weights === "held" : bytes < thisMachine.availableMemory() / 4;
      const weights = held ? await heldWeights(model, checkpoint, precision) : streamedWeights(checkpoint);
      const loaded = loadedModel(model, weights, { dtype: precision, device });
      const close = () => files.close();
      return {
        name: source,
        layers: model.layers,
        width: model.width,
        sites: sitesOf(loaded),
        tokenizer,
        warnings,
        loaded,
        files,
        capture: <S extends SiteName>(
          prompts: readonly (string | AnsweredPrompt)[],
          sites: readonly S[],
          watching: Watching = {},
        ) =>
          watched(
            watching,
            ({ set, stopped }) =>
              capturePrompts(loaded, tokenizer, prompts, sites, { onProgress: set, stopped }) as Promise<
                PromptGradients<S>
              >,
          ),
        close,
        [Symbol.asyncDispose]: close,
      };
    } catch (error) {
      await files.close();
      throw error;
    }
  });
}

/** Which SAEs are opened, and for which model. */
export interface SaeOptions extends Watching {
  readonly model: LanguageModel;
  /** The sites, as `resid_post.3`; each must have an SAE. Default: all that have one, but `embed`. */
  readonly sites?: readonly SiteName[];
  /** In place of `sites`: kinds of sites. */
  readonly kinds?: readonly SiteKind[];
  /** In place of `sites`: layers, counted from 0. */
  readonly layers?: readonly number[];
  /** Of the random directions of the source `dummy`. Default: 1. */
  readonly seed?: number;
  /** Whether only files on this machine may be used; default false. */
  readonly cachedOnly?: boolean;
}

/** SAEs by site, in order of computation. */
export interface Saes extends ReadonlyMap<SiteName, Dictionary>, AsyncDisposable {
  /** Closes their files. */
  close(): Promise<void>;
}

/**
 * Opens SAEs of a model. Only headers are read; weights are read when they are used.
 *
 * @param source `demo`, a folder or file, a preset, organisation/name/folder of the hub, `dummy` for random directions, or null for the model's own
 * @throws UserError if there are none at a site that is asked for, or they do not fit the model; the signal's reason if it is aborted
 */
export function openSaes(source: string | null, options: SaeOptions): Promise<Saes> {
  const { model, sites, kinds = null, layers = null, seed = 1, cachedOnly = false } = options;
  const choose = (there: readonly SiteName[]): readonly SiteName[] => {
    if (!sites) return chooseSites(there, kinds, layers && new Set(layers));
    const missing = sites.find((site) => !there.includes(site));
    if (missing === undefined) return [...new Set(sites)].sort(compareSites);
    throw new UserError(
      `SAEs: expected one for ${missing}, got only ${there.join(", ")}. Choose other sites, or another source.`,
      { code: "not_found" },
    );
  };
  return watched(options, async (reporter) => {
    const choice = {
      source: source === embeddedModel ? `${packageRoot}models/${embeddedModel}/saes` : source,
      kinds: sites ? [...new Set(sites.map((site) => parseSite(site).kind))] : kinds,
      seed,
      choose,
    };
    const dictionaries = await openChosenSaes(model.files, choice, { ...reporter, cachedOnly });
    const close = () => closeDictionaries(dictionaries);
    return Object.assign(new Map(dictionaries), { close, [Symbol.asyncDispose]: close });
  });
}

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
      inputs: files.inputs,
      choose: () => ({ pairs: withPatch(pairs, score), lines: null, rejected: [], notes: [] }),
    };
    const usable = usablePairs(source, files, { answer_tokens: answerTokens, num_examples: null }, reporter);
    const record: AnalysisRecord = {
      counts: { pairs: 0, nodes_forward: 0, nodes_backward: 0, tokens: 0, rows: 0 },
      accuracy: [],
      checks: [],
      warnings: [...model.warnings, ...usable.warnings, ...dictionaryWarnings(saes, usable.kept, files)],
    };
    const dictionaries = new Map([...saes].sort(([a], [b]) => compareSites(a, b)));
    const analysisOptions = { method, score, top, ...(steps && { steps }), ...(rule && { rule }) };
    const input = { loaded, tokenizer, dictionaries, options: analysisOptions };
    const places = { ...memoryPlaces(), checkInputs: () => files.inputs.check() };
    const prepared = prepare(usable.kept, analysisOptions);
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

/** All sites of a model, in order of computation. */
function sitesOf({ model }: LoadedModel): SiteName[] {
  return siteKinds
    .filter((kind) => model.sites[kind] !== undefined)
    .flatMap((kind) =>
      kind === "embed" ? ["embed"] : Array.from({ length: model.layers }, (_, layer) => siteName({ kind, layer })),
    )
    .sort(compareSites);
}

/** Does work that an aborted signal ends with its reason. */
async function watched<T>(watching: Watching, work: (reporter: Reporter) => Promise<T>): Promise<T> {
  watching.signal?.throwIfAborted();
  try {
    return await work(watchingReporter(watching));
  } catch (error) {
    if (error instanceof StoppedError) watching.signal?.throwIfAborted();
    throw error;
  }
}
