import type { ServerResponse } from "node:http";
import { extname } from "node:path";
import { pipeline } from "node:stream/promises";
import { Refused } from "./guard.ts";
import type { Places } from "./places.ts";

const types: Readonly<Record<string, string>> = {
  ".html": "text/html; charset=utf-8",
  ".svg": "image/svg+xml",
  ".json": "application/json",
  ".jsonl": "application/x-ndjson",
  ".graphml": "application/xml",
  ".parquet": "application/vnd.apache.parquet",
};

/** A page from a folder may be anyone's: it gets no network, and none of what this server's own page may do. */
export const reportPolicy =
  "sandbox allow-scripts allow-downloads; default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'";

/** Which bytes of a file of some size are asked for: all, one range, or none that there is. */
export type ByteRange = "all" | "none" | { readonly first: number; readonly last: number };

/**
 * Reads a Range header. Several ranges at once are answered with the whole file, as RFC 9110 allows.
 *
 * @param size of the file, in bytes
 */
export function parseRange(header: string | undefined, size: number): ByteRange {
  const [, from, to] = /^bytes=(\d*)-(\d*)$/.exec(header?.trim() ?? "") ?? [];
  if (from === undefined || to === undefined || (from === "" && to === "")) return "all";
  const first = from === "" ? Math.max(0, size - Number(to)) : Number(from);
  const last = from === "" || to === "" ? size - 1 : Math.min(Number(to), size - 1);
  if (to !== "" && from !== "" && Number(to) < Number(from)) return "all";
  return first > last || (from === "" && Number(to) === 0) ? "none" : { first, last };
}

/**
 * Sends a file of a run's or a comparison's folder, or a range of it.
 *
 * @throws Refused with 404 if there is none that may be seen, 416 if the range lies outside
 */
export async function sendFile(
  places: Places,
  parts: readonly string[],
  { range, head }: { readonly range: string | undefined; readonly head: boolean },
  response: ServerResponse,
): Promise<void> {
  const type = types[extname(parts.at(-1) ?? "")];
  if (type === undefined) throw new Refused(404, "There is no file of this name in the folder.");
  const { file, size } = await places.file(parts);
  try {
    const wanted = parseRange(range, size);
    if (wanted === "none")
      throw new Refused(416, "Range: expected bytes of the file.", { "content-range": `bytes */${size}` });
    const { first, last } = wanted === "all" ? { first: 0, last: size - 1 } : wanted;
    response.writeHead(wanted === "all" ? 200 : 206, {
      "content-type": type,
      "content-length": last - first + 1,
      "accept-ranges": "bytes",
      "content-security-policy": reportPolicy,
      ...(wanted !== "all" && { "content-range": `bytes ${first}-${last}/${size}` }),
    });
    if (head || size === 0) response.end();
    else await pipeline(file.createReadStream({ start: first, end: last, autoClose: false }), response);
  } finally {
    await file.close();
  }
}
