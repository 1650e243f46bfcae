import { randomUUID } from "node:crypto";
import { readFileSync, readlinkSync, rmSync } from "node:fs";
import { link, lstat, readFile, rm, stat, utimes, writeFile } from "node:fs/promises";
import { hostname } from "node:os";
import { duration, isWhole } from "../amounts.ts";
import { messageOf, UserError } from "../errors.ts";

/** A lock that is ours until `release`, or who holds it and in which file. */
export type Lock =
  | {
      /** Has no effect the second time. */
      release(): Promise<void>;
      /** Whether another process has taken it over meanwhile, as it may when this machine was given up for lost. */
      isLost(): boolean;
    }
  | { readonly holder: string; readonly file: string };

/** The process that holds a lock, as the lock's file tells. */
export interface Holder {
  readonly pid: number;
  readonly host: string;
  /** When the process began, in the system's own words: process numbers come round again. */
  readonly begun: string | null;
  /** The system's name for the set of processes whose numbers it sees: containers have their own. */
  readonly space: string | null;
  /** The job of a batch system that it belongs to; null outside of one. */
  readonly job: string | null;
}

/** How a lock is taken. */
export interface LockOptions {
  /** Seconds without a change of the lock's file after which a process on another machine counts as gone; default never. */
  readonly staleAfter?: number;
  /** The job of a batch system that this process belongs to. A lock that another machine holds for the same job is left over: a job runs once at a time. */
  readonly job?: string | undefined;
  /** Asked of a holder on another machine, which cannot be looked at from here: whether it is known to have ended. */
  readonly hasEnded?: ((holder: Holder) => Promise<boolean>) | undefined;
}

/** A lock is smaller than this. */
const largestLock = 4096;
/** Takeovers of takeovers, each left by a process that ended within the same few milliseconds. */
const mostTakeovers = 4;
/** How often a lock may come and go while it is looked at. */
const mostLooks = 100;

/** Seconds between signs of life of a holder: it touches its lock's file. */
const heartbeat = 10;
/** Seconds of silence after which a holder that shares our clock counts as gone. */
const longSilence = 120;

/**
 * Takes a lock: a file that names its holder and is touched while that lives. A lock whose process has ended is taken over. A process on another
 * machine, or in another container, cannot be looked at: it counts as alive unless the options tell otherwise.
 *
 * @throws UserError if what lies in the lock's place is none; the system's error if the file cannot be written
 */
export function tryLock(file: string, options: LockOptions = {}): Promise<Lock> {
  return take(file, options, mostTakeovers);
}

/** Who holds a lock, if anybody who may be alive does; null otherwise. Changes nothing. @throws as `tryLock` */
export async function lockHolder(file: string, options: LockOptions = {}): Promise<string | null> {
  const text = await readLock(file);
  const holder = text === null ? null : parseHolder(text);
  return holder && (await mayLive(holder, file, options)) ? await describe(holder, file) : null;
}

async function take(file: string, options: LockOptions, takeovers: number): Promise<Lock> {
  const mine = JSON.stringify({ ...thisProcess(), job: options.job ?? null } satisfies Holder);
  for (let look = 0; !(await createLock(file, mine)); look++) {
    const text = await readLock(file);
    if (text === null) {
      if (look < mostLooks) continue;
      throw new UserError(`The lock comes and goes all the time (${file}). Start again when no other process uses it.`);
    }
    const holder = parseHolder(text);
    if (holder && (await mayLive(holder, file, options))) return { holder: await describe(holder, file), file };
    // Only one process at a time may remove a dead lock, and looks again first: it could be the fresh one of another that did.
    const takeover = `${file}.takeover`;
    if (takeovers === 0) throw noLock("one that can be taken over", "leftovers of many tries", file);
    const guard = await take(takeover, options, takeovers - 1);
    if (!("release" in guard)) return { holder: "one that begins just now", file: guard.file };
    try {
      if ((await readLock(file)) === text) await rm(file, { force: true });
    } finally {
      await guard.release();
    }
  }
  return heldLock(file, mine);
}

function heldLock(file: string, mine: string): Extract<Lock, { release(): unknown }> {
  let [held, lost] = [true, false];
  const isOurs = () => {
    try {
      return readFileSync(file, "utf8") === mine;
    } catch {
      return false;
    }
  };
  const beat = setInterval(() => {
    lost ||= !isOurs();
    if (!lost) utimes(file, new Date(), new Date()).catch(() => {});
  }, 1000 * heartbeat).unref();
  // A lock that another process has taken over is not ours to remove.
  const remove = () => {
    if (isOurs()) rmSync(file, { force: true });
  };
  process.once("exit", remove);
  return {
    async release() {
      // A second call must not remove the lock of a process that has taken it in between.
      if (!held) return;
      held = false;
      clearInterval(beat);
      process.off("exit", remove);
      remove();
    },
    isLost: () => lost,
  };
}

/** A holder for messages: the process, its job, and when it was last heard of. */
async function describe({ pid, host, space, job }: Holder, file: string): Promise<string> {
  const about = [...(job === null ? [] : [`job ${job}`]), ...(isHere({ host, space }) ? [] : [await lastSign(file)])];
  return `process ${pid} on ${host}${about.length > 0 ? ` (${about.join(", ")})` : ""}`;
}

const lastSign = async (file: string) => `last sign of life ${duration(Math.max(0, await secondsSince(file)))} ago`;

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
 * Creates a lock with this text in it, at once and whole.
 *
 * @returns false if there is one already
 */
async function createLock(file: string, mine: string): Promise<boolean> {
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
    const { pid, host, begun = null, space = null, job = null } = JSON.parse(text) as Partial<Holder>;
    return isWhole(pid) && pid > 0 && typeof host === "string"
      ? { pid, host: host.slice(0, 64), begun, space, job: typeof job === "string" ? job.slice(0, 64) : null }
      : null;
  } catch {
    return null;
  }
}

const thisProcess = () => ({
  pid: process.pid,
  host: hostname(),
  begun: begun(process.pid),
  space: processSpace(),
});

/** Whether the system here knows a holder's process by its number. */
function isHere({ host, space }: Pick<Holder, "host" | "space">): boolean {
  const own = processSpace();
  return host === hostname() && (space === null || own === null || space === own);
}

async function mayLive(
  holder: Holder,
  file: string,
  { staleAfter = Number.POSITIVE_INFINITY, job, hasEnded }: LockOptions,
): Promise<boolean> {
  if (isHere(holder)) return isAlive(holder);
  // Another container of this machine has the same clock, so its silence can be believed.
  if (holder.host === hostname()) return isSameBoot(holder) && (await secondsSince(file)) < longSilence;
  if (holder.job !== null && holder.job === job) return false;
  if (staleAfter < Number.POSITIVE_INFINITY && (await secondsSince(file)) > staleAfter) return false;
  return !((await hasEnded?.(holder)) ?? false);
}

function isAlive({ pid, begun: then }: Holder): boolean {
  try {
    process.kill(pid, 0);
  } catch (error) {
    return errorCode(error) === "EPERM";
  }
  const now = begun(pid);
  return then === null || now === null || now === then;
}

/** Whether the system has not been started anew since a process began, as far as that can be told. */
function isSameBoot({ begun: then }: Holder): boolean {
  const now = begun(process.pid);
  return then === null || now === null || then.split("/")[0] === now.split("/")[0];
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

/** Linux: the namespace that numbers this process; null elsewhere. */
function processSpace(): string | null {
  try {
    return readlinkSync("/proc/self/ns/pid");
  } catch {
    return null;
  }
}
