// What a circuit is told to take beside what it took, step by step: node bench/estimates.mjs RUN [sites, resid_post] [secant|gradient] [features, 60]
// RUN is the folder of a finished run; wants `npm run build` before.
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { circuit, estimateCircuitOf } from "../dist/commands/circuit.js";
import { postingReporter } from "../dist/progress.js";

const [run, sites = "resid_post", edges = "secant", size = "60"] = process.argv.slice(2);
if (run === undefined) throw new Error("node bench/estimates.mjs RUN [sites] [secant|gradient] [features]");
const shares = { edge_threshold: 0, influence: 0.8, edge_influence: 0.98 };
const flags = { way: "secant", size: Number(size), ablation: "mean", edges, split: "train", sites, ...shares };
const place = await mkdtemp(join(tmpdir(), "sfc-estimates-"));
const reporter = () => {
  let cpu = process.cpuUsage();
  const used = {};
  let current;
  const close = () => {
    const { user, system } = process.cpuUsage(cpu);
    if (current !== undefined) used[current] = (used[current] ?? 0) + (user + system) / 1e6;
    cpu = process.cpuUsage();
  };
  const post = (message) => {
    if (message.type === "line") console.log(message.text);
    if (message.type !== "begin" && message.type !== "end") return;
    close();
    current = message.type === "begin" ? message.phase : undefined;
  };
  return { reporter: postingReporter(post, () => false), used };
};
try {
  const request = { run, folder: join(place, "circuit"), flags };
  const told = await estimateCircuitOf(request, reporter().reporter);
  const { reporter: measuring, used } = reporter();
  await circuit(request, measuring);
  console.log(`${told.counts.edge_products} products told, at ${Math.round(told.gflops)} GFLOP/s`);
  const { choosing, reading, ...steps } = told.seconds;
  const all = { reading, ...(measuring.seconds.scores && { scores: choosing }), ...steps };
  for (const [step, seconds] of Object.entries(measuring.seconds)) {
    const text = all[step] === undefined ? "" : `, told ${all[step].toFixed(2)}`;
    console.log(`  ${step}: ${seconds.toFixed(2)} s, ${used[step]?.toFixed(2)} s of processor time${text}`);
  }
  const peak = process.resourceUsage().maxRSS / 1e3;
  console.log(`  memory: ${peak.toFixed(0)} MB, told ${(told.memory_bytes / 1e6).toFixed(0)}`);
} finally {
  await rm(place, { recursive: true });
}
