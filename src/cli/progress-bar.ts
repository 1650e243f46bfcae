import { duration } from "../amounts.ts";
import type { Reporter } from "../progress.ts";
import { visible } from "../prompts/excerpt.ts";
import { forTerminal } from "./terminal.ts";

/** Where a phase of long work stands. */
export interface PhaseState {
  readonly phase: string;
  /** Units of work done and in all; the unit is the phase's own. */
  readonly done: number;
  readonly total: number;
  /** Seconds since the phase began. */
  readonly elapsed: number;
}

/**
 * One line for a phase: its share, the time it has taken and the estimated rest, with a bar where there is room.
 *
 * @param columns width of the terminal; 0 gives the plain form without a bar
 */
export function progressText({ phase, done, total, elapsed }: PhaseState, columns: number): string {
  const share = total > 0 ? Math.min(1, done / total) : 0;
  const percent = `${Math.floor(share * 100)} %`;
  const rest = share > 0 && share < 1 ? `, about ${duration((elapsed * (1 - share)) / share)} left` : "";
  const times = `${duration(elapsed)}${rest}`;
  if (columns === 0) return `${phase}: ${percent}, ${times}`;
  const width = Math.min(40, columns - phase.length - percent.length - times.length - 6);
  const filled = Math.floor(share * width);
  const bar = width >= 8 ? `${"█".repeat(filled)}${"░".repeat(width - filled)} ` : "";
  return `${phase} ${bar}${percent.padStart(5)}  ${times}`.slice(0, Math.max(0, columns - 1));
}

/** Where progress is written; process.stderr is one. */
export interface ProgressStream {
  readonly isTTY?: boolean | undefined;
  readonly columns?: number | undefined;
  write(text: string): unknown;
}

export interface ProgressOptions {
  /** Says nothing at all. */
  readonly quiet?: boolean;
  /** Milliseconds, from any start. */
  readonly now?: () => number;
}

interface Phase {
  readonly phase: string;
  done: number;
  total: number;
  readonly began: number;
  /** When it was last written. */
  shown: number;
}

/** Milliseconds between two redraws of the bar, and between two plain lines of one phase. */
const redrawEvery = 80;
const lineEvery = 5000;

/**
 * Shows how long work goes on: a bar that is redrawn on a terminal; elsewhere plain lines, one when a phase ends and one every few seconds
 * before that. Times every phase as well.
 */
export class ProgressBar {
  readonly #stream: ProgressStream;
  readonly #quiet: boolean;
  readonly #now: () => number;
  readonly #seconds = new Map<string, number>();
  #current: Phase | undefined;
  #drawn = false;

  constructor(
    stream: ProgressStream = process.stderr,
    { quiet = false, now = () => performance.now() }: ProgressOptions = {},
  ) {
    this.#stream = stream;
    this.#quiet = quiet;
    this.#now = now;
  }

  /** Begins a phase of `total` units of work, ending the one before. */
  begin(phase: string, total: number): void {
    this.end();
    const began = this.#now();
    this.#current = {
      phase: visible(phase),
      done: 0,
      total,
      began,
      shown: this.#bar ? Number.NEGATIVE_INFINITY : began,
    };
    this.#show();
  }

  /** `units` more are done. */
  advance(units = 1): void {
    this.set((this.#current?.done ?? 0) + units);
  }

  /** So many units are done by now, of `total` where that has changed. */
  set(done: number, total?: number): void {
    if (!this.#current) return;
    this.#current.done = done;
    if (total !== undefined) this.#current.total = total;
    this.#show();
  }

  /** Ends the phase and leaves one line that says how long it took. */
  end(): void {
    const current = this.#current;
    if (!current) return;
    const elapsed = (this.#now() - current.began) / 1000;
    this.#seconds.set(current.phase, (this.#seconds.get(current.phase) ?? 0) + elapsed);
    this.#current = undefined;
    this.line(`${current.phase}: ${duration(elapsed)}`);
  }

  /** Removes the bar and forgets the phase, as when work stops early. Its time counts. */
  stop(): void {
    const current = this.#current;
    if (!current) return;
    this.#seconds.set(current.phase, (this.#seconds.get(current.phase) ?? 0) + (this.#now() - current.began) / 1000);
    this.#current = undefined;
    this.#erase();
  }

  /** Writes a line above the bar. */
  line(text: string): void {
    if (this.#quiet) return;
    this.#erase();
    this.#stream.write(`${forTerminal(text)}\n`);
    if (this.#current && this.#bar) this.#draw();
  }

  /** Seconds per phase so far, in the order in which phases began to end. */
  get seconds(): Readonly<Record<string, number>> {
    return Object.fromEntries(this.#seconds);
  }

  get #bar(): boolean {
    return this.#stream.isTTY === true;
  }

  #show(): void {
    const current = this.#current;
    if (!current || this.#quiet || this.#now() - current.shown < (this.#bar ? redrawEvery : lineEvery)) return;
    current.shown = this.#now();
    if (this.#bar) this.#draw();
    else this.#stream.write(`${progressText(this.#state(current), 0)}\n`);
  }

  #state({ phase, done, total, began }: Phase): PhaseState {
    return { phase, done, total, elapsed: (this.#now() - began) / 1000 };
  }

  #draw(): void {
    this.#stream.write(`\r\x1b[2K${progressText(this.#state(this.#current!), this.#stream.columns || 80)}`);
    this.#drawn = true;
  }

  #erase(): void {
    if (this.#drawn) this.#stream.write("\r\x1b[2K");
    this.#drawn = false;
  }
}

/** A reporter for work on the thread that shows progress; it is never asked to stop. */
export function progressReporter(progress: ProgressBar): Reporter {
  return {
    begin: (phase, total) => progress.begin(phase, total),
    set: (done, total) => progress.set(done, total),
    end: () => progress.end(),
    line: (text) => progress.line(text),
    stopped: () => false,
    get seconds() {
      return progress.seconds;
    },
  };
}
