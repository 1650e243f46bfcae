import { randomUUID } from "node:crypto";
import { basename } from "node:path";
import type { JobOptions } from "../analysis/options.ts";
import { readRegular } from "../bytes/file.node.ts";
import { defaultTop } from "../commands/default-folder.ts";
import type { RunOutcome, RunRequest } from "../commands/run.ts";
import { defaultSteps, isIntegrated } from "../effects/method.ts";
import { messageOf, StoppedError, UserError } from "../errors.ts";
import { type Asking, openProcess } from "../jobs/ask.ts";
import type { TypedPair } from "../live/questions.ts";
import type { ReporterMessage } from "../progress.ts";
import { spacedPair } from "../prompts/inline.ts";
import { writeFileAtomic } from "../storage/files.ts";
import type { RunStart, RunState } from "./api.ts";
import { Refused } from "./guard.ts";
import type { LiveModel } from "./live.ts";
import type { Places } from "./places.ts";

/** Lines of a run that are shown. */
const mostLines = 20;

type Changing<T> = { -readonly [K in keyof T]: T[K] };

interface Started {
  readonly state: Changing<Omit<RunState, "seconds">> & { total: number; readonly begun: number; ended: number | null };
  readonly process: Asking<RunRequest, RunOutcome, never>;
}

/** Runs that the page starts in the folder, one at a time, each in a process of its own. */
export class Work {
  readonly #places: Places;
  readonly #models: () => Promise<readonly LiveModel[]>;
  readonly #runs = new Map<string, Started>();

  constructor(places: Places, models: () => Promise<readonly LiveModel[]>) {
    this.#places = places;
    this.#models = models;
  }

  /** The runs that were started here, the last one first. */
  states(): RunState[] {
    return [...this.#runs.values()].map(stateOf).reverse();
  }

  /** @throws Refused with 409 while another one is under way, or if the name is that of other pairs; UserError if there is no such model */
  async start({ name, model: id, method, of }: RunStart): Promise<RunState> {
    const models = await this.#models();
    const model = models.find((one) => one.id === id);
    if (!model) {
      const there = models.map((one) => one.id).join(", ");
      throw new UserError(`model: expected one of ${there}, got "${id}".`, { code: "not_found" });
    }
    const folder = await this.#places.fresh(name);
    this.#checkIdle();
    const options: JobOptions = {
      ...model.options,
      ...("task" in of ? { ...of, pairs: null } : await this.#pairsOf(name, of.pairs)),
      batch_size: null,
      method,
      ...(isIntegrated(method) && { steps: defaultSteps, rule: "midpoint" }),
      score: "effect",
      precision: "float32",
      device: "cpu",
      top: defaultTop,
      keep: "all",
      weights: "auto",
    };
    // Another request may have begun one while the pairs were written.
    this.#checkIdle();
    return this.#begin(name, { command: "run", options, folder, force: false });
  }

  /** Asks a run to stop at the next safe point. @throws UserError if there is no such run */
  stop(id: string): RunState {
    const run = this.#runs.get(id);
    if (!run) throw new UserError(`run: expected one that was started here, got "${id}".`, { code: "not_found" });
    if (run.state.status === "running") run.process.stop();
    return stateOf(run);
  }

  /** Ends what is under way: what is done of it stays, and the same command resumes it. */
  async close(): Promise<void> {
    for (const { state, process } of this.#runs.values()) if (state.status === "running") await process.terminate();
  }

  #checkIdle(): void {
    const busy = [...this.#runs.values()].find(({ state }) => state.status === "running");
    if (busy) throw new Refused(409, `run: expected none under way, got ${busy.state.name}. Wait, or stop it.`);
  }

  /** Typed pairs as options of a run: one as the command line takes it, more in a file of their own. */
  async #pairsOf(
    name: string,
    typed: readonly TypedPair[],
  ): Promise<Pick<JobOptions, "task" | "pairs" | "num_examples" | "clean" | "patch" | "answers">> {
    const none = { task: null, num_examples: null };
    const [{ clean, patch, clean_answer, patch_answer }] = typed as [TypedPair];
    if (typed.length === 1 && !/,/.test(clean_answer + patch_answer))
      return { ...none, pairs: null, clean, patch, answers: `${clean_answer},${patch_answer}` };
    const lines = typed.map((one) => {
      const {
        split: _,
        case: __,
        ...pair
      } = spacedPair(one.clean, one.patch, [one.clean_answer, one.patch_answer], null).pair;
      return `${JSON.stringify(pair)}\n`;
    });
    const path = await this.#places.fresh(`${name}.jsonl`);
    await writePairs(path, lines.join(""));
    return { ...none, pairs: path };
  }

  #begin(name: string, request: RunRequest): RunState {
    const process = openProcess<RunRequest, RunOutcome>(
      new URL("./run-process.js", import.meta.url),
      [],
      ({ code, signal }) => new UserError(`The run's process ended (${signal ?? code}). Start it again to resume it.`),
    );
    const state: Started["state"] = {
      id: randomUUID(),
      name,
      status: "running",
      phase: "starting",
      share: 0,
      total: 1,
      lines: [],
      error: null,
      begun: performance.now(),
      ended: null,
    };
    const run = { state, process };
    this.#runs.set(state.id, run);
    process
      .ask(request, { onReport: (message) => hear(state, message) })
      .then(
        ({ manifest, again }) => {
          state.status = "finished";
          state.share = 1;
          if (again) state.lines = [...state.lines, "It had been finished before."];
          const failed = manifest.checks.filter(({ passed }) => !passed);
          if (failed.length > 0)
            state.lines = [...state.lines, `Checks failed: ${failed.map((one) => one.name).join(", ")}.`];
        },
        (error) => {
          state.status = error instanceof StoppedError ? "stopped" : "failed";
          state.error = messageOf(error);
        },
      )
      .finally(() => {
        state.ended = performance.now();
        return process.end();
      });
    return stateOf(run);
  }
}

/** Writes a file of pairs unless it is there with the same ones. @throws Refused with 409 if something else is there */
async function writePairs(path: string, text: string): Promise<void> {
  const before = await readRegular(path).catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return null;
    throw new Refused(
      409,
      `name: expected a new one, got that of ${basename(path)}, which cannot be read (${messageOf(error)}). Choose another.`,
    );
  });
  if (before === null) return writeFileAtomic(path, text);
  if (!before.equals(Buffer.from(text))) {
    throw new Refused(
      409,
      `name: expected a new one, got that of ${basename(path)}, which has other pairs. Choose another.`,
    );
  }
}

function hear(state: Started["state"], message: ReporterMessage): void {
  if (message.type === "begin") Object.assign(state, { phase: message.phase, share: 0, total: message.total });
  else if (message.type === "line") state.lines = [...state.lines, message.text].slice(-mostLines);
  else if (message.type === "set") {
    state.total = message.total ?? state.total;
    state.share = Math.min(1, message.done / Math.max(1, state.total));
  }
}

function stateOf({ state: { begun, ended, total: _, ...state } }: Started): RunState {
  return { ...state, seconds: ((ended ?? performance.now()) - begun) / 1000 };
}
