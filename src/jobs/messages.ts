import { type ErrorCode, messageOf, StoppedError, UsageError, UserError } from "../errors.ts";
import type { ReporterMessage } from "../progress.ts";
import { systemProblem } from "../storage/files.ts";

/** An error on its way from a worker or a child process to whoever waits for it. */
export interface ProblemMessage {
  readonly type: "error";
  readonly kind: "stopped" | "usage" | "user" | "internal";
  readonly message: string;
  /** Of a UserError. */
  readonly code?: ErrorCode | undefined;
  readonly stack?: string | undefined;
}

/** What a job says while it works, and at its end. */
export type JobMessage = ReporterMessage | { readonly type: "done"; readonly result: unknown } | ProblemMessage;

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
