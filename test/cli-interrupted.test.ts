import { execFileSync } from "node:child_process";
import { constants } from "node:fs";
import { mkdtemp, open, readFile, rm, stat, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import {
  completeRun,
  copyProgram,
  examples,
  expectComplete,
  expectError,
  expectSameRun,
  filesUnder,
  manifestOf,
  packsIn,
  runFlags,
  sfc,
  signalAmidst,
  start,
  succeeds,
  until,
  writeExamples,
} from "./cli-harness.ts";

let home: string;
let pairs: string;
let undisturbed: string;
beforeAll(async () => {
  home = await mkdtemp(join(tmpdir(), "sfc-interrupted-"));
  pairs = await writeExamples(join(home, "pairs.jsonl"), examples(24));
  undisturbed = join(home, "undisturbed");
  await succeeds(flagsTo(undisturbed));
});
afterAll(() => rm(home, { recursive: true, force: true }));

/** A pack for each pair, so that there is a middle. */
const flagsTo = (folder: string) => runFlags(pairs, folder, "--batch_size", "1");

it("Ctrl-C among the packs: exit 130, and the same command goes on from the packs that were done", async () => {
  const somePacks = (files: string[]) => packsIn(files) >= 6;
  const { folder, run } = await signalAmidst("SIGINT", somePacks, flagsTo, join(home, "ctrl-c"));
  const { code, stdout, stderr } = await run.ended;
  expect({ code, stdout }).toEqual({ code: 130, stdout: "" });
  expect(stderr.trimEnd().split("\n").at(-1)).toBe("Stopped. The same command resumes it.");
  const left = filesUnder(folder);
  expect(left.filter((file) => /\.part$|\.lock/.test(file))).toEqual([]);
  expectError(await sfc("report", folder), 1, "interrupted", folder);

  const pack = join(folder, left.find((file) => file.includes("pack-"))!);
  const made = (await stat(pack)).mtimeMs;
  const second = start(flagsTo(folder));
  expect(await until(folder, second, (files) => packsIn(files) > packsIn(left))).toBe(true);
  expect((await stat(pack)).mtimeMs).toBe(made);
  const ended = await second.ended;
  expect(ended.code).toBe(0);
  expect(ended.stderr).toContain(`Resuming the interrupted run in ${folder}.`);
  await expectSameRun(folder, undisturbed);
});

it("a second Ctrl-C ends it at once", async () => {
  const folder = join(home, "ctrl-c twice");
  const first = start(flagsTo(folder));
  await until(folder, first, (files) => packsIn(files) >= 1);
  first.child.kill("SIGINT");
  first.child.kill("SIGINT");
  // The system may deliver both as one; shells call the other 130, too.
  const { code, signal } = await first.ended;
  expect(signal === "SIGINT" || code === 130, `${signal} ${code}`).toBe(true);
});

it("a second signal ends it at once even where it waits for an input that never comes", async () => {
  const pipe = join(home, "pipe");
  execFileSync("mkfifo", [pipe]);
  const run = start(runFlags(pipe, join(home, "of a pipe")));
  let stderr = "";
  run.child.stderr!.on("data", (text: string) => (stderr += text));
  const waitFor = async <T>(look: () => T | Promise<T>): Promise<T> => {
    for (;;) {
      const found = await look();
      if (found) return found;
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  };
  // Its other end can be opened once the run reads from it.
  const end = await waitFor(() => open(pipe, constants.O_WRONLY | constants.O_NONBLOCK).catch(() => undefined));
  run.child.kill("SIGTERM");
  await waitFor(() => stderr.includes("Stopping"));
  run.child.kill("SIGTERM");
  expect((await run.ended).signal).toBe("SIGTERM");
  await end!.close();
});

it.each([
  ["forward", /stream-x-01/],
  ["back", /stream-g-02/],
])("kill -9 on the way %s through streamed blocks, then the same command: the same numbers", async (way, part) => {
  const streamed = (folder: string) => [...flagsTo(folder), "--weights", "streamed"];
  const whole = join(home, `streamed ${way}`);
  await succeeds(streamed(whole));
  const reached = (files: string[]) => files.some((file) => part.test(file));
  const { folder } = await signalAmidst("SIGKILL", reached, streamed, join(home, `streamed killed ${way}`));
  // Without the flag it goes on as it began.
  const ended = await succeeds(flagsTo(folder));
  expect(ended.stderr).not.toContain("starts over");
  expect((await manifestOf(folder)).estimate).toMatchObject({ weights: "streamed" });
  await expectSameRun(folder, whole);
});

const middles: [where: string, reached: (files: string[]) => boolean][] = [
  ["among the packs", (files) => packsIn(files) >= 8],
  ["among the sites", (files) => files.some((file) => /effects\.\w+\.\d\..*\.parquet$/.test(file))],
  ["while the tables are put together", (files) => files.includes("nodes.parquet")],
];
it.each(middles)("kill -9 %s, then the same command: the same numbers", async (where, reached) => {
  const { folder } = await signalAmidst("SIGKILL", reached, flagsTo, join(home, where));
  // As many pairs per pack as fit: packs are other ones now, sites that are done stay.
  await succeeds(where === "among the sites" ? runFlags(pairs, folder) : flagsTo(folder));
  if (where === "among the sites") await expectComplete(folder);
  else await expectSameRun(folder, undisturbed);
});

it.each([
  ["in the passes of secant", (files: string[]) => packsIn(files) >= 20],
  ["among the sites of secant", (files: string[]) => files.some((file) => /effects\.\w+\.\d\..*\.parquet$/.test(file))],
] as const)(
  "kill -9 %s, then the same command: it says what starts over, and has the same numbers",
  async (where, reached) => {
    const secant = (folder: string) => [...flagsTo(folder), "--method", "secant"];
    const whole = join(home, `${where} whole`);
    await succeeds(secant(whole));
    const { folder } = await signalAmidst("SIGKILL", reached, secant, join(home, where));
    const { stderr } = await succeeds(secant(folder));
    expect(stderr).toContain("Sites that are done stay; the passes of secant start over.");
    await expectSameRun(folder, whole);
  },
);

it("a pack whose file is damaged is run again", async () => {
  const { folder } = await signalAmidst("SIGKILL", (files) => packsIn(files) >= 5, flagsTo, join(home, "damaged"));
  const packs = filesUnder(folder).filter((file) => /pack-[^/]*\.safetensors$/.test(file));
  await truncate(join(folder, packs[0]!), 100);
  await truncate(join(folder, packs[1]!), 0);
  await succeeds(flagsTo(folder));
  await expectSameRun(folder, undisturbed);
});

it("work that another version of the program did is not taken up, and run.json names the one that finished", async () => {
  const { folder } = await signalAmidst("SIGKILL", (files) => packsIn(files) >= 5, flagsTo, join(home, "versions"));
  const program = await copyProgram(join(home, "program"));
  const file = join(home, "program/package.json");
  await writeFile(file, JSON.stringify({ ...JSON.parse(await readFile(file, "utf8")), version: "9.9.9" }));
  const { code, stderr } = await start(flagsTo(folder), program).ended;
  expect(code, stderr).toBe(0);
  expect(stderr).toContain("changed since the interruption");
  expect((await manifestOf(folder)).versions["analytic-sfc"]).toBe("9.9.9");
  await expectSameRun(folder, undisturbed);
});

it("of work on other pairs no result stays that the new ones do not have", async () => {
  const file = await writeExamples(join(home, "some.jsonl"), examples(24));
  const flags = (folder: string) => runFlags(file, folder, "--batch_size", "1");
  const { folder } = await signalAmidst("SIGKILL", (files) => packsIn(files) >= 5, flags, join(home, "only train"));
  await writeFile(join(folder, "ablation.json"), "{}");
  await writeExamples(
    file,
    examples(12).map((example) => ({ ...example, split: "train" })),
  );
  await succeeds(flags(folder));
  expect(filesUnder(folder)).toEqual(completeRun.filter((name) => name !== "ablation.json"));
});

it("work that was done on other pairs is not taken up", async () => {
  const oneSite = (files: string[]) => files.some((file) => file.includes("effects."));
  const { folder } = await signalAmidst("SIGKILL", oneSite, flagsTo, join(home, "changed"));
  const own = await readFile(pairs);
  // The prompts stay, so that the nodes are the same: only answers differ.
  const swapped = examples(24).map((e) => ({ ...e, clean_answer: e.patch_answer, patch_answer: e.clean_answer }));
  try {
    await writeExamples(pairs, swapped);
    const { stderr } = await succeeds(flagsTo(folder));
    expect(stderr).toContain("changed since the interruption");
    const other = join(home, "of the changed pairs");
    await succeeds(flagsTo(other));
    await expectSameRun(folder, other);
  } finally {
    await writeFile(pairs, own);
  }
});
