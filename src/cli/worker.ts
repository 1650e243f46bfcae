import { parentPort, workerData } from "node:worker_threads";
import { problemMessage } from "../jobs/messages.ts";
import { postingReporter } from "../progress.ts";
import { type JobName, jobs } from "./jobs.ts";

/** Entry of the worker thread in which a whole job lives: reads, runs, encodes, writes; the main thread keeps progress and signals. */
const { job, request, stop } = workerData as { job: JobName; request: never; stop: SharedArrayBuffer };
const flag = new Int32Array(stop);
const port = parentPort!;
const reporter = postingReporter(
  (message) => port.postMessage(message),
  () => Atomics.load(flag, 0) !== 0,
);

try {
  const result = await jobs[job](request, reporter);
  port.postMessage({ type: "done", result });
} catch (error) {
  port.postMessage(problemMessage(error));
}
