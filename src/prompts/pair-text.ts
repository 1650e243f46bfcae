import { messageOf, UserError } from "../errors.ts";
import { excerpt } from "./excerpt.ts";

/** One record of a file of pairs: the fields of a JSON object or of a line of tab-separated values, and the line on which it begins, from 1. */
export interface PairRecord {
  readonly line: number;
  readonly fields: Readonly<Record<string, unknown>>;
}

/** Ends of lines: of Unix, Windows and the old Macintosh. */
const lineEnd = /\r\n|\n|\r/;

const otherFiles: readonly (readonly [magic: readonly number[], what: string, advice: string])[] = [
  [[0x1f, 0x8b], "a gzip file", "Unpack it first."],
  [[0x50, 0x4b, 0x03, 0x04], "a zip archive", "Unpack it first."],
  [[0x50, 0x41, 0x52, 0x31], "a Parquet file", "Write it as JSON lines."],
  [[0xff, 0xfe, 0, 0], "UTF-32", "Save it as UTF-8."],
  [[0, 0, 0xfe, 0xff], "UTF-32", "Save it as UTF-8."],
];

/**
 * The text of a file of pairs: UTF-8, or UTF-16 with a byte order mark (what PowerShell's `>` writes).
 *
 * @param name the file's name, for errors
 * @throws UserError if it is something else, naming it
 */
export function decodePairs(bytes: Uint8Array, name: string): string {
  for (const [magic, what, advice] of otherFiles) {
    if (magic.every((byte, i) => bytes[i] === byte)) {
      throw new UserError(`pairs: expected UTF-8 text, got ${what} in ${name}. ${advice}`);
    }
  }
  const mark =
    bytes[0] === 0xff && bytes[1] === 0xfe ? "utf-16le" : bytes[0] === 0xfe && bytes[1] === 0xff ? "utf-16be" : null;
  if (mark !== null) {
    try {
      return new TextDecoder(mark, { fatal: true }).decode(bytes);
    } catch {
      throw new UserError(`pairs: expected text, got UTF-16 that is cut off or damaged in ${name}. Save it as UTF-8.`);
    }
  }
  const zeros = [0, 0];
  const probe = bytes.subarray(0, 4096);
  probe.forEach((byte, i) => {
    if (byte === 0) zeros[i % 2]!++;
  });
  if (Math.max(...zeros) > Math.max(8, 0.2 * probe.length) && Math.min(...zeros) === 0) {
    throw new UserError(
      `pairs: expected UTF-8 text, got UTF-16 without a byte order mark in ${name}. Save it as UTF-8.`,
    );
  }
  const zero = bytes.indexOf(0);
  if (zero >= 0) {
    throw new UserError(
      `pairs: expected UTF-8 text, got a byte 0, so no text, in ${name}, line ${lineAt(bytes, zero)}. Check which file --pairs names.`,
    );
  }
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    throw new UserError(
      `pairs: expected UTF-8 text, got bytes of another encoding in ${name}, line ${invalidLine(bytes)}. Save the file as UTF-8.`,
    );
  }
}

/** The line of the first byte that is no UTF-8. */
function invalidLine(bytes: Uint8Array): number {
  const decoder = new TextDecoder("utf-8", { fatal: true });
  const isEnd = (byte: number) => byte === 0x0a || byte === 0x0d;
  for (let from = 0; from < bytes.length; ) {
    let to = from;
    while (to < bytes.length && !isEnd(bytes[to]!)) to++;
    try {
      decoder.decode(bytes.subarray(from, to));
    } catch {
      return lineAt(bytes, from);
    }
    from = to + 1;
  }
  return 1;
}

function lineAt(bytes: Uint8Array, end: number): number {
  let line = 1;
  for (let i = 0; i < end; i++) {
    if (bytes[i] === 0x0a || (bytes[i] === 0x0d && bytes[i + 1] !== 0x0a)) line++;
  }
  return line;
}

/**
 * The records of a file of pairs: JSON lines, one JSON array, one JSON object over several lines, or tab-separated values.
 *
 * @param name the file's name, for errors
 * @param faults lines that are none of these are added here
 * @throws UserError if the file as a whole is none of these
 */
