import { UserError } from "../errors.ts";
import type { ByteSource } from "./source.ts";

/** A file in an archive: its bytes lie as they are, `length` of them from byte `offset` of the archive. */
export interface ZipEntry {
  readonly name: string;
  readonly offset: number;
  readonly length: number;
  /** CRC-32 of the bytes, as the directory says; see `checkedMembers`. */
  readonly crc: number;
}

const endSize = 22;
const largestComment = 65_535;
const mostEntries = 10_000;
const largestDirectory = 16 * 2 ** 20;
/** A size or place that did not fit into 32 bits and stands in the 64-bit field instead. */
const moved = 0xffffffff;

/**
 * The files of a zip archive (APPNOTE 6.3), where each is stored as it is: what torch.save and numpy.savez write. Nothing is decompressed, so an
 * archive cannot unfold to more than its own size; entries that share bytes are refused.
 *
 * @throws UserError if it is no archive, is cut short, compressed or encrypted, or its records contradict one another
 */
export async function readZip(source: ByteSource): Promise<ReadonlyMap<string, ZipEntry>> {
  const fail = failureIn(source);
  const directory = await findDirectory(source, fail);
  const entries = new Map<string, ZipEntry>();
  const ranges: { name: string; begin: number; end: number }[] = [];
  for (const record of await readDirectory(source, directory, fail)) {
    const entry = await checkLocalHeader(source, record, directory.offset, fail);
    if (entries.has(entry.name)) fail(`zip entry ${entry.name}`, "one of that name", "two");
    ranges.push({ name: entry.name, begin: record.offset, end: entry.offset + entry.length });
    if (!entry.name.endsWith("/")) entries.set(entry.name, entry);
  }
  let last = { name: "", begin: 0, end: 0 };
  for (const range of ranges.sort((a, b) => a.begin - b.begin)) {
    if (range.begin < last.end) fail(`zip entry ${range.name}`, "bytes of its own", `an overlap with ${last.name}`);
    last = range;
  }
  return entries;
}

/** Throws the error of a damaged file. */
export type Fail = (what: string, expected: string, got: string, advice?: string) => never;

/** Errors of a file; what comes from the file itself is cut to fit one line. */
export function failureIn(source: ByteSource): Fail {
  return (what, expected, got, advice = "The file is cut short or damaged; fetch it again.") => {
    const clean = (text: string) => text.replace(/[\s\p{Cc}]+/gu, " ").slice(0, 200);
    throw new UserError(`${clean(what)}: expected ${clean(expected)}, got ${clean(got)} in ${source.name}. ${advice}`);
  };
}

interface Directory {
  readonly offset: number;
  readonly size: number;
  readonly count: number;
}

/** The end record names the directory's place; where that needs 64 bits, a second one in front of it does. */
async function findDirectory(source: ByteSource, fail: Fail): Promise<Directory> {
  const tail = view(await source.read(...tailOf(source.size, endSize + largestComment)));
  const start = source.size - tail.byteLength;
  let at = tail.byteLength - endSize;
  while (at >= 0 && !(u32(tail, at) === 0x06054b50 && at + endSize + u16(tail, at + 20) === tail.byteLength)) at--;
  if (at < 0) {
    const advice =
      "It is cut short, or was written in another way (torch.save before PyTorch 1.6): fetch or save it again.";
    return fail("zip archive", "an end record", "none", advice);
  }
  if (u16(tail, at + 4) !== 0 || u16(tail, at + 6) !== 0) fail("zip archive", "one file", "a part of several");
  let directory = { count: u16(tail, at + 10), size: u32(tail, at + 12), offset: u32(tail, at + 16) };
  let end = start + at;
  if (directory.count === 0xffff || directory.size === moved || directory.offset === moved) {
    if (end < 20) return fail("zip archive", "a 64-bit end record", "none");
    const locator = view(await source.read(end - 20, 20));
    const where = u64(locator, 8);
    if (u32(locator, 0) !== 0x07064b50 || where + 56 > end - 20)
      return fail("zip archive", "a 64-bit end record", "none");
    const record = view(await source.read(where, 56));
    if (u32(record, 0) !== 0x06064b50) return fail("zip archive", "a 64-bit end record", "other bytes");
    directory = { count: u64(record, 32), size: u64(record, 40), offset: u64(record, 48) };
    end = where;
  }
  if (directory.offset + directory.size > end || directory.size > largestDirectory) {
    fail(
      "zip directory",
      `a place in the ${end} bytes before its end`,
      `${directory.size} bytes at ${directory.offset}`,
    );
  }
  if (directory.count > mostEntries) fail("zip directory", `at most ${mostEntries} entries`, `${directory.count}`);
  return directory;
}

