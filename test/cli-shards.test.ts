import { appendFile, cp, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { hostname, tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  copyProgram,
  examples,
  expectError,
  expectSameRun,
  filesUnder,
  llama,
  manifestOf,
  packsIn,
  runFlags,
  sfc,
  start,
  succeeds,
  until,
  writeExamples,
} from "./cli-harness.ts";

let home: string;
let pairs: string;
let whole: string;
beforeAll(async () => {
  home = await mkdtemp(join(tmpdir(), "sfc-shards-"));
  pairs = await writeExamples(join(home, "pairs.jsonl"), examples(24));
  whole = join(home, "whole");
  await succeeds(flagsTo(whole));
});
afterAll(() => rm(home, { recursive: true, force: true }));

/** A pack for each pair, so that there is something to share. */
const flagsTo = (folder: string, ...more: string[]) => runFlags(pairs, folder, "--batch_size", "1", ...more);
const plan = (folder: string, shards: number, ...more: string[]) =>
  succeeds(flagsTo(folder, "--shards", String(shards), ...more));
const shard = (k: number, folder: string, ...more: string[]) =>
  succeeds(["run", "--shard", String(k), folder, ...more]);

/** What a divided run's folder says of its shards. */
async function planOf(folder: string) {
  const file = filesUnder(folder).find((name) => name.endsWith("shards.json"))!;
  return JSON.parse(await readFile(join(folder, file), "utf8"));
}

it("three shards, one of them killed and computed again, make the run that one process makes, to the last bit", async () => {
  const folder = join(home, "divided");
  const planned = await plan(folder, 3);
  expect(planned.stdout).toContain(`${folder} is planned as 3 shards.`);

  const killed = start(["run", "--shard", "1", folder]);
  expect(await until(folder, killed, (files) => packsIn(files) >= 3)).toBe(true);
  killed.child.kill("SIGKILL");
  await killed.ended;
  const some = packsIn(filesUnder(folder));
  expect((await shard(3, folder)).stdout).toBe(
    "Shard 3 of 3 has its packs. Its sites wait for the packs of shards 1, 2: run the same command again then.\n",
  );
  expectError(await sfc("merge", folder), 1, "shards 1, 2 without packs and shards 1, 2, 3 without sites", folder);
  await shard(1, folder);
  expect(packsIn(filesUnder(folder))).toBeGreaterThan(some);
  expect((await shard(2, folder)).stdout).toBe("Shard 2 of 3 is done.\n");
  await shard(1, folder);
  expectError(await sfc("merge", folder), 1, "expected 3 finished shards, got shard 3 without sites");
  await shard(3, folder, "--part", "sites");
  // Once more changes nothing.
  expect((await shard(3, folder)).stdout).toBe("Shard 3 of 3 is done.\n");

  expect((await succeeds(["merge", folder])).stdout).toContain(`Report: ${join(folder, "report.html")}`);
  await expectSameRun(folder, whole);
  const { seconds, unexplained } = await manifestOf(folder);
  expect(unexplained).toEqual((await manifestOf(whole)).unexplained);
  expect(Object.keys(seconds)).toEqual(expect.arrayContaining(["capture", "effects", "meaning"]));
  expect((await shard(2, folder)).stdout).toBe(`${folder} holds the finished run.\n`);
  expect((await succeeds(["merge", folder])).stdout).toContain("holds the finished run with these options");
});

it.each([
  ["exact, patch by patch", ["--method", "exact"]],
  ["a score that has no rows", ["--score", "gradient"]],
  ["weights that are streamed, with a wave for each shard", ["--weights", "streamed"]],
  ["a method that takes all sites together", ["--method", "secant"]],
])("%s: the same run again", async (name, flags) => {
  const [one, divided] = [join(home, `one ${name}`), join(home, `divided ${name}`)];
  await succeeds(flagsTo(one, ...flags));
  await plan(divided, 2, ...flags);
  const { shards } = await planOf(divided);
  expect(shards[0].packs[1]).toBe(shards[1].packs[0]);
  expect(shards[0].packs[1]).toBeGreaterThan(0);
  for (const k of [1, 2, 1]) await shard(k, divided);
  await succeeds(["merge", divided]);
  if (flags[1] === "gradient") {
    const read = (folder: string) => readFile(join(folder, "ranking.json"), "utf8");
    expect(await read(divided)).toBe(await read(one));
  } else await expectSameRun(divided, one);
});

it("a plan of more shards takes what those of before have computed", async () => {
  const folder = join(home, "more");
  await plan(folder, 2);
  await shard(2, folder);
  const some = packsIn(filesUnder(folder));
  await plan(folder, 3);
  expect((await planOf(folder)).shards).toHaveLength(3);
  expectError(await sfc("merge", folder), 1, "shards 1, 2, 3 without packs");
  for (const k of [3, 2, 1, 2, 3]) await shard(k, folder);
  expect(some).toBeGreaterThan(5);
  await succeeds(["merge", folder]);
  await expectSameRun(folder, whole);
});

it("sfc run with the flags of the plan computes what is left by itself", async () => {
  const folder = join(home, "left");
  await plan(folder, 2);
  await shard(1, folder);
  await succeeds(flagsTo(folder));
  await expectSameRun(folder, whole);
});

describe("a shard whose input is another than when it was planned is refused", () => {
  let folder: string;
  beforeAll(async () => {
    folder = join(home, "inputs");
    await cp(llama, join(home, "model"), { recursive: true });
    await cp(pairs, join(home, "own.jsonl"));
    const flags = runFlags(join(home, "own.jsonl"), folder, "--model_name", join(home, "model"), "--batch_size", "1");
    await succeeds([...flags, "--shards", "2"]);
  });
  const refused = (ended: Parameters<typeof expectError>[0], ...parts: string[]) =>
    expectError(ended, 1, ...parts, folder);

  it("pairs", async () => {
    await writeExamples(join(home, "own.jsonl"), examples(23));
    refused(await sfc("run", "--shard", "1", folder), "shard 1: expected the pairs of the plan");
    await cp(pairs, join(home, "own.jsonl"));
  });

  it("model", async () => {
    const file = join(home, "model", "model.safetensors");
    const before = await readFile(file);
    const after = Buffer.from(before);
    after[after.length - 2]! ^= 1;
    await writeFile(file, after);
    refused(await sfc("run", "--shard", "2", folder), "shard 2: expected the model of the plan");
    refused(await sfc("merge", folder), "merge: expected the model of the plan");
    await writeFile(file, before);
  });

  it("program", async () => {
    const program = await copyProgram(join(home, "program"));
    const file = join(home, "program/package.json");
    await writeFile(file, JSON.stringify({ ...JSON.parse(await readFile(file, "utf8")), version: "9.9.9" }));
    const ended = await start(["run", "--shard", "1", folder], program).ended;
    refused(ended, "expected analytic-sfc", "as planned, got analytic-sfc 9.9.9");
    await cp(join(import.meta.dirname, "../package.json"), file);
    await appendFile(join(home, "program/dist/errors.js"), "// changed");
    refused(await start(["run", "--shard", "1", folder], program).ended, "expected the build of sfc of the plan");
  });

  it("and taken once it is the planned one again", async () => {
    for (const k of [1, 2, 1]) await shard(k, folder);
    await succeeds(["merge", folder]);
  });
});

describe("locks", () => {
  let folder: string;
  beforeAll(async () => {
    folder = join(home, "locks");
    await plan(folder, 2);
  });
  const held = (host: string, more: object = {}) => JSON.stringify({ pid: 1, host, begun: null, ...more });

  it("a shard that another machine computes is left to it, and so is the whole", async () => {
    const file = join(folder, ".lock-shard-1");
    await writeFile(file, held("elsewhere", { job: "17" }));
    expectError(await sfc("run", "--shard", "1", folder), 1, "process 1 on elsewhere (job 17, last sign of life", file);
    expectError(
      await sfc("merge", folder),
      1,
      "nobody at work on a shard of the run, got process 1 on elsewhere",
      file,
    );
    expectError(await sfc(...flagsTo(folder)), 1, "nobody at work on a shard");
    // Another shard is nobody's.
    expect((await shard(2, folder)).stdout).toContain("Shard 2 of 2 has its packs.");
    await rm(file);
  });

  it("what the same job of a batch system left on another machine is taken over", async () => {
    await writeFile(join(folder, ".lock-shard-1"), held("elsewhere", { job: "17" }));
    const args = ["run", "--shard", "1", "--part", "packs", folder];
    expect((await start(args, undefined, { SLURM_JOB_ID: "17" }).ended).code).toBe(0);
    expect(await readdir(folder)).not.toContain(".lock-shard-1");
  });

  it("no shard is computed while a process works on the whole", async () => {
    const file = join(folder, ".lock");
    await writeFile(file, held("elsewhere"));
    expectError(
      await sfc("run", "--shard", "1", folder),
      1,
      "at work on the whole run, got process 1 on elsewhere",
      file,
    );
    await rm(file);
  });

  it("a lock of a process that has ended on this machine is taken over", async () => {
    await writeFile(join(folder, ".lock-shard-1"), JSON.stringify({ pid: 2 ** 22 + 1, host: hostname(), begun: null }));
    await shard(1, folder);
  });
});

it.each([
  [["--shards", "40"], 2, "--shards: expected at most"],
  [["--shards", "2", "--keep", "correct"], 2, "expected --keep all"],
  [["--shards", "2", "--precision", "float64"], 2, "expected --precision float32"],
] as const)("a run that cannot be divided so is refused: %j", async (flags, code, text) => {
  expectError(await sfc(...runFlags(pairs, join(home, "refused")), ...flags), code, text);
});

it.each([
  [["run", "--shard", "1"], 2, "--shard: expected the folder"],
  [["run", "somewhere"], 2, "somewhere: expected --shard K"],
  [["run", "--part", "packs"], 2, "--part: expected --shard K"],
  [["run", "--shard", "1", "--task", "pronoun", "somewhere"], 2, "--task: expected no such flag with --shard"],
  [["run", "--shard", "1", "/nowhere"], 1, "expected one that is planned as shards"],
  [["merge", "/nowhere"], 1, "expected one that is planned as shards"],
  [["slurm", "/nowhere"], 1, "expected one that is planned as shards"],
] as const)("bad use is told: %j", async (args, code, text) => {
  expectError(await sfc(...args), code, text);
});