export function pairRecords(text: string, name: string, faults: Faults): PairRecord[] {
  const lines = text.replace(/^\ufeff/, "").split(lineEnd);
  const first = lines.findIndex((line) => line.trim() !== "");
  if (first < 0) {
    throw new UserError(
      `pairs: expected one JSON object a line, got no lines in ${name}. Give a file with prompt pairs.`,
    );
  }
  const start = lines[first]!.trim();
  if (start.startsWith("[") || start.startsWith("{")) {
    const parsed = parsedJson(start);
    if (start.startsWith("[") && (parsed === undefined || lines.slice(first + 1).every((line) => line.trim() === ""))) {
      return arrayRecords(text, name, faults);
    }
    if (start.startsWith("{") && parsed === undefined) {
      const whole = parsedJson(text.replace(/^\ufeff/, ""));
      if (isFields(whole)) return [{ line: first + 1, fields: whole }];
    }
  } else if (start.includes("\t")) {
    return tabbedRecords(lines, name, faults);
  } else if (isCommaSeparated(lines.slice(first, first + 2))) {
    throw new UserError(
      `pairs: expected JSON lines, got comma-separated values (${excerpt(start, 60)}) in ${name}, line ${first + 1}. Write each pair as a JSON object on a line of its own (sfc pairs --help shows one).`,
    );
  }
  return lineRecords(lines, faults);
}

function lineRecords(lines: readonly string[], faults: Faults): PairRecord[] {
  const records: PairRecord[] = [];
  // A million broken lines are a million errors of the parser: without their stacks they take seconds, not a minute.
  const { stackTraceLimit } = Error;
  Error.stackTraceLimit = 0;
  try {
    for (const [i, line] of lines.entries()) {
      const text = line.trim();
      if (text === "") continue;
      const fields = text.startsWith("{") && text.endsWith("}") ? parsedJson(text) : undefined;
      if (isFields(fields)) records.push({ line: i + 1, fields });
      else faults.add(i + 1, () => whatIs(text));
    }
  } finally {
    Error.stackTraceLimit = stackTraceLimit;
  }
  return records;
}

/** What is wrong with a line, and what to do about it: by default, correct or remove the line. */
export interface Fault {
  /** `expected <e>, got <g>` */
  readonly wrong: string;
  readonly advice?: string;
}

/** Collects what is wrong with the lines of a file; of all but the first one it is enough to know how many there are. */
export class Faults {
  readonly #name: string;
  #first: string | undefined;
  #line = Number.POSITIVE_INFINITY;
  #count = 0;

  constructor(name: string) {
    this.#name = name;
  }

