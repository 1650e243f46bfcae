/** Where long work tells how far it is. */
export interface Progress {
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
export interface Reporter extends Progress {
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
