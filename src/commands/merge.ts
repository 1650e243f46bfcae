import type { JobOptions } from "../analysis/options.ts";
import type { Reporter } from "../progress.ts";
import { inspectRunFolder } from "../results/folder.ts";
import { findShards } from "../results/shards.ts";
import { type RunOutcome, run } from "./run.ts";
import { notDivided } from "./shard-inputs.ts";

/**
 * Makes the complete run of one whose shards are all done (`sfc merge`): the checks, the tables, the ranking, the strongest features patched by
 * themselves, what they stand for, and the report.
 *
 * @throws UserError if the folder has no such run, one of its shards is not done, or its inputs are not those of the plan; StoppedError
 */
export async function merge({ folder }: { readonly folder: string }, reporter: Reporter): Promise<RunOutcome> {
  const found = await inspectRunFolder(folder);
  if (found.state === "complete") return { manifest: found.manifest, again: true };
  const divided = await findShards(folder);
  if (divided === null || found.state !== "unfinished") throw notDivided(folder);
  const { batch_size, weights } = divided.plan;
  const options = { ...(found.manifest.options as unknown as JobOptions), batch_size, weights };
  return run({ command: found.manifest.command, options, folder, force: false, divided: "merge" }, reporter);
}
