import { resolve } from "node:path";
import type { Command } from "commander";
import type { JobOptions } from "../analysis/options.ts";
import type { Shard, ShardPart } from "../analysis/shards.ts";
import type { RunRequest } from "../commands/run.ts";
import type { SlurmProgress } from "../commands/slurm.ts";
import { UsageError } from "../errors.ts";
import type { Manifest } from "../results/manifest.ts";
import { runJob } from "./host.ts";
import { print, printError, printJson } from "./terminal.ts";

/** The flags of `sfc run` that divide a run. */
export interface ShardFlags {
  readonly shards?: number;
  readonly shard?: number;
  readonly part?: ShardPart;
  readonly json?: boolean;
  readonly quiet?: boolean;
}

interface SlurmFlags {
  readonly sbatch: string;
  readonly watch?: boolean;
  readonly dry_run?: boolean;
  readonly json?: boolean;
}

/** Whether `sfc run` is to compute a shard. @throws UsageError if flags contradict one another */
export function isShard(folder: string | undefined, { shard, part }: ShardFlags, command: Command): boolean {
  if (shard === undefined) {
    const without = part === undefined ? folder : "--part";
    if (without === undefined) return false;
    throw new UsageError(
      `${without}: expected --shard K with it, got none. Give --shard, or --output_dir for a folder.`,
    );
  }
  if (folder === undefined) {
    throw new UsageError("--shard: expected the folder of the planned run behind it, got none. Give its folder.");
  }
  const own = ["shard", "part", "json", "quiet"];
  const other = command.options.find(
    (option) => !own.includes(option.attributeName()) && command.getOptionValueSource(option.attributeName()) === "cli",
  );
  if (other === undefined) return true;
  throw new UsageError(
    `${other.long}: expected no such flag with --shard, which takes all from the plan. Leave it out.`,
  );
}

/** How `--shards` divides a run. @throws UsageError if runs with these options cannot be divided */
export function dividedBy({ shards }: ShardFlags, { precision, keep }: JobOptions): RunRequest["divided"] {
  if (shards === undefined) return undefined;
  const instead = (flag: string, got: string, why: string, what: string) =>
    new UsageError(`--shards: expected ${flag} with it, got ${got}, ${why}. ${what}`);
  if (precision === "float64") {
    throw instead("--precision float32", precision, "which keeps all packs in memory", "Leave one of them out.");
  }
  if (keep === "correct") {
    throw instead("--keep all", keep, "which runs the model before there are packs to share", "Leave one of them out.");
  }
  return { shards, from: process.cwd() };
}

/** `sfc run --shard`. */
export async function runOneShard(folder: string, { shard, part, json, quiet }: ShardFlags): Promise<void> {
  const path = await enter(folder);
  const outcome = await runJob("shard", { folder: path, shard: shard!, part: part ?? null }, { quiet });
  const { shardText } = await import("../commands/shard-text.ts");
  if (json) printJson(outcome);
  else print(shardText(outcome));
}

/** Goes to where a run was planned: its options name files from there. @returns the run's folder */
async function enter(folder: string): Promise<string> {
  const path = resolve(folder);
  const { plannedIn } = await import("../commands/shard-inputs.ts");
  const home = await plannedIn(path);
  try {
    process.chdir(home);
  } catch {
    // A machine without that folder may still know the model and the pairs by name; what it does not find is told by name.
  }
  return path;
}

/** What a run was divided into. */
export async function printShards(folder: string, shards: readonly Shard[], json = false): Promise<void> {
  const { shardsText } = await import("../commands/shard-text.ts");
  if (json) printJson({ folder, shards });
  else print(shardsText(folder, shards));
}

/** What a run found. */
export async function printRun(folder: string, manifest: Manifest, again: boolean, json = false): Promise<void> {
  const { summaryJson, summaryText } = await import("../commands/run-summary.ts");
  if (json) printJson(await summaryJson(folder, manifest, { again }));
  else print(await summaryText(folder, manifest, { again }));
  if (!manifest.checks.every((check) => check.passed)) process.exitCode = 1;
}

/** Adds `merge` and `slurm`. */
export function addShardCommands(program: Command): void {
  program
    .command("merge")
    .description("make the complete run of one whose shards are all done")
    .argument("<folder>", "the folder of a run that is planned as shards")
    .option("--json", "print JSON, as sfc run does")
    .option("--quiet", "show no progress")
    .action(async (folder: string, { json, quiet }: ShardFlags) => {
      const path = await enter(folder);
      const { manifest, again } = await runJob("merge", { folder: path }, { quiet });
      await printRun(path, manifest, again, json);
    });

  program
    .command("slurm")
    .description("bring a run that is planned as shards to Slurm, submit again what failed, show how far it is")
    .argument("<folder>", "the folder of a run that is planned as shards")
    .option(
      "--sbatch <flags>",
      'flags for sbatch, as "--partition=long --cpus-per-task=8 --mem=16G --time=4:00:00"',
      "",
    )
    .option("--watch", "stay, submit again what fails, and end when the run is complete")
    .option("--dry_run", "write the scripts into the folder slurm of the run, show the commands, submit nothing")
    .option("--json", "print JSON")
    .action(async (folder: string, { sbatch, watch, dry_run, json }: SlurmFlags) => {
      const { tendSlurm, watchSlurm } = await import("../commands/slurm.ts");
      const { progressLine, slurmText } = await import("../commands/slurm-text.ts");
      const request = { folder, sbatch: sbatch.split(/\s+/).filter((flag) => flag !== ""), dryRun: dry_run === true };
      const show = (progress: SlurmProgress) => (json ? printJson(progress) : print(slurmText(progress)));
      if (!watch || request.dryRun) return show(await tendSlurm(request));
      let last = "";
      const ended = await watchSlurm(request, (progress) => {
        const text = progress.submitted.length > 0 ? slurmText(progress) : progressLine(progress);
        if (text !== last) printError(text);
        last = text;
      });
      show(ended);
    });
}
