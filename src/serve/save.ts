import { existsSync } from "node:fs";
import { makeFolder, writeFileAtomic } from "../storage/files.ts";
import { Refused } from "./guard.ts";
import type { Places } from "./places.ts";

/** Where answers of live work go. */
const savedFolder = "live";

/**
 * Writes a live answer, with what was asked, as JSON into the folder.
 *
 * @returns the file's name in the folder
 * @throws Refused with 409 if there is one of that name
 */
export async function saveAnswer(places: Places, name: string, answer: object): Promise<string> {
  await makeFolder(await places.fresh(savedFolder));
  const path = await places.fresh(savedFolder, `${name}.json`);
  if (existsSync(path)) throw new Refused(409, `name: expected a new one, got ${name}, which is there already.`);
  await writeFileAtomic(path, `${JSON.stringify({ format: 1, ...answer }, null, 2)}\n`);
  return `${savedFolder}/${name}.json`;
}
