import { constants } from "node:fs";
import { access, lstat, mkdir, open, rename, rm, stat, writeFile } from "node:fs/promises";
import { dirname, resolve } from "node:path";
import { readRegular } from "../bytes/file.node.ts";
import { messageOf, UserError } from "../errors.ts";

/**
 * Writes a whole file or nothing: beside its place, flushed to the disk, then renamed.
 *
 * @param place for messages, as in `writeProblem`
 * @throws UserError if the disk is full or the place cannot be written; nothing is left behind then
 */
export async function writeFileAtomic(path: string, data: string | Uint8Array, place?: string): Promise<void> {
  await writeBeside(path, (temporary) => writeFile(temporary, data), place);
}

/**
 * Lets `write` fill a file beside `path` and renames it into place once it is whole and on the disk; for writers that take a path.
 *
 * @throws UserError if the disk is full or the place cannot be written; other errors of `write` as they are. Nothing is left behind then
 */
export async function writeBeside(
  path: string,
  write: (temporary: string) => Promise<void>,
  place?: string,
): Promise<void> {
  const temporary = `${path}.${process.pid}.part`;
  try {
    const there = await stat(path).catch(() => undefined);
    // Renaming would put a file in the place of the pipe or the device itself.
    if (there && !there.isFile() && !there.isDirectory()) {
      throw new UserError(
        `output file: expected a file or nothing, got a pipe or a device at ${path}. Choose another ${place ?? "--output_dir"}.`,
      );
    }
    await write(temporary);
    const file = await open(temporary, "r+");
    try {
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(temporary, path);
  } catch (error) {
    await rm(temporary, { force: true }).catch(() => {});
    throw writeProblem(error, path, place);
  }
}

/**
 * Makes a folder and those on the way. Node's own way to do so never ends where a parent is there and still none can be made in it, as in /proc.
 *
 * @throws UserError if the system has no folder there and cannot have one; otherwise the system's error
 */
export async function makeFolder(path: string): Promise<void> {
  const missing: string[] = [];
  for (let at = resolve(path); !(await makeOne(at)); at = dirname(at)) {
    missing.unshift(at);
    // Another process may have made the parent in between.
    if (await isFolder(dirname(at))) {
      if (await makeOne(at)) break;
      throw new UserError(`No folder can be made there (${at}). Choose another place.`);
    }
  }
  for (const folder of missing) await makeOne(folder);
}

/**
 * Makes a folder, as `makeFolder`, for work that writes to it only at its end.
 *
 * @throws UserError if it cannot be made or written
 */
export async function reserveFolder(path: string): Promise<void> {
  try {
    await makeFolder(path);
    await access(path, constants.W_OK);
  } catch (error) {
    throw writeProblem(error, path);
  }
}

/** Makes a folder unless it is there. @returns false if its parent is missing */
async function makeOne(path: string): Promise<boolean> {
  try {
    await mkdir(path);
  } catch (error) {
    if (await isFolder(path)) return true;
    const { code } = error as NodeJS.ErrnoException;
    if (code === "ENOENT" && dirname(path) !== path) return false;
    if (code === "EEXIST" && (await lstat(path).catch(() => null))?.isSymbolicLink()) {
      throw new UserError(`A link leads nowhere (${path}). Make its target, or choose another place.`);
    }
    throw error;
  }
  return true;
}

const isFolder = async (path: string) => (await stat(path).catch(() => null))?.isDirectory() === true;

const fullDisk = { codes: "ENOSPC EDQUOT", text: /no space left|not enough space|quota exceeded|all bytes to file/i };
const largeFile = { codes: "EFBIG", text: /file too large/i };

const advice: readonly (readonly [codes: string, text: RegExp, expected: string, got: string, what: string])[] = [
  [
    largeFile.codes,
    largeFile.text,
    "room on the disk",
    "a limit on the size of files",
    "Raise the limit (ulimit -f), or choose another --output_dir; the same command resumes the work.",
  ],
  [
    fullDisk.codes,
    fullDisk.text,
    "room on the disk",
    "a full one",
    "Free some space, or choose another --output_dir; the same command resumes the work.",
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
  [
    "EISDIR ENOTEMPTY",
    /is a directory/i,
    "a file or nothing",
    "a folder",
    "Remove it, or choose another --output_dir.",
  ],
  ["ENAMETOOLONG", /file name too long/i, "a shorter path", "one too long", "Choose another --output_dir."],
  ["ELOOP", /too many (levels of )?symbolic links/i, "a path", "links in a circle", "Choose another --output_dir."],
  ["EMFILE ENFILE", /too many open files/i, "leave to open a file", "too many open ones", "Raise ulimit -n."],
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
  if (!known && isSystemError(error)) {
    return new UserError(
      `output file: expected a place that can be written, got ${error.code} at ${path}. Choose another ${place}.`,
      {
        cause: error,
      },
    );
  }
  if (!known) return error;
  const [, , expected, got, advised] = known;
  const what = advised.replace("--output_dir", place);
  return new UserError(`output file: expected ${expected}, got ${got} (${code ?? "I/O error"}) at ${path}. ${what}`, {
    code: expected === "room on the disk" ? "no_space" : got === "no permission" ? "not_permitted" : "invalid_input",
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
      ? [fullDisk, largeFile].some(({ codes }) => codes.split(" ").includes(code))
      : /^IO Error:/.test(text) || fullDisk.text.test(text) || largeFile.text.test(text);
  return writing ? writeProblem(error, path) : error;
}

/** Whether the system refused something that was asked of it. */
function isSystemError(error: unknown): error is NodeJS.ErrnoException {
  const { code, syscall } = Object(error) as NodeJS.ErrnoException;
  return typeof syscall === "string" && typeof code === "string" && /^E[A-Z0-9]+$/.test(code);
}

/**
 * An error as one for the user where the system refused something about a file and nothing else has said so in better words; else the error itself.
 */
export function systemProblem(error: unknown): unknown {
  if (error instanceof UserError || !isSystemError(error)) return error;
  const { code, syscall, path, message } = error;
  if (syscall === "uv_cwd") {
    return new UserError("The current folder was removed. Change to one that exists.", { cause: error });
  }
  if (path === undefined && !/^(EMFILE|ENFILE|EISDIR|EIO|ENOSPC|EFBIG|ESTALE)$/.test(code!)) return error;
  const reason = message.replace(/^\w+: /, "").replace(/, \w+( '.*)?$/s, "");
  const what = code === "EMFILE" || code === "ENFILE" ? "Raise ulimit -n." : "Check the path and its permissions.";
  return new UserError(`Cannot ${syscall} ${path ?? "a file"}: ${reason} (${code}). ${what}`, { cause: error });
}

/**
 * The value in a JSON file.
 *
 * @throws UserError if the file cannot be read or is not JSON
 */
export async function readJsonFile(path: string): Promise<unknown> {
  let text: string;
  try {
    text = (await readRegular(path)).toString("utf8");
  } catch (error) {
    const got = (error as { code?: unknown }).code === "ENOENT" ? "none" : messageOf(error);
    throw new UserError(`JSON file: expected a file that can be read, got ${got} at ${path}. Check the path.`, {
      code: "not_found",
    });
  }
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new UserError(`JSON file: expected JSON, got ${messageOf(error)} in ${path}. Write it again.`);
  }
}
