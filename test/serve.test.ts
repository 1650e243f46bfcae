import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { parseRange, reportPolicy } from "../src/serve/files.ts";
import { largestBody } from "../src/serve/guard.ts";
import { serve } from "../src/serve/serve.ts";
import type { OpenServer } from "../src/serve/server.ts";
import { entry, expectError, sfc, start } from "./cli-harness.ts";
import { secret, send, temptingFolder, wire } from "./serve-harness.ts";

const home = mkdtempSync(join(tmpdir(), "sfc-serve-"));
const folder = temptingFolder(home);
const faults: unknown[] = [];
let server: OpenServer;
let [port, token, cookie] = [0, "", ""];

beforeAll(async () => {
  server = await serve({ folder, port: 0, onFault: (error) => faults.push(error) });
  const url = new URL(server.url);
  [port, token] = [Number(url.port), url.searchParams.get("token")!];
  cookie = `sfc-token-${port}=${token}`;
});

afterAll(async () => {
  await server.close();
  rmSync(home, { recursive: true });
});

const get = (path: string, headers: Record<string, string> = {}) =>
  send(port, wire("GET", path, { cookie, ...headers }));

describe("whoever has the address", () => {
  test("gets the page: the token becomes a cookie that no other site's page sends, and leaves the address", async () => {
    const first = await send(port, wire("GET", `/?token=${token}`));
    expect(first).toMatchObject({ status: 303, headers: { location: "/" } });
    expect(first.headers["set-cookie"]).toBe(`${cookie}; HttpOnly; SameSite=Strict; Path=/`);
    const page = await get("/");
    expect(page).toMatchObject({ status: 200, headers: { "content-type": "text/html; charset=utf-8" } });
    expect(page.headers["content-security-policy"]).toContain("default-src 'none'");
    expect(page.body).toContain("<title>sfc serve</title>");
    expect(page.body).not.toContain(token);
  });

  test("gets what the folder holds and its files, whole or a range", async () => {
    const listing = await get("/api/folder");
    expect(listing.status).toBe(200);
    expect(JSON.parse(listing.body)).toMatchObject({ items: [], problems: [] });
    expect(await get("/files/run/plain.json")).toMatchObject({ status: 200, body: '{"plain":true}' });
    expect(await get("/files/run/inner.json")).toMatchObject({ status: 200, body: '{"plain":true}' });
    expect(await get("/files/run/plain.json", { range: "bytes=2-6" })).toMatchObject({
      status: 206,
      headers: { "content-range": "bytes 2-6/14", "content-length": "5" },
      body: "plain",
    });
    expect(await get("/files/run/plain.json", { range: "bytes=-5" })).toMatchObject({ status: 206, body: "true}" });
    expect(await get("/files/run/plain.json", { range: "bytes=14-" })).toMatchObject({
      status: 416,
      headers: { "content-range": "bytes */14" },
    });
    const head = await send(port, wire("HEAD", "/files/run/plain.json", { cookie }));
    expect(head).toMatchObject({ status: 200, headers: { "content-length": "14" }, body: "" });
  });

  test("gets a report as a page without a network, and without what the server's own page may do", async () => {
    writeFileSync(join(folder, "run/report.html"), "<title>report</title>");
    for (const headers of [{}, { range: "bytes=0-6" }] as Record<string, string>[]) {
      const report = await get("/files/run/report.html", headers);
      expect(report.status).toBe(headers.range === undefined ? 200 : 206);
      expect(report.headers["content-type"]).toBe("text/html; charset=utf-8");
      expect(report.headers["content-security-policy"]).toBe(reportPolicy);
    }
    expect(reportPolicy.split("; ").slice(0, 2)).toEqual([
      "sandbox allow-scripts allow-downloads",
      "default-src 'none'",
    ]);
  });

  test("may name the token in a header instead", async () => {
    expect(await send(port, wire("GET", "/api/folder", { authorization: `Bearer ${token}` }))).toMatchObject({
      status: 200,
    });
  });
});

test("ranges are those of RFC 9110", () => {
  const of = (header: string) => parseRange(header, 10);
  expect(of("bytes=0-0")).toEqual({ first: 0, last: 0 });
  expect(of("bytes=3-")).toEqual({ first: 3, last: 9 });
  expect(of("bytes=3-99")).toEqual({ first: 3, last: 9 });
  expect(of("bytes=-4")).toEqual({ first: 6, last: 9 });
  expect(of("bytes=-99")).toEqual({ first: 0, last: 9 });
  for (const none of ["bytes=10-", "bytes=99-120", "bytes=-0"]) expect(of(none)).toBe("none");
  for (const all of ["bytes=5-4", "bytes=-", "lines=1-2", "bytes=0-1,3-4", "bytes=a-b"]) expect(of(all)).toBe("all");
});

