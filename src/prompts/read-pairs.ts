import { UserError } from "../errors.ts";
import { Random } from "../random.ts";
import type { PromptPair, Split } from "./pairs.ts";

const textFields = ["clean_prefix", "patch_prefix", "clean_answer", "patch_answer"] as const;

/** The case of pairs that name none; not the empty text, which stands for all cases together in result tables. */
export const unnamedCase = "default";

interface Line {
  readonly clean_prefix: string;
  readonly patch_prefix: string;
  readonly clean_answer: string;
  readonly patch_answer: string;
  readonly case: string;
  readonly split: Split | undefined;
}

/**
 * Pairs from the field's public JSON lines: `{"clean_prefix", "patch_prefix", "clean_answer", "patch_answer", "case"}`, one object a line. Other
 * fields are ignored, a missing `case` is `default`.
 *
 * A `split` of "train" or "test" on every line is honoured. Without it, seeded halves are made so that no prompt is in both: pairs that share
 * a prompt, clean or patch, directly or through others, stay together.
 *
 * @param name the file's name, for errors
 * @throws UserError if a line is broken, if there is none, or if the pairs cannot be halved; it names file and line
 */
export function readPairs(text: string, name: string, seed: number | string = 0): PromptPair[] {
  const lines: Line[] = [];
  const faults: UserError[] = [];
  text
    .replace(/^\ufeff/, "")
    .split(/\r?\n/)
    .forEach((line, i) => {
      if (line.trim() === "") return;
      const parsed = parseLine(line, `${name}, line ${i + 1}`);
      if (parsed instanceof UserError) faults.push(parsed);
      else lines.push(parsed);
    });
  const [fault] = faults;
  if (fault !== undefined) {
    const more = faults.length - 1;
    if (more > 0) fault.message += ` (${more} more ${more === 1 ? "line is" : "lines are"} broken.)`;
    throw fault;
  }
  if (lines.length === 0) {
    throw new UserError(
      `pairs: expected one JSON object a line, got no lines in ${name}. Give a file with prompt pairs.`,
    );
  }
  return withSplits(lines, name, seed);
}

/** Pairs as JSON lines that readPairs reads back to the same pairs. */
export function writePairs(pairs: readonly PromptPair[]): string {
  return pairs
    .map(({ clean_prefix, patch_prefix, clean_answer, patch_answer, case: name, split }) => {
      return `${JSON.stringify({ clean_prefix, patch_prefix, clean_answer, patch_answer, case: name, split })}\n`;
    })
    .join("");
}

function parseLine(line: string, where: string): Line | UserError {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch {
    const got = line.length > 40 ? `${line.slice(0, 40)}…` : line;
    return new UserError(`pairs: expected one JSON object, got ${got} in ${where}. Correct or remove the line.`);
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    const got = Array.isArray(value) ? "a list" : value === null ? "null" : `a ${typeof value}`;
    return new UserError(`pairs: expected one JSON object, got ${got} in ${where}. Correct or remove the line.`);
  }
  const fields = value as Record<string, unknown>;
  for (const field of textFields) {
    const got = fields[field];
    if (typeof got === "string" && got !== "") continue;
    const found = got === undefined ? "no such field" : got === "" ? "an empty text" : JSON.stringify(got);
    return new UserError(`pairs: expected text in "${field}", got ${found} in ${where}. Correct or remove the line.`);
  }
  const { case: named, split } = fields;
  if (named !== undefined && typeof named !== "string") {
    return new UserError(
      `pairs: expected text in "case", got ${JSON.stringify(named)} in ${where}. Correct the field.`,
    );
  }
  if (split !== undefined && split !== "train" && split !== "test") {
    return new UserError(
      `pairs: expected "train" or "test" in "split", got ${JSON.stringify(split)} in ${where}. Correct the field.`,
    );
  }
  const [clean_prefix, patch_prefix, clean_answer, patch_answer] = textFields.map((field) => fields[field] as string);
  return {
    clean_prefix: clean_prefix!,
    patch_prefix: patch_prefix!,
    clean_answer: clean_answer!,
    patch_answer: patch_answer!,
    case: named || unnamedCase,
    split,
  };
}

function withSplits(lines: readonly Line[], name: string, seed: number | string): PromptPair[] {
  const given = lines.filter((line) => line.split !== undefined).length;
  if (given === lines.length) return lines.map((line) => ({ ...line, split: line.split! }));
  if (given > 0) {
    throw new UserError(
      `pairs: expected a "split" on every line or on none, got ${given} of ${lines.length} in ${name}. Give all lines one or remove them.`,
    );
  }
  const groups = new Random(`${seed}/halves`).shuffled(sharing(lines));
  if (groups.length < 2) {
    throw new UserError(
      `pairs: expected prompts that can be halved into train and test, got ${lines.length} pairs that all share prompts in ${name}. ` +
        'Give every line a "split" of "train" or "test".',
    );
  }
  const sizes = { train: 0, test: 0 };
  const splits = new Map<Line, Split>();
  // Large groups first, each to the smaller half; the seed decides among equals.
  for (const group of groups.sort((a, b) => b.length - a.length)) {
    const split = sizes.train <= sizes.test ? "train" : "test";
    sizes[split] += group.length;
    for (const line of group) splits.set(line, split);
  }
  return lines.map((line) => ({ ...line, split: splits.get(line)! }));
}

/** Connected components of pairs, two being connected if they share a prompt. */
function sharing(lines: readonly Line[]): Line[][] {
  const parent = new Map<string, string>();
  const root = (prompt: string): string => {
    let at = prompt;
    for (let up = parent.get(at); up !== undefined && up !== at; up = parent.get(at)) at = up;
    parent.set(prompt, at);
    return at;
  };
  for (const line of lines) parent.set(root(line.clean_prefix), root(line.patch_prefix));
  const groups = new Map<string, Line[]>();
  for (const line of lines) {
    const key = root(line.clean_prefix);
    const group = groups.get(key);
    if (group === undefined) groups.set(key, [line]);
    else group.push(line);
  }
  return [...groups.values()];
}
