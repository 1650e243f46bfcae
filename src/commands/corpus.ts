import { createReadStream } from "node:fs";
import { stat } from "node:fs/promises";
import { basename } from "node:path";
import { openFile } from "#file";
import { sha256 } from "../bytes/sha256.ts";
import { messageOf, UserError } from "../errors.ts";
import { steps, type Watch } from "../progress.ts";
import { demoLexicon } from "../prompts/english/lexicon-demo.ts";
import { excerpt } from "../prompts/excerpt.ts";
import type { Tokenizer } from "../prompts/tokenizer.ts";
import { Database } from "../results/database.ts";
import type { EvidenceAbout } from "../results/evidence.ts";
import { generatedText } from "../training/text.ts";

/** A text to look for features in. */
export interface CorpusChoice {
  /** Plain text, JSON lines (.jsonl) or Parquet (.parquet); generated English if there are none. */
  readonly files: readonly string[];
  /** The column or field of Parquet and JSON lines that has the text. */
  readonly column: string;
  /** Of generated English. */
  readonly seed: number;
}

/** A corpus that is read from its beginning, row by row. */
export interface Corpus {
  readonly about: EvidenceAbout["corpus"];
  /**
   * Rows of T tokens each, from row `first` on: what the tokenizer puts in front (BOS), then a stretch of the text. Documents follow one another with
   * a blank line between them, as in `sfc train sae`; what is left at the end makes no row.
   *
   * @param watch asked while rows before the first are passed over
   * @throws StoppedError if asked to stop there
   */
  rows(tokenizer: Tokenizer, length: number, first: number, watch?: Watch): AsyncGenerator<Int32Array>;
  /** The share of the text that has been read, 0 to 1; undefined where it has no end. */
  read(): number | undefined;
}

/** Rows of a piece of generated English. */
const rowsOfPiece = 64;
/** A document of more characters is read in parts, so that one without end does not fill the memory. */
const longestDocument = 2 ** 20;

/** Opens a corpus. @throws UserError if a file cannot be read */
export async function openCorpus({ files, column, seed }: CorpusChoice): Promise<Corpus> {
  if (files.length === 0) return generated(seed);
  const about: EvidenceAbout["corpus"]["files"] = [];
  for (const file of files) {
    const found = await stat(file).catch((error) => {
      throw notReadable(file, error);
    });
    if (!found.isFile()) {
      const kind = found.isDirectory() ? "a folder" : "something else";
      throw problem(`expected a file, got ${kind} at "${file}". Name files.`);
    }
    const source = await openFile(file).catch((error) => {
      throw notReadable(file, error);
    });
    try {
      about.push({ name: basename(file), bytes: found.size, sha256: await sha256(source) });
    } finally {
      await source.close();
    }
  }
  const total = about.reduce((sum, { bytes }) => sum + bytes, 0);
  let done = 0;
  return {
    about: { name: about.map(({ name }) => name).join(", "), files: about, seed: null },
    read: () => (total === 0 ? 1 : Math.min(1, done / total)),
    async *rows(tokenizer, length, first, watch = {}) {
      const passOver = steps(watch, first);
      done = 0;
      const front = tokenizer.encode("");
      const width = length - front.length;
      const row = new Int32Array(length);
      row.set(front);
      let [filled, number] = [0, 0];
      for (const file of files) {
        const before = done;
        const read = (share: number) => {
          done = before + share * (about[files.indexOf(file)]?.bytes ?? 0);
        };
        for await (const document of documentsOfFile(file, column, read)) {
          for (const token of tokenizer.encode(`\n\n${document}`).slice(front.length)) {
            row[front.length + filled++] = token;
            if (filled < width) continue;
            filled = 0;
            if (number++ >= first) yield row.slice();
            else passOver(number);
          }
        }
        read(1);
      }
    },
  };
}

function generated(seed: number): Corpus {
  return {
    about: { name: "generated English", files: [], seed },
    read: () => undefined,
    async *rows(tokenizer, length, first) {
      // Another text than SAEs of any seed were trained or measured on.
      const text = generatedText(tokenizer, demoLexicon, `${seed}/contexts`);
      for (let piece = Math.floor(first / rowsOfPiece); ; piece++) {
        const { tokens } = text.rows(piece, rowsOfPiece, length - 1);
        for (let b = 0; b < rowsOfPiece; b++) {
          if (piece * rowsOfPiece + b >= first) yield tokens.slice(b * length, (b + 1) * length);
        }
      }
    },
  };
}

/** The documents of a file. @param read told the share of the file that has been read */
function documentsOfFile(file: string, column: string, read: (share: number) => void): AsyncGenerator<string> {
  if (file.endsWith(".parquet")) return documentsOfParquet(file, column, read);
  return /\.jsonl$|\.ndjson$/.test(file) ? documentsOfJsonLines(file, column, read) : documentsOfText(file, read);
}

