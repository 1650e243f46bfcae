import { serveProcess } from "../jobs/serve.ts";
import type { LiveJob, LiveResult } from "./live-jobs.ts";
import { liveWork } from "./live-work.ts";

/** Entry of the process in which live work is done: its model and SAEs stay open, and its memory is its own. */
serveProcess<LiveJob, LiveResult, never>(liveWork());
