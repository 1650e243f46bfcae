import { type ErrorCode, messageOf, StoppedError, UsageError, UserError } from "../errors.ts";
import type { ReporterMessage } from "../progress.ts";
import { systemProblem } from "../storage/files.ts";

/** What a thread or a process is told: a request to answer, to stop at the next safe point, or that nothing more will be asked. */
export type Call<Request> =
  | { readonly type: "ask"; readonly request: Request }
  | { readonly type: "stop" }
  | { readonly type: "end" };

/** What it says of a request while it works, and at its end. `event` is whatever else a job tells on its way. */
export type Reply<Result, Event> =
  | ReporterMessage
  | { readonly type: "event"; readonly event: Event }
  | { readonly type: "done"; readonly result: Result }
  | ProblemMessage;

/** An error on its way to whoever waits for an answer. */
export interface ProblemMessage {
  readonly type: "error";
  readonly kind: "stopped" | "usage" | "user" | "internal";
  readonly message: string;
  /** Of a UserError. */
  readonly code?: ErrorCode | undefined;
  readonly stack?: string | undefined;
}

/** One end of a connection. */
export interface Port<Out, In> {
  send(message: Out): void;
  listen(hear: (message: In) => void): void;
  /** Hears nothing more; a thread or a process that has nothing else to do then ends. */
  close(): void;
}

/** What was thrown, as a message. */
export function problemMessage(thrown: unknown): ProblemMessage {
  const error = systemProblem(thrown);
  const kind =
    error instanceof StoppedError
      ? "stopped"
      : error instanceof UsageError
        ? "usage"
        : error instanceof UserError
          ? "user"
          : "internal";
  const code = error instanceof UserError ? error.code : undefined;
  const stack = error instanceof Error ? error.stack : undefined;
  return { type: "error", kind, message: messageOf(error), code, stack };
}

/** The error that a message stands for, of the kind that was thrown. */
export function problemOf({ kind, message, code, stack }: ProblemMessage): Error {
  switch (kind) {
    case "stopped":
      return new StoppedError(message);
    case "usage":
      return new UsageError(message);
    case "user":
      return new UserError(message, { ...(code && { code }) });
    case "internal":
      return Object.assign(new Error(message), { stack });
  }
}
