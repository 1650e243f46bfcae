import { bench } from "../analysis/bench.ts";
import { pairs } from "../analysis/check-pairs.ts";
import { compare } from "../analysis/compare.ts";
import { estimate } from "../analysis/estimate.ts";
import { pullNames } from "../analysis/pull.ts";
import { run } from "../analysis/run.ts";

/** The jobs that a worker can do, by name. */
export const jobs = { run, compare, pairs, bench, estimate, pull: pullNames };

export type JobName = keyof typeof jobs;

export type JobRequest<J extends JobName> = Parameters<(typeof jobs)[J]>[0];
export type JobResult<J extends JobName> = Awaited<ReturnType<(typeof jobs)[J]>>;

/** What the worker thread is asked: a job by its name, and its request. */
export interface WorkRequest {
  readonly job: JobName;
  readonly request: unknown;
}
