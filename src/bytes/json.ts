/**
 * The first key that stands twice in the outermost object of a JSON text, or undefined. `JSON.parse` keeps the last of two equal keys without a
 * word.
 *
 * @param text valid JSON
 */
export function repeatedKey(text: string): string | undefined {
  const seen = new Set<string>();
  let depth = 0;
  for (let at = 0; at < text.length; at++) {
    const c = text[at];
    if (c === "{" || c === "[") depth++;
    else if (c === "}" || c === "]") depth--;
    else if (c === '"') {
      const end = endOfString(text, at);
      if (depth === 1 && isKey(text, end)) {
        const key = JSON.parse(text.slice(at, end)) as string;
        if (seen.has(key)) return key;
        seen.add(key);
      }
      at = end - 1;
    }
  }
  return undefined;
}

/** Whether the string that ends before `at` is a key. */
function isKey(text: string, at: number): boolean {
  let next = at;
  while (" \t\n\r".includes(text[next] ?? ":")) next++;
  return text[next] === ":";
}

/** The place behind the closing quote of the string that begins at `start`. */
function endOfString(text: string, start: number): number {
  let at = start + 1;
  while (at < text.length && text[at] !== '"') at += text[at] === "\\" ? 2 : 1;
  return at + 1;
}
