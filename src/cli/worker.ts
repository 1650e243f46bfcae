import { serveThread } from "../jobs/serve.ts";
import type { Reporter } from "../progress.ts";
import { jobs, type WorkRequest } from "./jobs.ts";

/** Entry of the worker thread in which a whole job lives: reads, runs, encodes, writes; the main thread keeps progress and signals. */
serveThread<null, WorkRequest, unknown, never>(() => async ({ job, request }, { reporter }) => {
  const work = jobs[job] as (request: unknown, reporter: Reporter) => Promise<unknown>;
  return work(request, reporter);
});
