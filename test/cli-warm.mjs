// Runs commands one after another in one process, so that their modules are loaded and compiled once: six commands take the time of two that each
// have a process. The parent sends arguments and what differs in the environment, and gets exit code, standard output and standard error. The job,
// which a user's command has in a worker thread of its own, runs in this thread, with the runtime as all tests have it (runtime.mjs).
import { EventEmitter } from "node:events";
import { syncBuiltinESMExports } from "node:module";
import workers from "node:worker_threads";
import { forTests } from "./runtime.mjs";

const entry = process.argv[2];
const folder = new URL(".", entry).href;

/** What a worker of the command line does, here: dist/cli/worker.js without the thread. */
class HereWorker extends EventEmitter {
  constructor({ job, request, stop }) {
    super();
    this.ended = this.run(job, structuredClone(request), new Int32Array(stop));
  }

  async run(job, request, stop) {
    const { jobs } = await import(`${folder}jobs.js`);
    const { problemMessage } = await import(new URL("../jobs/messages.js", folder).href);
    const { postingReporter } = await import(new URL("../progress.js", folder).href);
    const post = (message) => this.emit("message", structuredClone(message));
    try {
      const reporter = postingReporter(post, () => Atomics.load(stop, 0) !== 0);
      post({ type: "done", result: await jobs[job](request, reporter) });
    } catch (error) {
      post(problemMessage(error));
    }
  }

  async terminate() {
    await this.ended;
  }
}

const Thread = workers.Worker;
workers.Worker = function Worker(url, options) {
  return String(url) === `${folder}worker.js` ? new HereWorker(options.workerData) : new Thread(url, options);
};
syncBuiltinESMExports();
await forTests();

process.stdout.setMaxListeners(0);
process.stderr.setMaxListeners(0);
const written = { stdout: "", stderr: "" };
for (const name of ["stdout", "stderr"]) {
  process[name].write = (chunk, encoding, done) => {
    written[name] += typeof chunk === "string" ? chunk : Buffer.from(chunk).toString();
    const callback = typeof encoding === "function" ? encoding : done;
    if (callback) queueMicrotask(callback);
    return true;
  };
}

process.on("disconnect", () => process.exit());
let commands = 0;
process.on("message", async ({ args, env, cwd }) => {
  const before = { ...process.env };
  Object.assign(process.env, env);
  const at = process.cwd();
  process.chdir(cwd);
  process.argv = [process.argv[0], entry, ...args];
  process.exitCode = undefined;
  // The module of the command line is its main program: another name makes it run again.
  await import(`${entry}?${++commands}`);
  const ended = { code: process.exitCode ?? 0, signal: null, ...written };
  written.stdout = "";
  written.stderr = "";
  for (const name of Object.keys(env)) {
    if (before[name] === undefined) delete process.env[name];
    else process.env[name] = before[name];
  }
  process.chdir(at);
  process.send(ended);
});
