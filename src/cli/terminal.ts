import { excerpt, visible } from "../prompts/excerpt.ts";

/** Characters of an error, the most that a screen shows at a glance. */
const longestError = 400;

/** Text of several lines as a terminal may show it: a control character, as a file name or a prompt may hold, is written as an escape. */
export function forTerminal(text: string): string {
  return text.split("\n").map(visible).join("\n");
}

/** The message of an error on one line, of a long one its beginning and its end, where it says what to do. */
export function errorLine(message: string): string {
  return excerpt(message.trim().replace(/\s*\p{Cc}+\s*/gu, " "), longestError);
}

/** Writes text to standard output and ends the line. All that commands find goes through here. */
export function print(text: string): void {
  process.stdout.write(`${forTerminal(text)}\n`);
}

/** Writes JSON to standard output. */
export function printJson(value: unknown): void {
  print(JSON.stringify(value, null, 2));
}

/** Writes text to standard error and ends the line. */
export function printError(text: string): void {
  process.stderr.write(`${forTerminal(text)}\n`);
}
