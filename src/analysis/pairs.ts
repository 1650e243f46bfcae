import { countText } from "../amounts.ts";
import type { Dictionary } from "../dictionaries/dictionary.ts";
import { unlikeTraining } from "../dictionaries/fit.ts";
import { UsageError, UserError } from "../errors.ts";
import type { Model } from "../models/model.ts";
import { type Reporter, steps, type Watch } from "../progress.ts";
import { type CheckedPairs, describeDoubled, describeDropped, tokenizePairs } from "../prompts/check.ts";
import { agreementPairs } from "../prompts/english/agreement.ts";
import { commonLexicon } from "../prompts/english/lexicon-common.ts";
import { demoLexicon } from "../prompts/english/lexicon-demo.ts";
import { determinerPairs, pronounPairs, type TaskName, type TaskOptions, taskNames } from "../prompts/english/tasks.ts";
import { excerpt } from "../prompts/excerpt.ts";
import { inlinePair } from "../prompts/inline.ts";
import { groupPairs, type PromptPair, type TokenPair } from "../prompts/pairs.ts";
import { importPairs, type RejectedLine } from "../prompts/read-pairs.ts";
import type { Tokenizer } from "../prompts/tokenizer.ts";
import type { SiteName } from "../site.ts";
import { defaultExamples, type JobOptions, manyPairs } from "./options.ts";

/** The options that say which pairs. */
export type PairOptions = Pick<
  JobOptions,
  "task" | "pairs" | "clean" | "patch" | "answers" | "answer_tokens" | "num_examples" | "seed"
>;

/** The options of pairs that nobody named. */
export const noPairs: Omit<PairOptions, "seed"> = {
  task: null,
  pairs: null,
  num_examples: null,
};

/** Pairs before a tokenizer has seen them. */
interface Chosen {
  readonly pairs: readonly PromptPair[];
  /** The line of each in its file; null for those that come from none. */
  readonly lines: readonly number[] | null;
  readonly rejected: readonly RejectedLine[];
  readonly notes: readonly string[];
}

/** What the options name, read as far as it can be without a model. */
export interface PairSource {
  /** For errors: the file's path, or the task. */
  readonly name: string;
  choose(tokenizer: Tokenizer, reporter: Reporter): Chosen;
}

/**
 * The pairs that `--task`, `--pairs` or `--clean` name.
 *
 * The tasks speak the lexicon of the embedded model; agreement speaks common English where the tokenizer has not the lexicon's words as single tokens.
 *
 * @param text of the file that `--pairs` names; null where it names none
 * @param patchless whether pairs may come without a patch prompt
 * @throws UserError if the text is broken; UsageError if there is no such task
 */
export function pairSource(options: PairOptions, text: string | null, { patchless = false } = {}): PairSource {
  const { task, pairs, clean = null, patch = null, answers = null, num_examples, seed } = options;
  if (clean !== null && answers !== null) {
    return {
      name: "--clean",
      choose(tokenizer) {
        const { pair, notes } = inlinePair({ clean, patch, answers }, tokenizer);
        return { pairs: [pair], lines: null, rejected: [], notes };
      },
    };
  }
  if (pairs === null || text === null) {
    checkTask(task);
    const perCase = num_examples ?? defaultExamples;
    return {
      name: `the task ${task}`,
      choose: (tokenizer, reporter) => ({
        pairs: makePairs(task, tokenizer, perCase, seed, reporter),
        lines: null,
        rejected: [],
        notes: [],
      }),
    };
  }
  const imported = importPairs(text, pairs, { seed, patchless });
  const wanted = withinLimit(imported.pairs, num_examples);
  const chosen: Chosen = {
    pairs: wanted.map((i) => imported.pairs[i]!),
    lines: wanted.map((i) => imported.lines[i]!),
    rejected: imported.rejected,
    notes: [...imported.notes, ...fewerThan(imported.pairs, num_examples)],
  };
  return { name: pairs, choose: () => chosen };
}

/** Refuses a task that there is not. @throws UsageError */
export function checkTask(task: string | null): asserts task is TaskName {
  if ((taskNames as readonly (string | null)[]).includes(task)) return;
  throw new UsageError(
    `--task: expected one of ${taskNames.join(", ")}, got "${excerpt(task ?? "", 60)}". Give a file of your own with --pairs FILE.`,
  );
}

/** The pairs of a task. @throws UserError if there are not so many; StoppedError */
function makePairs(
  task: TaskName,
  tokenizer: Tokenizer,
  perCase: number,
  seed: number,
  reporter: Reporter,
): PromptPair[] {
  const { stopped, set: onProgress } = reporter;
  const options: TaskOptions = { lexicon: demoLexicon, seed, perCase, stopped };
  if (task === "determiner") return determinerPairs(options);
  if (task === "pronoun") return pronounPairs(options);
  return agreement(tokenizer, perCase, seed, { stopped, onProgress });
}

function agreement(tokenizer: Tokenizer, perCase: number, seed: number, watch: Watch): PromptPair[] {
  const whole = demoLexicon.nouns.every((noun) => typeof tokenizer.answerToken("The", ` ${noun.plural}`) === "number");
  const lexicon = whole ? demoLexicon : commonLexicon;
  return agreementPairs({ lexicon, seed, perCase, ...watch });
}

/** Indices of the first `limit` pairs of each split and case. */
function withinLimit(pairs: readonly PromptPair[], limit: number | null): number[] {
  if (limit === null) return [...pairs.keys()];
  return groupPairs(pairs)
    .flatMap(({ members }) => members.slice(0, limit))
    .sort((a, b) => a - b);
}

