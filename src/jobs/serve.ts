import { parentPort, workerData } from "node:worker_threads";
import { StoppedError } from "../errors.ts";
import { postingReporter, type Reporter } from "../progress.ts";
import { type Call, type Port, problemMessage, type Reply } from "./messages.ts";

/** How a job tells of its work. */
export interface Telling<Event> {
  readonly reporter: Reporter;
  /** Tells whatever else there is. */
  tell(event: Event): void;
}

/** A job of which nothing is kept when it is stopped: its StoppedError says no more than that it has. */
export function keepsNothing<Request, Result>(work: (request: Request, reporter: Reporter) => Promise<Result>) {
  return (request: Request, reporter: Reporter): Promise<Result> =>
    work(request, reporter).catch((error: unknown) => {
      throw error instanceof StoppedError ? new StoppedError("Stopped.") : error;
    });
}

/** Answers a request. What it throws goes to whoever asked. */
export type Answer<Request, Result, Event> = (request: Request, telling: Telling<Event>) => Promise<Result>;

/**
 * Answers what is asked through a port, one request after another.
 *
 * @param flagged whether the work has been asked to stop by other means than a message
 */
export function serve<Request, Result, Event>(
  port: Port<Reply<Result, Event>, Call<Request>>,
  answer: Answer<Request, Result, Event>,
  flagged: () => boolean = () => false,
): void {
  let stopping = false;
  let last: Promise<void> = Promise.resolve();
  const respond = async (request: Request): Promise<void> => {
    const reporter = postingReporter(
      (message) => port.send(message),
      () => stopping || flagged(),
    );
    try {
      const result = await answer(request, { reporter, tell: (event) => port.send({ type: "event", event }) });
      port.send({ type: "done", result });
    } catch (error) {
      port.send(problemMessage(error));
    }
  };
  port.listen((call) => {
    if (call.type === "stop") stopping = true;
    else if (call.type === "end") port.close();
    else {
      last = last.then(() => respond(call.request));
    }
  });
}

/** What a thread gets when it is started. */
export interface ThreadData<Data> {
  readonly data: Data;
  /** Not 0: asked to stop. A message would wait until the thread has nothing to do. */
  readonly stop: SharedArrayBuffer;
}

/**
 * Serves in the thread that runs this: the entry of one that `openThread` starts.
 *
 * @param open prepares the thread with what it was started with
 */
export function serveThread<Data, Request, Result, Event>(open: (data: Data) => Answer<Request, Result, Event>): void {
  const { data, stop } = workerData as ThreadData<Data>;
  const flag = new Int32Array(stop);
  const port = parentPort!;
  serve<Request, Result, Event>(
    {
      send: (message) => port.postMessage(message),
      listen: (hear) => void port.on("message", hear),
      close: () => port.close(),
    },
    open(data),
    () => Atomics.load(flag, 0) !== 0,
  );
}

/** Serves in the process that runs this: the entry of one that `openProcess` starts. It ends with whoever asks. */
export function serveProcess<Request, Result, Event>(answer: Answer<Request, Result, Event>): void {
  // Ctrl-C on a terminal goes to the whole group of processes; here it is the parent that says when to stop.
  process.on("SIGINT", () => {});
  process.on("disconnect", () => process.exit(130));
  serve<Request, Result, Event>(
    {
      send: (message) => void process.send?.(message),
      listen: (hear) => void process.on("message", hear),
      close: () => process.exit(0),
    },
    answer,
  );
}
