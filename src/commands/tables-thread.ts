import { openThread } from "../jobs/ask.ts";
import type { FolderTables } from "../results/places.ts";
import { RunTables, type TablesOptions } from "../results/tables.ts";
import { makeFolder } from "../storage/files.ts";

/** A call of one of the tables' methods. */
export interface TablesCall<Name extends keyof FolderTables = keyof FolderTables> {
  readonly name: Name;
  readonly given: Parameters<FolderTables[Name]>;
}

/** What the thread is started with. */
export interface TablesPlace {
  readonly partial: string;
  readonly spill: string | undefined;
}

/** How often it is asked whether to stop, in ms. */
const askedEvery = 50;

/**
 * The tables of a run in a thread of their own: they are written and ranked there while effects are computed here. What a call is given is copied, so
 * that whoever calls may go on with it. A run from TypeScript sources, as in tests, has them in its own thread.
 *
 * @param partial the folder for unfinished work
 */
export async function tablesInThread(partial: string, options: TablesOptions = {}): Promise<FolderTables> {
  const here = new URL(import.meta.url);
  if (here.pathname.endsWith(".ts")) return RunTables.open(partial, options);
  const { spill, stopped = () => false } = options;
  await makeFolder(partial);
  const place: TablesPlace = { partial, spill };
  const thread = openThread<TablesCall, unknown>(new URL("./tables-worker.js", here), place);
  /** It answers one call at a time. */
  let last: Promise<unknown> = Promise.resolve();
  const call =
    <Name extends keyof FolderTables>(name: Name) =>
    (...given: Parameters<FolderTables[Name]>): ReturnType<FolderTables[Name]> => {
      const answer = last.then(async () => {
        const watch = setInterval(() => {
          if (stopped()) thread.stop();
        }, askedEvery);
        try {
          return await thread.ask({ name, given } as TablesCall);
        } finally {
          clearInterval(watch);
        }
      });
      last = answer.catch(() => {});
      return answer as ReturnType<FolderTables[Name]>;
    };
  return {
    writeNodes: call("writeNodes"),
    hasEffects: call("hasEffects"),
    writeEffects: call("writeEffects"),
    hasFeatureSums: call("hasFeatureSums"),
    writeFeatureSums: call("writeFeatureSums"),
    expect: call("expect"),
    rank: call("rank"),
    written: call("written"),
    async close() {
      try {
        await call("close")();
      } finally {
        await thread.terminate();
      }
    },
  };
}
