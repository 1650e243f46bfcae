import { StoppedError } from "./errors.ts";

/** How far long work is, as the library tells it: so many units of a phase, or a line for the reader. */
export type Progress =
  | { readonly phase: string; readonly done: number; readonly total: number }
  | { readonly message: string };

/** How a call of the library is watched and ended. */
export interface Watching {
  /** Ends the work at the next safe point; the promise is rejected with the signal's reason. */
  readonly signal?: AbortSignal;
  /** Told how far the work is, and lines for the reader. */
  readonly onProgress?: (progress: Progress) => void;
}

/** How a step of long work is watched. */
export interface Watch {
  /** Called as the work goes on. */
  readonly onProgress?: ((done: number, total: number) => void) | undefined;
  /** Asked between steps; true ends the work with a StoppedError. */
  readonly stopped?: (() => boolean) | undefined;
}

/** Milliseconds for which a loop goes on before it tells how far it is and asks whether to stop. */
const stepEvery = 50;

/**
 * What a long loop calls for each of its items: at the first one and then now and again it tells how far the loop is, and asks whether to stop.
 *
 * @param total items of the loop
 * @returns takes the number of items that are done; throws a StoppedError if asked to stop
 */
export function steps({ onProgress, stopped }: Watch, total: number): (done: number) => void {
  let last = Number.NEGATIVE_INFINITY;
  return (done) => {
    const now = performance.now();
    if (now - last < stepEvery) return;
    last = now;
    if (stopped?.()) throw new StoppedError();
    onProgress?.(done, total);
  };
}

/** Where long work tells how far it is. */
export interface ProgressReporter {
  /** Begins a phase of `total` units of work, ending the one before. */
  begin(phase: string, total: number): void;
  /** So many units of the phase are done. */
  set(done: number, total?: number): void;
  /** Ends the phase. */
  end(): void;
  /** A line for the reader, above the progress. */
  line(text: string): void;
}

/** What a job tells while it works. The job lives in a worker thread; the main thread shows it. */
export interface Reporter extends ProgressReporter {
  /** Whether the job has been asked to stop. */
  stopped(): boolean;
  /** Seconds by phase so far. */
  readonly seconds: Readonly<Record<string, number>>;
}

export type ReporterMessage =
  | { readonly type: "begin"; readonly phase: string; readonly total: number }
  | { readonly type: "set"; readonly done: number; readonly total: number | undefined }
  | { readonly type: "end" }
  | { readonly type: "line"; readonly text: string };

/** A reporter that posts messages and measures the phases itself. */
export function postingReporter(post: (message: ReporterMessage) => void, stopped: () => boolean): Reporter {
  const seconds: Record<string, number> = {};
  let current: { phase: string; since: number } | undefined;
  const close = () => {
    if (current) seconds[current.phase] = (seconds[current.phase] ?? 0) + (performance.now() - current.since) / 1000;
    current = undefined;
  };
  return {
    begin(phase, total) {
      close();
      current = { phase, since: performance.now() };
      post({ type: "begin", phase, total });
    },
    set: (done, total) => post({ type: "set", done, total }),
    end() {
      close();
      post({ type: "end" });
    },
    line: (text) => post({ type: "line", text }),
    stopped,
    seconds,
  };
}

/** A reporter for a call of the library. */
export function watchingReporter({ signal, onProgress }: Watching): Reporter {
  let [phase, of] = ["", 1];
  return postingReporter(
    (message) => {
      switch (message.type) {
        case "begin":
          [phase, of] = [message.phase, message.total];
          return onProgress?.({ phase, done: 0, total: of });
        case "set":
          of = message.total ?? of;
          return onProgress?.({ phase, done: message.done, total: of });
        case "line":
          return onProgress?.({ message: message.text });
        case "end":
          return;
      }
    },
    () => signal?.aborted ?? false,
  );
}
