import { constants, existsSync } from "node:fs";
import { access, mkdir, open, readFile, rename, rm, writeFile } from "node:fs/promises";
import { dirname, resolve } from "node:path";
import { messageOf, UserError } from "../errors.ts";

/**
 * Writes a whole file or nothing: beside its place, flushed to the disk, then renamed.
 *
 * @param place for messages, as in `writeProblem`
 * @throws UserError if the disk is full or the place cannot be written; nothing is left behind then
 */
export async function writeFileAtomic(path: string, data: string | Uint8Array, place?: string): Promise<void> {
  await writeBeside(path, (part) => writeFile(part, data), place);
}

/**
 * Lets `write` fill a file beside `path` and renames it into place once it is whole and on the disk; for writers that take a path.
 *
 * @throws UserError if the disk is full or the place cannot be written; other errors of `write` as they are. Nothing is left behind then
 */
export async function writeBeside(path: string, write: (part: string) => Promise<void>, place?: string): Promise<void> {
  const part = `${path}.${process.pid}.part`;
  try {
    await write(part);
    const file = await open(part, "r+");
    try {
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(part, path);
  } catch (error) {
    await rm(part, { force: true }).catch(() => {});
    throw writeProblem(error, path, place);
  }
}

/**
 * Makes a folder and those on the way. Node calls a read-only disk a missing folder there; the nearest folder that exists knows better.
 *
 * @throws the system's error
 */
export async function makeFolder(path: string): Promise<void> {
  try {
    await mkdir(path, { recursive: true });
  } catch (error) {
    let nearest = dirname(resolve(path));
    while (!existsSync(nearest)) nearest = dirname(nearest);
    await access(nearest, constants.W_OK);
    throw error;
  }
}

const fullDisk = { codes: "ENOSPC EDQUOT", text: /no space left|not enough space|quota exceeded|all bytes to file/i };

const advice: readonly (readonly [codes: string, text: RegExp, expected: string, got: string, what: string])[] = [
  [
    fullDisk.codes,
    fullDisk.text,
    "room on the disk",
    "a full one",
    "Free some space, or choose another --output_dir; the same command goes on where it stopped.",
  ],
  [
    "EACCES EPERM EROFS",
    /permission denied|read-only file system|operation not permitted/i,
    "a place that can be written",
    "no permission",
    "Change the permissions, or choose another --output_dir.",
  ],
  ["ENOENT", /no such file or directory/i, "an existing folder", "none", "Create it first."],
  ["ENOTDIR EEXIST", /not a directory/i, "folders on the way", "a file among them", "Choose another place."],
];

/**
 * An error met while writing to `path` as one for the user, if it is one that a user can do something about; else the error itself.
 *
 * @param place the flag or variable that says where things are written
 */
export function writeProblem(error: unknown, path: string, place = "--output_dir"): unknown {
  if (error instanceof UserError) return error;
  const code = (error as { code?: unknown } | null)?.code;
  // DuckDB's errors carry no code, only the system's words.
  const known = advice.find(([codes, text]) =>
    typeof code === "string" ? codes.split(" ").includes(code) : text.test(messageOf(error)),
  );
  if (!known) return error;
  const [, , expected, got, advised] = known;
  const what = advised.replace("--output_dir", place);
  return new UserError(`output file: expected ${expected}, got ${got} (${code ?? "I/O error"}) at ${path}. ${what}`, {
    cause: error,
  });
}

/**
 * An error of a whole job as one for the user where nothing but writing can have met it: a full disk, or one of DuckDB's about its files, which all
 * lie in the run's folder. Any other may come from reading, and what is written maps its own.
 */
export function jobProblem(error: unknown, path: string): unknown {
  const code = (error as { code?: unknown } | null)?.code;
  const text = messageOf(error);
  const writing =
    typeof code === "string"
      ? fullDisk.codes.split(" ").includes(code)
      : /^IO Error:/.test(text) || fullDisk.text.test(text);
  return writing ? writeProblem(error, path) : error;
}

/**
 * The value in a JSON file.
 *
 * @throws UserError if the file cannot be read or is not JSON
 */
export async function readJsonFile(path: string): Promise<unknown> {
  let text: string;
  try {
    text = await readFile(path, "utf8");
  } catch (error) {
    const got = (error as { code?: unknown }).code === "ENOENT" ? "none" : messageOf(error);
    throw new UserError(`JSON file: expected a file that can be read, got ${got} at ${path}. Check the path.`);
  }
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new UserError(`JSON file: expected JSON, got ${messageOf(error)} in ${path}. Write it again.`);
  }
}
