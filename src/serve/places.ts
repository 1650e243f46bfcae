import { constants } from "node:fs";
import { type FileHandle, lstat, open, realpath } from "node:fs/promises";
import { join, sep } from "node:path";
import { isPlainName, Refused } from "./guard.ts";

/** The folder that is served: nothing outside it is read. */
export class Places {
  /** Without links. */
  readonly root: string;

  private constructor(root: string) {
    this.root = root;
  }

  /** @throws the system's error if there is no such folder */
  static async open(folder: string): Promise<Places> {
    // With the slash a file is refused.
    return new Places(await realpath(`${folder}/`));
  }

  /**
   * The path of what an item's name names, "." being the folder itself.
   *
   * @throws Refused with 404 if there is none, or it lies outside of the folder
   */
  async item(name: string): Promise<string> {
    const parts = name === "." ? [] : name.split("/");
    return this.inside(parts);
  }

  /**
   * The path that names inside the folder lead to, links resolved.
   *
   * @throws Refused with 404 if there is nothing, or it lies outside of the folder
   */
  async inside(parts: readonly string[]): Promise<string> {
    const path = parts.every(isPlainName) ? await realpath(join(this.root, ...parts)).catch(() => null) : null;
    if (path === null || !this.holds(path)) throw new Refused(404, "There is nothing of this name in the folder.");
    return path;
  }

  /**
   * The path where a file or folder may be written, directly in one of the folder's own or in the folder itself. Something may be there already: who
   * writes looks first.
   *
   * @throws Refused with 403 if a link there leads outside
   */
  async fresh(...parts: readonly string[]): Promise<string> {
    const path = join(this.root, ...parts);
    const isThere = await lstat(path).catch(() => null);
    const real = isThere && (await realpath(path).catch(() => null));
    if (parts.every(isPlainName) && (!isThere || (real !== null && this.holds(real)))) return path;
    throw new Refused(403, "name: expected a new one in the folder, got that of a link that leads elsewhere.");
  }

  /** Whether a path without links lies in the folder. */
  holds(path: string): boolean {
    return path === this.root || path.startsWith(this.root.endsWith(sep) ? this.root : this.root + sep);
  }

  /**
   * Opens a file for reading: a regular one, so that no pipe is waited for.
   *
   * @throws Refused with 404
   */
  async file(parts: readonly string[]): Promise<{ readonly file: FileHandle; readonly size: number }> {
    const path = await this.inside(parts);
    const file = await open(path, constants.O_RDONLY | (constants.O_NONBLOCK ?? 0) | (constants.O_NOFOLLOW ?? 0)).catch(
      () => null,
    );
    const stats = await file?.stat();
    if (file && stats?.isFile()) return { file, size: stats.size };
    await file?.close();
    throw new Refused(404, "There is no file of this name in the folder.");
  }
}
