import { mkdir } from "node:fs/promises";
import { join, resolve } from "node:path";
import { z } from "zod";
import { type ShardPart, shardParts } from "../analysis/shards.ts";
import { UserError } from "../errors.ts";
import { cancel, isActive, type SlurmTask, slurmTasks, submit } from "../jobs/slurm.ts";
import { inspectRunFolder } from "../results/folder.ts";
import { findShards, readAllShards, type ShardedRun, type ShardState, unfinished } from "../results/shards.ts";
import { readJsonFile, writeFileAtomic, writeProblem } from "../storage/files.ts";
import { packageRoot } from "../storage/package.ts";
import { notDivided } from "./shard-inputs.ts";

export interface SlurmRequest {
  /** The run's folder. */
  readonly folder: string;
  /** Flags for every `sbatch`. */
  readonly sbatch: readonly string[];
  /** Writes the scripts and submits nothing. */
  readonly dryRun: boolean;
}

/** What Slurm is asked to run, in this order: each waits for the one before. */
const stages = [...shardParts, "merge"] as const;
type Stage = (typeof stages)[number];

/** How far a run is on Slurm. */
export interface SlurmProgress {
  readonly folder: string;
  /** Whether the run is complete. */
  readonly complete: boolean;
  readonly shards: readonly ShardState[];
  /** Tasks of the jobs that were submitted, of those that Slurm still knows. */
  readonly tasks: readonly (SlurmTask & { readonly stage: Stage })[];
  /** What was submitted now, or would be. */
  readonly submitted: readonly Submission[];
}

/** A job to submit. */
export interface Submission {
  readonly stage: Stage;
  /** The shards of an array; empty for the merge. */
  readonly shards: readonly number[];
  /** The whole command. */
  readonly command: readonly string[];
  /** Slurm's number; null where nothing was submitted. */
  readonly job: string | null;
}

const jobsSchema = z.array(z.strictObject({ stage: z.enum(stages), job: z.string(), shards: z.array(z.int()) }));
type Jobs = z.infer<typeof jobsSchema>;

/** Tries of a task by its own script, and starts of one that comes to its time limit again and again. */
const tries = 3;
const mostStarts = 1000;
/** Seconds before the time limit at which a task stops, to go on in another start. */
const stopBefore = 60;

/**
 * Brings a divided run to Slurm (`sfc slurm FOLDER`), and tells how far it is: an array for the packs, one for the sites that waits for it, and the
 * merge. Called again, it submits what has failed meanwhile, with what waits for it, and nothing else.
 *
 * @throws UserError if the folder has no divided run, or Slurm does not take a job
 */
export async function tendSlurm({ folder, sbatch, dryRun }: SlurmRequest): Promise<SlurmProgress> {
  const path = resolve(folder);
  const found = await inspectRunFolder(path);
  if (found.state === "complete") return { folder: path, complete: true, shards: [], tasks: [], submitted: [] };
  const run = await findShards(path);
  if (run === null) throw notDivided(path);
  await writeScripts(path);
  const jobs = await readJobs(path);
  const before = await tasksOf(jobs);
  // Looked at after the queue: a task that is no longer there has written all it will.
  const shards = await readAllShards(run);
  const next = toSubmit(shards, before);
  if (!dryRun) await cancel(next.cancelled);
  const kept = before.filter(({ job }) => !next.cancelled.includes(job));
  const submitted: Submission[] = [];
  /** Jobs that the stage at hand waits for. */
  let waitsFor: string[] = [];
  for (const stage of stages) {
    const wanted = next.shards.get(stage);
    const active = dependencies(kept.filter((task) => task.stage === stage));
    let now: string[] = [];
    if (wanted !== undefined) {
      const flags = flagsOf(run, path, stage, wanted, waitsFor, sbatch);
      const script = scriptOf(path, stage);
      const job = dryRun ? null : await submit(script, flags);
      now = [job ?? `<job of ${stage}>`];
      submitted.push({ stage, shards: wanted, command: ["sbatch", ...flags, script], job });
      if (job !== null) await writeJobs(path, [...(await readJobs(path)), { stage, job, shards: [...wanted] }]);
    }
    waitsFor = [...active, ...now];
  }
  const tasks = submitted.length > 0 && !dryRun ? await tasksOf(await readJobs(path)) : before;
  return { folder: path, complete: false, shards, tasks, submitted };
}

