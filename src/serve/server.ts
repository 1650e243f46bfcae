import { randomBytes } from "node:crypto";
import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import type { z } from "zod";
import { messageOf, StoppedError, UserError } from "../errors.ts";
import { packageRoot } from "../storage/package.ts";
import type { Problem } from "./api.ts";
import { type Context, type Endpoint, endpoints } from "./endpoints.ts";
import { sendFile } from "./files.ts";
import {
  type Address,
  checkBody,
  checkNoBody,
  checkPeer,
  checkToken,
  isToken,
  largestBody,
  parseAddress,
  Refused,
} from "./guard.ts";

/** How a server is opened. */
export interface ServerOptions {
  readonly context: Context;
  /** 0 for any that is free. */
  readonly port: number;
  /** Told of errors that are faults of the server. */
  readonly onFault: (error: unknown) => void;
}

/** A server that listens on this machine alone. */
export interface OpenServer {
  /** The page's address, with the token that lets its browser in. */
  readonly url: string;
  /** Ends it and what is being answered. */
  close(): Promise<void>;
}

/** The page gets its own script and style, its data from here, and nothing from anywhere else. */
const pagePolicy =
  "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/** Headers of every answer. */
const always = {
  "cache-control": "no-store",
  "cross-origin-resource-policy": "same-origin",
  "referrer-policy": "no-referrer",
  "x-content-type-options": "nosniff",
  "x-frame-options": "DENY",
};

/**
 * Opens the server of `sfc serve` on 127.0.0.1.
 *
 * @throws UserError if the port is taken, or the page has not been built
 */
export async function openServer({ context, port, onFault }: ServerOptions): Promise<OpenServer> {
  const page = join(packageRoot, "dist/web/serve.html");
  if (!existsSync(page)) {
    throw new UserError("serve: expected the built page dist/web/serve.html, got none. Build it with npm run build.");
  }
  const secrets = { token: randomBytes(24).toString("base64url"), cookie: "sfc-token" };
  const answer = (request: IncomingMessage, response: ServerResponse) => {
    respond(request, response, { context, secrets, page }).catch((error) => fail(response, error, onFault));
  };
  const server = createServer({ maxHeaderSize: 16_384, headersTimeout: 10_000, requestTimeout: 30_000 }, answer);
  // A body is asked for only once the request has passed.
  server.on("checkContinue", answer);
  await listen(server, port);
  const at = (server.address() as AddressInfo).port;
  secrets.cookie = `sfc-token-${at}`;
  return {
    url: `http://127.0.0.1:${at}/?token=${secrets.token}`,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}

function listen(server: Server, port: number): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once("error", (error: NodeJS.ErrnoException) => reject(listenProblem(error, port)));
    server.listen({ host: "127.0.0.1", port, backlog: 2048 }, resolve);
  });
}

function listenProblem(error: NodeJS.ErrnoException, port: number): Error {
  const got = { EADDRINUSE: "which another program uses", EACCES: "which only the system may use" }[error.code ?? ""];
  if (got === undefined) return error;
  return new UserError(`--port: expected a free one, got ${port}, ${got}. Choose another, or 0 for any that is free.`);
}

interface Serving {
  readonly context: Context;
  readonly secrets: { readonly token: string; readonly cookie: string };
  readonly page: string;
}

async function respond(request: IncomingMessage, response: ServerResponse, serving: Serving): Promise<void> {
  for (const [name, value] of Object.entries(always)) response.setHeader(name, value);
  const { token, cookie } = serving.secrets;
  checkPeer(request);
  const { method = "" } = request;
  if (!["GET", "HEAD", "POST"].includes(method))
    throw new Refused(405, "method: expected GET, HEAD or POST.", { allow: "GET, HEAD, POST" });
  const address = parseAddress(request.url ?? "");
  const [first, ...rest] = address.parts;
  const given = address.query.get("token");
  if (method === "GET" && first === undefined && given !== null && isToken(given, token)) {
    // The address that stays in the browser's history and bar has no token.
    response.writeHead(303, { "set-cookie": `${cookie}=${token}; HttpOnly; SameSite=Strict; Path=/`, location: "/" });
    response.end();
    return;
  }
  checkToken(request, token, cookie);
  if (first === "api") return answerApi(request, response, rest.join("/"), address, serving.context);
  if (method === "POST") throw new Refused(405, "method: expected GET.", { allow: "GET, HEAD" });
  checkNoBody(request);
  if (first === undefined) {
    const headers = { "content-type": "text/html; charset=utf-8", "content-security-policy": pagePolicy };
    // Node sends no body with HEAD.
    sendText(response, 200, await readFile(serving.page, "utf8"), headers);
    return;
  }
  if (first !== "files") throw new Refused(404, "There is nothing at this address.");
  await sendFile(serving.context.places, rest, { range: request.headers.range, head: method === "HEAD" }, response);
}

