/**
 * An error whose message is meant for the person at the keyboard: one line that says what was expected, what was found and where, and what to
 * do. Commands print it without a stack and exit with 1.
 *
 * Form: `<what>: expected <e>, got <g> in <file or tensor>. <what to do>`
 */
export class UserError extends Error {
  override name = "UserError";
}

/** A command line that cannot be understood; commands print it and exit with 2. */
export class UsageError extends UserError {
  override name = "UsageError";
}

/** Work stopped on request (Ctrl-C). Its message says what is left; by default what is finished is kept, and can be resumed. */
export class StoppedError extends Error {
  override name = "StoppedError";

  constructor(message = "Stopped. The same command resumes it.") {
    super(message);
  }
}

/** The message of anything thrown. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
