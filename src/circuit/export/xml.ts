const references: Readonly<Record<string, string>> = {
  "&": "&amp;",
  "<": "&lt;",
  ">": "&gt;",
  '"': "&quot;",
  "'": "&apos;",
  "\t": "&#9;",
  "\n": "&#10;",
  "\r": "&#13;",
};

/**
 * Any text as the content of an XML 1.0 element or attribute, such that a parser gives it back. Characters that XML cannot hold at all are shown
 * by others: control characters by their pictures (␀), halves of surrogate pairs and U+FFFE, U+FFFF by �.
 */
export function xmlText(text: string): string {
  let escaped = "";
  for (const character of text) {
    const code = character.codePointAt(0)!;
    const reference = references[character];
    if (reference !== undefined) escaped += reference;
    else if (code < 0x20) escaped += String.fromCodePoint(0x2400 + code);
    else if ((code >= 0xd800 && code <= 0xdfff) || code === 0xfffe || code === 0xffff) escaped += "\ufffd";
    else escaped += character;
  }
  return escaped;
}

/** An element: `content` is XML, attributes are texts or numbers; those that are undefined are left out. */
export function element(
  name: string,
  attributes: Readonly<Record<string, string | number | undefined>>,
  content = "",
): string {
  const written = Object.entries(attributes)
    .filter(([, value]) => value !== undefined)
    .map(([key, value]) => ` ${key}="${xmlText(String(value))}"`)
    .join("");
  return content === "" ? `<${name}${written}/>` : `<${name}${written}>${content}</${name}>`;
}
