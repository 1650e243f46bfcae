import { spawnSync } from "node:child_process";
import { once } from "node:events";
import { MessageChannel, type MessagePort } from "node:worker_threads";
import { afterEach, beforeEach, expect, it } from "vitest";
import { StoppedError, UsageError, UserError } from "../src/errors.ts";
import { asking, reportTo } from "../src/jobs/ask.ts";
import type { Call, Port, Reply } from "../src/jobs/messages.ts";
import { serve } from "../src/jobs/serve.ts";

let channel: MessageChannel;
beforeEach(() => {
  channel = new MessageChannel();
});
afterEach(() => channel.port1.close());

function portOf<Out, In>(port: MessagePort): Port<Out, In> {
  return {
    send: (message) => port.postMessage(message),
    listen: (hear) => void port.on("message", hear),
    close: () => port.close(),
  };
}

/** A job that doubles numbers, and tells of it; what it is asked is a number, or what to throw. */
function doubling() {
  serve<number | string, number, string>(portOf(channel.port2), async (request, { reporter, tell }) => {
    if (request === "usage") throw new UsageError("wrong flag");
    if (request === "full") throw new UserError("full", { code: "no_space" });
    if (request === "fault") throw new TypeError("a fault");
    if (request === "wait") {
      while (!reporter.stopped()) await new Promise((resolve) => setTimeout(resolve, 5));
      throw new StoppedError();
    }
    reporter.begin("doubling", 2);
    tell(`a number, ${request}`);
    reporter.set(2);
    reporter.end();
    return 2 * Number(request);
  });
  return asking<number | string, number, string>(portOf<Call<number | string>, Reply<number, string>>(channel.port1));
}

it("answers come with what is told on the way, one request after another", async () => {
  const job = doubling();
  const heard: string[] = [];
  const bar = {
    begin: (phase: string, total: number) => void heard.push(`${phase} of ${total}`),
    set: (done: number) => void heard.push(`${done}`),
    end: () => void heard.push("end"),
    line: (text: string) => void heard.push(text),
  };
  const hearing = { onReport: reportTo(bar, "test "), onEvent: (event: string) => void heard.push(event) };
  expect(await job.ask(21, hearing)).toBe(42);
  expect(heard).toEqual(["test doubling of 2", "a number, 21", "2", "end"]);
  expect(await job.ask(4)).toBe(8);
  expect(heard.length).toBe(4);
});

it("errors arrive as the kind that was thrown, with their code", async () => {
  const job = doubling();
  const problem = (request: string) => job.ask(request).catch((error: unknown) => error);
  expect(await problem("usage")).toEqual(new UsageError("wrong flag"));
  expect(await problem("usage")).toBeInstanceOf(UsageError);
  expect(await problem("full")).toMatchObject({ name: "UserError", code: "no_space", message: "full" });
  const fault = await problem("fault");
  expect(fault).not.toBeInstanceOf(UserError);
  expect((fault as Error).stack).toContain("TypeError: a fault");
});

it("stopping is heard while a request is worked on, and ending closes the port", async () => {
  const job = doubling();
  const asked = job.ask("wait");
  channel.port1.postMessage({ type: "stop" });
  await expect(asked).rejects.toThrow(StoppedError);
  const closed = once(channel.port1, "close");
  channel.port1.postMessage({ type: "end" });
  await closed;
});

it("whoever waits for what has ended gets the reason, then and later", async () => {
  const job = doubling();
  const asked = job.ask("wait");
  job.fail(new Error("it ended"));
  await expect(asked).rejects.toThrow("it ended");
  await expect(job.ask(1)).rejects.toThrow("it ended");
});

it("sets V8 up with flags that this version of Node knows", () => {
  const module = new URL("../src/jobs/collector.ts", import.meta.url).href
    .replace("/src/", "/dist/")
    .replace(/ts$/, "js");
  const script = `import { setUpCollector } from ${JSON.stringify(module)}; setUpCollector(); console.log("set up");`;
  const { stdout, stderr } = spawnSync(process.execPath, ["--input-type=module", "-e", script], { encoding: "utf8" });
  expect({ stdout, stderr }).toEqual({ stdout: "set up\n", stderr: "" });
});
