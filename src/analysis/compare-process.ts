import { fork } from "node:child_process";
import { fileURLToPath } from "node:url";
import { StoppedError, UserError } from "../errors.ts";
import { type JobMessage, problemOf } from "../jobs/messages.ts";
import type { Reporter } from "../progress.ts";
import type { MethodRequest, Work } from "./compare-measure.ts";

/** What the process of a method is told. */
export type ParentMessage =
  | { readonly type: "request"; readonly request: MethodRequest }
  /** To stop at the next safe point. */
  | { readonly type: "stop" };

/** What the process of a method tells. */
export type ChildMessage = JobMessage | { readonly type: "work"; readonly work: Work };

/** Milliseconds between two looks whether to stop. */
const lookEvery = 50;

/**
 * Runs a method in a process of its own: its memory is nobody else's, and what it does not free goes with it. Returns when that process has ended.
 *
 * @throws what the method throws, as the same kind of error; UserError if the system ended it
 */
export async function measureInProcess(
  request: MethodRequest,
  reporter: Reporter,
  onWork: (work: Work) => void,
): Promise<void> {
  const { name } = request.spec;
  // The collector is called once before measuring, so that the garbage of reading does not count.
  const child = fork(fileURLToPath(new URL("./compare-child.js", import.meta.url)), {
    execArgv: [...process.execArgv, "--expose-gc"],
    stdio: ["ignore", "ignore", "pipe", "ipc"],
  });
  const told = (message: ParentMessage) => child.send(message, () => {});
  let stopping = false;
  const look = setInterval(() => {
    if (stopping || !reporter.stopped()) return;
    stopping = true;
    told({ type: "stop" });
  }, lookEvery);
  let stderr = "";
  child.stderr!.setEncoding("utf8").on("data", (text: string) => {
    stderr = (stderr + text).slice(-4000);
  });
  try {
    await new Promise<void>((resolve, reject) => {
      let ended: (() => void) | undefined;
      child.on("message", (message: ChildMessage) => {
        switch (message.type) {
          case "begin":
            return reporter.begin(`${name} ${message.phase}`, message.total);
          case "set":
            return reporter.set(message.done, message.total);
          case "end":
            return reporter.end();
          case "line":
            return reporter.line(message.text);
          case "work":
            return onWork(message.work);
          case "done":
            ended = resolve;
            return;
          case "error":
            ended = () => reject(problemOf(message));
        }
      });
      child.on("error", reject);
      child.on("close", (code, signal) => (ended ? ended() : reject(endedEarly(name, code, signal, stderr))));
      told({ type: "request", request });
    });
  } finally {
    clearInterval(look);
    child.kill("SIGKILL");
  }
}

/** Why a process ended without an answer. */
function endedEarly(name: string, code: number | null, signal: NodeJS.Signals | null, stderr: string): Error {
  if (signal === "SIGINT") return new StoppedError();
  if (signal !== null) {
    const memory = /out of memory/i.test(stderr) || signal === "SIGKILL" ? ", most likely for want of memory" : "";
    return new UserError(
      `${name}: expected its process to finish, got one that the system ended (${signal}${memory}). Take fewer pairs (--num_examples) or sites (--layers, --sites), or leave it out of --methods; the same command goes on after the methods that have finished.`,
    );
  }
  return new Error(`internal: the process of ${name} ended with ${code} and without an answer: ${stderr.trim()}`);
}
