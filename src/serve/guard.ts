import { timingSafeEqual } from "node:crypto";
import type { IncomingMessage } from "node:http";

/** A request that is refused: a status of 4xx, and one line that says why. */
export class Refused extends Error {
  override name = "Refused";
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;

  constructor(status: number, message: string, headers: Readonly<Record<string, string>> = {}) {
    super(message);
    this.status = status;
    this.headers = headers;
  }
}

/** What a request says before its body. */
export type Head = Pick<IncomingMessage, "method" | "url" | "headers" | "rawHeaders">;

/** An address taken apart: the parts of the path, decoded, and the parameters. */
export interface Address {
  readonly parts: readonly string[];
  readonly query: URLSearchParams;
}

/** Longest address that is read. */
const longestAddress = 4096;
/** Largest body that is read, in bytes. */
export const largestBody = 1_000_000;

const loopbackHost = /^(localhost|127\.0\.0\.1|\[::1\])(:\d{1,5})?$/i;

/**
 * Checks who asks: a program on this machine or the page that this server gave out, and no other page of the same browser. A page that has its name
 * point to this machine (DNS rebinding) is known by its Host, a page that sends requests elsewhere by Origin and Sec-Fetch-Site.
 *
 * @throws Refused with 400 or 403
 */
export function checkPeer({ method, headers, rawHeaders }: Head): void {
  const hosts = rawHeaders.filter((name, i) => i % 2 === 0 && name.toLowerCase() === "host");
  const { host, origin } = headers;
  if (hosts.length !== 1 || host === undefined) throw new Refused(400, "Host: expected it once.");
  if (!loopbackHost.test(host)) {
    throw new Refused(
      403,
      "Host: expected localhost or 127.0.0.1, got another name. Open the address that sfc serve printed.",
    );
  }
  if (origin !== undefined && origin !== `http://${host}`) {
    throw new Refused(403, "Origin: expected this server's own page, got another.");
  }
  const site = headers["sec-fetch-site"];
  const isOpened = headers["sec-fetch-mode"] === "navigate" && method === "GET";
  if (site !== undefined && site !== "same-origin" && site !== "none" && !isOpened) {
    throw new Refused(403, "Sec-Fetch-Site: expected same-origin, got another page's request.");
  }
}

/**
 * Takes an address apart. Nothing is resolved: a part that means another folder is refused.
 *
 * @throws Refused with 400 or 414
 */
export function parseAddress(url: string): Address {
  if (url.length > longestAddress) throw new Refused(414, `address: expected at most ${longestAddress} characters.`);
  const [path, query = ""] = splitOnce(url, "?");
  if (!path.startsWith("/")) throw new Refused(400, "address: expected a path.");
  const parts = path === "/" ? [] : path.slice(1).split("/").map(decodedPart);
  return { parts, query: new URLSearchParams(query) };
}

function splitOnce(text: string, mark: string): [string, string?] {
  const at = text.indexOf(mark);
  return at < 0 ? [text] : [text.slice(0, at), text.slice(at + 1)];
}

function decodedPart(raw: string): string {
  let part: string;
  try {
    part = decodeURIComponent(raw);
  } catch {
    throw new Refused(400, "address: expected UTF-8 in percent signs.");
  }
  if (!isPlainName(part))
    throw new Refused(400, "address: expected names of files and folders, got one that leads elsewhere.");
  return part;
}

/** Whether a text is the name of one file or folder, and of none that is hidden or another's. */
export function isPlainName(name: string): boolean {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is refused
  return name !== "" && !name.startsWith(".") && !/[/\\\u0000-\u001f\u007f]/.test(name);
}

/**
 * Checks that a request carries the server's token, as a cookie or as `Authorization: Bearer`.
 *
 * @throws Refused with 401
 */
export function checkToken({ headers }: Head, token: string, cookie: string): void {
  const cookies = (headers.cookie ?? "").split(";").map((one) => one.trim());
  const found = [
    ...cookies.filter((one) => one.startsWith(`${cookie}=`)).map((one) => one.slice(cookie.length + 1)),
    ...(headers.authorization?.startsWith("Bearer ") ? [headers.authorization.slice(7)] : []),
  ];
  if (found.some((one) => isToken(one, token))) return;
  throw new Refused(401, "token: expected this server's. Open the address that sfc serve printed.");
}

/** Whether a text is the token, in a time that does not tell how far it is right. */
export function isToken(text: string, token: string): boolean {
  const [a, b] = [Buffer.from(text), Buffer.from(token)];
  return a.length === b.length && timingSafeEqual(a, b);
}

/**
 * Checks that a request brings no body.
 *
 * @throws Refused with 400
 */
export function checkNoBody({ headers }: Head): void {
  if (headers["transfer-encoding"] === undefined && Number(headers["content-length"] ?? 0) === 0) return;
  throw new Refused(400, "body: expected none.");
}

/**
 * Checks what a body is said to be, before any of it is read.
 *
 * @throws Refused with 411, 413 or 415
 */
export function checkBody({ headers }: Head): void {
  const { "content-type": type = "", "content-encoding": encoding = "identity", "content-length": length } = headers;
  if (!/^application\/json(\s*;\s*charset=utf-8)?$/i.test(type)) {
    throw new Refused(415, "Content-Type: expected application/json.");
  }
  if (encoding !== "identity") throw new Refused(415, "Content-Encoding: expected none.");
  if (length === undefined) throw new Refused(411, "Content-Length: expected it.");
  if (Number(length) > largestBody) throw new Refused(413, `body: expected at most ${largestBody} bytes.`);
}
