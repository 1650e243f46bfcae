import { BlockList, isIP } from "node:net";
import { UserError } from "../errors.ts";
import { withoutPassword } from "./address.ts";

type Environment = Readonly<Record<string, string | undefined>>;

/**
 * The proxy that the environment names for an address, without a slash at the end: HTTP_PROXY or HTTPS_PROXY by the address's scheme, otherwise
 * ALL_PROXY; the lower-case names come first. NO_PROXY lists what is reached without one, between commas: hosts with all their subdomains, hosts with
 * a port, IP addresses, their ranges (10.0.0.0/8), or * for all.
 *
 * @returns undefined if there is none
 * @throws UserError if it is none that speaks HTTP
 */
export function proxyFor(address: string, env: Environment = process.env): string | undefined {
  const url = new URL(address);
  const names = [`${url.protocol.slice(0, -1)}_proxy`, "all_proxy"].flatMap((name) => [name, name.toUpperCase()]);
  const name = names.find((candidate) => env[candidate]?.trim());
  if (name === undefined || isWithoutProxy(url, env.no_proxy || env.NO_PROXY || "")) return undefined;
  const text = env[name]!.trim();
  const full = /^[a-z][a-z\d+.-]*:\/\//i.test(text) ? text : `http://${text}`;
  const proxy = URL.canParse(full) ? new URL(full) : undefined;
  if (!proxy || !/^https?:$/.test(proxy.protocol)) {
    throw new UserError(
      `${name}: expected the address of an HTTP proxy, got "${withoutPassword(text)}". Set it to http://host:port, or list ${url.hostname} in NO_PROXY.`,
    );
  }
  return proxy.href.replace(/\/$/, "");
}

function isWithoutProxy(url: URL, list: string): boolean {
  const host = url.hostname.replace(/^\[|\]$/g, "").toLowerCase();
  const port = url.port || (url.protocol === "https:" ? "443" : "80");
  return list
    .toLowerCase()
    .split(/[\s,]+/)
    .filter((entry) => entry !== "")
    .some((entry) => {
      if (entry === "*") return true;
      const [, range, bits] = /^([\d.]+|[\da-f:]+)\/(\d{1,3})$/.exec(entry) ?? [];
      if (range !== undefined) return isIn(host, range, Number(bits));
      const [, name = entry, only] = /^(.*[^:]|\[.*\]):(\d+)$/.exec(isIP(entry) ? "" : entry) ?? [];
      const wanted = name.replace(/^\[|\]$/g, "").replace(/^\*?\./, "");
      return (only === undefined || only === port) && (host === wanted || (!isIP(host) && host.endsWith(`.${wanted}`)));
    });
}

function isIn(host: string, range: string, bits: number): boolean {
  const [of, is] = [isIP(range), isIP(host)];
  if (of === 0 || of !== is || bits > (of === 4 ? 32 : 128)) return false;
  const family = of === 4 ? "ipv4" : "ipv6";
  const list = new BlockList();
  list.addSubnet(range, bits, family);
  return list.check(host, family);
}

const proxyNames = ["http_proxy", "https_proxy", "all_proxy"].flatMap((name) => [name, name.toUpperCase()]);

/** `fetch` through proxies, and the variables that it was made for. */
let proxied: { readonly key: string; readonly fetched: Promise<typeof fetch> } | undefined;

/** `fetch` through the proxies that the environment names, also where a redirect leads. @throws UserError if one is none that speaks HTTP */
export const fetchAnywhere: typeof fetch = async (input, init) => {
  const address = input instanceof Request ? input.url : String(input);
  if (!proxyNames.some((name) => process.env[name])) return fetch(input, init);
  proxyFor(address);
  const key = JSON.stringify([...proxyNames, "no_proxy", "NO_PROXY"].map((name) => process.env[name]));
  if (proxied?.key !== key) proxied = { key, fetched: makeProxied() };
  return (await proxied.fetched)(input, init);
};

async function makeProxied(): Promise<typeof fetch> {
  const { Agent, fetch: fetchWith, Pool, ProxyAgent } = await import("undici");
  const dispatcher = new Agent({
    factory(origin, options) {
      const proxy = proxyFor(String(origin));
      return proxy === undefined ? new Pool(origin, options) : new ProxyAgent(proxyOptions(proxy));
    },
  });
  return (async (input: string, init: object) => fetchWith(input, { ...init, dispatcher })) as unknown as typeof fetch;
}

/** Plain HTTP goes to a proxy as whole addresses: few let it through a tunnel. */
function proxyOptions(proxy: string) {
  const { username, password } = new URL(proxy);
  const login = `${decodeURIComponent(username)}:${decodeURIComponent(password)}`;
  return {
    uri: proxy,
    proxyTunnel: false,
    ...(username ? { token: `Basic ${Buffer.from(login).toString("base64")}` } : {}),
  };
}

/** What to check where an address is not reached: names the proxy, without its password. */
export function proxyAdvice(address: string): string {
  const proxy = proxyFor(address);
  return proxy === undefined
    ? "the network (behind a proxy, set HTTPS_PROXY)"
    : `the network, the proxy ${withoutPassword(proxy)}`;
}
