import { messageOf, UserError } from "../errors.ts";
import { withoutPointer } from "./lfs.ts";
import { memorySource } from "./memory.ts";
import type { ByteSource } from "./source.ts";

/** A folder of files: on disk, chosen in a browser, or in memory. Paths are relative, with `/`. */
export interface Folder {
  /** What to call it in messages: its path or address. */
  readonly name: string;
  /** Paths of the files in it and in its subfolders, sorted. Hidden folders and what lies deeper than six levels are left out. */
  list(): Promise<readonly string[]>;
  /** The file, or undefined if there is none. The caller closes it. @throws UserError if it is a pointer of Git LFS */
  open(path: string): Promise<ByteSource | undefined>;
  /**
   * What a file of it is called by its whole path, with `/`: as the folder was named, and with the links on the way and its own followed. Missing
   * where there is one name alone, `<name>/<path>`.
   */
  namesOf?(path: string): Promise<readonly string[]>;
}

/** A folder of files held in memory, as {path: bytes}. */
export function memoryFolder(name: string, files: Readonly<Record<string, Uint8Array>>): Folder {
  const held = new Map(Object.entries(files));
  return {
    name,
    list: async () => [...held.keys()].sort(),
    async open(path) {
      const bytes = held.get(path);
      return bytes && withoutPointer(memorySource(`${name}/${path}`, bytes));
    },
  };
}

/** A folder's subfolder, as a folder. */
export function subfolder(folder: Folder, path: string): Folder {
  if (path === "") return folder;
  return {
    name: `${folder.name}/${path}`,
    list: async () =>
      (await folder.list()).filter((p) => p.startsWith(`${path}/`)).map((p) => p.slice(path.length + 1)),
    open: (inner) => folder.open(`${path}/${inner}`),
    ...(folder.namesOf && { namesOf: (inner: string) => folder.namesOf!(`${path}/${inner}`) }),
  };
}

/** No larger text fits a string of V8. */
const largestJson = 2 ** 29 - 24;

/**
 * The JSON object in a file of a folder, or undefined if there is no such file.
 *
 * @throws UserError if it is not JSON, or not an object
 */
export async function readJson(folder: Folder, path: string): Promise<Record<string, unknown> | undefined> {
  const source = await folder.open(path);
  if (!source) return undefined;
  try {
    if (source.size > largestJson) throw new Error(`it has ${source.size} bytes`);
    const text = new TextDecoder().decode(await source.read(0, source.size));
    const value: unknown = JSON.parse(text);
    if (typeof value !== "object" || value === null || Array.isArray(value)) throw new Error("it is not an object");
    return value as Record<string, unknown>;
  } catch (error) {
    if (error instanceof UserError) throw error;
    const reason = messageOf(error).replace(/\s+/g, " ");
    throw new UserError(
      `${path}: expected a JSON object, got other text (${reason}) in ${source.name}. Fetch the file again.`,
    );
  } finally {
    await source.close();
  }
}
