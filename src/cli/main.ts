#!/usr/bin/env node
import { withoutTelemetry } from "../graph/session.node.ts";
import { worker } from "./host.ts";

// Native code sees the environment of the main thread alone, and workers load the runtime: what session.node.ts asks for has to be asked here.
withoutTelemetry();
const [command, ...flags] = process.argv.slice(2);
const jobs = ["run", "circuit", "evaluate", "compare", "estimate", "intervene", "pairs", "bench", "merge"];
// The worker loads its modules while this thread loads the command line's.
if (jobs.includes(command!) && !flags.includes("--help") && !flags.includes("-h")) worker.start();
await (await import("./program.ts")).runProgram();