  /** @param what asked only where no line above is broken */
  add(line: number, what: () => Fault): void {
    this.#count++;
    if (line >= this.#line) return;
    this.#line = line;
    const { wrong, advice = "Correct or remove the line." } = what();
    this.#first = `pairs: ${wrong} in ${this.#name}, line ${line}. ${advice}`;
  }

  /** @throws UserError if there was a fault */
  throw(): void {
    if (this.#first === undefined) return;
    const more = this.#count - 1;
    throw new UserError(
      more === 0 ? this.#first : `${this.#first} (${more} more ${more === 1 ? "line is" : "lines are"} broken.)`,
    );
  }
}

/** What a line is that is no JSON object, with the reason that the parser gives. */
function whatIs(text: string): Fault {
  const quoted = excerpt(text, 60);
  const got = (what: string, advice?: string): Fault => ({
    wrong: `expected one JSON object, got ${what}`,
    ...(advice !== undefined && { advice }),
  });
  try {
    return got(kindOf(JSON.parse(text)));
  } catch (error) {
    if (/[}\]]\s*,$/.test(text) && parsedJson(text.replace(/,$/, "")) !== undefined) {
      return got(
        `one with a comma after it (${quoted})`,
        "Remove the commas between lines, or put [ and ] around all of them.",
      );
    }
    if (!/^[{["]/.test(text)) return got(quoted);
    if (text.startsWith("{") && endsEarly(text, messageOf(error))) {
      return got(
        `${quoted} (an object that does not end on its line)`,
        "Correct it, and write each object on a line of its own.",
      );
    }
    return got(`${quoted} (${reasonOf(error)})`);
  }
}

function kindOf(value: unknown): string {
  return Array.isArray(value) ? "a list" : value === null ? "null" : `a ${typeof value}`;
}

function endsEarly(text: string, message: string): boolean {
  const position = /position (\d+)/.exec(message)?.[1];
  return /end of JSON|Unterminated string/.test(message) || (position !== undefined && Number(position) >= text.length);
}

/** The parser's reason, without the text that some engines quote in it. */
function reasonOf(error: unknown): string {
  return excerpt(messageOf(error).replace(/,? ?(\.\.\.)?".*"(\.\.\.)? is not valid JSON$/su, ""), 120);
}

function arrayRecords(text: string, name: string, faults: Faults): PairRecord[] {
  let values: unknown;
  try {
    values = JSON.parse(text.replace(/^\ufeff/, ""));
  } catch (error) {
    const position = /position (\d+)/.exec(messageOf(error))?.[1];
    const before = position === undefined ? text.trimEnd() : text.slice(0, Number(position));
    throw new UserError(
      `pairs: expected a JSON array of objects, got one that cannot be read (${reasonOf(error)}) in ${name}, line ${before.split(lineEnd).length}. Correct it, or write one object a line.`,
    );
  }
  const starts = elementLines(text);
  const records: PairRecord[] = [];
  (values as readonly unknown[]).forEach((value, i) => {
    if (isFields(value)) records.push({ line: starts[i]!, fields: value });
    else faults.add(starts[i]!, () => ({ wrong: `expected JSON objects, got ${kindOf(value)} as element ${i + 1}` }));
  });
  if ((values as readonly unknown[]).length === 0) {
    throw new UserError(`pairs: expected prompt pairs, got an empty list in ${name}. Give a file with prompt pairs.`);
  }
  return records;
}

/** The line on which each element of a JSON array begins. */
function elementLines(text: string): number[] {
  const lines: number[] = [];
  let [depth, line, inString, expecting] = [0, 1, false, false];
  for (let i = 0; i < text.length; i++) {
    const c = text[i]!;
    if (inString) {
      if (c === "\\") i++;
      else if (c === '"') inString = false;
      continue;
    }
    if (c === "\n" || (c === "\r" && text[i + 1] !== "\n")) line++;
    if (/\s/.test(c)) continue;
    if (expecting && c !== "]") lines.push(line);
    expecting = false;
    if (c === '"') inString = true;
    else if (c === "[" || c === "{") expecting = ++depth === 1 && c === "[";
    else if (c === "]" || c === "}") depth--;
    else if (c === ",") expecting = depth === 1;
  }
  return lines;
}

/** Names of columns by which a first line is told to be a header. */
const columns = ["clean_prefix", "sentence_good", "good", "good_sentence", "grammatical"];

function tabbedRecords(lines: readonly string[], name: string, faults: Faults): PairRecord[] {
  const first = lines.findIndex((line) => line.trim() !== "");
  const cells = (line: string) => line.split("\t").map(unquoted);
  const header = cells(lines[first]!).map((cell) => cell.trim());
  const isHeader = header.some((cell) => columns.includes(cell));
  const width = header.length;
  if (!isHeader && width > 4) {
    throw new UserError(
      `pairs: expected JSON lines, or tab-separated values with a good and a bad sentence in the last two of at most four columns, got ${width} columns in ${name}, line ${first + 1}. Name the columns in a first line, or write JSON lines.`,
    );
  }
  const records: PairRecord[] = [];
  for (const [i, line] of lines.entries()) {
    if (line.trim() === "" || (isHeader && i === first)) continue;
    const row = cells(line);
    if (row.length !== width) {
      const got = `${row.length} ${row.length === 1 ? "column" : "columns"}`;
      faults.add(i + 1, () => ({ wrong: `expected ${width} columns as in line ${first + 1}, got ${got}` }));
      continue;
    }
    const fields = isHeader
      ? Object.fromEntries(row.flatMap((cell, c) => (cell === "" ? [] : [[header[c]!, cell]])))
      : { sentence_good: row.at(-2), sentence_bad: row.at(-1), ...(width > 2 && { case: row.slice(0, -2).join("/") }) };
    records.push({ line: i + 1, fields });
  }
  return records;
}

function unquoted(cell: string): string {
  return /^"(?:[^"]|"")*"$/.test(cell) ? cell.slice(1, -1).replaceAll('""', '"') : cell;
}

function isCommaSeparated([first, second]: readonly string[]): boolean {
  const commas = (line: string) => line.split(",").length - 1;
  return commas(first!) > 0 && (second === undefined || commas(second) >= commas(first!));
}

/** A JSON text's value; undefined if it is none. */
function parsedJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function isFields(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
