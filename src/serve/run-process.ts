import { type RunOutcome, type RunRequest, run } from "../commands/run.ts";
import { serveProcess } from "../jobs/serve.ts";

/** Entry of the process in which a run that the page started is made. */
serveProcess<RunRequest, RunOutcome, never>((request, { reporter }) => run(request, reporter));
