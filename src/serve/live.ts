import { randomUUID } from "node:crypto";
import { embeddedModel } from "../analysis/options.ts";
import { StoppedError, UserError } from "../errors.ts";
import { type Asking, openProcess } from "../jobs/ask.ts";
import type { LiveAnswer, LiveAsks, LiveKind, ModelChoice, OpenedModel } from "../live/questions.ts";
import type { LiveState } from "./api.ts";
import { Refused } from "./guard.ts";
import type { LiveJob, LiveResult, ModelOptions } from "./live-jobs.ts";

/** Questions that may wait for their turn. */
const mostWaiting = 64;
/** Answers that can be saved: the last ones. */
const mostAnswers = 64;

/** A choice of the page, and what it stands for. */
export interface LiveModel extends ModelChoice {
  readonly options: ModelOptions;
}

/** The embedded model with its SAEs. */
export const demoModel: LiveModel = {
  id: embeddedModel,
  model: embeddedModel,
  saes: null,
  options: { model_name: embeddedModel, sae_source: null, layers: null, sites: null, seed: 1 },
};

/** Live work: questions to a process of its own, one after another. It starts with the first question. */
export class Live {
  readonly #models: () => Promise<readonly LiveModel[]>;
  readonly #answers = new Map<string, { readonly kind: LiveKind; readonly request: object; readonly answer: object }>();
  #process: Asking<LiveJob, LiveResult, never> | undefined;
  #open: OpenedModel | null = null;
  #last: Promise<unknown> = Promise.resolve();
  #waiting = 0;
  #isClosed = false;

  /** @param models what there is to choose from, asked anew each time: a run that has just been made is among them */
  constructor(models: () => Promise<readonly LiveModel[]>) {
    this.#models = models;
  }

  async state(): Promise<LiveState> {
    const models = (await this.#models()).map(({ id, model, saes }) => ({ id, model, saes }));
    return { models, open: this.#open, waiting: this.#waiting };
  }

  /**
   * @throws Refused with 503 if too many wait; UserError if there is no such model, or the pairs cannot be used
   */
  async ask<K extends LiveKind>(kind: K, request: LiveAsks[K]["request"]): Promise<LiveAnswer & LiveAsks[K]["found"]> {
    if (this.#waiting >= mostWaiting) {
      throw new Refused(
        503,
        `live work: expected at most ${mostWaiting} questions to wait, got more. Ask again later.`,
      );
    }
    this.#waiting++;
    try {
      const models = await this.#models();
      const chosen = models.find(({ id }) => id === request.model);
      if (!chosen) {
        throw new UserError(
          `model: expected one of ${models.map(({ id }) => id).join(", ")}, got "${request.model}".`,
          {
            code: "not_found",
          },
        );
      }
      const turn = this.#last.then(() => this.#answer(kind, chosen, request));
      this.#last = turn.catch(() => {});
      return await turn;
    } finally {
      this.#waiting--;
    }
  }

  /** An answer that was given, with what was asked. @throws UserError if it is none of the last ones */
  answer(id: string) {
    const found = this.#answers.get(id);
    if (found) return found;
    throw new UserError(`answer: expected one of the last ${mostAnswers}, got "${id}". Ask again.`, {
      code: "not_found",
    });
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    await this.#process?.terminate();
  }

  async #answer<K extends LiveKind>(
    kind: K,
    { id: model, model: name, saes, options }: LiveModel,
    request: LiveAsks[K]["request"],
  ): Promise<LiveAnswer & LiveAsks[K]["found"]> {
    if (this.#isClosed) throw new StoppedError("The server ends.");
    this.#process ??= openProcess<LiveJob, LiveResult>(new URL("./live-process.js", import.meta.url), [], (ending) => {
      this.#process = undefined;
      this.#open = null;
      const why =
        ending.signal === "SIGKILL" ? "it was killed, probably out of memory" : (ending.signal ?? ending.code);
      return new UserError(`The process of live work ended (${why}). Ask again; a smaller model may fit.`, {
        code: "no_memory",
      });
    });
    const { opened, found, ...about } = (await this.#process.ask({ kind, options, request })) as LiveResult<K>;
    this.#open = { id: model, model: name, saes, ...opened };
    const id = randomUUID();
    const answer = { id, model: this.#open, ...about, ...found };
    this.#answers.set(id, { kind, request, answer });
    for (const old of [...this.#answers.keys()].slice(0, -mostAnswers)) this.#answers.delete(old);
    return answer;
  }
}
