import { constants, createReadStream } from "node:fs";
import { open, stat } from "node:fs/promises";
import { type PairOptions, type PairSource, pairSource } from "../analysis/pairs.ts";
import { UserError } from "../errors.ts";
import { decodePairs } from "../prompts/pair-text.ts";
import { InputFiles } from "../storage/input-files.ts";

/** What names the pairs, with the files of the job. */
export interface OpenPairs extends PairSource {
  /** Has taken note of the file of pairs, and takes note of the model's. */
  readonly inputs: InputFiles;
}

/** Bytes of a file of pairs: what fits into one text with room to spare. */
const mostBytes = 256e6;

/**
 * Opens what `--task`, `--pairs` or `--clean` name. It is done before a model is looked for, so that a wrong name costs no download.
 *
 * @param patchless whether pairs may come without a patch prompt
 * @throws UserError if there is no such file, or the file is broken; UsageError if there is no such task
 */
export async function openPairs(
  options: PairOptions,
  setting: { readonly patchless?: boolean } = {},
): Promise<OpenPairs> {
  const { pairs, clean = null, answers = null } = options;
  const inputs = new InputFiles();
  const isTyped = clean !== null && answers !== null;
  const text = pairs === null || isTyped ? null : await readPairText(pairs, inputs);
  return { ...pairSource(options, text, setting), inputs };
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
