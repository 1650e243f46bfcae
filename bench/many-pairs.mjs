// What `sfc run` takes as pairs grow in number, on the embedded model: node bench/many-pairs.mjs [pairs per split and case, 32,312,3125] [more flags of run]
// Wants `npm run build` before, and /proc for the processor time.
import { spawn } from "node:child_process";
import { mkdtemp, readdir, readFile, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const [sizes = "32,312,3125", ...more] = process.argv.slice(2);
const entry = fileURLToPath(new URL("../dist/cli/main.js", import.meta.url));
const place = await mkdtemp(join(tmpdir(), "sfc-many-"));
/** Clock ticks per second of /proc. */
const ticks = 100;

/** Runs sfc; its processor time in seconds, to half a second. */
async function run(args) {
  const child = spawn(process.execPath, [entry, ...args], { stdio: "ignore" });
  let used = Number.NaN;
  const watch = setInterval(async () => {
    const text = await readFile(`/proc/${child.pid}/stat`, "utf8").catch(() => "");
    const [user, system] = text
      .slice(text.lastIndexOf(")") + 2)
      .split(" ")
      .slice(11, 13)
      .map(Number);
    if (user >= 0) used = (user + system) / ticks;
  }, 500);
  const code = await new Promise((resolve) => child.on("exit", resolve));
  clearInterval(watch);
  if (code !== 0) throw new Error(`sfc ${args.join(" ")} ended with ${code}`);
  return used;
}

async function bytesOf(folder) {
  let sum = 0;
  for (const name of await readdir(folder)) sum += (await stat(join(folder, name))).size;
  return sum;
}

try {
  console.log(
    "| pairs | forward nodes | backward nodes | rows of effects | processor s | s | told s | peak GB | told GB | folder MB |",
  );
  console.log("|---|---|---|---|---|---|---|---|---|---|");
  for (const size of sizes.split(",")) {
    const folder = join(place, size);
    const began = performance.now();
    const used = await run(["run", "--num_examples", size, "--output_dir", folder, "--quiet", ...more]);
    const elapsed = (performance.now() - began) / 1000;
    const { counts, peak_rss_bytes: peak, estimate } = JSON.parse(await readFile(join(folder, "run.json"), "utf8"));
    const told = Object.values(estimate.seconds).reduce((a, b) => a + b, 0);
    const columns = [
      ...[counts.pairs, counts.nodes_forward, counts.nodes_backward, counts.rows].map((n) => n.toLocaleString("en")),
      ...[used, elapsed, told].map((seconds) => seconds.toFixed(0)),
      ...[peak, estimate.memory_bytes].map((bytes) => (bytes / 1e9).toFixed(2)),
      ((await bytesOf(folder)) / 1e6).toFixed(0),
    ];
    console.log(`| ${columns.join(" | ")} |`);
  }
} finally {
  await rm(place, { recursive: true });
}