function tailOf(size: number, length: number): [number, number] {
  const taken = Math.min(size, length);
  return [size - taken, taken];
}

/** An entry as the directory describes it; `offset` is that of its local header. */
interface Entry extends ZipEntry {
  readonly rawName: Uint8Array;
}

async function readDirectory(source: ByteSource, { offset, size, count }: Directory, fail: Fail): Promise<Entry[]> {
  const data = view(await source.read(offset, size));
  const entries: Entry[] = [];
  let at = 0;
  for (let i = 0; i < count; i++) {
    if (at + 46 > size || u32(data, at) !== 0x02014b50) return fail("zip directory", `${count} entries`, `${i}`);
    const [nameLength, extraLength, commentLength] = [u16(data, at + 28), u16(data, at + 30), u16(data, at + 32)];
    const end = at + 46 + nameLength + extraLength + commentLength;
    if (end > size) return fail("zip directory", `${count} entries`, `${i} and a part`);
    const rawName = new Uint8Array(data.buffer, data.byteOffset + at + 46, nameLength);
    const name = new TextDecoder().decode(rawName);
    const [flags, method] = [u16(data, at + 8), u16(data, at + 10)];
    if (flags & 1) fail(`zip entry ${name}`, "readable bytes", "encrypted ones", "Save it without a password.");
    if (method !== 0) {
      fail(
        `zip entry ${name}`,
        "stored bytes",
        "compressed ones",
        "Save it uncompressed (numpy.savez, not savez_compressed).",
      );
    }
    const wide = wideFields(data, at + 46 + nameLength, extraLength, [
      u32(data, at + 24),
      u32(data, at + 20),
      u32(data, at + 42),
    ]);
    if (!wide) return fail(`zip entry ${name}`, "a size", "none");
    const [length, stored, place] = wide as [number, number, number];
    if (length !== stored) fail(`zip entry ${name}`, `${length} stored bytes`, `${stored}`);
    entries.push({ name, rawName, offset: place, length, crc: u32(data, at + 16) });
    at = end;
  }
  return entries;
}

/** Sizes and place of an entry, those that do not fit into 32 bits taken from the extra field 1, in which they stand in the same order. */
function wideFields(data: DataView, start: number, length: number, narrow: readonly number[]): number[] | undefined {
  if (!narrow.includes(moved)) return [...narrow];
  for (let at = start; at + 4 <= start + length; at += 4 + u16(data, at + 2)) {
    if (u16(data, at) !== 1) continue;
    const end = Math.min(at + 4 + u16(data, at + 2), start + length);
    let next = at + 4;
    const values = narrow.map((value) => {
      if (value !== moved) return value;
      const wide = next + 8 <= end ? u64(data, next) : Number.NaN;
      next += 8;
      return wide;
    });
    return values.every(Number.isSafeInteger) ? values : undefined;
  }
  return undefined;
}

/** Where an entry's bytes begin is known from the header in front of them only. */
async function checkLocalHeader(source: ByteSource, entry: Entry, limit: number, fail: Fail): Promise<ZipEntry> {
  const { name, rawName, length, crc } = entry;
  const headerEnd = entry.offset + 30 + rawName.length;
  if (headerEnd > limit) return fail(`zip entry ${name}`, `a place before byte ${limit}`, `byte ${entry.offset}`);
  const header = view(await source.read(entry.offset, 30 + rawName.length));
  const same = rawName.every((byte, i) => header.getUint8(30 + i) === byte);
  if (u32(header, 0) !== 0x04034b50 || u16(header, 26) !== rawName.length || !same) {
    return fail(`zip entry ${name}`, "a header in front of it", "other bytes");
  }
  const offset = headerEnd + u16(header, 28);
  if (offset + length > limit) fail(`zip entry ${name}`, `an end before byte ${limit}`, `${length} bytes at ${offset}`);
  return { name, offset, length, crc };
}

const view = (bytes: Uint8Array) => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
const u16 = (data: DataView, at: number) => data.getUint16(at, true);
const u32 = (data: DataView, at: number) => data.getUint32(at, true);
const u64 = (data: DataView, at: number) => Number(data.getBigUint64(at, true));
