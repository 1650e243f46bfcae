import { describe, expect, it } from "vitest";
import { duration } from "../src/amounts.ts";
import { ProgressBar, progressText } from "../src/cli/progress-bar.ts";
import { StoppedError } from "../src/errors.ts";
import { steps } from "../src/progress.ts";

describe("progressText", () => {
  it("draws a bar on a terminal, with the share, the time and what is left", () => {
    expect(progressText({ phase: "capture", done: 1, total: 4, elapsed: 30 }, 70)).toBe(
      "capture ██████░░░░░░░░░░░░░░░░░░░░  25 %  30 s, about 1 min 30 s left",
    );
  });

  it("fits into every width, and drops the bar where there is no room", () => {
    for (let columns = 1; columns < 200; columns++) {
      const text = progressText({ phase: "effects", done: 123, total: 200, elapsed: 4000 }, columns);
      expect(text.length).toBeLessThan(columns);
    }
    expect(progressText({ phase: "effects", done: 1, total: 2, elapsed: 1 }, 40)).toBe(
      "effects  50 %  1.0 s, about 1.0 s left",
    );
  });

  it("is a plain line without a terminal, and promises nothing before it knows", () => {
    expect(progressText({ phase: "effects", done: 1, total: 3, elapsed: 2 }, 0)).toBe(
      "effects: 33 %, 2.0 s, about 4.0 s left",
    );
    expect(progressText({ phase: "effects", done: 0, total: 3, elapsed: 2 }, 0)).toBe("effects: 0 %, 2.0 s");
    expect(progressText({ phase: "effects", done: 9, total: 3, elapsed: 2 }, 0)).toBe("effects: 100 %, 2.0 s");
    expect(progressText({ phase: "effects", done: 0, total: 0, elapsed: 0 }, 0)).toBe("effects: 0 %, 0.0 s");
  });
});

it("durations are said in the unit that fits", () => {
  expect([0.04, 9.94, 9.96, 59.6, 125, 3599.7, 7620, 7199].map(duration)).toEqual([
    "0.0 s",
    "9.9 s",
    "10 s",
    "1 min 00 s",
    "2 min 05 s",
    "1 h 00 min",
    "2 h 07 min",
    "2 h 00 min",
  ]);
});

describe("Progress", () => {
  function terminal(isTTY: boolean, quiet = false) {
    const written: string[] = [];
    const clock = { ms: 0 };
    const stream = { isTTY, columns: 60, write: (text: string) => written.push(text) };
    return { written, clock, progress: new ProgressBar(stream, { quiet, now: () => clock.ms }) };
  }

  it("writes plain lines every few seconds where there is no terminal", () => {
    const { written, clock, progress } = terminal(false);
    progress.begin("capture", 100);
    for (let i = 0; i < 100; i++) {
      clock.ms += 120;
      progress.advance();
    }
    progress.end();
    expect(written).toEqual([
      "capture: 42 %, 5.0 s, about 7.0 s left\n",
      "capture: 84 %, 10 s, about 1.9 s left\n",
      "capture: 12 s\n",
    ]);
  });

  it("redraws one line on a terminal, not too often, and keeps other lines whole", () => {
    const { written, clock, progress } = terminal(true);
    progress.begin("capture", 1000);
    for (let i = 0; i < 1000; i++) {
      clock.ms += 1;
      progress.advance();
    }
    expect(written.length).toBeLessThan(20);
    expect(written.every((text) => text.startsWith("\r\x1b[2K") && !text.includes("\n"))).toBe(true);
    progress.line("a warning");
    expect(written.slice(-3).map((text) => text.replace("\x1b[2K", ""))).toEqual([
      "\r",
      "a warning\n",
      expect.stringContaining("capture"),
    ]);
    progress.end();
    expect(written.slice(-2)).toEqual(["\r\x1b[2K", "capture: 1.0 s\n"]);
  });

  it("says nothing when quiet, and times the phases all the same", () => {
    const { written, clock, progress } = terminal(true, true);
    progress.begin("capture", 2);
    clock.ms = 1500;
    progress.begin("effects", 2);
    clock.ms = 2000;
    progress.begin("capture", 2);
    clock.ms = 2250;
    progress.line("a line");
    progress.stop();
    expect(written).toEqual([]);
    expect(progress.seconds).toEqual({ capture: 1.75, effects: 0.5 });
  });
});

describe("steps of a long loop", () => {
  it("tell how far it is and ask whether to stop, at the first item and then several times a second", () => {
    const told: number[] = [];
    let asked = 0;
    const stopped = () => ++asked < 0;
    const step = steps({ stopped, onProgress: (done, total) => told.push(done / total) }, 1000);
    const began = performance.now();
    let done = 0;
    for (; performance.now() - began < 500; done++) step(Math.min(999, done));
    expect(told[0]).toBe(0);
    expect(told).toEqual([...told].sort((a, b) => a - b));
    // Far fewer than items.
    expect(told.length).toBe(asked);
    expect(asked).toBeGreaterThan(1);
    expect(asked).toBeLessThan(done / 10);
  });

  it("end with a StoppedError once asked to stop", () => {
    let stop = false;
    const step = steps({ stopped: () => stop }, 1);
    step(0);
    stop = true;
    expect(() => {
      for (const began = performance.now(); performance.now() - began < 10_000; ) step(1);
    }).toThrow(StoppedError);
  });
});
