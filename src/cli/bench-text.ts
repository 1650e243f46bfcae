import type { BenchResult, ForestBench } from "../commands/bench.ts";
import { deviceLines } from "../commands/check-device.ts";
import { textTable } from "../report/text-table.ts";
/** The result as text for a terminal. */
export function benchText(result: BenchResult): string {
  const n = (value: number, digits = 0) => value.toFixed(digits);
  return [
    `${result.machine.cpu}, ${result.machine.cores} cores; ${Object.entries(result.versions)
      .map(([name, v]) => `${name} ${v}`)
      .join(", ")}; model ${result.model}`,
    ...deviceLines(result),
    `matrix products: ${n(result.gemm_peak)} GFLOP/s at best, ${n(result.gemm_own_shapes)} in the model's own shapes`,
    "",
    ...textTable([
      ["pass", "nodes", "floor, GFLOP", "ms", "GFLOP/s", "of own shapes", "of best"],
      ...result.passes.map((p) => [
        p.pass,
        String(p.nodes),
        n(p.floor_gflop, 2),
        n(1000 * p.seconds, 1),
        n(p.gflops),
        `${n(100 * p.share_of_own_shapes)} %`,
        `${n(100 * p.share_of_peak)} %`,
      ]),
    ]),
    ...(result.forest.length === 0 ? [] : ["", ...forestTable(result.forest)]),
    "",
    `peak memory ${n(result.peak_rss_bytes / 2 ** 20)} MiB`,
  ].join("\n");
}

function forestTable(forest: readonly ForestBench[]): string[] {
  return textTable([
    [
      "pairs",
      "number",
      "tokens",
      "nodes",
      "ratio",
      "rows computed / needed",
      "examples, s",
      "forest, s",
      "ratio",
      "time/node ratio",
    ],
    ...forest.map((f) => [
      f.set,
      String(f.pairs),
      String(f.tokens),
      String(f.nodes),
      f.node_ratio.toFixed(1),
      f.row_ratio.toFixed(2),
      f.example_seconds.toFixed(2),
      f.forest_seconds.toFixed(2),
      f.time_ratio.toFixed(1),
      (f.time_ratio / f.node_ratio).toFixed(2),
    ]),
  ]);
}
