/** Of bytes i places before the end of a group of eight: what each byte value adds to the remainder. */
const tables = Array.from({ length: 8 }, () => new Uint32Array(256));
for (let byte = 0; byte < 256; byte++) {
  let rest = byte;
  for (let bit = 0; bit < 8; bit++) rest = rest & 1 ? (rest >>> 1) ^ 0xedb88320 : rest >>> 1;
  tables[0]![byte] = rest;
}
for (let i = 1; i < 8; i++) {
  for (let byte = 0; byte < 256; byte++) {
    const rest = tables[i - 1]![byte]!;
    tables[i]![byte] = (rest >>> 8) ^ tables[0]![rest & 255]!;
  }
}
const [t0, t1, t2, t3, t4, t5, t6, t7] = tables;

/**
 * The CRC-32 of zip archives (ISO 3309), eight bytes at a time: for pages, and for Node before 20.15.
 *
 * @param before the CRC of the bytes in front of these
 */
export function crc32OfBytes(bytes: Uint8Array, before = 0): number {
  let c = ~before;
  let at = 0;
  for (; at + 8 <= bytes.length; at += 8) {
    c ^= bytes[at]! | (bytes[at + 1]! << 8) | (bytes[at + 2]! << 16) | (bytes[at + 3]! << 24);
    c =
      t7![c & 255]! ^
      t6![(c >>> 8) & 255]! ^
      t5![(c >>> 16) & 255]! ^
      t4![c >>> 24]! ^
      t3![bytes[at + 4]!]! ^
      t2![bytes[at + 5]!]! ^
      t1![bytes[at + 6]!]! ^
      t0![bytes[at + 7]!]!;
  }
  for (; at < bytes.length; at++) c = (c >>> 8) ^ t0![(c ^ bytes[at]!) & 255]!;
  return ~c >>> 0;
}