describe("refused, with nothing read", () => {
  const json = { "content-type": "application/json", "content-length": "2" };
  const post = (path: string, headers: Record<string, string> = {}, body = "{}") =>
    wire("POST", path, { cookie, ...json, ...headers }, body);
  const live = (headers: Record<string, string> = {}, body = "{}") => post("/api/live/effects", headers, body);
  /** Attacks: what is sent, the status, and a word of the reason. */
  const attacks: readonly (readonly [name: string, status: number, reason: string, request: () => string])[] = [
    ["no token", 401, "token", () => wire("GET", "/api/folder")],
    [
      "a wrong token",
      401,
      "token",
      () => wire("GET", "/api/folder", { cookie: `sfc-token-${port}=${"x".repeat(32)}` }),
    ],
    ["a wrong token in the address", 401, "token", () => wire("GET", "/?token=x")],
    ["the token beside another path", 401, "token", () => wire("GET", `/api/folder?token=${token}`)],
    ["another server's cookie", 401, "token", () => wire("GET", "/", { cookie: `sfc-token-1=${token}` })],
    ["a foreign host", 403, "Host", () => wire("GET", "/", { cookie, host: "evil.example" })],
    [
      "a foreign host that begins as ours",
      403,
      "Host",
      () => wire("GET", "/", { cookie, host: "localhost.evil.example" }),
    ],
    [
      "a foreign host with our name as a user",
      403,
      "Host",
      () => wire("GET", "/", { cookie, host: "localhost@evil.example" }),
    ],
    ["an address of another network", 403, "Host", () => wire("GET", "/", { cookie, host: "192.168.0.1" })],
    ["an empty host", 403, "Host", () => wire("GET", "/", { cookie, host: "" })],
    ["two hosts", 400, "Host", () => wire("GET", "/", { cookie, Host: "evil.example" })],
    ["a foreign origin", 403, "Origin", () => post("/api/folder", { origin: "http://evil.example" })],
    ["our own name on another port", 403, "Origin", () => post("/api/folder", { origin: "http://localhost:1" })],
    ["our own name by https", 403, "Origin", () => post("/api/folder", { origin: "https://localhost" })],
    ["the origin of a sandboxed page", 403, "Origin", () => post("/api/folder", { origin: "null" })],
    [
      "a foreign page's picture",
      403,
      "Sec-Fetch",
      () => wire("GET", "/api/folder", { cookie, "sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors" }),
    ],
    [
      "another local page's script",
      403,
      "Sec-Fetch",
      () => wire("GET", "/api/folder", { cookie, "sec-fetch-site": "same-site", "sec-fetch-mode": "no-cors" }),
    ],
    [
      "a foreign page's form",
      403,
      "Sec-Fetch",
      () => post("/api/folder", { "sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate" }),
    ],
    ...[
      "/files/../secret.json",
      "/files/run/../../secret.json",
      "/files/%2e%2e/secret.json",
      "/files/..%2fsecret.json",
      "/files/%2e%2e%2fsecret.json",
      "/files/run/..%5c..%5csecret.json",
      "/files//etc/passwd",
      "/files/%00/secret.json",
      "/files/run/plain.json%00.html",
      "/files/.hidden.json",
      "/files/%c0%ae%c0%ae/secret.json",
      "/..",
      "/./files/run/plain.json",
      "/files/run/",
      "http://localhost/files/run/plain.json",
      "*",
    ].map((path) => [`the path ${path}`, 400, "address", () => wire("GET", path, { cookie })] as const),
    ...[
      "/files/%252e%252e/secret.json",
      "/files/run/link.json",
      "/files/out/secret.json",
      "/files/run/program.mjs",
      "/files/run/none.json",
      "/files/run",
      "/files",
      "/etc/passwd",
      "/api/none",
      "/api",
    ].map((path) => [`the path ${path}`, 404, "nothing is there", () => wire("GET", path, { cookie })] as const),
    ["a very long address", 414, "address", () => wire("GET", `/${"a".repeat(5000)}`, { cookie })],
    ["parameters that nobody knows", 400, "request", () => wire("GET", "/api/folder?path=/etc", { cookie })],
    ["a body where none belongs", 400, "body", () => wire("GET", "/api/folder", { cookie, ...json }, "{}")],
    ...["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"].map(
      (method) => [method, 405, "method", () => wire(method, "/api/folder", { cookie })] as const,
    ),
    ["POST to what is read", 405, "method", () => post("/api/folder")],
    ["POST to a file", 405, "method", () => post("/files/run/plain.json")],
    ["a body of plain text, as a form may send", 415, "Content-Type", () => live({ "content-type": "text/plain" })],
    ["a form", 415, "Content-Type", () => live({ "content-type": "application/x-www-form-urlencoded" })],
    ["a body of no type", 415, "Content-Type", () => live({ "content-type": "" })],
    [
      "JSON in another charset",
      415,
      "Content-Type",
      () => live({ "content-type": "application/json; charset=utf-16" }),
    ],
    ["a packed body", 415, "Content-Encoding", () => live({ "content-encoding": "gzip" })],
    ["a body that is said to be large", 413, "body", () => live({ "content-length": String(largestBody + 1) }, "")],
    [
      "a body that waits to be asked for",
      413,
      "body",
      () => live({ "content-length": "99999999", expect: "100-continue" }, ""),
    ],
    [
      "a body without an end",
      411,
      "Content-Length",
      () =>
        wire(
          "POST",
          "/api/live/effects",
          { cookie, "content-type": "application/json", "transfer-encoding": "chunked" },
          "5\r\n[1,2]\r\n",
        ),
    ],
    ["a body that is no JSON", 400, "JSON", () => live({}, "{]")],
    ["a body that is no UTF-8", 400, "JSON", () => live({}, Buffer.from([0xff, 0xfe]).toString("latin1"))],
    ["a body of another form", 400, "request", () => live({}, "[]")],
    ["a body with a prototype", 400, "request", () => live({ "content-length": "23" }, '{"__proto__":{"a":"b"}}')],
    ["POST to the page", 405, "method", () => post("/")],
  ];

  test.each(attacks)("%s: %i", async (_, status, reason, request) => {
    const answer = await send(port, request());
    expect(answer.body).not.toContain(secret);
    expect(answer.body).not.toContain("root:");
    expect(answer.status).toBe(status);
    const { error } = JSON.parse(answer.body) as { error: string };
    if (status !== 404) expect(error).toContain(reason);
    expect(answer.headers.connection).toBe("close");
    expect(faults).toEqual([]);
  });

  test("a request that is no HTTP", async () => {
    expect(await send(port, "\u0016\u0003\u0001\r\n\r\n")).toMatchObject({ status: 400 });
    expect(await send(port, wire("GET", "/", { cookie, padding: "x".repeat(20_000) }))).toMatchObject({ status: 431 });
  });
});

