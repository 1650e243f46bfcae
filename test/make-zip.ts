import { crc32 } from "node:zlib";

/** What an archive says of an entry; by default the truth. */
export interface EntryLies {
  readonly method?: number;
  readonly flags?: number;
  /** Sizes in the directory. */
  readonly length?: number;
  readonly storedLength?: number;
  /** Where the directory says that the entry begins. */
  readonly offset?: number;
  readonly crc?: number;
  /** The name in the entry's own header. */
  readonly localName?: string;
}

export interface ArchiveLies {
  readonly count?: number;
  readonly size?: number;
  readonly offset?: number;
  /** Sizes and places in 64-bit fields, as large archives have them. */
  readonly wide?: boolean;
}

/** A zip archive of stored entries, or one that says so. */
export function makeZip(
  entries: readonly (readonly [string, Uint8Array, EntryLies?])[],
  { count = entries.length, size, offset, wide = false }: ArchiveLies = {},
): Uint8Array {
  const text = new TextEncoder();
  const u16 = (n: number) => [n & 255, (n >> 8) & 255];
  const u32 = (n: number) => [...u16(n & 0xffff), ...u16(Math.floor(n / 65536))];
  const u64 = (n: number) => [...u32(n % 2 ** 32), ...u32(Math.floor(n / 2 ** 32))];
  const bytes: number[] = [];
  const directory: number[] = [];
  for (const [name, data, lies = {}] of entries) {
    const { method = 0, flags = 0, length = data.length, storedLength = length, offset: place = bytes.length } = lies;
    const encoded = [...text.encode(name)];
    const local = [...text.encode(lies.localName ?? name)];
    const sizes = wide ? [...u32(0xffffffff), ...u32(0xffffffff)] : [...u32(storedLength), ...u32(length)];
    const extra = wide
      ? [...u16(7), ...u16(1), 9, ...u16(1), ...u16(24), ...u64(length), ...u64(storedLength), ...u64(place)]
      : [];
    const common = [...u16(20), ...u16(flags), ...u16(method), ...u32(0), ...u32(lies.crc ?? crc32(data))];
    bytes.push(
      ...u32(0x04034b50),
      ...common,
      ...u32(data.length),
      ...u32(data.length),
      ...u16(local.length),
      ...u16(0),
    );
    bytes.push(...local, ...data);
    directory.push(...u32(0x02014b50), ...u16(20), ...common, ...sizes, ...u16(encoded.length), ...u16(extra.length));
    directory.push(...u16(0), ...u16(0), ...u16(0), ...u32(0), ...u32(wide ? 0xffffffff : place), ...encoded, ...extra);
  }
  const start = offset ?? bytes.length;
  const held = size ?? directory.length;
  const end = bytes.length + directory.length;
  bytes.push(...directory);
  if (wide) {
    bytes.push(...u32(0x06064b50), ...u64(44), ...u16(45), ...u16(45), ...u32(0), ...u32(0));
    bytes.push(...u64(count), ...u64(count), ...u64(held), ...u64(start));
    bytes.push(...u32(0x07064b50), ...u32(0), ...u64(end), ...u32(1));
    bytes.push(...u32(0x06054b50), ...u16(0), ...u16(0), ...u16(0xffff), ...u16(0xffff));
    bytes.push(...u32(0xffffffff), ...u32(0xffffffff), ...u16(0));
  } else {
    bytes.push(
      ...u32(0x06054b50),
      ...u16(0),
      ...u16(0),
      ...u16(count),
      ...u16(count),
      ...u32(held),
      ...u32(start),
      ...u16(0),
    );
  }
  return Uint8Array.from(bytes);
}