/** What stands between blank lines, line breaks within it as spaces: as `documentsOf` has it, line by line. */
async function* documentsOfText(file: string, read: (share: number) => void): AsyncGenerator<string> {
  let [lines, length] = [[] as string[], 0];
  const take = () => {
    const document = lines.join(" ");
    [lines, length] = [[], 0];
    return document;
  };
  for await (const line of linesOf(file, read, longestDocument)) {
    const text = line.trim();
    if (text !== "") {
      lines.push(text);
      length += text.length;
    }
    if ((text === "" || length > longestDocument) && lines.length > 0) yield take();
  }
  if (lines.length > 0) yield take();
}

async function* documentsOfJsonLines(
  file: string,
  column: string,
  read: (share: number) => void,
): AsyncGenerator<string> {
  let number = 0;
  for await (const line of linesOf(file, read)) {
    number++;
    if (line.trim() === "") continue;
    let value: unknown;
    try {
      value = JSON.parse(line);
    } catch (error) {
      throw problem(`expected JSON, got ${messageOf(error)} in line ${number} of ${file}. Correct the line.`);
    }
    const text = Object(value)[column] as unknown;
    // As in Parquet, a row without a text is no document.
    if (text === null) continue;
    if (typeof text !== "string") {
      const names = Object.keys(Object(value)).map((name) => excerpt(name, 40));
      throw problem(
        `expected a text in the field "${column}", got ${text === undefined ? `the fields ${names.join(", ")}` : typeof text} in line ${number} of ${file}. Name it with --column.`,
      );
    }
    yield text;
  }
}

async function* documentsOfParquet(
  file: string,
  column: string,
  read: (share: number) => void,
): AsyncGenerator<string> {
  const database = await Database.open({ threads: "1" });
  try {
    const from = database.files(file);
    let columns: { column_name: string; column_type: string }[];
    try {
      columns = await database.rows(`DESCRIBE SELECT * FROM ${from}`);
    } catch (error) {
      throw problem(`expected a Parquet file, got ${messageOf(error).split("\n")[0]} at ${file}.`);
    }
    const found = columns.find(({ column_name }) => column_name === column);
    if (found?.column_type !== "VARCHAR") {
      const got = found ? found.column_type : columns.map(({ column_name }) => excerpt(column_name, 40)).join(", ");
      throw problem(`expected a column "${column}" of text, got ${got} in ${file}. Name it with --column.`);
    }
    const name = `"${column.replaceAll('"', '""')}"`;
    const [all] = await database.rows<{ n: number }>(`SELECT count(*)::DOUBLE AS n FROM ${from}`);
    let done = 0;
    for await (const rows of database.stream<{ text: string | null }>(`SELECT ${name} AS text FROM ${from}`)) {
      for (const { text } of rows) {
        read(++done / all!.n);
        if (text !== null) yield text;
      }
    }
  } finally {
    database.close();
  }
}

/**
 * The lines of a file of text.
 *
 * @param longest characters from which on a line is handed out in parts, none shorter than this but the last
 * @throws UserError if it is not UTF-8 text
 */
async function* linesOf(
  file: string,
  read: (share: number) => void,
  longest = Number.POSITIVE_INFINITY,
): AsyncGenerator<string> {
  const { size } = await stat(file);
  const decoder = new TextDecoder("utf-8", { fatal: true });
  const decode = (bytes: Uint8Array | undefined, got: string) => {
    try {
      return decoder.decode(bytes, { stream: bytes !== undefined });
    } catch {
      throw problem(`expected text in UTF-8, got ${got} in ${file}. Convert it, or leave it out.`);
    }
  };
  let [rest, done] = ["", 0];
  try {
    for await (const chunk of createReadStream(file) as AsyncIterable<Buffer>) {
      if (chunk.includes(0)) throw problem(`expected text in UTF-8, got a zero byte in ${file}. Leave it out.`);
      done += chunk.length;
      const lines = (rest + decode(chunk, "other bytes")).split("\n");
      rest = lines.pop()!;
      read(done / size);
      for (const line of lines) yield line.endsWith("\r") ? line.slice(0, -1) : line;
      if (rest.length < longest) continue;
      yield rest;
      rest = "";
    }
  } catch (error) {
    throw error instanceof UserError ? error : notReadable(file, error);
  }
  rest += decode(undefined, "half a character at the end");
  if (rest !== "") yield rest;
}

const problem = (text: string) => new UserError(`--text: ${text}`);

function notReadable(file: string, error: unknown): UserError {
  if (error instanceof UserError) return error;
  const { code } = error as NodeJS.ErrnoException;
  const why = code === "ENOENT" ? "which does not exist" : `which cannot be read (${code ?? messageOf(error)})`;
  return problem(`expected a file of text, got ${file}, ${why}. Check the path.`);
}
