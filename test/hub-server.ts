import { createHash } from "node:crypto";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";

/** A repository that the hub serves. */
export interface ServedRepo {
  readonly files: Readonly<Record<string, Uint8Array | string>>;
  /** 40 hex digits; default made of the name. */
  readonly commit?: string;
  /** Needs a token that may read it. */
  readonly gated?: boolean;
  /** Names of other branches and tags. */
  readonly revisions?: readonly string[];
}

/** How the answer to one request for a file's contents goes wrong. */
export type Fault =
  | { readonly cutAfter: number }
  | { readonly status: number; readonly retryAfter?: number }
  | { readonly stallAfter: number }
  /** Milliseconds between pieces of 1000 bytes. */
  | { readonly pieceEvery: number }
  | "flip a byte"
  | "ignore the range"
  | "another range"
  | "too long"
  | "too short";

export interface Asked {
  readonly method: string;
  /** The hub itself, or the place where large files are. */
  readonly at: "hub" | "storage";
  readonly path: string;
  readonly range: string | undefined;
  readonly authorization: string | undefined;
}

/**
 * A hub on loopback, as far as listing and downloading go, with a second server, on another port, to which requests for large files are redirected.
 */
export class HubServer {
  readonly repos: Map<string, ServedRepo>;
  readonly asked: Asked[] = [];
  /** Faults of the next requests for a file's contents, by its path. */
  readonly faults = new Map<string, Fault[]>();
  /** Tokens that may read what is gated; others are none at all. */
  readonly tokens = new Set<string>();
  /** Entries on a page of the list. */
  pageSize = 1000;
  /** Changes entries of the list, as a server that lies would. */
  tamper: (entry: Record<string, unknown>) => Record<string, unknown> = (entry) => entry;
  #servers: Server[] = [];
  #address = { hub: "", storage: "" };

  constructor(repos: Readonly<Record<string, ServedRepo>>) {
    this.repos = new Map(Object.entries(repos));
  }

  get url(): string {
    return this.#address.hub;
  }

  /** Paths of files whose contents were asked for, where they come from. */
  get downloads(): Asked[] {
    return this.asked.filter(({ method, at, path }) => method === "GET" && (at === "storage" || isText(path)));
  }

  async start(): Promise<this> {
    for (const at of ["hub", "storage"] as const) {
      const server = createServer((request, response) => this.#answer(at, request, response));
      await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
      this.#servers.push(server);
      this.#address[at] = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
    }
    return this;
  }

  async stop(): Promise<void> {
    for (const server of this.#servers) {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    }
    this.#servers = [];
  }

  #answer(at: "hub" | "storage", request: IncomingMessage, response: ServerResponse): unknown {
    const url = new URL(request.url!, "http://here");
    const path = decodeURIComponent(url.pathname);
    const { range, authorization } = request.headers;
    this.asked.push({ method: request.method!, at, path, range, authorization });
    const [, id, rest = ""] = /^\/(?:api\/models\/)?([^/]+\/[^/]+)\/(.*)$/.exec(path) ?? [];
    const token = authorization?.replace("Bearer ", "");
    if (at === "hub" && token !== undefined && !this.tokens.has(token)) {
      return refuse(response, 401, "", "Invalid credentials in Authorization header");
    }
    const repo = this.repos.get(id ?? "");
    if (!repo) return refuse(response, token === undefined ? 401 : 404, "RepoNotFound", "Repository not found");
    const commit = commitOf(id!, repo);
    const known = (revision: string) => ["main", commit, ...(repo.revisions ?? [])].includes(revision);

    if (path.startsWith("/api/")) {
      const [, kind, revision = ""] = /^(revision|tree)\/(.*)$/.exec(rest) ?? [];
      if (!known(revision)) return refuse(response, 404, "RevisionNotFound", "Invalid rev id");
      if (kind === "revision") return sendJson(response, { id, sha: commit, siblings: [], private: false });
      return this.#list(repo, url, response);
    }
    const [, revision = "", file = ""] = /^resolve\/([^/]+)\/(.*)$/.exec(rest) ?? [];
    const contents = repo.files[file];
    response.setHeader("x-repo-commit", commit);
    if (!known(revision)) return refuse(response, 404, "RevisionNotFound", "Invalid rev id");
    if (at === "hub" && repo.gated && token === undefined) {
      return refuse(response, 401, "GatedRepo", `Access to model ${id} is restricted.`);
    }
    if (contents === undefined) return refuse(response, 404, "EntryNotFound", "Entry not found");
    const bytes = Buffer.from(contents as Uint8Array);
    if (!isText(file) && at === "hub") {
      response.setHeader("x-linked-size", bytes.length);
      response.setHeader("x-linked-etag", `"${sha256(bytes)}"`);
      response.setHeader("location", `${this.#address.storage}${request.url}`);
      response.writeHead(302).end();
      return;
    }
    response.setHeader("etag", `"${isText(file) ? gitSha1(bytes) : sha256(bytes)}"`);
    if (request.method === "HEAD") {
      response.writeHead(200, { "content-length": bytes.length }).end();
      return;
    }
    send(bytes, range, this.faults.get(file)?.shift(), response);
  }

  #list(repo: ServedRepo, url: URL, response: ServerResponse): void {
    const entries = Object.entries(repo.files).map(([path, contents]) => {
      const bytes = Buffer.from(contents as Uint8Array);
      const lfs = { oid: sha256(bytes), size: bytes.length, pointerSize: 130 };
      const entry = { type: "file", oid: gitSha1(bytes), size: bytes.length, path };
      return this.tamper(isText(path) ? entry : { ...entry, lfs });
    });
    const all = [{ type: "directory", oid: "0".repeat(40), size: 0, path: "a-folder" }, ...entries];
    const from = Number(url.searchParams.get("cursor") ?? 0);
    const to = from + this.pageSize;
    if (to < all.length) {
      url.searchParams.set("cursor", String(to));
      response.setHeader("link", `<${this.url}${url.pathname}${url.search}>; rel="next"`);
    }
    sendJson(response, all.slice(from, to));
  }
}

