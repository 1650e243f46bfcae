import { countText } from "../amounts.ts";
import { UserError } from "../errors.ts";
import { excerpt } from "./excerpt.ts";
import { halves } from "./halves.ts";
import { type Fault, Faults, type PairRecord, pairRecords } from "./pair-text.ts";
import type { PromptPair, Split } from "./pairs.ts";
import { type PairLine, pairSentences, promptOf, type SentencePair, sentencesOf } from "./sentence-pairs.ts";

const promptFields = ["clean_prefix", "patch_prefix"] as const;
const answerFields = ["clean_answer", "patch_answer"] as const;

/** The case of pairs that name none; not the empty text, which stands for all cases together in result tables. */
export const unnamedCase = "default";

/** The longest name of a case. */
const longestCase = 200;

/** What a file of pairs holds. */
export interface ImportedPairs {
  readonly pairs: readonly PromptPair[];
  /** The line on which each of them stands. */
  readonly lines: readonly number[];
  /** Pairs of sentences that give no pair of prompts. */
  readonly rejected: readonly RejectedLine[];
  /** What whoever reads the results should know, a sentence each. */
  readonly notes: readonly string[];
}

/** A line of a file of pairs that cannot be used, and why. */
export interface RejectedLine {
  readonly line: number;
  readonly reason: string;
  /** The good and the bad sentence. */
  readonly sentences: readonly [string, string];
}

/** How a file of pairs is read. */
export interface ImportOptions {
  readonly seed?: number | string;
  /** Whether pairs may come without a patch prompt, for what reads the clean prompt alone. Default false. */
  readonly patchless?: boolean;
}

/**
 * Pairs from the field's public JSON lines: `{"clean_prefix", "patch_prefix", "clean_answer", "patch_answer", "case"}`, one object a line. Other
 * fields are ignored, a missing `case` is `default`.
 *
 * A `split` of "train" or "test" on every line is honoured. Without it, seeded halves are made so that no prompt is in both (see `halves`).
 *
 * @param name the file's name, for errors
 * @throws UserError if a line is broken or there is none; it names file and line
 */
export function readPairs(text: string, name: string, seed: number | string = 0): PromptPair[] {
  const { pairs, rejected } = importPairs(text, name, { seed });
  const [first] = rejected;
  if (pairs.length === 0 && first !== undefined) {
    throw new UserError(
      `pairs: expected sentences that give pairs of prompts, got none (line ${first.line}: ${first.reason}) in ${name}. Use other sentences.`,
    );
  }
  return [...pairs];
}

/**
 * Everything that a file of pairs holds: pairs as `readPairs` reads them, also as a JSON array or with tabs between named columns, and pairs of
 * sentences as BLiMP (`sentence_good`, `sentence_bad`) and syneval (good and bad sentence in the last two columns) have them, which become pairs
 * of prompts where they can (see `promptOf` and `pairSentences`). BLiMP's `UID` is the case.
 *
 * @param name the file's name, for errors
 * @throws UserError if a line is broken or there is none; it names file and line
 */
export function importPairs(
  text: string,
  name: string,
  { seed = 0, patchless = false }: ImportOptions = {},
): ImportedPairs {
  const lines: PairLine[] = [];
  const sentences: SentencePair[] = [];
  const rejected: RejectedLine[] = [];
  const faults = new Faults(name);
  for (const record of pairRecords(text, name, faults)) {
    const both = sentencesOf(record.fields);
    if (both === undefined || "clean_prefix" in record.fields) {
      const parsed = parsePair(record, patchless);
      if ("wrong" in parsed) faults.add(record.line, () => parsed);
      else lines.push(parsed);
      continue;
    }
    const parsed = parseSentences(record, both);
    if ("wrong" in parsed) faults.add(record.line, () => parsed);
    else if ("reason" in parsed) rejected.push(parsed);
    else sentences.push(parsed);
  }
  faults.throw();
  const notes: string[] = [];
  const made = pairSentences(sentences);
  const alone = made.filter((line) => line.patch_prefix === null).length;
  if (patchless) lines.push(...made);
  else {
    for (const [i, line] of made.entries()) {
      if (line.patch_prefix !== null) lines.push(line);
      else {
        const { prefix, good, bad } = sentences[i]!;
        rejected.push({
          line: line.line,
          reason: "no line has the same two words the other way round after a prompt that differs in one word",
          sentences: [`${prefix} ${good}`, `${prefix} ${bad}`],
        });
      }
    }
  }
  lines.sort((a, b) => a.line - b.line);
  rejected.sort((a, b) => a.line - b.line);
  if (sentences.length > 0) {
    notes.push(
      `${countText(sentences.length, "pair")} of sentences read as prompts with two answers, ${made.length - alone} with a patch prompt.`,
    );
    const goOn = sentences.filter((sentence) => sentence.goesOn).length;
    if (goOn > 0) {
      notes.push(
        `${countText(goOn, "pair")} of sentences ${goOn === 1 ? "goes" : "go"} on after the word in which they differ. That word is taken as the answer, which is right only where the words before it decide.`,
      );
    }
  }
  const splits = lines.length === 0 ? [] : splitsOf(lines, name, seed, notes);
  const pairs = lines.map(({ line: _, ...pair }, i) => ({ ...pair, split: splits[i]! }));
  return { pairs, lines: lines.map(({ line }) => line), rejected, notes };
}

