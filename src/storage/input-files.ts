import { type BigIntStats, statSync } from "node:fs";
import { join, resolve } from "node:path";
import { openFolder } from "#file";
import type { Folder } from "../bytes/folder.ts";
import { StoppedError, UserError } from "../errors.ts";

/** How a file was when it was first opened: what the system writes down whenever someone writes to it, and what a harmless change shows in. */
export interface FileState {
  /** Length, and time of the last write in nanoseconds. */
  readonly contents: string;
  /** Time of the last change of any kind, which nobody can set back. */
  readonly changed: string;
  readonly number: string;
  /** Links to it, owner and permissions. */
  readonly harmless: string;
}

/**
 * The files that a job reads, and how they were at first: numbers that come from them belong to the hashes that stand beside them only if no file
 * changed from the first look to the last.
 */
export class InputFiles {
  readonly #states: Map<string, FileState>;

  constructor(states: Iterable<readonly [path: string, state: FileState]> = []) {
    this.#states = new Map(states);
  }

  /** How each file was, by path, for another process. */
  states(): [path: string, state: FileState][] {
    return [...this.#states];
  }

  /**
   * A folder on disk whose files are watched from when they are opened.
   *
   * @throws UserError as `openFolder`; its `open` also if the file has changed since it was opened before
   */
  async folder(path: string): Promise<Folder> {
    const folder = await openFolder(path);
    return {
      ...folder,
      open: (inner) => {
        this.watch(join(path, inner));
        return folder.open(inner);
      },
    };
  }

  /**
   * Looks at a file before it is opened. What is no file is left out.
   *
   * @throws UserError if it is not as it was
   */
  watch(path: string): void {
    const whole = resolve(path);
    const state = stateOf(whole);
    if (this.#states.has(whole)) this.#compare(whole, state);
    else if (state) this.#states.set(whole, state);
  }

  /** @throws UserError if a file is not as it was when it was first opened, naming it */
  check(): void {
    for (const path of this.#states.keys()) this.#compare(path, stateOf(path));
  }

  /** An error as it is; or that of an input that has changed, since what was read of it may have led to any error. */
  reasonOf(error: unknown): unknown {
    if (error instanceof StoppedError) return error;
    try {
      this.check();
      return error;
    } catch (changed) {
      return changed;
    }
  }

  #compare(path: string, now: FileState | undefined): void {
    const then = this.#states.get(path)!;
    if (now && isSame(then, now)) {
      this.#states.set(path, now);
      return;
    }
    const what = now ? (now.number === then.number ? "was written to" : "was replaced") : "was removed";
    throw new UserError(
      `An input ${what} while it was in use (${path}). Run the same command again when nothing changes its inputs.`,
      { code: "changed_input" },
    );
  }
}

/** A change that left length and time of writing as they were is harmless only if it shows elsewhere: a link made, permissions changed. */
function isSame(then: FileState, now: FileState): boolean {
  if (now.contents !== then.contents) return false;
  return now.changed === then.changed || (now.number === then.number && now.harmless !== then.harmless);
}

function stateOf(path: string): FileState | undefined {
  let found: BigIntStats | undefined;
  try {
    found = statSync(path, { bigint: true, throwIfNoEntry: false });
  } catch {
    return undefined;
  }
  if (!found?.isFile()) return undefined;
  const { size, mtimeNs, ctimeNs, dev, ino, nlink, mode, uid, gid } = found;
  return {
    contents: [size, mtimeNs].join(),
    changed: String(ctimeNs),
    number: [dev, ino].join(),
    harmless: [nlink, mode, uid, gid].join(),
  };
}
