import { bench } from "../commands/bench.ts";
import { pairs } from "../commands/check-pairs.ts";
import { circuit, estimateCircuitOf } from "../commands/circuit.ts";
import { compare } from "../commands/compare.ts";
import { contexts } from "../commands/contexts.ts";
import { estimate } from "../commands/estimate.ts";
import { estimateEvaluate, evaluate } from "../commands/evaluate.ts";
import { intervene } from "../commands/intervene.ts";
import { merge } from "../commands/merge.ts";
import { pullNames } from "../commands/pull.ts";
import { run } from "../commands/run.ts";
import { runShard } from "../commands/shard.ts";
import { keepsNothing } from "../jobs/serve.ts";

/** The jobs that a worker can do, by name. */
export const jobs = {
  run,
  compare,
  pairs: keepsNothing(pairs),
  bench: keepsNothing(bench),
  circuit,
  contexts,
  estimate: keepsNothing(estimate),
  estimateCircuit: keepsNothing(estimateCircuitOf),
  estimateEvaluation: keepsNothing(estimateEvaluate),
  evaluate,
  intervene: keepsNothing(intervene),
  pull: pullNames,
  shard: runShard,
  merge,
};

export type JobName = keyof typeof jobs;

export type JobRequest<J extends JobName> = Parameters<(typeof jobs)[J]>[0];
export type JobResult<J extends JobName> = Awaited<ReturnType<(typeof jobs)[J]>>;

/** What the worker thread is asked: a job by its name, and its request. */
export interface WorkRequest {
  readonly job: JobName;
  readonly request: unknown;
}
