import { UserError } from "../errors.ts";
import type { ByteSource } from "./source.ts";

/** How a pointer begins, and the length below which it stays (https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md). */
const start = "version https://git-lfs.github.com/spec/";
const longest = 1024;

/**
 * A file that is not a pointer of Git LFS, which a clone without LFS has in its place.
 *
 * @throws UserError if it is one; the file is closed then
 */
export async function withoutPointer(source: ByteSource): Promise<ByteSource> {
  if (source.size < start.length || source.size >= longest) return source;
  const text = new TextDecoder().decode(await source.read(0, start.length));
  if (text !== start) return source;
  await source.close();
  throw new UserError(
    `file: expected its contents, got a pointer of Git LFS in ${source.name}. Run git lfs pull in its repository.`,
  );
}
