// Runs commands one after another in one process, so that their modules are loaded and compiled once: six commands take the time of two that each
// have a process. The parent sends arguments and what differs in the environment, and gets exit code, standard output and standard error. The job,
// which a user's command has in a worker thread of its own, runs in this thread, with the runtime as all tests have it (runtime.mjs). So does each
// method of a comparison, which a user's command gives a process of its own.
import processes from "node:child_process";
import { EventEmitter } from "node:events";
import { syncBuiltinESMExports } from "node:module";
import { fileURLToPath } from "node:url";
import workers from "node:worker_threads";
import { forTests } from "./runtime.mjs";

const entry = process.argv[2];
const folder = new URL(".", entry).href;

/** What a worker of the command line does, here: dist/cli/worker.js without the thread. */
class HereWorker extends EventEmitter {
  constructor({ stop }) {
    super();
    this.ready = this.serve(new Int32Array(stop));
  }

  async serve(flag) {
    const { jobs } = await import(`${folder}jobs.js`);
    const { serve } = await import(new URL("../jobs/serve.js", folder).href);
    serve(
      {
        send: (message) => this.emit("message", structuredClone(message)),
        listen: (hear) => {
          this.hear = hear;
        },
        close() {},
      },
      ({ job, request }, { reporter }) => {
        this.work = jobs[job](request, reporter);
        return this.work;
      },
      () => Atomics.load(flag, 0) !== 0,
    );
  }

  postMessage(call) {
    this.ready.then(() => this.hear(structuredClone(call)));
  }

  // It keeps no process from ending.
  ref() {}

  unref() {}

  async terminate() {
    await this.ready;
    await this.work?.catch(() => {});
  }
}

/** What the process of a comparison's method does, here: dist/commands/compare-child.js without the process. */
class HereProcess extends EventEmitter {
  stderr = { setEncoding: () => ({ on() {} }) };
  ended = new Promise((resolve) => {
    this.end = resolve;
  });

  constructor() {
    super();
    this.ready = this.serve();
    this.ended.then(() => this.emit("close", 0, null));
  }

  async serve() {
    const { serve } = await import(new URL("../jobs/serve.js", folder).href);
    const { measureMethod } = await import(new URL("../commands/compare-measure.js", folder).href);
    serve(
      {
        send: (message) => this.emit("message", structuredClone(message)),
        listen: (hear) => {
          this.hear = hear;
        },
        close: () => this.end(),
      },
      async (request, { reporter, tell }) => {
        await measureMethod(request, reporter, tell);
        return null;
      },
    );
  }

  send(call) {
    this.ready.then(() => this.hear(structuredClone(call)));
  }

  kill() {
    this.end();
  }
}

const compareChild = fileURLToPath(new URL("../commands/compare-child.js", folder));
const { fork } = processes;
processes.fork = (path, ...more) => (path === compareChild ? new HereProcess() : fork(path, ...more));

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
