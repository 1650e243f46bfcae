import { fetchAnywhere, proxyAdvice } from "#fetch";
import { isWhole } from "../amounts.ts";
import { reasonOf, withoutPassword } from "../bytes/address.ts";
import { UserError } from "../errors.ts";

/** How a hub of models is reached. */
export interface HubAccess {
  /** Its address, without a slash at the end. */
  readonly endpoint: string;
  /** The header Authorization for an endpoint with a name and password of its own, which goes before the token. */
  readonly login?: string;
  /** Sent to the endpoint's own origin only. */
  readonly token?: string;
  /** Where the token came from, for messages. */
  readonly tokenFrom?: string;
  /** Seconds without a byte after which a connection counts as cut; default 30. */
  readonly timeout?: number;
  /** Seconds before the first retry, twice as many before each further one; default 1. */
  readonly pause?: number;
  /** Aborting it ends the work with the signal's reason. */
  readonly signal?: AbortSignal;
}

/** A file of a repository at one commit. */
export interface HubFile {
  /** Relative, with `/`; never leads out of the folder that it is put in. */
  readonly path: string;
  /** Length in bytes. */
  readonly size: number;
  /** The git object's SHA-1, 40 hex digits: of the file itself, or of the pointer that git holds for a large one. */
  readonly blob: string;
  /** SHA-256 of the contents, 64 hex digits, of files that git only holds a pointer to. */
  readonly sha256?: string;
}

/** A repository's files at the commit that a revision means now. */
export interface HubListing {
  /** 40 hex digits. */
  readonly commit: string;
  readonly files: readonly HubFile[];
}

/** Where the bytes of a download go. */
export interface HubSink {
  /** Bytes that are there already; the download goes on behind them. */
  readonly size: number;
  append(bytes: Uint8Array): Promise<void>;
  /** Forgets all bytes: the server cannot go on where they end. */
  restart(): Promise<void>;
}

/** The hub cannot be reached, or the connection is cut again and again. */
export class UnreachableError extends UserError {
  override name = "UnreachableError";

  constructor(message: string) {
    super(message, { code: "network" });
  }
}

/** One try that failed in a way that another one may not. */
class CutError extends Error {
  /** Seconds that the server asks to wait. */
  readonly wait: number;
  constructor(got: string, wait = 0) {
    super(got);
    this.wait = wait;
  }
}

const retriesOfListing = 2;
/** Tries without a new byte. */
const retriesOfDownload = 5;
const longestPause = 60;
const mostFiles = 200_000;
const mostPages = 2000;
/** Bytes of one answer of the hub. */
const longestAnswer = 64 * 2 ** 20;

/**
 * Refuses a repository's name that is not `name` or `organisation/name`, of which paths and addresses are made.
 *
 * @throws UserError
 */