/** Endpoints by address, whatever they are asked about. */
const byAddress = new Map(Object.entries(endpoints) as [string, Endpoint<never>][]);

async function answerApi(
  request: IncomingMessage,
  response: ServerResponse,
  name: string,
  { query }: Address,
  context: Context,
): Promise<void> {
  const { method = "" } = request;
  const endpoint = byAddress.get(`${method} ${name}`);
  if (!endpoint) {
    const allow = ["GET", "POST"].filter((other) => byAddress.has(`${other} ${name}`));
    if (allow.length === 0) throw new Refused(404, "There is nothing at this address.");
    throw new Refused(405, `method: expected ${allow.join(" or ")}.`, { allow: allow.join(", ") });
  }
  let asked: unknown;
  if (method === "GET") {
    checkNoBody(request);
    asked = Object.fromEntries(query);
  } else {
    checkBody(request);
    asked = await readJson(request, response);
  }
  const result = await endpoint.answer(parsed(endpoint.schema, asked), context);
  sendJson(response, 200, result);
}

/** @throws Refused with 400 if the request has not the endpoint's form */
function parsed<T>(schema: z.ZodType<T>, asked: unknown): T {
  const result = schema.safeParse(asked);
  if (result.success) return result.data;
  const { path, message } = result.error.issues[0]!;
  throw new Refused(
    400,
    `request: expected ${path.length > 0 ? `another "${path.join(".")}"` : "other fields"} (${message}).`,
  );
}

async function readJson(request: IncomingMessage, response: ServerResponse): Promise<unknown> {
  if (request.headers.expect !== undefined) response.writeContinue();
  const chunks: Buffer[] = [];
  let length = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    length += chunk.length;
    if (length > largestBody) throw new Refused(413, `body: expected at most ${largestBody} bytes.`);
    chunks.push(chunk);
  }
  try {
    return JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(Buffer.concat(chunks)));
  } catch {
    throw new Refused(400, "body: expected JSON in UTF-8.");
  }
}

function sendJson(
  response: ServerResponse,
  status: number,
  value: unknown,
  headers: Readonly<Record<string, string>> = {},
): void {
  sendText(response, status, JSON.stringify(value), {
    "content-type": "application/json",
    "content-security-policy": "default-src 'none'",
    ...headers,
  });
}

function sendText(
  response: ServerResponse,
  status: number,
  text: string,
  headers: Readonly<Record<string, string>>,
): void {
  response.writeHead(status, { ...headers, "content-length": Buffer.byteLength(text) });
  response.end(text);
}

function fail(response: ServerResponse, error: unknown, onFault: (error: unknown) => void): void {
  if (response.headersSent || response.destroyed) {
    response.destroy();
    return;
  }
  const [status, headers] = statusOf(error);
  if (status === 500) onFault(error);
  const message = status === 500 ? "This is a bug in sfc: see what it printed." : messageOf(error);
  // What is left of a refused body is not read.
  sendJson(response, status, { error: message } satisfies Problem, { ...headers, connection: "close" });
}

function statusOf(error: unknown): [number, Readonly<Record<string, string>>] {
  if (error instanceof Refused) return [error.status, error.headers];
  if (error instanceof UserError) return [error.code === "not_found" ? 404 : 422, {}];
  return [error instanceof StoppedError ? 409 : 500, {}];
}
