import { bench } from "./bench.ts";
import { compare } from "./compare.ts";
import { estimate } from "./estimate.ts";
import { pairs } from "./pairs.ts";
import { pullNames } from "./pull.ts";
import { run } from "./run.ts";

/** The jobs that a worker can do, by name. */
export const jobs = { run, compare, pairs, bench, estimate, pull: pullNames };

export type JobName = keyof typeof jobs;

export type JobRequest<J extends JobName> = Parameters<(typeof jobs)[J]>[0];
export type JobResult<J extends JobName> = Awaited<ReturnType<(typeof jobs)[J]>>;