/** Pairs as JSON lines that readPairs reads back to the same pairs. */
export function writePairs(pairs: readonly PromptPair[]): string {
  return pairs
    .map(({ clean_prefix, patch_prefix, clean_answer, patch_answer, case: name, split }) => {
      return `${JSON.stringify({ clean_prefix, patch_prefix, clean_answer, patch_answer, case: name, split })}\n`;
    })
    .join("");
}

function parsePair({ line, fields }: PairRecord, patchless: boolean): PairLine | Fault {
  for (const field of [...promptFields, ...answerFields]) {
    const got = fields[field];
    if (field === "patch_prefix" && (got === undefined || got === null)) {
      if (patchless) continue;
      // A line that lacks more is broken, not one for the scores.
      const others = ["clean_prefix", ...answerFields].every((name) => isText(fields[name]));
      return {
        wrong: `expected text in "patch_prefix", got ${shown(got)}`,
        ...(others && {
          advice: "Correct or remove the line; only --score gradient and gradient-activation need no patch prompts.",
        }),
      };
    }
    if (!isText(got)) return { wrong: `expected text in "${field}", got ${shown(got)}` };
    if (/\p{Cs}/u.test(got)) return { wrong: `expected text in "${field}", got half of a character (${shown(got)})` };
  }
  const about = parseAbout(fields, fields.case, "case");
  if ("wrong" in about) return about;
  return {
    line,
    clean_prefix: fields.clean_prefix as string,
    patch_prefix: (fields.patch_prefix ?? null) as string | null,
    clean_answer: fields.clean_answer as string,
    patch_answer: fields.patch_answer as string,
    ...about,
  };
}

function parseSentences(
  { line, fields }: PairRecord,
  both: readonly [unknown, unknown],
): SentencePair | RejectedLine | Fault {
  const [good, bad] = both;
  if (!isText(good) || !isText(bad)) {
    return { wrong: `expected a good and a bad sentence, got ${shown(isText(good) ? bad : good)} for one of them` };
  }
  const about = "UID" in fields ? parseAbout(fields, fields.UID, "UID") : parseAbout(fields, fields.case, "case");
  if ("wrong" in about) return about;
  const prompt = promptOf(fields, [good, bad]);
  return typeof prompt === "string" ? { line, reason: prompt, sentences: [good, bad] } : { line, ...prompt, ...about };
}

/** The case and the split of a line. */
function parseAbout(
  { split }: PairRecord["fields"],
  named: unknown,
  field: string,
): { case: string; split: Split | undefined } | Fault {
  if (named !== undefined && typeof named !== "string") {
    return { wrong: `expected text in "${field}", got ${shown(named)}`, advice: "Correct the field." };
  }
  if (named !== undefined && (named.length > longestCase || /[\p{Cc}\p{Cs}\u2028\u2029]/u.test(named))) {
    return {
      wrong: `expected a name of at most ${longestCase} characters, none of them a control character, in "${field}", got ${shown(named)}`,
      advice: "Correct the field.",
    };
  }
  if (split !== undefined && split !== "train" && split !== "test") {
    return { wrong: `expected "train" or "test" in "split", got ${shown(split)}`, advice: "Correct the field." };
  }
  return { case: named || unnamedCase, split };
}

const isText = (value: unknown): value is string => typeof value === "string" && value !== "";

/** A field's value as a message may quote it. */
function shown(value: unknown): string {
  if (value === undefined) return "no such field";
  if (value === "") return "an empty text";
  if (Array.isArray(value)) return "a list";
  if (typeof value === "object" && value !== null) return "an object";
  return typeof value === "string" ? `"${excerpt(value, 60)}"` : String(value);
}

function splitsOf(lines: readonly PairLine[], name: string, seed: number | string, notes: string[]): Split[] {
  const given = lines.filter((line) => line.split !== undefined).length;
  if (given === lines.length) return lines.map((line) => line.split!);
  if (given > 0) {
    throw new UserError(
      `pairs: expected a "split" on every line or on none, got ${given} of ${lines.length} in ${name}. Give all lines one or remove them.`,
    );
  }
  const splits = halves(lines, seed);
  if (!splits.includes("test")) {
    notes.push(
      lines.length === 1
        ? "One pair alone: there is no test split."
        : `All ${lines.length} pairs share prompts, directly or through others, so there is no test split. Give every line a "split" to have one.`,
    );
    return splits;
  }
  const bySplit = new Map<string, Set<Split>>();
  lines.forEach((line, i) => {
    bySplit.set(line.case, (bySplit.get(line.case) ?? new Set()).add(splits[i]!));
  });
  const single = [...bySplit].filter(([, set]) => set.size === 1).map(([one]) => one);
  if (single.length > 0) {
    notes.push(
      `${countText(single.length, "case")} of ${bySplit.size} ${single.length === 1 ? "is" : "are"} in one split alone (e.g. ${excerpt(single[0]!, 60)}): their prompts cannot be halved.`,
    );
  }
  return splits;
}
