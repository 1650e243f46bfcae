import { percentText } from "../amounts.ts";
import { shardParts } from "../analysis/shards.ts";
import { textTable } from "../report/text-table.ts";
import type { ShardState } from "../results/shards.ts";
import { progressOf, type SlurmProgress } from "./slurm.ts";

/** How far a run is on Slurm: what was submitted, all shards together, then each. */
export function slurmText({ folder, complete, shards, tasks, submitted }: SlurmProgress): string {
  if (complete) return `${folder} holds the finished run.`;
  const now = submitted.map(({ stage, shards: own, command, job }) => {
    const what = own.length > 0 ? `${stage} of ${own.length > 1 ? "shards" : "shard"} ${own.join(", ")}` : stage;
    return job === null ? command.join(" ") : `Submitted ${what}: job ${job}.`;
  });
  const taskOf = (shard: number) => {
    const own = tasks.filter(({ task, stage }) => task === shard && stage !== "merge");
    const last = own.findLast(({ state }) => state !== "PENDING") ?? own[0];
    if (last === undefined) return "";
    const where = last.node === "" ? reasonText(last.reason) : ` on ${last.node}`;
    return `${last.stage} ${last.state.toLowerCase()}${where}`;
  };
  const rows = shards.map((state, i) => [
    String(i + 1),
    ...shardParts.map((part) => stateText(state[part])),
    taskOf(i + 1),
  ]);
  const merge = tasks.findLast(({ stage }) => stage === "merge");
  return [
    ...now,
    ...(now.length > 0 ? [""] : []),
    progressLine({ shards }),
    "",
    ...textTable([["shard", "packs", "sites", "task"], ...rows]),
    ...(merge
      ? [`merge: ${merge.state.toLowerCase()}${merge.node ? ` on ${merge.node}` : reasonText(merge.reason)}`]
      : []),
  ].join("\n");
}

/** All shards together, on one line. */
export function progressLine({ shards }: Pick<SlurmProgress, "shards">): string {
  return shardParts
    .map((part) => {
      const { done, finished } = progressOf(shards, part);
      return `${part} ${percentText(done, 0)} (${finished} of ${shards.length} shards done)`;
    })
    .join(", ");
}

const reasonText = (reason: string) => (reason === "" || reason === "None" ? "" : ` (${reason})`);

function stateText({ done, total, finished }: ShardState["packs"]): string {
  if (finished) return "done";
  return done === 0 ? "–" : percentText(total > 0 ? Math.min(1, done / total) : 0, 0);
}
