import { mkdirSync, symlinkSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";

/** An answer as it came over the wire. */
export interface Answer {
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string;
}

/** Sends bytes as they are, which no client of a library would, and reads the answer to its end. */
export function send(port: number, text: string): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const socket = connect(port, "127.0.0.1");
    let all = "";
    socket.setEncoding("utf8").on("data", (part: string) => {
      all += part;
    });
    socket.on("error", (error) => (all === "" ? reject(error) : resolve(answerOf(all))));
    socket.on("end", () => resolve(answerOf(all)));
    socket.write(text, "latin1");
  });
}

function answerOf(text: string): Answer {
  const [head = "", ...rest] = text.split("\r\n\r\n");
  const [line = "", ...fields] = head.split("\r\n");
  const headers = Object.fromEntries(
    fields.map((field) => [field.split(":")[0]!.toLowerCase(), field.slice(field.indexOf(":") + 1).trim()]),
  );
  return { status: Number(line.split(" ")[1]), headers, body: rest.join("\r\n\r\n") };
}

/** A request in the words of HTTP/1.1. */
export function wire(method: string, path: string, headers: Readonly<Record<string, string>> = {}, body = ""): string {
  const fields = Object.entries({ host: "localhost", connection: "close", ...headers });
  return `${method} ${path} HTTP/1.1\r\n${fields.map(([name, value]) => `${name}: ${value}\r\n`).join("")}\r\n${body}`;
}

/** What must never be sent. */
export const secret = "this lies outside of the folder";

/** A folder to serve, `served`, beside a file with the secret and with links that lead to it. */
export function temptingFolder(home: string): string {
  const folder = join(home, "served");
  mkdirSync(join(folder, "run"), { recursive: true });
  mkdirSync(join(home, "other"));
  for (const place of [join(home, "secret.json"), join(home, "other/secret.json"), join(folder, ".hidden.json")])
    writeFileSync(place, secret);
  writeFileSync(join(folder, "run/plain.json"), '{"plain":true}');
  writeFileSync(join(folder, "run/program.mjs"), secret);
  symlinkSync(join(home, "secret.json"), join(folder, "run/link.json"));
  symlinkSync(join(home, "other"), join(folder, "out"));
  symlinkSync(join(folder, "run/plain.json"), join(folder, "run/inner.json"));
  return folder;
}
