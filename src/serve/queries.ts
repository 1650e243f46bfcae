import { UserError } from "../errors.ts";
import { Database } from "../results/database.ts";
import { Refused } from "./guard.ts";

/** Queries that may wait for their turn. */
const mostWaiting = 2000;
/** Answers that are kept, the last ones. */
const mostKept = 50;

/** Queries on tables, one at a time, each of which uses all cores. One that is asked again while nothing has changed is answered from memory. */
export class Queries {
  readonly #kept = new Map<string, Promise<unknown>>();
  #database: Promise<Database> | undefined;
  #last: Promise<unknown> = Promise.resolve();
  #waiting = 0;

  /**
   * The answer of `work`, or what an equal question was answered.
   *
   * @param key all that the answer depends on, files by their times of change
   * @throws Refused with 503 if too many wait
   */
  async ask<T>(key: string, work: (database: Database) => Promise<T>): Promise<T> {
    const known = this.#kept.get(key);
    if (known) return known as Promise<T>;
    if (this.#waiting >= mostWaiting) throw new Refused(503, "tables: too many questions wait. Ask again later.");
    this.#waiting++;
    const turn = this.#last.then(async () => {
      this.#database ??= this.#open();
      return work(await this.#database);
    });
    this.#last = turn.catch(() => {});
    this.#kept.set(key, turn);
    turn.catch(() => this.#kept.delete(key)).finally(() => this.#waiting--);
    for (const old of [...this.#kept.keys()].slice(0, -mostKept)) this.#kept.delete(old);
    return turn;
  }

  #open(): Promise<Database> {
    // It takes most of the machine otherwise.
    const opened = Database.open({ memory_limit: "1GB" });
    opened.catch(() => {
      this.#database = undefined;
    });
    return opened;
  }

  async close(): Promise<void> {
    const database = await this.#database?.catch(() => undefined);
    await this.#last;
    database?.close();
  }
}

/** The error where a table cannot be read. */
export function tableProblem(error: unknown, name: string): unknown {
  if (error instanceof UserError || error instanceof Refused) return error;
  return new UserError(`${name}: expected a table of this version. Run it again.`, { cause: error });
}