/** Tells where a file has fewer pairs of a split and case than were asked for. */
function fewerThan(pairs: readonly PromptPair[], wanted: number | null): string[] {
  if (wanted === null) return [];
  const counts = groupPairs(pairs).map(({ members }) => members.length);
  const few = counts.filter((count) => count < wanted);
  if (few.length === 0) return [];
  return [
    `--num_examples ${wanted}: ${few.length} of ${counts.length} splits and cases have fewer (the smallest ${Math.min(...few)}), and all of theirs are taken.`,
  ];
}

/** A pair that cannot be used. */
export interface Rejected {
  /** In its file; null for those of a task or typed ones. */
  readonly line: number | null;
  readonly reason: string;
  /** What the line says: a pair, or a good and a bad sentence. */
  readonly pair: PromptPair | { readonly sentences: readonly [string, string] };
}

export interface UsablePairs {
  /** How many there were. */
  readonly total: number;
  readonly kept: readonly TokenPair[];
  readonly rejected: readonly Rejected[];
  /** What to tell whoever reads the results, a sentence each: what was left out, what comes twice. */
  readonly warnings: readonly string[];
}

/**
 * The pairs of a source that a model and its tokenizer can use.
 *
 * @throws UserError if there is none; StoppedError if asked to stop
 */
export function usablePairs(
  source: PairSource,
  { tokenizer, model }: { readonly tokenizer: Tokenizer; readonly model: Model },
  { answer_tokens = "one", num_examples }: Pick<PairOptions, "answer_tokens" | "num_examples">,
  reporter: Reporter,
): UsablePairs {
  const long = (num_examples ?? 0) * 32 > manyPairs;
  if (long) reporter.begin("pairs", 1);
  const { pairs, lines, rejected: before, notes } = source.choose(tokenizer, reporter);
  if (pairs.length > manyPairs) reporter.begin("tokens", pairs.length);
  const { maxLength, vocabulary } = model;
  const checked = tokenizePairs(pairs, tokenizer, maxLength, vocabulary, {
    answers: answer_tokens,
    stopped: reporter.stopped,
    onProgress: (done, total) => pairs.length > manyPairs && reporter.set(done, total),
  });
  if (long || pairs.length > manyPairs) reporter.begin("reading", 1);
  const { kept, dropped } = checked;
  if (kept.length === 0) {
    const reasons = [
      ...[...countReasons(before)].map(([reason, count]) => `${count}: ${reason}`),
      ...dropped.map((d) => `${d.count}: ${d.reason}`),
    ];
    const several = dropped.some(({ reason }) => reason === "answer is several tokens");
    const hint = several ? " --answer_tokens first scores answers of several tokens at their first." : "";
    throw new UserError(
      `pairs: expected some that this model and its tokenizer can use, got none (${reasons.join("; ")}) in ${source.name}. Use other prompts or answers.${hint}`,
      { code: "no_pairs" },
    );
  }
  return {
    total: pairs.length + before.length,
    kept,
    rejected: [
      ...before.map(({ line, reason, sentences }) => ({ line, reason, pair: { sentences } })),
      ...checked.rejected.map(({ index, reason }) => ({ line: lines?.[index] ?? null, reason, pair: pairs[index]! })),
    ].sort((a, b) => (a.line ?? 0) - (b.line ?? 0)),
    warnings: [
      ...notes,
      ...[...countReasons(before)].map(
        ([reason, count]) => `Left out ${countText(count, "pair")} of sentences: ${reason}.`,
      ),
      ...describeDropped(dropped).map((line) => `Left out ${line}.`),
      ...repeated(checked, lines, { stopped: reporter.stopped }),
      ...describeDoubled(kept, tokenizer),
      ...(checked.several === 0
        ? []
        : [
            `${countText(checked.several, "pair")} with answers of several tokens, scored at the first token in which the two differ (--answer_tokens first).`,
          ]),
    ],
  };
}

function countReasons(rejected: readonly RejectedLine[]): ReadonlyMap<string, number> {
  const counts = new Map<string, number>();
  for (const { reason } of rejected) counts.set(reason, (counts.get(reason) ?? 0) + 1);
  return counts;
}

/** How many pairs say what another says, the case and the split aside. */
function repeated({ kept, rejected }: CheckedPairs, lines: readonly number[] | null, watch: Watch): string[] {
  const first = new Map<string, number>();
  const dropped = new Set(rejected.map(({ index }) => index));
  let [count, index] = [0, -1];
  let example: readonly [number, number] | undefined;
  const step = steps(watch, kept.length);
  for (const { clean, patch, cleanAnswer, patchAnswer } of kept) {
    step(index);
    do index++;
    while (dropped.has(index));
    const key = `${clean}/${patch}/${cleanAnswer}/${patchAnswer}`;
    const before = first.get(key);
    if (before === undefined) first.set(key, index);
    else {
      count++;
      example ??= [before, index];
    }
  }
  if (example === undefined) return [];
  const where = lines === null ? "" : ` (e.g. lines ${lines[example[0]]} and ${lines[example[1]]})`;
  return [`${countText(count, "pair")} ${count === 1 ? "repeats another" : "repeat others"}${where}; each counts.`];
}

/** What to say of dictionaries and of pairs that are unlike the texts that these were trained on; no line twice. */
export function dictionaryWarnings(
  dictionaries: ReadonlyMap<SiteName, Dictionary>,
  pairs: readonly TokenPair[],
  tokenizer: Pick<Tokenizer, "bosToken" | "outside">,
): string[] {
  const all = [...dictionaries.values()];
  const prompts = pairs.flatMap(({ clean, patch }) => [clean, patch]);
  const { bosToken, outside } = tokenizer;
  const bos = new Set([...outside.first, ...(bosToken === undefined ? [] : [bosToken])]);
  return [...new Set([...all.flatMap((d) => d.warnings ?? []), ...unlikeTraining(all, prompts, bos)])];
}
