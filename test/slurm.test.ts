import { spawn, spawnSync } from "node:child_process";
import { readdirSync } from "node:fs";
import { chmod, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { scriptText, toSubmit } from "../src/commands/slurm.ts";
import { slurmLocking } from "../src/jobs/slurm.ts";
import type { ShardState } from "../src/results/shards.ts";
import { entry, examples, expectError, expectSameRun, run, runFlags, succeeds, writeExamples } from "./cli-harness.ts";

type Tasks = Parameters<typeof toSubmit>[1];
type Task = Tasks[number];

const state = (packs: boolean, sites: boolean): ShardState => {
  const part = (finished: boolean) => ({ done: 0, total: 1, finished });
  const found = { seconds: {}, peak_rss_bytes: 0, checks: [], unexplained: {} };
  return { host: "n1", written: "", packs: part(packs), sites: part(sites), ...found };
};
const task = (stage: Task["stage"], job: string, number: number | null, word: string, reason = "None"): Task => ({
  stage,
  id: job,
  job,
  task: number,
  state: word,
  reason,
  node: "",
});

describe("what has to be submitted", () => {
  const next = (states: readonly ShardState[], tasks: Tasks = []) => {
    const { shards, cancelled } = toSubmit(states, tasks);
    return { shards: Object.fromEntries(shards), cancelled };
  };
  const none = [state(false, false), state(false, false), state(false, false)];
  const packed = [state(true, false), state(true, false), state(true, false)];

  it("all of a run that is nowhere", () => {
    expect(next(none)).toEqual({ shards: { packs: [1, 2, 3], sites: [1, 2, 3], merge: [] }, cancelled: [] });
  });

  const waiting = [1, 2, 3].map((k) => task("sites", "2", k, "PENDING", "Dependency"));
  const merge = task("merge", "3", null, "PENDING", "Dependency");

  it("nothing while all of it is on its way", () => {
    const running = [1, 2, 3].map((k) => task("packs", "1", k, k === 2 ? "PENDING" : "RUNNING"));
    expect(next(none, [...running, ...waiting, merge])).toEqual({ shards: {}, cancelled: [] });
  });

  it("the packs of a task that failed, and anew what would wait for it without end", () => {
    const packs = [
      task("packs", "1", 1, "COMPLETED"),
      task("packs", "1", 2, "FAILED"),
      task("packs", "1", 3, "RUNNING"),
    ];
    const states = [state(true, false), state(false, false), state(false, false)];
    expect(next(states, [...packs, ...waiting, merge])).toEqual({
      shards: { packs: [2], sites: [1, 2, 3], merge: [] },
      cancelled: ["2", "3"],
    });
  });

  it("the sites that a lost node left, with the merge that can never start", () => {
    const sites = [
      task("sites", "2", 1, "COMPLETED"),
      task("sites", "2", 2, "NODE_FAIL"),
      task("sites", "2", 3, "RUNNING"),
    ];
    const states = [state(true, true), state(true, false), state(true, false)];
    const stuck = task("merge", "3", null, "PENDING", "DependencyNeverSatisfied");
    expect(next(states, [...sites, stuck])).toEqual({ shards: { sites: [2], merge: [] }, cancelled: ["3"] });
  });

  it("what Slurm has forgotten, unless it is done", () => {
    expect(next(packed)).toEqual({ shards: { sites: [1, 2, 3], merge: [] }, cancelled: [] });
    expect(next([state(true, true)])).toEqual({ shards: { merge: [] }, cancelled: [] });
    expect(next([state(true, true)], [task("merge", "3", null, "RUNNING")])).toEqual({ shards: {}, cancelled: [] });
  });
});

it("a task's script goes back into the queue when it fails, a few times, but not where it cannot succeed", async () => {
  const folder = await mkdtemp(join(tmpdir(), "sfc-script-"));
  const log = join(folder, "log");
  await writeFile(join(folder, "scontrol"), `#!/bin/sh\necho "$@" >> '${log}'\n`);
  await chmod(join(folder, "scontrol"), 0o755);
  await mkdir(join(folder, ".partial"));
  const tryIt = async (body: string, restarts: number, array: NodeJS.ProcessEnv = {}) => {
    await rm(log, { force: true });
    const script = scriptText(folder, "packs").replace(/^.* run --shard "\$SLURM.* &$/m, () => `${body} &`);
    expect(script).toContain(`\n${body} &\n`);
    const env = {
      ...process.env,
      PATH: `${folder}${delimiter}${process.env.PATH}`,
      SLURM_JOB_ID: "12",
      ...array,
      SLURM_RESTART_COUNT: String(restarts),
    };
    const { status } = spawnSync("bash", ["-c", script], { env });
    return { status, asked: (await readFile(log, "utf8").catch(() => "")).trim() };
  };
  expect(await tryIt("true", 0)).toEqual({ status: 0, asked: "" });
  expect(await tryIt("(exit 137)", 0)).toEqual({ status: 137, asked: "requeue 12" });
  const array = { SLURM_ARRAY_JOB_ID: "12", SLURM_ARRAY_TASK_ID: "3" };
  expect(await tryIt("(exit 1)", 0, array)).toEqual({ status: 1, asked: "requeue 12_3" });
  expect(await tryIt("(exit 1)", 2)).toEqual({ status: 1, asked: "requeue 12" });
  expect(await tryIt("(exit 1)", 3)).toEqual({ status: 1, asked: "" });
  expect(await tryIt("(exit 2)", 0)).toEqual({ status: 2, asked: "" });
  expect(await tryIt("(exit 130)", 0)).toEqual({ status: 130, asked: "" });
  // Shortly before the time limit Slurm tells the script, which stops its command and goes on in another start, if it got further in this one.
  const atLimit = (work: string) =>
    `(trap 'exit 130' TERM; ${work}; sleep 1; kill -USR1 $$; for i in $(seq 200); do sleep .05; done)`;
  expect(await tryIt(atLimit("true"), 0)).toEqual({ status: 75, asked: "requeue 12" });
  expect(await tryIt(atLimit("true"), 9)).toEqual({ status: 75, asked: "" });
  expect(await tryIt(atLimit(`touch '${folder}/.partial/a.seal'`), 9)).toEqual({ status: 75, asked: "requeue 12" });
  expect(scriptText("/a run's folder", "sites")).toContain(
    `run --shard "$SLURM_ARRAY_TASK_ID" --part sites '/a run'\\''s folder'`,
  );
  await rm(folder, { recursive: true });
});

describe("whether the job that holds a lock has ended", () => {
  let home: string;
  let path: string | undefined;
  beforeAll(async () => {
    home = await mkdtemp(join(tmpdir(), "sfc-squeue-"));
    path = process.env.PATH;
    process.env.PATH = `${home}${delimiter}${path}`;
  });
  afterAll(async () => {
    process.env.PATH = path;
    await rm(home, { recursive: true });
  });
  const ended = async (squeue: string, job: string | null = "43") => {
    await writeFile(join(home, "squeue"), `#!/bin/bash\n${squeue}\n`);
    await chmod(join(home, "squeue"), 0o755);
    const { hasEnded } = slurmLocking();
    return hasEnded!({ pid: 1, host: "n1", begun: null, space: null, job });
  };

  it("is asked of Slurm, of just this task, and what is not known counts as alive", async () => {
    const others = "44|43|1|RUNNING|None|n1";
    expect(await ended(`printf '%s\\n' '${others}' '43|43|2|RUNNING|None|n2'`)).toBe(false);
    expect(await ended(`printf '%s\\n' '${others}' '43|43|2|COMPLETING|None|n2'`)).toBe(false);
    expect(await ended(`printf '%s\\n' '${others}' '43|43|2|PENDING|BeginTime|'`)).toBe(true);
    expect(await ended(`printf '%s\\n' '${others}' '43|43|2|NODE_FAIL|NodeDown|n2'`)).toBe(true);
    expect(await ended("echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")).toBe(true);
    expect(await ended("echo 'Unable to contact slurm controller' >&2; exit 1")).toBe(false);
    expect(await ended("exit 0", null)).toBe(false);
  });
});

describe("sfc slurm", () => {
  let home: string;
  let folder: string;
  let bin: string;
  beforeAll(async () => {
    home = await mkdtemp(join(tmpdir(), "sfc-slurm-"));
    folder = join(home, "run");
    bin = join(home, "bin");
    await mkdir(bin);
    const pairs = await writeExamples(join(home, "pairs.jsonl"), examples(12));
    await succeeds(runFlags(pairs, folder, "--batch_size", "1", "--shards", "2"));
  });
  afterAll(() => rm(home, { recursive: true, force: true }));

  /** A cluster of scripts: `sbatch` counts jobs and keeps its arguments, `squeue` says what it is told. */
  async function fake(queue: Readonly<Record<string, string>>): Promise<NodeJS.ProcessEnv> {
    const write = async (name: string, body: string) => {
      await writeFile(join(bin, name), `#!/bin/bash\n${body}\n`);
      await chmod(join(bin, name), 0o755);
    };
    await write("sbatch", `echo "$@" >> '${home}/sbatch'; echo $((10 + $(wc -l < '${home}/sbatch')))`);
    await write("scancel", `echo "$@" >> '${home}/scancel'`);
    const cases = Object.entries(queue).map(([job, lines]) => `*--jobs=${job}\\ *) printf '%s\\n' '${lines}';;`);
    const unknown = "*) echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1;;";
    await write("squeue", `case "$* " in ${cases.join(" ")} ${unknown} esac`);
    return { PATH: `${bin}${delimiter}${process.env.PATH}` };
  }
  const sent = (name: string) => readFile(join(home, name), "utf8").then((text) => text.trimEnd().split("\n"));

  it("shows its commands and submits nothing with --dry_run", async () => {
    const { stdout } = await succeeds(
      ["slurm", folder, "--dry_run"],
      run(["slurm", folder, "--dry_run"], await fake({})),
    );
    expect(stdout).toContain(`sbatch --job-name=sfc-packs --requeue --signal=B:USR1@60`);
    expect(stdout).toContain("--array=1,2 --dependency=afterok:<job of packs>");
    await expect(sent("sbatch")).rejects.toThrow();
    expect((await readdir(join(folder, "slurm"))).sort()).toEqual(["merge.sh", "packs.sh", "sites.sh"]);
  });

  it("says so where there is no Slurm", async () => {
    expectError(
      await run(["slurm", folder], { PATH: join(home, "empty") }),
      1,
      "Slurm's sbatch is missing",
      "--shard K",
    );
  });

  it("submits packs, sites and merge, each behind the one before, with what --sbatch says", async () => {
    const queue = {
      11: "12|11|1|RUNNING|None|n1\n13|11|2|PENDING|Resources|",
      12: "14|12|1|PENDING|Dependency|\n15|12|2|PENDING|Dependency|",
      13: "13|13|N/A|PENDING|Dependency|",
    };
    const args = ["slurm", folder, "--sbatch", "--mem=4G --time=1:00:00"];
    const { stdout } = await succeeds(args, run(args, await fake(queue)));
    expect(stdout).toContain("Submitted packs of shards 1, 2: job 11.");
    expect(stdout).toMatch(/^1 +– +– +packs running on n1$/m);
    expect(stdout).toContain("merge: pending (Dependency)");
    const [packs, sites, merge] = await sent("sbatch");
    expect(packs).toContain(`--array=1,2 --mem=4G --time=1:00:00 ${folder}/slurm/packs.sh`);
    expect(sites).toContain(`--array=1,2 --dependency=afterok:11 --mem=4G`);
    expect(merge).toContain("--dependency=afterok:12 --mem=4G");
    expect(merge).not.toContain("--array");
  });

  it("submits what a task left that failed, behind those that still run, and cancels what waited for it", async () => {
    const queue = {
      11: "12|11|1|RUNNING|None|n1\n13|11|2|FAILED|NonZeroExitCode|n2",
      12: "14|12|1|PENDING|DependencyNeverSatisfied|\n15|12|2|PENDING|DependencyNeverSatisfied|",
      13: "13|13|N/A|PENDING|Dependency|",
    };
    await succeeds(["slurm", folder], run(["slurm", folder], await fake(queue)));
    expect(await sent("scancel")).toEqual(["--state=PENDING 12 13"]);
    const [packs, sites, merge] = (await sent("sbatch")).slice(3);
    expect(packs).toContain("--array=2 ");
    expect(sites).toContain("--array=1,2 --dependency=afterok:11_1:14");
    expect(merge).toContain("--dependency=afterok:15");
  });
});

/** Kills the first process whose command line ends so. @returns its number */
async function killFirst(command: string): Promise<number> {
  for (;;) {
    for (const pid of readdirSync("/proc").filter((name) => /^\d+$/.test(name))) {
      const line = await readFile(`/proc/${pid}/cmdline`, "utf8").catch(() => "");
      if (!line.replaceAll("\0", " ").trimEnd().endsWith(command)) continue;
      process.kill(Number(pid), "SIGKILL");
      return Number(pid);
    }
    await new Promise((done) => setTimeout(done, 20));
  }
}

/** Only where it is asked for: nobody's cluster is to get jobs from a test. */
const onCluster = process.env.SFC_TEST_SLURM === "1";
describe.runIf(onCluster)("on a real cluster (bench/slurm-faults.mjs breaks more of one)", () => {
  it("a run in shards of which one task is killed ends by itself with the same numbers", {
    timeout: 600_000,
  }, async () => {
    const home = await mkdtemp(join(tmpdir(), "sfc-cluster-"));
    const pairs = await writeExamples(join(home, "pairs.jsonl"), examples(24));
    const [whole, folder] = [join(home, "whole"), join(home, "divided")];
    const flags = (to: string) => runFlags(pairs, to, "--batch_size", "1");
    await succeeds(flags(whole));
    await succeeds([...flags(folder), "--shards", "3"]);
    await succeeds(["slurm", folder]);
    const killed = killFirst(`run --shard 2 --part packs ${folder}`);
    const watch = spawn(process.execPath, [entry, "slurm", folder, "--watch"], { stdio: "ignore" });
    expect(await new Promise((resolve) => watch.once("exit", resolve))).toBe(0);
    expect(await killed).toBeGreaterThan(0);
    const log = await readFile(join(folder, "slurm/packs-2.log"), "utf8");
    expect(log.match(/start \d/g)!.length).toBeGreaterThan(1);
    await rm(join(folder, "slurm"), { recursive: true });
    await expectSameRun(folder, whole);
    await rm(home, { recursive: true });
  });
});