/** Seconds between two looks. */
const lookEvery = 5;
/** How often the same part of a shard, or the merge, is submitted while it is watched. */
const mostSubmissions = 3;

/**
 * Tends a run on Slurm until it is complete.
 *
 * @throws UserError if something fails again and again, or as `tendSlurm`
 */
export async function watchSlurm(
  request: SlurmRequest,
  onProgress: (progress: SlurmProgress) => void,
): Promise<SlurmProgress> {
  const submissions = new Map<string, number>();
  for (;;) {
    const progress = await tendSlurm(request);
    onProgress(progress);
    if (progress.complete) return progress;
    for (const { stage, shards } of progress.submitted) {
      for (const name of shards.length > 0 ? shards.map((shard) => `${stage}-${shard}`) : [stage]) {
        const count = (submissions.get(name) ?? 0) + 1;
        submissions.set(name, count);
        if (count <= mostSubmissions) continue;
        throw new UserError(
          `Slurm: ${name} failed again and again. Look at ${join(progress.folder, "slurm", `${name}.log`)}, then call sfc slurm again.`,
        );
      }
    }
    await new Promise((done) => setTimeout(done, 1000 * lookEvery));
  }
}

/** What has to be submitted: by stage the shards that lack it and have no task, and jobs whose tasks wait for something that failed. */
export function toSubmit(
  states: readonly ShardState[],
  tasks: readonly (SlurmTask & { readonly stage: Stage })[],
): { readonly shards: ReadonlyMap<Stage, readonly number[]>; readonly cancelled: readonly string[] } {
  const shards = new Map<Stage, readonly number[]>();
  const cancelled = new Set<string>();
  /** Whether a stage before had to be submitted anew: what waits for the old jobs would start too early, or never. */
  let again = false;
  const waiting = (stage: Stage) => tasks.filter((task) => task.stage === stage && task.state === "PENDING");
  for (const stage of stages) {
    const dead = waiting(stage).filter((task) => (again ? isDependent(task) : !isActive(task)));
    for (const { job } of dead) cancelled.add(job);
    const active = tasks.filter((task) => task.stage === stage && isActive(task) && !cancelled.has(task.job));
    if (stage === "merge") {
      if (active.length === 0) shards.set(stage, []);
      continue;
    }
    const lacking = unfinished(states, stage).filter((shard) => !active.some(({ task }) => task === shard));
    if (lacking.length === 0) continue;
    shards.set(stage, lacking);
    again = true;
  }
  return { shards, cancelled: [...cancelled] };
}

/** What a later job has to wait for so that all active tasks have succeeded: whole jobs, but of an array in which another task failed its tasks. */
function dependencies(tasks: readonly SlurmTask[]): string[] {
  const active = tasks.filter(isActive);
  const failed = new Set(tasks.filter((task) => !isActive(task) && task.state !== "COMPLETED").map(({ job }) => job));
  return [...new Set(active.map(({ job, task }) => (failed.has(job) && task !== null ? `${job}_${task}` : job)))];
}

const isDependent = ({ reason }: SlurmTask) => /^Dependency/.test(reason);

async function tasksOf(jobs: Jobs): Promise<(SlurmTask & { readonly stage: Stage })[]> {
  const tasks = await slurmTasks(jobs.map(({ job }) => job));
  return tasks.flatMap((task) => {
    const of = jobs.find(({ job }) => job === task.job);
    return of ? [{ ...task, stage: of.stage }] : [];
  });
}

const jobsFile = (path: string) => join(path, "slurm", "jobs.json");
const scriptOf = (path: string, stage: Stage) => join(path, "slurm", `${stage}.sh`);

async function readJobs(path: string): Promise<Jobs> {
  const stored = await readJsonFile(jobsFile(path)).catch(() => []);
  const parsed = jobsSchema.safeParse(stored);
  if (parsed.success) return parsed.data;
  throw new UserError(
    `jobs.json: expected the jobs that sfc slurm submitted, got something else in ${join(path, "slurm")}. Remove it if none of them is in the queue.`,
  );
}

