import { newSha256 } from "#file";
import type { ByteSource } from "./source.ts";

const pieceBytes = 2 ** 20;

/** SHA-256 of all bytes of a source, as 64 hex digits, read in pieces where it is not known. */
export async function sha256(source: ByteSource): Promise<string> {
  const known = await source.known?.find();
  if (known !== undefined) return known;
  const hash = newSha256();
  const memory = new Uint8Array(Math.min(pieceBytes, source.size));
  for (let at = 0; at < source.size; at += pieceBytes) {
    const length = Math.min(pieceBytes, source.size - at);
    hash.update(await source.read(at, length, memory.subarray(0, length)));
  }
  const hex = hash.hex();
  await source.known?.keep(hex);
  return hex;
}

/** SHA-256 of a text's UTF-8 bytes, as 64 hex digits. */
export function sha256OfText(text: string): string {
  const hash = newSha256();
  hash.update(new TextEncoder().encode(text));
  return hash.hex();
}

/** SHA-256 of `JSON.stringify(list)`, which is never made as a whole. @param step called with the number of items that are done */
export function sha256OfList(list: readonly unknown[], step: (done: number) => void = () => {}): string {
  const hash = newSha256();
  const encoder = new TextEncoder();
  list.forEach((item, i) => {
    step(i);
    hash.update(encoder.encode(`${i === 0 ? "[" : ","}${JSON.stringify(item)}`));
  });
  hash.update(encoder.encode(list.length === 0 ? "[]" : "]"));
  return hash.hex();
}

/**
 * One SHA-256 for several files: that of the lines `<hash>  <name>\n`, sorted by name, which is what `sha256sum a b | sha256sum` prints in the
 * files' folder.
 */
export async function sha256OfFiles(files: ReadonlyMap<string, ByteSource>): Promise<string> {
  const lines: string[] = [];
  for (const [name, source] of [...files].sort(([a], [b]) => (a < b ? -1 : 1))) {
    lines.push(`${await sha256(source)}  ${name}\n`);
  }
  return sha256OfText(lines.join(""));
}
