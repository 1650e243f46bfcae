// A divided run on a Slurm cluster in which things break, against the same run undivided: node bench/slurm-faults.mjs [flags of sfc run]. Wants
// `npm run build` before, and a cluster of at least three nodes whose daemons all run on this machine and belong to this user (SLURM_CONF).
// One task is killed among the packs, one node with its tasks among the sites (slurmd included), then slurmctld is restarted.
import { execFileSync, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdtempSync, readdirSync, readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const flags = process.argv.slice(2);
const runFlags = flags.length > 0 ? flags : ["--method", "exact", "--num_examples", "4", "--sites", "resid_post"];
const main = fileURLToPath(new URL("../dist/cli/main.js", import.meta.url));
const home = mkdtempSync(join(tmpdir(), "sfc-slurm-"));
const [whole, divided] = [join(home, "whole"), join(home, "divided")];
const shards = 3;

const sfc = (...args) =>
  execFileSync(process.execPath, [main, ...args], { encoding: "utf8", stdio: ["ignore", "pipe", "inherit"] });
const began = Date.now();
const say = (text) => console.log(`${((Date.now() - began) / 1000).toFixed(0).padStart(4)} s  ${text}`);
const config = readFileSync(process.env.SLURM_CONF ?? "/etc/slurm/slurm.conf", "utf8");
const setting = (name) => new RegExp(`^${name}=(\\S+)`, "m").exec(config)[1];
const pidOf = (file) => Number(readFileSync(file, "utf8"));

/** Processes by a pattern of their command lines. */
function processes(pattern) {
  return readdirSync("/proc").flatMap((pid) => {
    try {
      return /^\d+$/.test(pid) && pattern.test(readFileSync(`/proc/${pid}/cmdline`, "utf8").replaceAll("\0", " "))
        ? [Number(pid)]
        : [];
    } catch {
      return [];
    }
  });
}

const children = (parents) =>
  readdirSync("/proc").flatMap((pid) => {
    try {
      const parent = Number(
        readFileSync(`/proc/${pid}/stat`, "utf8")
          .replace(/^.*\) /s, "")
          .split(" ")[1],
      );
      return /^\d+$/.test(pid) && parents.includes(parent) ? [Number(pid)] : [];
    } catch {
      return [];
    }
  });

function withDescendants(pids) {
  const below = children(pids);
  return below.length > 0 ? [...pids, ...withDescendants(below)] : pids;
}

function kill(pids) {
  for (const pid of pids) {
    try {
      process.kill(pid, "SIGKILL");
    } catch {}
  }
}

async function until(what, look) {
  const limit = Date.now() + 900_000;
  for (;;) {
    const found = look();
    if (found) return found;
    if (Date.now() > limit) throw new Error(`waited 15 minutes for ${what}`);
    await new Promise((done) => setTimeout(done, 200));
  }
}

const running = (stage, shard) => processes(new RegExp(`^\\S*node .*run --shard ${shard} --part ${stage} ${divided}`));
const tasks = () => JSON.parse(sfc("slurm", divided, "--json")).tasks;

say(`sfc run ${runFlags.join(" ")}`);
sfc("run", ...runFlags, "--output_dir", whole, "--quiet");
say(`planned as ${shards} shards`);
sfc("run", ...runFlags, "--shards", String(shards), "--output_dir", divided, "--quiet");
sfc("slurm", divided);

const victim = await until("a task among the packs", () => running("packs", shards)[0]);
kill([victim]);
say(`killed process ${victim}, which computed packs of shard ${shards}`);

await until("sites", () => [1, 2, 3].some((shard) => running("sites", shard).length > 0));
await new Promise((done) => setTimeout(done, 3000));
const task = await until("a running task", () =>
  tasks().find(({ stage, state }) => stage === "sites" && state === "RUNNING"),
);
const daemon = pidOf(setting("SlurmdPidFile").replace("%n", task.node));
const steps = processes(new RegExp(`slurmstepd: \\[${task.job}\\.|slurmstepd: \\[\\d+\\.`)).filter((pid) =>
  withDescendants([pid]).some((one) => running("sites", task.task).includes(one)),
);
kill([daemon, ...withDescendants(steps)]);
say(`killed ${task.node}: slurmd, and all of its task for the sites of shard ${task.task}`);

const controller = pidOf(setting("SlurmctldPidFile"));
kill([controller]);
await new Promise((done) => setTimeout(done, 1000));
spawnSync("slurmctld", { stdio: "ignore" });
say("killed slurmctld and started it again");

const manifest = () => JSON.parse(readFileSync(join(divided, "run.json"), "utf8"));
await until("the end", () => manifest().status === "finished");
say("the run is complete, and nobody has touched it since");
for (const name of ["features.parquet", "effects.parquet", "nodes.parquet", "ranking.json", "pairs.jsonl"]) {
  const [one, other] = [whole, divided].map((folder) =>
    createHash("sha256")
      .update(readFileSync(join(folder, name)))
      .digest("hex"),
  );
  say(`${name}: ${one === other ? "the same bytes" : "DIFFERENT"}`);
  if (one !== other) process.exitCode = 1;
}
const logs = join(divided, "slurm");
for (const name of readdirSync(logs).filter((file) => file.endsWith(".log"))) {
  const starts = readFileSync(join(logs, name), "utf8").match(/: job \d+, start \d+/g) ?? [];
  say(`${name}: ${starts.length} ${starts.length === 1 ? "start" : "starts"}`);
}
spawnSync("slurmd", ["-N", task.node], { stdio: "ignore" });
say(`${home}; ${task.node} has been started again`);
