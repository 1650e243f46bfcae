import { StoppedError, UserError } from "../errors.ts";
import { type Ending, openProcess, reportTo } from "../jobs/ask.ts";
import type { Reporter } from "../progress.ts";
import type { MethodRequest, Work } from "./compare-measure.ts";

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
  // The collector is called once before measuring, so that the garbage of reading does not count. Numbers in typed arrays count for the limits at which
  // it begins by itself, as `setUpCollector` says, whose limits take more memory than this one; and memory is what is measured here.
  const child = openProcess<MethodRequest, null, Work>(
    new URL("./compare-child.js", import.meta.url),
    ["--expose-gc", "--heap-growing-percent=150"],
    (ending) => endedEarly(name, ending),
  );
  const look = setInterval(() => {
    if (!reporter.stopped()) return;
    clearInterval(look);
    child.stop();
  }, lookEvery);
  try {
    await child.ask(request, { onReport: reportTo(reporter, `${name} `), onEvent: onWork });
    await child.end();
  } finally {
    clearInterval(look);
    await child.terminate();
  }
}

/** Why a process ended without an answer. */
function endedEarly(name: string, { code, signal, stderr }: Ending): Error {
  if (signal === "SIGINT") return new StoppedError();
  if (signal !== null) {
    const memory = /out of memory/i.test(stderr) || signal === "SIGKILL" ? ", most likely for want of memory" : "";
    return new UserError(
      `${name}: expected its process to finish, got one that the system ended (${signal}${memory}). Take fewer pairs (--num_examples) or sites (--layers, --sites), or leave it out of --methods; the same command goes on after the methods that have finished.`,
    );
  }
  return new Error(`internal: the process of ${name} ended with ${code} and without an answer: ${stderr.trim()}`);
}
