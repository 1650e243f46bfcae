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

/** The first 32 bits of the fractional parts of the cube roots of the first 64 primes (FIPS 180-4, 4.2.2). */
const roundConstants = Int32Array.from(primes(64), (p) => fractionBits(Math.cbrt(p)));

function primes(count: number): number[] {
  const found: number[] = [];
  for (let n = 2; found.length < count; n++) if (found.every((p) => n % p !== 0)) found.push(n);
  return found;
}

function fractionBits(x: number): number {
  return Math.floor((x % 1) * 2 ** 32) | 0;
}

/**
 * A SHA-256 that takes its bytes in pieces (FIPS 180-4). A page's own digest wants all bytes at once, which a model's weights are too large for.
 */
export function newSha256(): { update(bytes: Uint8Array): void; hex(): string } {
  const state = Int32Array.from(primes(8), (p) => fractionBits(Math.sqrt(p)));
  const block = new Uint8Array(64);
  const view = new DataView(block.buffer);
  const words = new Int32Array(64);
  let filled = 0;
  let total = 0;

  const rotate = (x: number, n: number) => (x >>> n) | (x << (32 - n));
  const compress = () => {
    for (let i = 0; i < 16; i++) words[i] = view.getInt32(4 * i);
    for (let i = 16; i < 64; i++) {
      const x = words[i - 15]!;
      const y = words[i - 2]!;
      const s0 = rotate(x, 7) ^ rotate(x, 18) ^ (x >>> 3);
      const s1 = rotate(y, 17) ^ rotate(y, 19) ^ (y >>> 10);
      words[i] = words[i - 16]! + s0 + words[i - 7]! + s1;
    }
    let a = state[0]!;
    let b = state[1]!;
    let c = state[2]!;
    let d = state[3]!;
    let e = state[4]!;
    let f = state[5]!;
    let g = state[6]!;
    let h = state[7]!;
    for (let i = 0; i < 64; i++) {
      const s1 = rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25);
      const t1 = (h + s1 + ((e & f) ^ (~e & g)) + roundConstants[i]! + words[i]!) | 0;
      const s0 = rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22);
      const t2 = (s0 + ((a & b) ^ (a & c) ^ (b & c))) | 0;
      h = g;
      g = f;
      f = e;
      e = (d + t1) | 0;
      d = c;
      c = b;
      b = a;
      a = (t1 + t2) | 0;
    }
    const sums = [a, b, c, d, e, f, g, h];
    for (let i = 0; i < 8; i++) state[i] = state[i]! + sums[i]!;
    filled = 0;
  };
  const update = (bytes: Uint8Array) => {
    total += bytes.length;
    for (let at = 0; at < bytes.length; ) {
      const taken = Math.min(64 - filled, bytes.length - at);
      block.set(bytes.subarray(at, at + taken), filled);
      filled += taken;
      at += taken;
      if (filled === 64) compress();
    }
  };
  const hex = () => {
    const bits = new DataView(new ArrayBuffer(8));
    bits.setBigUint64(0, BigInt(total) * 8n);
    update(Uint8Array.of(0x80));
    update(new Uint8Array((120 - filled) % 64));
    update(new Uint8Array(bits.buffer));
    return Array.from(state, (x) => (x >>> 0).toString(16).padStart(8, "0")).join("");
  };
  return { update, hex };
}
