import { randomUUID } from "node:crypto";
import { readFileSync, rmSync } from "node:fs";
import { link, readFile, rm, stat, writeFile } from "node:fs/promises";
import { hostname } from "node:os";

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

/**
 * Takes a lock: a file that names its holder. A lock whose process has ended is taken over. A process on another machine cannot be asked and counts
 * as alive.
 *
 * @param staleAfter seconds without a change of the lock's file after which a process on another machine counts as gone; default never
 * @throws the system's error if the file cannot be written
 */
export async function tryLock(file: string, staleAfter = Number.POSITIVE_INFINITY): Promise<Lock> {
  const takeover = `${file}.takeover`;
  while (!(await createLock(file))) {
    const text = await readFile(file, "utf8").catch(() => null);
    if (text === null) continue;
    const holder = parseHolder(text);
    if (holder && isAlive(holder) && !(holder.host !== hostname() && (await secondsSince(file)) > staleAfter)) {
      return { holder: `process ${holder.pid} on ${holder.host}`, file };
    }
    // Only one process at a time may remove a dead lock, and looks again first: it could be the fresh one of another that did.
    if (!(await createLock(takeover))) return { holder: "one that begins just now", file: takeover };
    try {
      if ((await readFile(file, "utf8").catch(() => null)) === text) await rm(file, { force: true });
    } finally {
      await rm(takeover, { force: true });
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
    return typeof holder.pid === "number" && typeof holder.host === "string"
      ? { pid: holder.pid, host: holder.host, begun: holder.begun ?? null }
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
