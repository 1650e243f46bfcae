import { execFile } from "node:child_process";
import { messageOf, UserError } from "../errors.ts";
import type { LockOptions } from "../storage/lock.ts";

/** A task of a job, as the queue tells it. */
export interface SlurmTask {
  /** Slurm's own number of the task, which its processes have as SLURM_JOB_ID. */
  readonly id: string;
  /** The number of the job or the array, and of an array the task's place in it. */
  readonly job: string;
  readonly task: number | null;
  /** Slurm's word for it, as PENDING, RUNNING, COMPLETED, FAILED, NODE_FAIL. */
  readonly state: string;
  /** Why it waits, or why it ended. */
  readonly reason: string;
  readonly node: string;
}

/** Slurm's number of the job that this process belongs to; undefined outside of one. */
const ownJob = () => process.env.SLURM_JOB_ID;

/** Whether a task has not come to its end: it waits, runs, or is put back into the queue. */
export function isActive({ state, reason }: SlurmTask): boolean {
  if (reason === "DependencyNeverSatisfied") return false;
  return /^(PENDING|CONFIGURING|RUNNING|COMPLETING|REQUEUED|REQUEUE_\w+|RESIZING|SUSPENDED|STOPPED|SIGNALING|STAGE_OUT)$/.test(
    state,
  );
}

/** How the locks of a run's folder are taken: those of Slurm's jobs on other machines count as left over once Slurm knows that the job has ended. */
export function slurmLocking(): LockOptions {
  return {
    job: ownJob(),
    async hasEnded({ job }) {
      if (job === null) return false;
      const tasks = await slurmTasks([job]).catch(() => null);
      return (
        tasks !== null &&
        !tasks.some((task) => task.id === job && /^(RUNNING|COMPLETING|SUSPENDED|STOPPED|SIGNALING)$/.test(task.state))
      );
    },
  };
}

/**
 * The tasks of jobs that Slurm still knows; it forgets a job some minutes after its end.
 *
 * @throws UserError if Slurm is not there or does not answer
 */
export async function slurmTasks(jobs: readonly string[]): Promise<SlurmTask[]> {
  const found: SlurmTask[] = [];
  // One by one: of a list Slurm tells nothing if it has forgotten one.
  for (const job of jobs) {
    const format = ["%A", "%F", "%K", "%T", "%r", "%N"].join("|");
    const text = await slurm("squeue", [
      "--noheader",
      "--array",
      "--states=all",
      `--jobs=${job}`,
      `--format=${format}`,
    ]).catch((error) => {
      if (/invalid job id/i.test(messageOf(error))) return "";
      throw error;
    });
    for (const line of text.split("\n").filter((one) => one.trim() !== "")) {
      const [own = "", array = "", task = "", state = "", reason = "", node = ""] = line.split("|");
      found.push({
        id: own,
        job: array === "" || array === "N/A" ? own : array,
        task: /^\d+$/.test(task) ? Number(task) : null,
        state,
        reason,
        node,
      });
    }
  }
  return found;
}

/**
 * Submits a script.
 *
 * @returns the job's number
 * @throws UserError if Slurm is not there or refuses it
 */
export async function submit(script: string, flags: readonly string[]): Promise<string> {
  const text = await slurm("sbatch", ["--parsable", ...flags, script]);
  return text.trim().split(";")[0]!;
}

/** Takes jobs out of the queue. */
export async function cancel(jobs: readonly string[]): Promise<void> {
  if (jobs.length > 0) await slurm("scancel", ["--state=PENDING", ...jobs]);
}

function slurm(command: string, args: readonly string[]): Promise<string> {
  return new Promise((resolve, reject) => {
    execFile(command, args, { timeout: 60_000 }, (error, stdout, stderr) => {
      if (!error) return resolve(stdout);
      if ((error as NodeJS.ErrnoException).code === "ENOENT") {
        return reject(
          new UserError(
            `Slurm's ${command} is missing on this machine. Use a machine of the cluster, or compute the shards with sfc run --shard K.`,
            { code: "not_found" },
          ),
        );
      }
      const said = stderr.trim() || messageOf(error);
      reject(new UserError(`${command}: expected Slurm to take the request, got: ${said}. Look at sinfo and squeue.`));
    });
  });
}
