import { constants, createReadStream } from "node:fs";
import { open, stat } from "node:fs/promises";
import { countText } from "../amounts.ts";
import { defaultExamples, type JobOptions } from "../analysis/options.ts";
import { UsageError, UserError } from "../errors.ts";
import type { Model } from "../models/model.ts";
import type { Reporter } from "../progress.ts";
import { type CheckedPairs, describeDoubled, describeDropped, tokenizePairs } from "../prompts/check.ts";
import { agreementPairs } from "../prompts/english/agreement.ts";
import { commonLexicon } from "../prompts/english/lexicon-common.ts";
import { demoLexicon } from "../prompts/english/lexicon-demo.ts";
import { determinerPairs, pronounPairs, type TaskName, type TaskOptions, taskNames } from "../prompts/english/tasks.ts";
import { excerpt } from "../prompts/excerpt.ts";
import { inlinePair } from "../prompts/inline.ts";
import { decodePairs } from "../prompts/pair-text.ts";
import { groupPairs, type PromptPair, type TokenPair } from "../prompts/pairs.ts";
import { importPairs, type RejectedLine } from "../prompts/read-pairs.ts";
import type { Tokenizer } from "../prompts/tokenizer.ts";
import { InputFiles } from "../storage/input-files.ts";

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

/** Bytes of a file of pairs: what fits into one text with room to spare. */
const mostBytes = 256e6;

/** Pairs from here on show their progress. */
const many = 2000;

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
  /** Has taken note of the file, and takes note of the model's. */
  readonly inputs: InputFiles;
  choose(tokenizer: Tokenizer, reporter: Reporter): Chosen;
}

/**
 * Opens what `--task`, `--pairs` or `--clean` name. It is done before a model is looked for, so that a wrong name costs no download.
 *
 * The tasks speak the lexicon of the embedded model; agreement speaks common English where the tokenizer has not the lexicon's words as single tokens.
 *
 * @param patchless whether pairs may come without a patch prompt
 * @throws UserError if there is no such file, or the file is broken; UsageError if there is no such task
 */
export async function openPairs(options: PairOptions, { patchless = false } = {}): Promise<PairSource> {
  const { task, pairs, clean = null, patch = null, answers = null, num_examples, seed } = options;
  const inputs = new InputFiles();
  if (clean !== null && answers !== null) {
    return {
      inputs,
      name: "--clean",
      choose(tokenizer) {
        const { pair, notes } = inlinePair({ clean, patch, answers }, tokenizer);
        return { pairs: [pair], lines: null, rejected: [], notes };
      },
    };
  }
  if (pairs === null) {
    checkTask(task);
    const perCase = num_examples ?? defaultExamples;
    return {
      inputs,
      name: `the task ${task}`,
      choose: (tokenizer, reporter) => ({
        pairs: makePairs(task, tokenizer, perCase, seed, reporter),
        lines: null,
        rejected: [],
        notes: [],
      }),
    };
  }
  const imported = importPairs(await readPairText(pairs, inputs), pairs, { seed, patchless });
  const wanted = withinLimit(imported.pairs, num_examples);
  const chosen: Chosen = {
    pairs: wanted.map((i) => imported.pairs[i]!),
    lines: wanted.map((i) => imported.lines[i]!),
    rejected: imported.rejected,
    notes: [...imported.notes, ...fewerThan(imported.pairs, num_examples)],
  };
  return { inputs, name: pairs, choose: () => chosen };
}

/** Refuses a task that there is not. @throws UsageError */
export function checkTask(task: string | null): asserts task is TaskName {
  if ((taskNames as readonly (string | null)[]).includes(task)) return;
  throw new UsageError(
    `--task: expected one of ${taskNames.join(", ")}, got "${excerpt(task ?? "", 60)}". Give a file of your own with --pairs FILE.`,
  );
}

/**
 * The text of a file of pairs, or of a pipe, but not without end.
 *
 * @param inputs takes note of it
 * @throws UserError if there is no such file, it is too long, or it is no text
 */
export async function readPairText(path: string, inputs = new InputFiles()): Promise<string> {
  inputs.watch(path);
  const chunks: Buffer[] = [];
  let length = 0;
  const waiting = setTimeout(() => void endPipe(path), longestWait);
  try {
    for await (const chunk of createReadStream(path) as AsyncIterable<Buffer>) {
      clearTimeout(waiting);
      chunks.push(chunk);
      length += chunk.length;
      if (length > mostBytes) break;
    }
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    const why = code === "ENOENT" ? "which does not exist" : `which cannot be read (${code})`;
    throw new UserError(`--pairs: expected a file of JSON lines, got ${path}, ${why}. Check the path.`, {
      code: "not_found",
    });
  } finally {
    clearTimeout(waiting);
  }
  if (length > mostBytes) {
    throw new UserError(
      `--pairs: expected a file of at most ${mostBytes / 1e6} MB, got more in ${path}. Split the file.`,
    );
  }
  return decodePairs(Buffer.concat(chunks), path);
}

/** Milliseconds until what writes to a named pipe has to have begun. */
const longestWait = 5000;

/** Ends the wait for whoever opens a named pipe to write to it, which no signal would; one that is open already stays so. */
async function endPipe(path: string): Promise<void> {
  if (!(await stat(path).catch(() => undefined))?.isFIFO()) return;
  const writer = await open(path, constants.O_WRONLY | (constants.O_NONBLOCK ?? 0)).catch(() => undefined);
  await writer?.close();
}

/** The pairs of a task. @throws UserError if there are not so many; StoppedError */
function makePairs(
  task: TaskName,
  tokenizer: Tokenizer,
  perCase: number,
  seed: number,
  reporter: Reporter,
): PromptPair[] {
  const options: TaskOptions = { lexicon: demoLexicon, seed, perCase, stopped: reporter.stopped };
  if (task === "determiner") return determinerPairs(options);
  if (task === "pronoun") return pronounPairs(options);
  return agreement(tokenizer, perCase, seed, reporter);
}

function agreement(tokenizer: Tokenizer, perCase: number, seed: number, reporter: Reporter): PromptPair[] {
  const whole = demoLexicon.nouns.every((noun) => typeof tokenizer.answerToken("The", ` ${noun.plural}`) === "number");
  const lexicon = whole ? demoLexicon : commonLexicon;
  const onProgress = (done: number, total: number) => reporter.set(done, total);
  return agreementPairs({ lexicon, seed, perCase, stopped: reporter.stopped, onProgress });
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
  const long = (num_examples ?? 0) * 32 > many;
  if (long) reporter.begin("pairs", 1);
  const { pairs, lines, rejected: before, notes } = source.choose(tokenizer, reporter);
  if (pairs.length > many) reporter.begin("tokens", pairs.length);
  const { maxLength, vocabulary } = model;
  const checked = tokenizePairs(pairs, tokenizer, maxLength, vocabulary, {
    answers: answer_tokens,
    stopped: reporter.stopped,
    onProgress: (done, total) => pairs.length > many && reporter.set(done, total),
  });
  if (long || pairs.length > many) reporter.begin("reading", 1);
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
      ...repeated(checked, lines),
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
function repeated({ kept, rejected }: CheckedPairs, lines: readonly number[] | null): string[] {
  const first = new Map<string, number>();
  const dropped = new Set(rejected.map(({ index }) => index));
  let [count, index] = [0, -1];
  let example: readonly [number, number] | undefined;
  for (const { clean, patch, cleanAnswer, patchAnswer } of kept) {
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
