import { createReadStream, statSync } from "node:fs";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { extname, join } from "node:path";

/** What the simplest server knows of files. */
const types: Readonly<Record<string, string>> = {
  ".html": "text/html",
  ".js": "text/javascript",
  ".css": "text/css",
  ".json": "application/json",
  ".wasm": "application/wasm",
};

/** A server of files alone, as any static host is. */
export interface StaticServer {
  /** The address of the site, which lies in a subfolder. */
  readonly url: string;
  /** What it was asked for, as paths in the site, with those that it does not have. */
  readonly asked: { readonly path: string; readonly status: number }[];
  close(): void;
}

/** Serves a folder on loopback below /some/place/. @param isolated whether with the headers that let a page use threads */
export async function serveStatic(folder: string, isolated: boolean): Promise<StaticServer> {
  const asked: { path: string; status: number }[] = [];
  const prefix = "/some/place/";
  const server: Server = createServer((request, response) => {
    const address = new URL(request.url!, "http://localhost").pathname;
    const path = address.startsWith(prefix) ? address.slice(prefix.length) || "index.html" : "..";
    const found = path.includes("..") ? undefined : statSync(join(folder, path), { throwIfNoEntry: false });
    const status = request.method === "GET" && found?.isFile() ? 200 : 404;
    asked.push({ path: address, status });
    if (isolated) {
      response.setHeader("cross-origin-opener-policy", "same-origin");
      response.setHeader("cross-origin-embedder-policy", "require-corp");
    }
    if (status === 404) return void response.writeHead(404).end();
    response.writeHead(200, { "content-type": types[extname(path)] ?? "application/octet-stream" });
    createReadStream(join(folder, path)).pipe(response);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}${prefix}`,
    asked,
    close: () => {
      server.close();
      server.closeAllConnections();
    },
  };
}