test("survives 1,000 requests at once", async () => {
  const answers = await Promise.all(
    Array.from({ length: 1000 }, (_, i) =>
      get(["/api/folder", "/", "/files/run/plain.json", "/files/none.json"][i % 4]!),
    ),
  );
  const count = (status: number) => answers.filter((answer) => answer.status === status).length;
  expect([count(200), count(404)]).toEqual([750, 250]);
  expect(faults).toEqual([]);
});

describe("sfc serve", () => {
  test("prints the address, and Ctrl-C ends it within a second", async () => {
    const { child, ended } = start(["serve", folder, "--port", "0"]);
    const line = await new Promise<string>((resolve) => child.stdout!.on("data", (text) => resolve(String(text))));
    expect(line).toMatch(/^Open http:\/\/127\.0\.0\.1:\d+\/\?token=[\w-]{32}\n$/);
    // A connection that stays open keeps nobody waiting.
    const open = fetch(line.slice(5).trim(), { redirect: "manual" });
    await (await open).text();
    const begun = performance.now();
    child.kill("SIGINT");
    const { code, signal, stderr } = await ended;
    expect({ code, signal, stderr }).toEqual({ code: 0, signal: null, stderr: "" });
    expect(performance.now() - begun).toBeLessThan(1000);
  });

  test("a port that is taken, a folder that is not there and a wrong port get one line", async () => {
    const taken = createServer();
    const at = await new Promise<number>((resolve) =>
      taken.listen(0, "127.0.0.1", () => resolve((taken.address() as { port: number }).port)),
    );
    expectError(await sfc("serve", folder, "--port", String(at)), 1, "--port", String(at), "another program");
    taken.close();
    expectError(await sfc("serve", join(home, "none")), 1, "folder", "none");
    writeFileSync(join(home, "file.txt"), "");
    expectError(await sfc("serve", join(home, "file.txt")), 1, "got a file at");
    expectError(await sfc("serve", folder, "--port", "70000"), 2, "--port", "65535");
  });

  test("can be reached from this machine alone", () => {
    expect(spawnSync(process.execPath, [entry, "serve", "--help"], { encoding: "utf8" }).stdout).toContain("127.0.0.1");
    expect(new URL(server.url).hostname).toBe("127.0.0.1");
  });
});

test("a listing tells runs that cannot be read, and goes on", async () => {
  writeFileSync(join(folder, "run/run.json"), "{");
  const { problems } = JSON.parse((await get("/api/folder")).body) as { problems: { name: string; reason: string }[] };
  expect(problems).toEqual([{ name: "run", reason: expect.stringContaining("run.json") }]);
});
