/**
 * What kind of error it is, for programs that have to tell them apart; the texts of messages may change, these do not.
 *
 * - `invalid_input`: a file, a value or an option cannot be used; the message says which and why
 * - `invalid_usage`: a command line, or a call of the library, that cannot be understood
 * - `not_found`: there is no such model, SAE, site, file or folder
 * - `not_permitted`: a gated model, a wrong token, a file that may not be read or written
 * - `network`: the hub cannot be reached, or nothing may be fetched
 * - `no_space`: the disk is full
 * - `no_memory`: the work takes more memory than there is
 * - `no_pairs`: none of the prompt pairs can be used with the model
 * - `changed_input`: a file changed while it was in use, or a folder holds results of other files or options
 */
export const errorCodes = [
  "invalid_input",
  "invalid_usage",
  "not_found",
  "not_permitted",
  "network",
  "no_space",
  "no_memory",
  "no_pairs",
  "changed_input",
] as const;

/** One of `errorCodes`. */
export type ErrorCode = (typeof errorCodes)[number];

/**
 * An error whose message is meant for the person at the keyboard: one line that says what was expected, what was found and where, and what to
 * do. Commands print it without a stack and exit with 1.
 *
 * Form: `<what>: expected <e>, got <g> in <file or tensor>. <what to do>`
 */
export class UserError extends Error {
  override name = "UserError";
  readonly code: ErrorCode;

  /** @param options code: see `errorCodes`, `invalid_input` by default; cause: the error behind it */
  constructor(message: string, { code = "invalid_input", ...options }: ErrorOptions & { code?: ErrorCode } = {}) {
    super(message, options);
    this.code = code;
  }
}

/** A command line that cannot be understood; commands print it and exit with 2. */
export class UsageError extends UserError {
  override name = "UsageError";

  constructor(message: string, options: ErrorOptions = {}) {
    super(message, { ...options, code: "invalid_usage" });
  }
}

/** Options with which work cannot come to an end, which only its own numbers tell: what was begun with them is of no use to any other call. */
export class UnfitOptionError extends UserError {
  override name = "UnfitOptionError";
}

/** Work stopped on request (Ctrl-C, an aborted signal). Its message says what is left; by default what is finished is kept, and can be resumed. */
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
