import { duration } from "../amounts.ts";
import type { Shard } from "../analysis/shards.ts";
import { textTable } from "../report/text-table.ts";
import type { SiteName } from "../site.ts";
import type { ShardOutcome } from "./shard.ts";

/** What a run was divided into, and how to go on. */
export function shardsText(folder: string, shards: readonly Shard[]): string {
  const rows = shards.map(({ packs: [from, to], sites, seconds }, i) => [
    String(i + 1),
    from === to ? "none" : to - from === 1 ? `${from}` : `${from}–${to - 1}`,
    duration(seconds.packs),
    sitesText(sites),
    duration(seconds.sites),
  ]);
  return [
    ...textTable([["shard", "packs", "about", "sites", "about"], ...rows]),
    "",
    `${folder} is planned as ${shards.length} shards. On a Slurm cluster:`,
    `  sfc slurm ${folder}`,
    "Without it, on any machines that see this folder, for every K, twice: first all packs, then all sites. Then the whole:",
    `  sfc run --shard K ${folder}`,
    `  sfc merge ${folder}`,
  ].join("\n");
}

/** Some names of sites, and how many more. */
function sitesText(sites: readonly SiteName[]): string {
  if (sites.length === 0) return "none";
  const shown = sites.slice(0, 3).join(", ");
  return sites.length > 3 ? `${shown} and ${sites.length - 3} more` : shown;
}

/** What has become of a shard. */
export function shardText({ folder, shard, of, finished, waitsFor, merged }: ShardOutcome): string {
  if (merged) return `${folder} holds the finished run.`;
  const name = `Shard ${shard} of ${of}`;
  if (finished.packs && finished.sites) return `${name} is done.`;
  if (finished.packs && waitsFor.length === 0)
    return `${name} has its packs, and all others have theirs. Run the same command again for its sites.`;
  const others = `${waitsFor.length > 1 ? "shards" : "shard"} ${waitsFor.join(", ")}`;
  if (finished.packs) {
    return `${name} has its packs. Its sites wait for the packs of ${others}: run the same command again then.`;
  }
  return `${name} has no packs yet, and its sites wait for the packs of ${others}. Compute the packs first: sfc run --shard ${shard} ${folder}`;
}