/** Small files lie in git itself. */
const isText = (path: string) => /\.(json|md|txt)$/.test(path);

export function commitOf(id: string, repo: ServedRepo): string {
  return repo.commit ?? createHash("sha1").update(id).digest("hex");
}

export const sha256 = (bytes: Uint8Array | string) => createHash("sha256").update(bytes).digest("hex");

/** What git calls a file with these contents. */
export function gitSha1(bytes: Uint8Array | string): string {
  return createHash("sha1")
    .update(`blob ${Buffer.from(bytes as Uint8Array).length}\0`)
    .update(bytes)
    .digest("hex");
}

function refuse(response: ServerResponse, status: number, code: string, message: string): void {
  if (code !== "") response.setHeader("x-error-code", code);
  response.setHeader("x-error-message", message);
  response.writeHead(status).end(JSON.stringify({ error: message }));
}

function sendJson(response: ServerResponse, value: unknown): void {
  response.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify(value));
}

function send(whole: Buffer, range: string | undefined, fault: Fault | undefined, response: ServerResponse): unknown {
  if (typeof fault === "object" && "status" in fault) {
    if (fault.retryAfter !== undefined) response.setHeader("retry-after", fault.retryAfter);
    response.writeHead(fault.status).end();
    return;
  }
  let from = Number(/^bytes=(\d+)-$/.exec(range ?? "")?.[1] ?? 0);
  if (fault === "ignore the range") from = 0;
  if (fault === "another range") from = Math.max(0, from - 1);
  if (from >= whole.length && from > 0) {
    response.writeHead(416, { "content-range": `bytes */${whole.length}` }).end();
    return;
  }
  let bytes = Buffer.from(whole.subarray(from));
  if (fault === "flip a byte") bytes[bytes.length >> 1]! ^= 1;
  if (fault === "too long") bytes = Buffer.concat([bytes, Buffer.alloc(7)]);
  if (fault === "too short") bytes = bytes.subarray(0, bytes.length - 5);
  const partial = range !== undefined && fault !== "ignore the range";
  response.writeHead(partial ? 206 : 200, {
    "content-length": bytes.length,
    ...(partial ? { "content-range": `bytes ${from}-${whole.length - 1}/${whole.length}` } : {}),
  });
  if (typeof fault !== "object") {
    response.end(bytes);
    return;
  }
  if ("pieceEvery" in fault) {
    const next = (at: number): void => {
      if (at >= bytes.length) response.end();
      else response.write(bytes.subarray(at, at + 1000), () => setTimeout(next, fault.pieceEvery, at + 1000));
    };
    next(0);
    return;
  }
  const end = "cutAfter" in fault ? fault.cutAfter : fault.stallAfter;
  // Only once the bytes are on their way is the connection cut.
  response.write(bytes.subarray(0, end), () => {
    if ("cutAfter" in fault) setTimeout(() => response.destroy(), 20);
  });
}
