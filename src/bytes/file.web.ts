import { sha256 } from "@noble/hashes/sha2.js";
import { bytesToHex } from "@noble/hashes/utils.js";
import { UserError } from "../errors.ts";
import { crc32OfBytes } from "./crc32.ts";
import type { Folder } from "./folder.ts";
import { withoutPointer } from "./lfs.ts";
import { checkRange } from "./memory.ts";
import type { ByteSource } from "./source.ts";

/** A file that was chosen or dropped in a page. */
export async function openFile(file: Blob & { readonly name?: string }): Promise<ByteSource> {
  const name = file.name ?? "blob";
  return {
    name,
    size: file.size,
    async read(offset, length) {
      checkRange(name, file.size, offset, length);
      const bytes = new Uint8Array(await file.slice(offset, offset + length).arrayBuffer());
      if (bytes.length !== length) {
        throw new UserError(
          `file: expected ${length} bytes at ${offset}, got ${bytes.length} in ${name}. Choose it again.`,
        );
      }
      return bytes;
    },
    async close() {},
  };
}

/** A folder that was chosen in a page (`<input webkitdirectory>`): its files, each with its path in the folder. */
export async function openFolder(files: readonly File[]): Promise<Folder> {
  const pathOf = (file: File) => file.webkitRelativePath.split("/").slice(1).join("/") || file.name;
  const held = new Map(files.map((file) => [pathOf(file), file]));
  const name = files[0]?.webkitRelativePath.split("/")[0] || "folder";
  return {
    name,
    list: async () => [...held.keys()].filter((path) => !path.split("/").some((part) => part.startsWith("."))).sort(),
    async open(path) {
      const file = held.get(path);
      return file && withoutPointer({ ...(await openFile(file)), name: `${name}/${path}` });
    },
  };
}

/** The CRC-32 of bytes behind others whose CRC is `before`. */
export const crc32: (bytes: Uint8Array, before?: number) => number = crc32OfBytes;

/** A SHA-256 that takes its bytes in pieces. A page's own digest wants all bytes at once, which a model's weights are too large for. */
export function newSha256(): { update(bytes: Uint8Array): void; hex(): string } {
  const hash = sha256.create();
  return { update: (bytes) => void hash.update(bytes), hex: () => bytesToHex(hash.digest()) };
}
