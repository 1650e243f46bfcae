import { crc32 } from "#file";
import { UserError } from "../errors.ts";
import type { ByteSource } from "./source.ts";
import type { TensorFile } from "./tensor-file.ts";
import type { ZipEntry } from "./zip.ts";

const pieceBytes = 8 * 2 ** 20;

/** Members of an archive whose checksums are compared as their bytes are read. */
export interface CheckedMembers {
  /** The archive: what is read of a member from its beginning on, in order, goes into its checksum, as in a pass over the whole file. */
  readonly source: ByteSource;
  /**
   * Reads what is missing of a member's checksum, and compares it.
   *
   * @throws UserError naming member and file if it is another one
   */
  check(entry: ZipEntry): Promise<void>;
  /** All bytes of a member. @throws UserError if the checksum is another one */
  read(entry: ZipEntry): Promise<Uint8Array>;
  /**
   * The tensors of the archive, of which none is given before its member's checksum is compared. Rows over a network are given without: they would
   * cost the whole member.
   *
   * @param memberOf the member that a tensor lies in
   */
  tensors(file: TensorFile, memberOf: (tensor: string) => ZipEntry | undefined): TensorFile;
}

/** @param entries the members that have a checksum; others are not checked */
export function checkedMembers(source: ByteSource, entries: Iterable<ZipEntry>): CheckedMembers {
  const members = [...entries].sort((a, b) => a.offset - b.offset);
  const states = new Map(members.map((entry) => [entry, { crc: 0, next: entry.offset }]));

  const take = (offset: number, bytes: Uint8Array) => {
    const end = offset + bytes.length;
    for (let i = firstEndingAfter(members, offset); i < members.length && members[i]!.offset < end; i++) {
      const entry = members[i]!;
      const state = states.get(entry)!;
      const to = Math.min(end, entry.offset + entry.length);
      if (offset > state.next || to <= state.next) continue;
      state.crc = crc32(bytes.subarray(state.next - offset, to - offset), state.crc);
      state.next = to;
      if (to === entry.offset + entry.length) compare(entry, state.crc, source.name);
    }
    return bytes;
  };
  const checked: ByteSource = {
    ...source,
    read: async (offset, length, into) => take(offset, await source.read(offset, length, into)),
    close: () => source.close(),
  };
  const check = async (entry: ZipEntry) => {
    const state = states.get(entry);
    if (!state) return;
    const end = entry.offset + entry.length;
    while (state.next < end) await checked.read(state.next, Math.min(pieceBytes, end - state.next));
    compare(entry, state.crc, source.name);
  };
  return {
    source: checked,
    check,
    async read(entry) {
      const bytes = await checked.read(entry.offset, entry.length);
      await check(entry);
      return bytes;
    },
    tensors: (file, memberOf) => {
      const checkMember = async (name: string) => {
        const entry = memberOf(name);
        if (entry) await check(entry);
      };
      return {
        ...file,
        async read(name, orientation) {
          const values = await file.read(name, orientation);
          await checkMember(name);
          return values;
        },
        async rows(name, indices, orientation) {
          if (!source.overNetwork) await checkMember(name);
          return file.rows(name, indices, orientation);
        },
      };
    },
  };
}

function compare(entry: ZipEntry, crc: number, file: string): void {
  if (crc === entry.crc) return;
  const hex = (n: number) => n.toString(16).padStart(8, "0");
  const name = entry.name.replace(/[\s\p{Cc}]+/gu, " ").slice(0, 200);
  throw new UserError(
    `zip entry ${name}: expected the checksum ${hex(entry.crc)}, got ${hex(crc)} in ${file}. The file is damaged; fetch it again.`,
  );
}

/** The first of the members, in order, that ends behind a place. */
function firstEndingAfter(members: readonly ZipEntry[], offset: number): number {
  let [low, high] = [0, members.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (members[middle]!.offset + members[middle]!.length > offset) high = middle;
    else low = middle + 1;
  }
  return low;
}
