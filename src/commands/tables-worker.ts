import { serveThread } from "../jobs/serve.ts";
import { RunTables } from "../results/tables.ts";
import type { TablesCall, TablesPlace } from "./tables-thread.ts";

/** Entry of the thread in which a run's tables are written and ranked. */
serveThread<TablesPlace, TablesCall, unknown, never>(({ partial, spill }) => {
  let tables: Promise<RunTables> | undefined;
  return async ({ name, given }, { reporter: { stopped } }) => {
    tables ??= RunTables.open(partial, { spill, stopped });
    const opened = await tables;
    return (opened[name] as (...given: readonly unknown[]) => unknown).apply(opened, given);
  };
});
