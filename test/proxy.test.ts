import { createServer, request, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { homedir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it, test, vi } from "vitest";
import { splitLogin, withoutPassword } from "../src/bytes/address.ts";
import { proxyFor } from "../src/bytes/fetch.node.ts";
import { openUrl } from "../src/bytes/url.ts";
import { listRepo } from "../src/hub/client.ts";
import { hubSettings } from "../src/hub/settings.ts";
import { HubServer } from "./hub-server.ts";

const id = "tiny/model";
let hub: HubServer;
let proxy: Server;
/** What the proxy was asked for, with the login that was sent to it. */
let asked: string[];
let proxyHost: string;

const listen = async (server: Server) => {
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return `127.0.0.1:${(server.address() as AddressInfo).port}`;
};

/** A proxy that finds every host `*.invalid` on the hub of this test, and refuses tunnels. */
beforeEach(async () => {
  for (const name of ["http_proxy", "https_proxy", "all_proxy", "no_proxy"]) {
    vi.stubEnv(name, undefined);
    vi.stubEnv(name.toUpperCase(), undefined);
  }
  hub = await new HubServer({ [id]: { files: { "config.json": "{}" } } }).start();
  asked = [];
  proxy = createServer((incoming, response) => {
    const url = new URL(incoming.url!);
    asked.push(`${incoming.method} ${url.host} ${incoming.headers["proxy-authorization"] ?? ""}`.trim());
    if (url.host === "files.invalid") {
      const [, from, until] = /^bytes=(\d+)-(\d+)$/.exec(incoming.headers.range!)!;
      response.writeHead(206, { "content-range": `bytes ${from}-${until}/4` });
      response.end("abcd".slice(Number(from), Number(until) + 1));
      return;
    }
    const to = new URL(hub.url);
    const headers = { ...incoming.headers };
    delete headers["proxy-authorization"];
    const path = url.pathname + url.search;
    request({ host: to.hostname, port: to.port, path, headers, method: incoming.method }, (answer) => {
      response.writeHead(answer.statusCode!, answer.headers);
      answer.pipe(response);
    }).end();
  });
  proxy.on("connect", ({ url, headers }, socket) => {
    asked.push(`CONNECT ${url} ${headers["proxy-authorization"] ?? ""}`.trim());
    socket.end("HTTP/1.1 403 Forbidden\r\n\r\n");
  });
  proxyHost = await listen(proxy);
});
afterEach(async () => {
  vi.unstubAllEnvs();
  proxy.closeAllConnections();
  await new Promise((resolve) => proxy.close(resolve));
  await hub.stop();
});

const access = (endpoint: string) => ({ endpoint, pause: 0.01, timeout: 60 });
const refusal = (work: Promise<unknown>) =>
  work.then(
    () => "it worked",
    (error: Error) => `${error.name}: ${error.message}`,
  );

describe("a hub behind a proxy", () => {
  test.each(["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])("of %s is asked through it", async (name) => {
    vi.stubEnv(name, `http://${proxyHost}`);
    const { files } = await listRepo(access("http://hub.invalid"), id, "main");
    expect(files).toHaveLength(1);
    expect(new Set(asked)).toEqual(new Set(["GET hub.invalid"]));
  });

  it("is asked with the proxy's name and password, also without a scheme in front", async () => {
    vi.stubEnv("HTTP_PROXY", `me%40work:s%3Ecret@${proxyHost}`);
    await listRepo(access("http://hub.invalid"), id, "main");
    expect(asked[0]).toBe(`GET hub.invalid Basic ${Buffer.from("me@work:s>cret").toString("base64")}`);
  });

  it("with https is asked through a tunnel; a refusal names the proxy without its password", async () => {
    vi.stubEnv("HTTPS_PROXY", `http://me:secret@${proxyHost}`);
    const message = await refusal(listRepo(access("https://hub.invalid"), id, "main"));
    expect(asked[0]).toBe(`CONNECT hub.invalid:443 Basic ${Buffer.from("me:secret").toString("base64")}`);
    expect(message).toMatch(/^UnreachableError: hub: expected an answer, got .*403/);
    expect(message).toContain(`Check the network, the proxy http://***@${proxyHost} and HF_ENDPOINT`);
    expect(message).not.toContain("secret");
  });

  it("is asked directly where NO_PROXY names it", async () => {
    vi.stubEnv("HTTP_PROXY", `http://${proxyHost}`);
    vi.stubEnv("NO_PROXY", "example.org,127.0.0.0/8");
    expect((await listRepo(access(hub.url), id, "main")).files).toHaveLength(1);
    expect(asked).toEqual([]);
    vi.stubEnv("NO_PROXY", "127.0.0.1:1");
    await listRepo(access(hub.url), id, "main");
    expect(asked.length).toBeGreaterThan(0);
  });

  it("that is not set, is thought of", async () => {
    expect(await refusal(listRepo(access("http://127.0.0.1:1"), id, "main"))).toContain(
      "behind a proxy, set HTTPS_PROXY",
    );
  });

  it("of another kind is refused by name", async () => {
    vi.stubEnv("ALL_PROXY", "socks5://me:secret@127.0.0.1:1080");
    expect(await refusal(listRepo(access("http://hub.invalid"), id, "main"))).toBe(
      'UserError: ALL_PROXY: expected the address of an HTTP proxy, got "socks5://***@127.0.0.1:1080". Set it to http://host:port, or list hub.invalid in NO_PROXY.',
    );
  });
});

it("a file behind an address is read through a proxy", async () => {
  vi.stubEnv("HTTP_PROXY", `http://${proxyHost}`);
  const source = await openUrl("http://files.invalid/x");
  expect(new TextDecoder().decode(await source.read(0, source.size))).toBe("abcd");
  expect(asked[0]).toBe("GET files.invalid");
  await source.close();
});

test.each<[string, string, boolean]>([
  ["https://huggingface.co", "huggingface.co", false],
  ["https://cdn.huggingface.co", "huggingface.co", false],
  ["https://cdn.huggingface.co", " a.b, .huggingface.co", false],
  ["https://cdn.huggingface.co", "*.HuggingFace.co", false],
  ["https://nothuggingface.co", "huggingface.co", true],
  ["https://huggingface.co", "*", false],
  ["https://huggingface.co", "huggingface.co:443", false],
  ["https://huggingface.co", "huggingface.co:8443", true],
  ["https://10.1.2.3", "10.0.0.0/8", false],
  ["https://11.1.2.3", "10.0.0.0/8", true],
  ["https://110.1.2.3", "10.1.2.3", true],
  ["https://[fd00::1]:8443", "fd00::/8", false],
  ["https://[::1]", "::1", false],
  ["https://[::1]", "[::1]:443", false],
  ["https://huggingface.co", "", true],
])("%s with NO_PROXY=%s goes through the proxy: %s", (address, no_proxy, through) => {
  expect(proxyFor(address, { HTTPS_PROXY: "http://p:3128", no_proxy })).toBe(through ? "http://p:3128" : undefined);
});

test("the scheme's own variable goes before ALL_PROXY, the lower case before the upper", () => {
  const env = { ALL_PROXY: "http://all:1", HTTPS_PROXY: "http://upper:1", https_proxy: "lower:1" };
  expect(proxyFor("https://x.org", env)).toBe("http://lower:1");
  expect(proxyFor("http://x.org", env)).toBe("http://all:1");
  expect(proxyFor("http://x.org", { HTTPS_PROXY: "http://upper:1" })).toBeUndefined();
});

describe("passwords in addresses", () => {
  it("are sent to the hub as a header, and not printed", async () => {
    vi.stubEnv("HF_ENDPOINT", `http://me:sec%20ret@${new URL(hub.url).host}/`);
    const settings = await hubSettings(process.env);
    expect(settings).toMatchObject({ endpoint: hub.url, login: `Basic ${btoa("me:sec ret")}` });
    const message = await refusal(listRepo({ ...settings, pause: 0.01 }, "tiny/nothing", "main"));
    expect(hub.asked[0]!.authorization).toBe(settings.login);
    expect(message).not.toMatch(/sec/);
  });

  test.each(["htps://me:secret@hub.example", "me:secret@hub.example", "http://me:secret@hub example"])(
    "%s is refused without them",
    async (HF_ENDPOINT) => {
      const message = await refusal(hubSettings({ HF_ENDPOINT, HF_HOME: "/nowhere" }));
      expect(message).toMatch(/^UserError: HF_ENDPOINT: expected an address with http, got ".*hub.example"/);
      expect(message).not.toContain("secret");
    },
  );

  test("of a file are sent and not printed", async () => {
    expect(splitLogin("http://a.org/x@y")).toEqual({ address: "http://a.org/x@y" });
    expect(withoutPassword("see https://a:b@c.org/d and http://e.org/@f")).toBe(
      "see https://***@c.org/d and http://e.org/@f",
    );
    const message = await refusal(openUrl("http://me:secret@127.0.0.1:1/x"));
    expect(message).toMatch(/^UserError: file: expected an answer, got .* at http:\/\/127\.0\.0\.1:1\/x\. Check/);
    expect(message).not.toContain("secret");
  });
});

describe("paths in variables", () => {
  // What os.path.expandvars(os.path.expanduser(path)) gives with HOME=/h, A=/a and B unset.
  test.each([
    ["$A/x", "/a/x"],
    // biome-ignore lint/suspicious/noTemplateCurlyInString: a path as it stands in the variable
    ["${A}b", "/ab"],
    ["~", "/h"],
    ["~/x~", "/h/x~"],
    ["/x/~/y", "/x/~/y"],
    ["$HOME/$A", "/h//a"],
    ["/$Ab", "/$Ab"],
    // biome-ignore lint/suspicious/noTemplateCurlyInString: a path as it stands in the variable
    ["/$B/${B}/$", "/$B/${B}/$"],
  ])("%s is %s", async (path, expected) => {
    const env = { HOME: "/h", A: "/a" };
    expect((await hubSettings({ ...env, HF_HUB_CACHE: path })).cache).toBe(expected);
    expect((await hubSettings({ ...env, HF_HOME: path })).cache).toBe(join(expected, "hub"));
    expect((await hubSettings({ ...env, XDG_CACHE_HOME: path })).cache).toBe(join(expected, "huggingface/hub"));
  });

  it("of HF_TOKEN_PATH too; another user's home is refused", async () => {
    const token = { HF_TOKEN_PATH: "$PLACE/package.json", PLACE: process.cwd(), HF_HOME: "/nowhere" };
    expect(await refusal(hubSettings(token))).toMatch(/token: expected one line .*package\.json/);
    expect(await refusal(hubSettings({ HF_HOME: "~someone/hf" }))).toMatch(/^UserError: HF_HOME: expected a path, got/);
    expect((await hubSettings({})).cache).toBe(join(homedir(), ".cache/huggingface/hub"));
  });
});

describe("lists that do not end", () => {
  const serve = async (answer: (path: string) => { body: string | Buffer; next?: string }) => {
    const server = createServer((incoming, response) => {
      const isTree = incoming.url!.includes("/tree/");
      const { body, next } = isTree ? answer(incoming.url!) : { body: JSON.stringify({ sha: "a".repeat(40) }) };
      if (next) response.setHeader("link", `<${next}>; rel="next"`);
      response.end(body);
    });
    const endpoint = `http://${await listen(server)}`;
    try {
      return await refusal(listRepo(access(endpoint), id, "main"));
    } finally {
      server.closeAllConnections();
      server.close();
    }
  };
  let page = 0;
  const file = (path: string) => ({ type: "file", oid: "0".repeat(40), size: 1, path });

  test("a page that links to itself, and pages that are always new", async () => {
    expect(await serve((path) => ({ body: "[]", next: path }))).toMatch(
      /expected an end of the list, got something else/,
    );
    expect(await serve(() => ({ body: "[]", next: `/tree/${page++}` }))).toMatch(
      /expected a list of at most 200000 files/,
    );
  });

  test("more files than a repository has, and an answer longer than any list", async () => {
    const many = JSON.stringify(Array.from({ length: 60_000 }, (_, i) => file(`f${i}`)));
    expect(await serve(() => ({ body: many, next: `/tree/${page++}` }))).toMatch(/at most 200000 files/);
    expect(await serve(() => ({ body: Buffer.alloc(65 * 2 ** 20, 32) }))).toMatch(
      /an answer of at most 67108864 bytes/,
    );
  });
});
