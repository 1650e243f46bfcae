import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { expectSameRun, manifestOf, type Started, start, succeeds } from "./cli-harness.ts";

/** Pairs per split and case, 32 of which there are: enough that all of them are a phase by themselves. */
const many = ["--num_examples", "66", "--sites", "resid_post", "--layers", "1,2"];
/** Milliseconds within which a stopped command has to have ended: far more than it takes alone, since tests share the machine. */
const patience = 60_000;

let home: string;
beforeAll(async () => {
  home = await mkdtemp(join(tmpdir(), "sfc-many-"));
});
afterAll(() => rm(home, { recursive: true, force: true }));

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

it("a run of many pairs ends in every phase when it is asked to, says how it is resumed, and comes to the same numbers", {
  timeout: 600_000,
}, async () => {
  const [folder, undisturbed] = [join(home, "stopped"), join(home, "undisturbed")];
  const flags = (to: string) => ["run", ...many, "--output_dir", to];
  const { stderr: told } = await succeeds(flags(undisturbed));
  const phases = ["pairs", "tokens", "forest", "capture", "effects", "checks", "writing", "exact", "meaning"];
  const shown = [...told.matchAll(/^(\w+): [\d.]+ (?:m?s|min)/gm)].map(([, phase]) => phase!);
  expect(phases.filter((phase) => !shown.includes(phase))).toEqual([]);
  expect(shown.at(-1)).toBe("report");
  for (const [i, phase] of phases.entries()) {
    const { code, stderr, waited } = await stopAfter(phase, i % 2 === 0 ? "SIGINT" : "SIGTERM", flags(folder));
    expect(waited, phase).toBeLessThan(patience);
    // What follows the last phase may be over before the signal is heard.
    if (phase === phases.at(-1) && code === 0 && (await manifestOf(folder)).status === "finished") break;
    expect({ phase, code }).toEqual({ phase, code: 130 });
    expect(stderr.trimEnd().split("\n").at(-1)).toBe("Stopped. The same command resumes it.");
  }
  await succeeds(flags(folder));
  await expectSameRun(folder, undisturbed);
});

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
