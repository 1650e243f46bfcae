import { fetchAnywhere, proxyAdvice } from "#fetch";
import { UserError } from "../errors.ts";
import { reasonOf, splitLogin, withoutPassword } from "./address.ts";
import { checkRange } from "./memory.ts";
import type { ByteSource } from "./source.ts";

/**
 * A file behind an address, of which only the parts that are read come over the network, through the proxies that the environment names. The server
 * has to answer requests for ranges.
 *
 * @throws UserError if it cannot be reached, refuses, or does not give parts
 */
export async function openUrl(whole: string, fetched: typeof fetch = fetchAnywhere): Promise<ByteSource> {
  const { address, login } = splitLogin(whole);
  const fail = (expected: string, got: string, check = "the address"): never => {
    throw new UserError(
      `file: expected ${expected}, got ${withoutPassword(got)} at ${address}. Check ${check}, or download the file.`,
    );
  };
  const part = async (offset: number, length: number) => {
    const range = `bytes=${offset}-${offset + length - 1}`;
    const response = await fetched(address, { headers: { range, ...(login ? { authorization: login } : {}) } }).catch(
      (error) => {
        if (error instanceof UserError) throw error;
        return fail("an answer", reasonOf(error), `the address, ${proxyAdvice(address)}`);
      },
    );
    if (response.status !== 206) {
      await response.body?.cancel();
      return fail("a part of it (status 206)", `status ${response.status}`);
    }
    const bytes = new Uint8Array(await response.arrayBuffer());
    if (bytes.length !== length) fail(`${length} bytes at ${offset}`, `${bytes.length}`);
    return { bytes, size: Number(/\/(\d+)$/.exec(response.headers.get("content-range") ?? "")?.[1] ?? Number.NaN) };
  };
  const { size } = await part(0, 1);
  if (!Number.isSafeInteger(size)) fail("its length in Content-Range", "none");
  return {
    name: address,
    size,
    overNetwork: true,
    async read(offset, length) {
      checkRange(address, size, offset, length);
      return length === 0 ? new Uint8Array() : (await part(offset, length)).bytes;
    },
    async close() {},
  };
}