export function checkRepo(id: string): void {
  const part = /^[A-Za-z0-9_]([A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?$/;
  const parts = id.split("/");
  if (parts.length > 2 || !parts.every((text) => part.test(text) && !/--|\.\./.test(text))) {
    throw new UserError(`hub repository: expected organisation/name, got "${id}". Check the name.`);
  }
}

/**
 * Refuses a revision that is not a branch, tag or commit, of which paths are made.
 *
 * @throws UserError
 */
export function checkRevision(revision: string): void {
  if (!/^[\w-][\w.-]*(\/[\w-][\w.-]*)*$/.test(revision) || revision.includes("..")) {
    throw new UserError(`revision: expected a branch, tag or commit, got "${revision}". Check the name behind the @.`);
  }
}

/**
 * Lists a repository (`/api/models/<id>/revision/…`, then `/tree/…` page by page).
 *
 * @param revision branch, tag or commit
 * @throws UserError if there is no such repository or revision, it may not be read, or the answer is none of a hub's; UnreachableError
 */
export async function listRepo(access: HubAccess, id: string, revision: string): Promise<HubListing> {
  checkRepo(id);
  checkRevision(revision);
  const api = `${access.endpoint}/api/models/${id}`;
  const what: Wanted = { id, revision };
  const { value } = await getJson(access, `${api}/revision/${encodeURIComponent(revision)}`, what);
  const commit = (value as { sha?: unknown } | null)?.sha;
  if (!isHex(commit, 40)) throw noHub(access, "a commit");
  const files: HubFile[] = [];
  const seen = new Set<string>();
  for (let address: string | undefined = `${api}/tree/${commit}?recursive=true&expand=false`; address !== undefined; ) {
    if (seen.has(address)) throw noHub(access, "an end of the list");
    seen.add(address);
    const { value: page, next }: Answer = await getJson(access, address, what);
    if (!Array.isArray(page)) throw noHub(access, "a list of files");
    if (seen.size > mostPages || files.length + page.length > mostFiles)
      throw noHub(access, `a list of at most ${mostFiles} files`);
    for (const entry of page as unknown[]) {
      const file = fileOf(entry, access);
      if (file) files.push(file);
    }
    address = next;
  }
  return { commit, files };
}

/**
 * Downloads a file to a sink, going on where the sink ends (`/<id>/resolve/<commit>/<path>`), also after cuts; redirects are followed, and the token
 * is not sent to another origin. The caller checks the hash.
 *
 * @throws UserError if the file may not be read or is gone, UnreachableError after several tries in a row without a new byte, what the sink throws
 */
export async function download(
  access: HubAccess,
  id: string,
  commit: string,
  file: HubFile,
  sink: HubSink,
): Promise<void> {
  const path = file.path.split("/").map(encodeURIComponent).join("/");
  const address = `${access.endpoint}/${id}/resolve/${commit}/${path}`;
  const what: Wanted = { id, revision: commit, path: file.path };
  await retrying(
    access,
    retriesOfDownload,
    () => receive(access, address, what, file, sink),
    () => sink.size,
  );
}

/** What a request is for, for messages. */
interface Wanted {
  readonly id: string;
  readonly revision: string;
  readonly path?: string;
}

async function receive(access: HubAccess, address: string, what: Wanted, file: HubFile, sink: HubSink): Promise<void> {
  const from = sink.size;
  if (from === file.size) return;
  // Compressed on the way, a file could neither be counted nor be gone on with.
  const headers = { "accept-encoding": "identity", ...(from > 0 ? { range: `bytes=${from}-` } : {}) };
  await exchange(access, address, headers, async (response, alive) => {
    if (response.status === 416) {
      await sink.restart();
      throw new CutError("no bytes from there on");
    }
    checkStatus(access, response, what);
    const [, start] = /^bytes (\d+)-/.exec(response.headers.get("content-range") ?? "") ?? [];
    if (from > 0 && (response.status !== 206 || Number(start ?? from) !== from)) {
      await sink.restart();
      if (response.status === 206) throw new CutError(`bytes from ${start} instead of ${from}`);
    }
    const reader = response.body!.getReader();
    for (;;) {
      const { done, value } = await reaching(access, () => reader.read());
      if (done) break;
      if (sink.size + value.length > file.size) {
        await sink.restart();
        throw new CutError(`more than ${file.size} bytes`);
      }
      await sink.append(value);
      alive();
    }
    if (sink.size < file.size) throw new CutError(`${sink.size} of ${file.size} bytes`);
  });
}

interface Answer {
  readonly value: unknown;
  /** Address of the next page. */
  readonly next: string | undefined;
}

async function getJson(access: HubAccess, address: string, what: Wanted): Promise<Answer> {
  return retrying(access, retriesOfListing, () =>
    exchange(access, address, {}, async (response) => {
      checkStatus(access, response, what);
      const text = await readText(access, response);
      const next = /<([^>]*)>\s*;[^,]*\brel="?next"?/.exec(response.headers.get("link") ?? "")?.[1];
      try {
        return { value: JSON.parse(text), next: next && new URL(next, address).href };
      } catch {
        throw noHub(access, "JSON");
      }
    }),
  );
}

/** @throws UserError if it is longer than any list of a hub */
async function readText(access: HubAccess, response: Response): Promise<string> {
  const decoder = new TextDecoder();
  let text = "";
  let length = 0;
  const reader = response.body!.getReader();
  for (;;) {
    const { done, value } = await reaching(access, () => reader.read());
    if (done) return text + decoder.decode();
    length += value.length;
    if (length > longestAnswer) throw noHub(access, `an answer of at most ${longestAnswer} bytes`);
    text += decoder.decode(value, { stream: true });
  }
}

/** One request. After `timeout` seconds without a call of `alive` the connection counts as cut. */
async function exchange<T>(
  access: HubAccess,
  address: string,
  headers: Readonly<Record<string, string>>,
  read: (response: Response, alive: () => void) => Promise<T>,
): Promise<T> {
  const { endpoint, token, login, timeout = 30, signal } = access;
  const authorization = login ?? (token !== undefined ? `Bearer ${token}` : undefined);
  const ours = authorization !== undefined && new URL(address).origin === new URL(endpoint).origin;
  const cut = new AbortController();
  const stop = () => cut.abort(new Error(`nothing for ${timeout} s`));
  let timer: ReturnType<typeof setTimeout> | undefined;
  const alive = () => {
    clearTimeout(timer);
    timer = setTimeout(stop, 1000 * timeout);
  };
  signal?.throwIfAborted();
  signal?.addEventListener("abort", stop);
  try {
    alive();
    const all = ours ? { ...headers, authorization } : headers;
    // A redirect to another origin takes the Authorization header away: that is part of what fetch is.
    const response = await reaching(access, () => fetchAnywhere(address, { headers: all, signal: cut.signal }));
    alive();
    return await read(response, alive);
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", stop);
    // Whatever of the answer was not read is not wanted any more.
    cut.abort();
  }
}

/** Turns failures of the network into a CutError, and into the signal's reason where that is why. */
async function reaching<T>(access: HubAccess, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    access.signal?.throwIfAborted();
    if (error instanceof UserError) throw error;
    throw new CutError(withoutPassword(reasonOf(error)));
  }
}

async function retrying<T>(
  access: HubAccess,
  retries: number,
  attempt: () => Promise<T>,
  reached: () => number = () => 0,
): Promise<T> {
  const { endpoint, pause = 1, signal } = access;
  let best = reached();
  for (let failures = 1; ; failures++) {
    try {
      return await attempt();
    } catch (error) {
      if (!(error instanceof CutError)) throw error;
      if (reached() > best) [best, failures] = [reached(), 1];
      if (failures > retries) {
        throw new UnreachableError(
          `hub: expected an answer, got ${error.message}, ${failures} times, from ${endpoint}. Check ${proxyAdvice(endpoint)} and HF_ENDPOINT, and start again; HF_HUB_OFFLINE=1 uses what is cached.`,
        );
      }
      await sleep(Math.min(longestPause, Math.max(pause * 2 ** (failures - 1), error.wait)), signal);
    }
  }
}

/** @throws the signal's reason as soon as it is aborted */
async function sleep(seconds: number, signal: AbortSignal | undefined): Promise<void> {
  let wake = () => {};
  const waited = new Promise<void>((resolve) => {
    wake = resolve;
  });
  const timer = setTimeout(wake, 1000 * seconds);
  signal?.addEventListener("abort", wake);
  await waited;
  clearTimeout(timer);
  signal?.removeEventListener("abort", wake);
  signal?.throwIfAborted();
}

/** @throws CutError where another try may help, otherwise UserError */
function checkStatus(access: HubAccess, { ok, status, headers }: Response, what: Wanted): void {
  if (ok) return;
  if (status === 408 || status === 429 || status >= 500) {
    throw new CutError(`status ${status}`, Number(headers.get("retry-after")) || 0);
  }
  const { endpoint, token, tokenFrom } = access;
  const { id, revision, path } = what;
  const code = headers.get("x-error-code");
  const says = headers.get("x-error-message") ?? "";
  const page = `${endpoint}/${id}`;
  const withToken = token === undefined ? "none" : `one (${tokenFrom ?? "set"}) that may not`;
  if (code === "GatedRepo") {
    throw new UserError(
      `hub repository ${id}: expected a token that may read it, got ${withToken} (it is gated) at ${page}. Accept the licence at ${page} and set HF_TOKEN to a token of that account.`,
      { code: "not_permitted" },
    );
  }
  if (/invalid credentials/i.test(says) && token !== undefined) {
    throw new UserError(
      `token: expected one that the hub knows, got another one (${tokenFrom ?? "set"}) for ${endpoint}. Make one at ${endpoint}/settings/tokens and set HF_TOKEN to it, or unset it for what is public.`,
      { code: "not_permitted" },
    );
  }
  if (code === "RevisionNotFound") {
    throw new UserError(
      `revision: expected a branch, tag or commit of ${id}, got "${revision}" at ${page}. Check the name behind the @.`,
      { code: "not_found" },
    );
  }
  if (code === "EntryNotFound" || (status === 404 && code !== "RepoNotFound" && path !== undefined)) {
    throw new UserError(`hub file ${path}: expected one in ${id}, got none at ${page}. Check the name.`, {
      code: "not_found",
    });
  }
  if (code === "RepoNotFound" || status === 404 || status === 401) {
    throw new UserError(
      `hub repository: expected one that exists and may be read, got "${id}" (status ${status}) at ${endpoint}. Check the name; if it is private, set HF_TOKEN.`,
      { code: "not_found" },
    );
  }
  throw new UserError(
    `hub repository ${id}: expected leave to read it, got status ${status}${says && ` (${says.slice(0, 200)})`} at ${page}. Check what the token may do.`,
    { code: "not_permitted" },
  );
}

function noHub({ endpoint }: HubAccess, expected: string): UserError {
  return new UserError(`hub: expected ${expected}, got something else from ${endpoint}. Check HF_ENDPOINT.`, {
    code: "network",
  });
}

function fileOf(entry: unknown, access: HubAccess): HubFile | undefined {
  const { type, path, size, oid, lfs } = Object(entry) as Readonly<Record<string, unknown>>;
  if (type !== "file") return undefined;
  const sha256 = (lfs as { oid?: unknown } | null | undefined)?.oid;
  if (typeof path !== "string" || !isWhole(size) || !isHex(oid, 40) || (lfs != null && !isHex(sha256, 64))) {
    throw noHub(access, "a file's path, size and hash");
  }
  checkPath(path, access.endpoint);
  return { path, size: size as number, blob: oid, ...(isHex(sha256, 64) ? { sha256 } : {}) };
}

/**
 * Refuses a path from outside that could lead out of the folder that the file is put in, on any system.
 *
 * @throws UserError
 */
export function checkPath(path: string, where: string): void {
  const bad = (part: string) => part === "" || part === "." || part === ".." || /[\\:\p{Cc}]/u.test(part);
  if (path.split("/").some(bad)) {
    throw new UserError(
      `hub file: expected a path inside the repository, got ${JSON.stringify(path)} from ${where}. Do not use this repository.`,
    );
  }
}

function isHex(value: unknown, digits: 40 | 64): value is string {
  return typeof value === "string" && value.length === digits && /^[0-9a-f]+$/.test(value);
}
