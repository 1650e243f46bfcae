import { fork } from "node:child_process";
import { fileURLToPath } from "node:url";
import { Worker } from "node:worker_threads";
import type { ProgressReporter, ReporterMessage } from "../progress.ts";
import { setUpCollector } from "./collector.ts";
import { type Call, type Port, problemOf, type Reply } from "./messages.ts";
import type { ThreadData } from "./serve.ts";

/** Hears what a job tells while it works. */
export interface Hearing<Event> {
  readonly onReport?: (message: ReporterMessage) => void;
  readonly onEvent?: (event: Event) => void;
}

/** A thread or a process that answers requests, one at a time. */
export interface Asking<Request, Result, Event> {
  /** @throws what the job throws, as the same kind of error; an error if the thread or process ends without an answer */
  ask(request: Request, hearing?: Hearing<Event>): Promise<Result>;
  /** Asks it to stop at the next safe point. */
  stop(): void;
  /** Ends it when it has done what it is doing. */
  end(): Promise<void>;
  /** Ends it at once. */
  terminate(): Promise<void>;
}

/** Asks through a port; `fail` ends the wait for an answer. */
export function asking<Request, Result, Event>(port: Port<Call<Request>, Reply<Result, Event>>) {
  let waiting: { resolve(result: Result): void; reject(error: Error): void; hearing: Hearing<Event> } | undefined;
  let failed: Error | undefined;
  const settle = (then: (asked: NonNullable<typeof waiting>) => void) => {
    const asked = waiting;
    waiting = undefined;
    if (asked) then(asked);
  };
  port.listen((message) => {
    switch (message.type) {
      case "done":
        return settle(({ resolve }) => resolve(message.result));
      case "error":
        return settle(({ reject }) => reject(problemOf(message)));
      case "event":
        return waiting?.hearing.onEvent?.(message.event);
      default:
        return waiting?.hearing.onReport?.(message);
    }
  });
  return {
    ask: (request: Request, hearing: Hearing<Event> = {}) =>
      new Promise<Result>((resolve, reject) => {
        if (waiting) throw new Error("internal: asked again before the answer");
        if (failed) return reject(failed);
        waiting = { resolve, reject, hearing };
        port.send({ type: "ask", request });
      }),
    fail(error: Error) {
      failed ??= error;
      settle(({ reject }) => reject(error));
    },
  };
}

/**
 * Starts a thread that `serveThread` answers in. Until it is asked something, it does not keep the process from ending.
 *
 * @param entry its compiled JavaScript
 * @param data what it is started with
 */
export function openThread<Request, Result, Event = never>(entry: URL, data: unknown): Asking<Request, Result, Event> {
  setUpCollector();
  const stop = new SharedArrayBuffer(4);
  const worker = new Worker(entry, { workerData: { data, stop } satisfies ThreadData<unknown> });
  const { ask, fail } = asking<Request, Result, Event>({
    send: (call) => worker.postMessage(call),
    listen: (hear) => void worker.on("message", hear),
    close() {},
  });
  const ended = new Promise<void>((resolve) => worker.once("exit", () => resolve()));
  worker.unref();
  worker.on("error", fail);
  worker.on("exit", () => fail(new Error("internal: a thread ended without an answer")));
  return {
    ask(request, hearing) {
      worker.ref();
      return ask(request, hearing);
    },
    stop: () => void Atomics.store(new Int32Array(stop), 0, 1),
    async end() {
      worker.ref();
      worker.postMessage({ type: "end" });
      await ended;
    },
    async terminate() {
      await worker.terminate();
    },
  };
}

/** How a process ended that gave no answer. */
export interface Ending {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  /** The end of what it wrote to its standard error. */
  readonly stderr: string;
}

/**
 * Starts a process that `serveProcess` answers in: its memory is nobody else's, and what it does not free goes with it.
 *
 * @param entry its compiled JavaScript
 * @param execArgv flags for Node, besides those of this process
 * @param problem why it ended without an answer
 */
export function openProcess<Request, Result, Event = never>(
  entry: URL,
  execArgv: readonly string[],
  problem: (ending: Ending) => Error,
): Asking<Request, Result, Event> {
  const child = fork(fileURLToPath(entry), {
    execArgv: [...process.execArgv, ...execArgv],
    stdio: ["ignore", "ignore", "pipe", "ipc"],
  });
  const send = (call: Call<Request>) => void child.send(call, () => {});
  const { ask, fail } = asking<Request, Result, Event>({
    send,
    listen: (hear) => void child.on("message", hear as (message: unknown) => void),
    close() {},
  });
  let stderr = "";
  child.stderr!.setEncoding("utf8").on("data", (text: string) => {
    stderr = (stderr + text).slice(-4000);
  });
  child.on("error", fail);
  const ended = new Promise<void>((resolve) => {
    child.on("error", () => resolve());
    child.on("close", (code, signal) => {
      fail(problem({ code, signal, stderr }));
      resolve();
    });
  });
  return {
    ask,
    stop: () => send({ type: "stop" }),
    async end() {
      send({ type: "end" });
      await ended;
    },
    async terminate() {
      child.kill("SIGKILL");
      await ended;
    },
  };
}

/** Passes what a job reports on to a reporter, its phases' names with something in front. */
export function reportTo(reporter: ProgressReporter, before = ""): (message: ReporterMessage) => void {
  return (message) => {
    switch (message.type) {
      case "begin":
        return reporter.begin(before + message.phase, message.total);
      case "set":
        return reporter.set(message.done, message.total);
      case "end":
        return reporter.end();
      case "line":
        return reporter.line(message.text);
    }
  };
}
