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

/**
 * Text whose lines of prose are broken between words where they are longer than `columns`. A label in front, as in `passed   text`, hangs out; rows
 * of a table, and lines that are indented, stay as they are.
 */
export function wrapped(text: string, columns: number): string {
  return text
    .split("\n")
    .map((line) => wrappedLine(line, columns))
    .join("\n");
}

function wrappedLine(line: string, columns: number): string {
  const [label] = /^(?:\S+ {2,})?/.exec(line)!;
  const prose = line.slice(label.length);
  if (line.length <= columns || /^\s|\s{2}/.test(prose)) return line;
  const lines = [label];
  for (const [i, word] of prose.split(" ").entries()) {
    const last = lines.at(-1)!;
    if (i === 0) lines[0] += word;
    else if (last.length + 1 + word.length <= columns) lines[lines.length - 1] = `${last} ${word}`;
    else lines.push(" ".repeat(label.length) + word);
  }
  return lines.join("\n");
}

/** Paragraphs, each of one or more lines that are not indented, broken anew where `columns` end. */
export function reflowed(text: string, columns: number): string {
  return wrapped(
    text.replace(/^\S.*(?:\n\S.*)*/gm, (paragraph) => paragraph.replaceAll("\n", " ")),
    columns,
  );
}

/** Writes text to standard output and ends the line. All that commands find goes through here. A terminal's lines break between words. */
export function print(text: string): void {
  const { isTTY, columns } = process.stdout;
  process.stdout.write(`${isTTY && columns > 0 ? wrapped(forTerminal(text), columns) : forTerminal(text)}\n`);
}

/** Writes JSON to standard output. */
export function printJson(value: unknown): void {
  process.stdout.write(`${forTerminal(JSON.stringify(value, null, 2))}\n`);
}

/** Writes text to standard error and ends the line. */
export function printError(text: string): void {
  process.stderr.write(`${forTerminal(text)}\n`);
}
