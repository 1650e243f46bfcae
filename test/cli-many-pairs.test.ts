import { expect, it } from "vitest";
import { type Started, start } from "./cli-harness.ts";

/** Milliseconds within which a stopped command has to have ended: far more than it takes alone, since tests share the machine. */
const patience = 60_000;

/** Waits until a phase has ended, so that the next one is under way. @returns false if the command has ended before */
async function ended(phase: string, { child, ended }: Started): Promise<boolean> {
  let text = "";
  return new Promise((resolve) => {
    void ended.then(() => resolve(false));
    child.stderr!.on("data", (part: string) => {
      text += part;
      if (new RegExp(`^${phase}: [\\d.]+ (m?s|min)`, "m").test(text)) resolve(true);
    });
  });
}

/** Starts a command, and stops it once a phase has ended. @returns how it ended, and after how long */
async function stopAfter(phase: string, signal: NodeJS.Signals, args: readonly string[]) {
  const command = start(args);
  expect(await ended(phase, command), `phase ${phase}`).toBe(true);
  const asked = performance.now();
  command.child.kill(signal);
  const result = await command.ended;
  return { ...result, waited: performance.now() - asked };
}

it.each([
  ["pairs", "pairs"],
  ["pairs", "tokens"],
  ["estimate", "pairs"],
  ["estimate", "tokens"],
])("sfc %s of many pairs stops after the phase %s", { timeout: 300_000 }, async (command, phase) => {
  const { code, stdout, stderr, waited } = await stopAfter(phase, "SIGTERM", [command, "--num_examples", "1000"]);
  expect(waited).toBeLessThan(patience);
  expect({ code, stdout }).toEqual({ code: 130, stdout: "" });
  expect(stderr.trimEnd().split("\n").at(-1)).toBe("Stopped.");
});
