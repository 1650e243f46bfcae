import { bytesText, countText, duration } from "../amounts.ts";
import { type EstimateResult, totalSeconds } from "../analysis/estimate.ts";
import { type CircuitEstimate, secondsOfCircuit } from "../analysis/estimate-circuits.ts";
import { textTable } from "../report/text-table.ts";

/** An estimate as text for a terminal. */
export function estimateText(e: EstimateResult): string {
  const phases = Object.entries(e.seconds).map(([phase, seconds]) => `${phase} ${duration(seconds)}`);
  const where = e.weights === "held" ? "held in memory" : "streamed, block by block";
  return textTable([
    ["model", `${e.model.name}: ${count(e.model.parameters)} parameters, ${bytesText(e.model.bytes)}`],
    ["SAEs", `${e.saes.sites} sites, ${count(e.saes.features)} features`],
    [
      "pairs",
      `${e.pairs}; ${e.nodes.forward} forward and ${e.nodes.backward} backward nodes for ${e.nodes.tokens} tokens example by example`,
    ],
    ["rows", `${e.rows.computed} computed, ${(e.rows.computed / e.rows.needed).toFixed(2)} times what the nodes need`],
    ["weights", where],
    [
      "memory",
      `${bytesText(e.memory_bytes)} at the peak; ${bytesText(e.available_memory_bytes)} available${e.memory_bytes > e.available_memory_bytes ? ": too little" : ""}`,
    ],
    ...(e.device ? [["device", `${e.device.name}, about ${bytesText(e.device.memory_bytes)} of its memory`]] : []),
    [
      "disk",
      `${bytesText(e.disk_bytes.peak)} in the run's folder while it works, ${bytesText(e.disk_bytes.end)} when it is complete`,
    ],
    ["time", `about ${duration(totalSeconds(e))} at ${Math.round(e.gflops)} GFLOP/s (${phases.join(", ")})`],
  ]).join("\n");
}

function count(n: number): string {
  if (n >= 1e9) return `${(n / 1e9).toFixed(1)} billion`;
  return n >= 1e6 ? `${(n / 1e6).toFixed(1)} million` : String(n);
}

/** An estimate as text: memory, time, and what they were counted from. */
export function circuitEstimateText({ weights, seconds, gflops, counts, ...e }: CircuitEstimate): string {
  const steps = Object.entries(seconds).map(([step, one]) => `${step} ${duration(one)}`);
  const little = e.memory_bytes > e.available_memory_bytes ? ": too little" : "";
  const counted = [
    `${(counts.pass_gflop / 1e3).toLocaleString("en", { maximumSignificantDigits: 2 })} TFLOP of passes`,
    ...(counts.evaluations > 0 ? [countText(counts.evaluations, "evaluation")] : []),
    ...(counts.mask_gradients > 0 ? [countText(counts.mask_gradients, "mask gradient")] : []),
    ...(counts.edge_products > 0 ? [`${counts.edge_products.toLocaleString("en")} vector–Jacobian products`] : []),
  ];
  return textTable([
    ["weights", weights === "held" ? "held in memory" : "streamed, block by block"],
    ["memory", `${bytesText(e.memory_bytes)} at the peak; ${bytesText(e.available_memory_bytes)} available${little}`],
    ["time", `about ${duration(secondsOfCircuit({ seconds }))} at ${Math.round(gflops)} GFLOP/s (${steps.join(", ")})`],
    ["counted", counted.join(", ")],
  ]).join("\n");
}
