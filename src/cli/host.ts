import { Worker } from "node:worker_threads";
import { type JobMessage, problemOf } from "../jobs/messages.ts";
import type { JobName, JobRequest, JobResult } from "./jobs.ts";
import { ProgressBar } from "./progress-bar.ts";

/**
 * Runs a job in a worker thread and shows its progress. The first Ctrl-C asks it to stop at the next safe point, a second one ends the process.
 *
 * @throws what the job throws, as the same kind of error
 */
export async function runJob<J extends JobName>(
  job: J,
  request: JobRequest<J>,
  { quiet = false } = {},
): Promise<JobResult<J>> {
  const stop = new Int32Array(new SharedArrayBuffer(4));
  const progress = new ProgressBar(process.stderr, { quiet });
  const worker = new Worker(new URL("./worker.js", import.meta.url), {
    workerData: { job, request, stop: stop.buffer },
  });
  const interrupt = (signal: NodeJS.Signals) => {
    if (Atomics.exchange(stop, 0, 1) !== 0) {
      // An exit would wait for a read that never ends, as from a pipe that nobody writes to; the signal itself waits for nothing.
      progress.stop();
      process.off("SIGINT", interrupt);
      process.off("SIGTERM", interrupt);
      process.kill(process.pid, signal);
      process.exit(130);
    }
    progress.line("Stopping after the current step; press Ctrl-C again to stop at once.");
  };
  process.on("SIGINT", interrupt);
  process.on("SIGTERM", interrupt);
  try {
    return await new Promise<JobResult<J>>((resolve, reject) => {
      worker.on("message", (message: JobMessage) => {
        switch (message.type) {
          case "begin":
            return progress.begin(message.phase, message.total);
          case "set":
            return progress.set(message.done, message.total);
          case "end":
            return progress.end();
          case "line":
            return progress.line(message.text);
          case "done":
            return resolve(message.result as JobResult<J>);
          case "error":
            return reject(problemOf(message));
        }
      });
      worker.on("error", reject);
      worker.on("exit", () => reject(new Error("internal: the worker ended without an answer")));
    });
  } finally {
    progress.stop();
    process.off("SIGINT", interrupt);
    process.off("SIGTERM", interrupt);
    await worker.terminate();
  }
}
