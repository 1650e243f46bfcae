import { type Folder, memoryFolder } from "../../src/bytes/folder.ts";
import { UserError } from "../../src/errors.ts";
import type { Site, SiteFile } from "./messages.ts";

/** Files that are fetched at a time. */
const together = 6;

/**
 * Fetches files of the site.
 *
 * @param base the page's address
 * @param onBytes told of every piece that has come, in bytes
 * @throws UserError if one of them does not come whole
 */
export async function download(
  base: string,
  files: readonly SiteFile[],
  onBytes: (bytes: number) => void,
): Promise<Uint8Array<ArrayBuffer>[]> {
  const got: Uint8Array<ArrayBuffer>[] = [];
  const left = [...files.entries()];
  const fetchNext = async (): Promise<void> => {
    for (let next = left.shift(); next; next = left.shift()) got[next[0]] = await downloadOne(base, next[1], onBytes);
  };
  await Promise.all(Array.from({ length: together }, fetchNext));
  return got;
}

async function downloadOne(
  base: string,
  { path, bytes }: SiteFile,
  onBytes: (bytes: number) => void,
): Promise<Uint8Array<ArrayBuffer>> {
  const fail = (got: string): never => {
    throw new UserError(`${path}: expected ${bytes} bytes of this site, got ${got}. Reload the page.`, {
      code: "network",
    });
  };
  const response = await fetch(new URL(path, base)).catch(() => fail("no answer"));
  if (!response.ok || !response.body) return fail(`status ${response.status}`);
  const whole = new Uint8Array(bytes);
  let at = 0;
  const reader = response.body.getReader();
  for (let { done, value } = await reader.read(); !done; { done, value } = await reader.read()) {
    if (at + value!.length > bytes) return fail("more");
    whole.set(value!, at);
    at += value!.length;
    onBytes(value!.length);
  }
  return at === bytes ? whole : fail(`${at}`);
}

/** The model's files, in memory. */
export async function downloadModel(base: string, { model }: Site, onBytes: (bytes: number) => void): Promise<Folder> {
  const files = model.files.map(({ path, bytes }) => ({ path: `${model.folder}/${path}`, bytes }));
  const got = await download(base, files, onBytes);
  return memoryFolder(model.name, Object.fromEntries(model.files.map(({ path }, i) => [path, got[i]!])));
}
