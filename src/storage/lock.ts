import { randomUUID } from "node:crypto";
import { readFileSync, rmSync } from "node:fs";
import { link, lstat, readFile, rm, stat, writeFile } from "node:fs/promises";
import { hostname } from "node:os";
import { isWhole } from "../amounts.ts";
import { messageOf, UserError } from "../errors.ts";

/** A lock that is ours until `release`, or who holds it and in which file. */
export type Lock =
  | {
      /** Has no effect the second time. */
      release(): Promise<void>;
    }
  | { readonly holder: string; readonly file: string };

interface Holder {
  readonly pid: number;
  readonly host: string;
  /** When the process began, in the system's own words: process numbers come round again. */
  readonly begun: string | null;
}

/** A lock is smaller than this. */
const largestLock = 4096;
/** Takeovers of takeovers, each left by a process that ended within the same few milliseconds. */
const mostTakeovers = 4;
/** How often a lock may come and go while it is looked at. */
const mostLooks = 100;

/**
 * Takes a lock: a file that names its holder. A lock whose process has ended is taken over. A process on another machine cannot be asked and counts
 * as alive.
 *
 * @param staleAfter seconds without a change of the lock's file after which a process on another machine counts as gone; default never
 * @throws UserError if what lies in the lock's place is none; the system's error if the file cannot be written
 */
export function tryLock(file: string, staleAfter = Number.POSITIVE_INFINITY): Promise<Lock> {
  return take(file, staleAfter, mostTakeovers);
}

async function take(file: string, staleAfter: number, takeovers: number): Promise<Lock> {
  for (let look = 0; !(await createLock(file)); look++) {
    const text = await readLock(file);
    if (text === null) {
      if (look < mostLooks) continue;
      throw new UserError(`The lock comes and goes all the time (${file}). Start again when no other process uses it.`);
    }
    const holder = parseHolder(text);
    if (holder && isAlive(holder) && !(holder.host !== hostname() && (await secondsSince(file)) > staleAfter)) {
      return { holder: `process ${holder.pid} on ${holder.host}`, file };
    }
    // Only one process at a time may remove a dead lock, and looks again first: it could be the fresh one of another that did.
    const takeover = `${file}.takeover`;
    if (takeovers === 0) throw noLock("one that can be taken over", "leftovers of many tries", file);
    const guard = await take(takeover, staleAfter, takeovers - 1);
    if (!("release" in guard)) return { holder: "one that begins just now", file: guard.file };
    try {
      if ((await readLock(file)) === text) await rm(file, { force: true });
    } finally {
      await guard.release();
    }
  }
  const onExit = () => rmSync(file, { force: true });
  process.once("exit", onExit);
  let held = true;
  return {
    async release() {
      // A second call must not remove the lock of a process that has taken it in between.
      if (!held) return;
      held = false;
      process.off("exit", onExit);
      await rm(file, { force: true });
    },
  };
}

/**
 * What is in a lock's file; null if it is gone.
 *
 * @throws UserError if it cannot be read, or no lock of ours could look like that
 */
async function readLock(file: string): Promise<string | null> {
  try {
    const found = await lstat(file);
    if (!found.isFile()) {
      throw noLock("a file", found.isDirectory() ? "a folder" : found.isSymbolicLink() ? "a link" : "a device", file);
    }
    const text = found.size > largestLock ? "" : await readFile(file, "utf8");
    // A lock that was cut off, or came back from a crash as zeros, was ours; anything else is left alone.
    if (found.size > largestLock || !/^(\0*|\{"pid".*)$/s.test(text.trim())) {
      throw noLock("a lock of sfc", "something else", file);
    }
    return text;
  } catch (error) {
    if (error instanceof UserError) throw error;
    if (errorCode(error) === "ENOENT") return null;
    throw noLock("one that can be read", `an error (${messageOf(error)})`, file);
  }
}

const noLock = (expected: string, got: string, file: string) =>
  new UserError(`lock: expected ${expected}, got ${got} at ${file}. Remove it if no other process uses the folder.`);

async function secondsSince(file: string): Promise<number> {
  const changed = (await stat(file).catch(() => null))?.mtimeMs ?? Date.now();
  return (Date.now() - changed) / 1000;
}

/**
 * Creates a lock with this process in it, at once and whole.
 *
 * @returns false if there is one already
 */
async function createLock(file: string): Promise<boolean> {
  const mine = JSON.stringify({ pid: process.pid, host: hostname(), begun: begun(process.pid) } satisfies Holder);
  const whole = `${file}.${randomUUID()}`;
  try {
    await writeFile(whole, mine);
    // Some file systems have no links; there the lock is empty for a moment.
    await link(whole, file).catch((error) =>
      errorCode(error) === "EEXIST" ? Promise.reject(error) : writeFile(file, mine, { flag: "wx" }),
    );
    return true;
  } catch (error) {
    if (errorCode(error) === "EEXIST") return false;
    throw error;
  } finally {
    await rm(whole, { force: true }).catch(() => {});
  }
}

const errorCode = (error: unknown) => (error as { code?: unknown } | null)?.code;

function parseHolder(text: string): Holder | null {
  try {
    const holder = JSON.parse(text) as Partial<Holder>;
    return isWhole(holder.pid) && holder.pid > 0 && typeof holder.host === "string"
      ? { pid: holder.pid, host: holder.host.slice(0, 64), begun: holder.begun ?? null }
      : null;
  } catch {
    return null;
  }
}

function isAlive({ pid, host, begun: then }: Holder): boolean {
  if (host !== hostname()) return true;
  try {
    process.kill(pid, 0);
  } catch (error) {
    return errorCode(error) === "EPERM";
  }
  const now = begun(pid);
  return then === null || now === null || now === then;
}

/** When a process began, on systems that tell (Linux: field 22 of /proc/<pid>/stat, and which boot); otherwise null. */
function begun(pid: number): string | null {
  try {
    const fields = readFileSync(`/proc/${pid}/stat`, "utf8")
      .replace(/^.*\) /s, "")
      .split(" ");
    return `${readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim()}/${fields[19]}`;
  } catch {
    return null;
  }
}
