import { UserError } from "../errors.ts";
import type { ByteSource } from "./source.ts";

/** Bytes that are already in memory. Reading gives views of them, not copies. */
export function memorySource(name: string, bytes: Uint8Array): ByteSource {
  return {
    name,
    size: bytes.length,
    async read(offset, length) {
      checkRange(name, bytes.length, offset, length);
      return bytes.subarray(offset, offset + length);
    },
    async close() {},
  };
}

/**
 * Refuses a range that is not inside a source of `size` bytes.
 *
 * @throws UserError naming the source
 */
export function checkRange(name: string, size: number, offset: number, length: number): void {
  const whole = Number.isSafeInteger(offset) && Number.isSafeInteger(length);
  if (!whole || offset < 0 || length < 0 || offset + length > size) {
    throw new UserError(
      `bytes ${offset} to ${offset + length}: expected at most ${size}, got a range beyond the end in ${name}. The file is cut short or damaged; fetch it again.`,
    );
  }
}
