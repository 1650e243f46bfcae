import { readFile } from "node:fs/promises";
import { openFile } from "#file";
import { sha256, sha256OfText } from "../bytes/sha256.ts";
import { writeFileAtomic } from "./files.ts";

/**
 * Seals files of unfinished work: writes their hashes into a file of its own, the last to be written. A file that is cut off or damaged afterwards, or
 * was never whole, breaks the seal.
 *
 * @throws UserError if the seal cannot be written
 */
export async function seal(path: string, files: readonly string[]): Promise<void> {
  await writeFileAtomic(path, await sealOf(files));
}

/** Whether the files are as they were when they were sealed. */
export async function isSealed(path: string, files: readonly string[]): Promise<boolean> {
  try {
    return (await readFile(path, "utf8")) === (await sealOf(files));
  } catch {
    return false;
  }
}

async function sealOf(files: readonly string[]): Promise<string> {
  const hashes: string[] = [];
  for (const file of files) {
    const source = await openFile(file);
    try {
      hashes.push(await sha256(source));
    } finally {
      await source.close();
    }
  }
  return `${sha256OfText(hashes.join("\n"))}\n`;
}
