import { join } from "node:path";
import { type Ranking, rankingSchema } from "../circuit/ranking.ts";
import { readJsonFile } from "./files.ts";
import type { Manifest } from "./manifest.ts";
import { duration } from "./progress.ts";
import { reportFile } from "./report.ts";

/** Features named per site. */
const named = 3;

/**
 * What a run found, as text for a terminal: accuracy, the top features per layer, the checks and the report's path.
 *
 * @param again whether the run had been finished before and nothing was computed
 */
export async function summaryText(folder: string, manifest: Manifest, { again = false } = {}): Promise<string> {
  const ranking = rankingSchema.parse(await readJsonFile(join(folder, "ranking.json")));
  const { counts, accuracy, checks, seconds, warnings, options } = manifest;
  const total = Object.values(seconds).reduce((a, b) => a + b, 0);
  const correct = accuracy.reduce((sum, c) => sum + c.correct, 0);
  const pairs = accuracy.reduce((sum, c) => sum + c.pairs, 0);
  const nodes = counts.nodes_forward + counts.nodes_backward;
  const lines = [
    ...(again ? [`${folder} holds the finished run with these options.`, ""] : []),
    ...(options.method === "analytic" || options.method === undefined ? [] : [`Method: ${options.method}.`, ""]),
    `${counts.pairs} pairs, accuracy ${pairs > 0 ? ((100 * correct) / pairs).toFixed(1) : "–"} %; ${nodes} forest nodes for ${counts.tokens} tokens; ${counts.rows} effects; ${duration(total)}.`,
    "",
    ...topLines(ranking),
    "",
    ...checkLines(checks),
    ...warnings.map((warning) => `warning  ${warning}`),
    "",
    `Report: ${join(folder, reportFile)}`,
  ];
  return lines.join("\n");
}

/** The strongest features of every site, in the ranking's order, that of computation. */
function topLines({ score, sites }: Ranking): string[] {
  const unit = score === "effect" ? "effect in logits, mean per pair" : `score ${score}, mean per pair`;
  const shown = sites.some(({ splits }) => splits.train) ? "train" : "test";
  const rows = sites.map(({ site, splits, train_test }) => {
    const split = splits[shown];
    const features = (split?.top ?? []).slice(0, named).map((f) => `${f.feature} (${signed(f.effect)})`);
    const overlap = train_test?.overlap_10;
    return [
      site,
      (split?.importance ?? 0).toPrecision(3),
      overlap === null || overlap === undefined ? "–" : `${Math.round(100 * overlap)} %`,
      features.join("  "),
    ];
  });
  return table([["site", `Σ|${score}|`, "top 10 shared", `top features on ${shown} (${unit})`], ...rows]);
}

function checkLines(checks: Manifest["checks"]): string[] {
  const names = [...new Set(checks.map((c) => c.name))];
  return names.map((name) => {
    const all = checks.filter((c) => c.name === name);
    const failed = all.filter((c) => !c.passed);
    const worst = Math.max(...all.map((c) => (c.scale > 0 ? c.gap / c.scale : c.gap)));
    const where = failed.length > 0 ? `, fails at ${failed.map((c) => c.site ?? "the run").join(", ")}` : "";
    const verdict = failed.length > 0 ? "FAILED " : "passed ";
    return `${verdict}  ${name}: worst gap ${worst.toExponential(1)} of the scale, tolerance ${all[0]!.tolerance}${where}`;
  });
}

/** Columns side by side, each as wide as its widest cell. */
export function table(rows: readonly (readonly string[])[]): string[] {
  const widths = rows[0]!.map((_, column) => Math.max(...rows.map((row) => row[column]!.length)));
  return rows.map((row) =>
    row
      .map((cell, column) => cell.padEnd(widths[column]!))
      .join("  ")
      .trimEnd(),
  );
}

function signed(value: number): string {
  return `${value < 0 ? "−" : "+"}${Math.abs(value).toPrecision(2)}`;
}
