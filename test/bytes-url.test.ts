import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { afterEach, beforeEach, expect, it } from "vitest";
import { openUrl } from "../src/bytes/url.ts";

const contents = Buffer.from(Array.from({ length: 1000 }, (_, i) => i % 251));
let server: Server;
let address: string;
let sent = 0;
/** Whether the server knows ranges. */
let ranges = true;
beforeEach(async () => {
  [sent, ranges] = [0, true];
  server = createServer((request, response) => {
    const [, from, to] = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? "") ?? [];
    const whole = !ranges || from === undefined;
    const bytes = whole ? contents : contents.subarray(Number(from), Number(to) + 1);
    sent += bytes.length;
    response.writeHead(whole ? 200 : 206, whole ? {} : { "content-range": `bytes ${from}-${to}/${contents.length}` });
    response.end(bytes);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  address = `http://127.0.0.1:${(server.address() as AddressInfo).port}/file`;
});
afterEach(() => new Promise((resolve) => server.close(resolve)));

it("a file behind an address costs the bytes that are read", async () => {
  const source = await openUrl(address);
  expect(source).toMatchObject({ name: address, size: 1000 });
  expect(Buffer.from(await source.read(100, 50)).equals(contents.subarray(100, 150))).toBe(true);
  expect(await source.read(1000, 0)).toHaveLength(0);
  expect(sent).toBe(51);
  await expect(source.read(990, 11)).rejects.toThrow("expected at most 1000");
  await source.close();
});

it("a server that sends the whole file, and one that does not answer, are refused", async () => {
  ranges = false;
  await expect(openUrl(address)).rejects.toThrow(/^file: expected a part of it \(status 206\), got status 200 at http/);
  await expect(openUrl(`${address.replace(/:\d+/, ":1")}`)).rejects.toThrow(
    /^file: expected an answer, got .* at http/,
  );
});
