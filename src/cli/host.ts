import { ahead } from "../jobs/ahead.ts";
import { openThread, reportTo } from "../jobs/ask.ts";
import type { JobName, JobRequest, JobResult, WorkRequest } from "./jobs.ts";
import { ProgressBar } from "./progress-bar.ts";

/** The worker thread of a job. */
export const worker = ahead(() => openThread<WorkRequest, unknown>(new URL("./worker.js", import.meta.url), null));

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
  const progress = new ProgressBar(process.stderr, { quiet });
  const thread = worker.take();
  let asked = false;
  const interrupt = (signal: NodeJS.Signals) => {
    if (asked) {
      // An exit would wait for a read that never ends, as from a pipe that nobody writes to; the signal itself waits for nothing.
      progress.stop();
      process.off("SIGINT", interrupt);
      process.off("SIGTERM", interrupt);
      process.kill(process.pid, signal);
      process.exit(130);
    }
    asked = true;
    thread.stop();
    progress.line("Stopping after the current step; press Ctrl-C again to stop at once.");
  };
  process.on("SIGINT", interrupt);
  process.on("SIGTERM", interrupt);
  try {
    return (await thread.ask({ job, request }, { onReport: reportTo(progress) })) as JobResult<J>;
  } finally {
    progress.stop();
    process.off("SIGINT", interrupt);
    process.off("SIGTERM", interrupt);
    await thread.terminate();
  }
}