const writeJobs = (path: string, jobs: Jobs) => writeFileAtomic(jobsFile(path), `${JSON.stringify(jobs, null, 2)}\n`);

function flagsOf(
  { plan }: ShardedRun,
  path: string,
  stage: Stage,
  shards: readonly number[],
  waitsFor: readonly string[],
  more: readonly string[],
): string[] {
  const log = join(path, "slurm", stage === "merge" ? "merge.log" : `${stage}-%a.log`);
  return [
    `--job-name=sfc-${stage}`,
    "--requeue",
    `--signal=B:USR1@${stopBefore}`,
    "--open-mode=append",
    `--output=${log}`,
    `--chdir=${plan.folder}`,
    ...(shards.length > 0 ? [`--array=${shards.join(",")}`] : []),
    ...(waitsFor.length > 0 ? [`--dependency=afterok:${waitsFor.join(":")}`] : []),
    ...more,
  ];
}

async function writeScripts(path: string): Promise<void> {
  const place = join(path, "slurm");
  try {
    await mkdir(place, { recursive: true });
  } catch (error) {
    throw writeProblem(error, place);
  }
  for (const stage of stages) await writeFileAtomic(scriptOf(path, stage), scriptText(path, stage));
}

/** The script of a stage's tasks. */
export function scriptText(path: string, stage: Stage): string {
  const program = [process.execPath, join(packageRoot, "dist/cli/main.js")].map(quoted).join(" ");
  const command =
    stage === "merge"
      ? `${program} merge ${quoted(path)}`
      : `${program} run --shard "$SLURM_ARRAY_TASK_ID" --part ${stage} ${quoted(path)}`;
  return `#!/bin/bash
# Written by sfc slurm. Whatever a task has finished is found again, so it may be run twice.
echo "$(date) on $(hostname): job \${SLURM_JOB_ID}, start \${SLURM_RESTART_COUNT:-0}"
starts=${tries}
limit=no
finished() { find ${quoted(join(path, ".partial"))} -name '*.seal' -o -name '*.safetensors' | wc -l; }
before=$(finished)
# Slurm sends USR1 shortly before the time limit: what is finished by then is kept, and the task goes on with the rest.
trap 'limit=yes; again=yes; kill -TERM $!' USR1
${command} &
child=$!
# The signal ends a wait and leaves its own number: the command's code comes from the next one, also where it has ended meanwhile.
again=yes
while [ "$again" = yes ]; do
  again=no
  wait "$child"
  code=$?
done
[ "$limit" = yes ] && [ "$code" -eq 130 ] && code=75
# As often as it takes, if it got further this time.
[ "$limit" = yes ] && [ "$(finished)" -gt "$before" ] && starts=${mostStarts}
# Slurm would never start what waits for a failed task, so the task goes back into the queue. Exit code 2 is a command that cannot succeed, 130 one
# that was asked to stop, as by scancel.
if [ "$code" -ne 0 ] && [ "$code" -ne 2 ] && [ "$code" -ne 130 ] && [ "\${SLURM_RESTART_COUNT:-0}" -lt "$starts" ]; then
  echo "exit code $code: back into the queue"
  # The number of an array's last task stands for the whole array.
  task="\${SLURM_ARRAY_JOB_ID:+\${SLURM_ARRAY_JOB_ID}_\${SLURM_ARRAY_TASK_ID}}"
  scontrol requeue "\${task:-$SLURM_JOB_ID}"
fi
exit "$code"
`;
}

/** A word for bash. */
const quoted = (word: string) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`);

/** Counts a part's units over all shards. */
export function progressOf(shards: readonly ShardState[], part: ShardPart): { done: number; finished: number } {
  // Units differ from shard to shard, as packs and layers do; each shard counts by its share of its own.
  const share = ({ [part]: { done, total, finished } }: ShardState) =>
    finished ? 1 : total > 0 ? Math.min(1, done / total) : 0;
  return {
    done: shards.reduce((sum, state) => sum + share(state), 0) / Math.max(1, shards.length),
    finished: shards.filter((state) => state[part].finished).length,
  };
}
