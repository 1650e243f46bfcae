const escapes: Readonly<Record<string, string>> = { "\n": "\\n", "\r": "\\r", "\t": "\\t" };

/**
 * Text from a file as a message may quote it: on one line, control characters as escapes (`\n`, `\u001b`), and of a long text its beginning and its
 * end, since a prompt's end is where its answer comes.
 *
 * @param most characters, escapes not counted
 */
export function excerpt(text: string, most = 80): string {
  const head = Math.floor(most / 2);
  return visible(text.length > most ? `${text.slice(0, head)}…${text.slice(text.length - (most - head))}` : text);
}

/** Text on one line, with escapes in place of control characters and of all that changes how a line looks. Within JSON the escapes mean the same. */
export function visible(text: string): string {
  // Bidirectional marks and line separators change how a line looks as control characters do.
  return text.replace(
    /[\p{Cc}\p{Cs}\u2028\u2029\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/gu,
    (character) => escapes[character] ?? `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}
