import { join } from "node:path";
import { countText, duration } from "../amounts.ts";
import { exactMiss, kindsBeside, type Ranking, rankingSchema } from "../circuit/ranking.ts";
import { effectKinds, type MethodName } from "../effects/method.ts";
import { leastWords } from "../interventions/spread.ts";
import type { Finding } from "../report/findings.ts";
import { textTable } from "../report/text-table.ts";
import { readFindings } from "../results/findings.ts";
import { type Manifest, manifestFile } from "../results/manifest.ts";
import { reportFile } from "../results/report.ts";
import { median } from "../stats.ts";
import { readJsonFile } from "../storage/files.ts";

/** Features named per site. */
const named = 3;

/** What a run found, for programs (`sfc run --json`): what matters of `run.json` and `ranking.json`, and where the files are. */
export interface RunSummary
  extends Pick<
    Manifest,
    "options" | "versions" | "model" | "counts" | "accuracy" | "checks" | "warnings" | "seconds" | "peak_rss_bytes"
  > {
  readonly folder: string;
  /** Whether the run had been finished before and nothing was computed. */
  readonly again: boolean;
  /** Whether every check passed. */
  readonly passed: boolean;
  /** Without the layers' sums: the strongest features of every site and split, `options.top` of them. */
  readonly ranking: Omit<Ranking, "layers">;
  /** Paths by what they hold. */
  readonly files: Readonly<
    Record<"manifest" | "pairs" | "nodes" | "effects" | "features" | "ranking" | "report", string>
  >;
}

/** @param again whether the run had been finished before and nothing was computed */
export async function summaryJson(folder: string, manifest: Manifest, { again = false } = {}): Promise<RunSummary> {
  const { layers: _, ...ranking } = rankingSchema.parse(await readJsonFile(join(folder, "ranking.json")));
  const { options, versions, model, counts, accuracy, checks, warnings, seconds, peak_rss_bytes } = manifest;
  return {
    folder,
    again,
    passed: checks.every((check) => check.passed),
    options,
    versions,
    model,
    counts,
    accuracy,
    checks,
    warnings,
    seconds,
    peak_rss_bytes,
    ranking,
    files: {
      manifest: join(folder, manifestFile),
      pairs: join(folder, "pairs.jsonl"),
      nodes: join(folder, "nodes.parquet"),
      effects: join(folder, "effects.parquet"),
      features: join(folder, "features.parquet"),
      ranking: join(folder, "ranking.json"),
      report: join(folder, reportFile),
    },
  };
}

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
    `${counts.pairs} ${counts.pairs === 1 ? "pair" : "pairs"}, accuracy ${pairs > 0 ? ((100 * correct) / pairs).toFixed(1) : "–"} %; ${nodes} forest nodes for ${counts.tokens} tokens; ${counts.rows} effects; ${duration(total)}.`,
    "",
    ...topLines(ranking, String(options.method ?? "analytic")),
    "",
    ...readingLines(ranking, manifest),
    "",
    ...foundLines(await readFindings(folder, manifest, ranking)),
    "",
    ...checkLines(checks),
    ...warnings.map((warning) => `warning  ${warning}`),
    "",
    `Report: ${join(folder, reportFile)}`,
  ];
  return lines.join("\n");
}

/** What was found, a line each. */
const foundLines = (findings: readonly Finding[]) => [
  "Found:",
  ...findings.map(({ claim, grounds }) => `- ${claim} ${grounds}`),
];

/** The strongest features of every site, in the ranking's order, that of computation. */
function topLines(ranking: Ranking, method: string): string[] {
  const { score, sites } = ranking;
  const unit = score === "effect" ? "effect in logits, mean per pair" : `score ${score}, mean per pair`;
  const shown = shownSplit(ranking);
  const kinds = ranking.exact === null ? [] : kindsBeside(method);
  const hasSpread = sites.some(({ splits }) => splits[shown]?.stability_10 != null);
  const rows = sites.map(({ site, splits, train_test }) => {
    const split = splits[shown];
    const features = (split?.top ?? []).slice(0, named).map(({ feature, effect, exact, by_words, ranks }) => {
      const spread = by_words === null ? "" : ` ± ${((by_words.high - by_words.low) / 2).toPrecision(2)}`;
      const beside = kinds.flatMap((kind) => {
        const value = exact?.[kind] ?? null;
        return value === null ? [] : [`${kindNames[kind]} ${signed(value)}`];
      });
      const parts = [
        `${signed(effect)}${spread}`,
        ...(ranks === null ? [] : [`rank ${rangeText(ranks)}`]),
        ...beside,
        ...(exact === null ? [] : [`exact ${signed(exact.effect)}`]),
      ];
      return `${feature} (${parts.join(", ")})`;
    });
    const of10 = train_test?.overlap_10_by_words;
    return [
      site,
      (split?.importance ?? 0).toPrecision(3),
      ...(score === "effect" ? [percent(split?.explained)] : []),
      `${percent(train_test?.overlap_10)}${of10 ? ` [${Math.round(100 * of10.low)}–${Math.round(100 * of10.high)}]` : ""}`,
      ...(hasSpread ? [percent(split?.stability_10)] : []),
      features.join("  "),
    ];
  });
  const head = [
    "site",
    `Σ|${score}|`,
    ...(score === "effect" ? ["explained"] : []),
    "top-10 overlap",
    ...(hasSpread ? ["stable"] : []),
    `top features on ${shown} (${unit}${ranking.exact === null ? "" : "; exact: patched alone"})`,
  ];
  return textTable([head, ...rows]);
}

const kindNames = { first_order: "first-order", secant: "secant" } as const;

/** How the numbers of the table are to be read: what kind of effect they are, and what they account for. */
function readingLines(ranking: Ranking, { options, unexplained }: Manifest): string[] {
  const { score, change, exact } = ranking;
  if (score !== "effect") return ["Scores are first-order and need no patch prompts; they do not add up to anything."];
  const method = String(options.method ?? "analytic") as MethodName;
  const shown = shownSplit(ranking);
  const total = change[shown];
  return [
    `Effects are ${effectKinds[method]}.`,
    ...spreadLine(ranking),
    ...fitLine(unexplained),
    ...(total === undefined
      ? []
      : [
          `"explained": what a site's effects and its error add up to, as a share of the metric's change, m(patch) − m(clean) = ${signed(total)} logits on ${shown}.`,
        ]),
    ...(exact === null
      ? []
      : [
          `Exact: the strongest features patched by themselves on ${exact.pairs} of ${exact.of} ${shown} ${exact.of === 1 ? "pair" : "pairs"}${besideText(ranking, method)}. ${missLine(ranking)}`,
        ]),
  ];
}

/** What "±", ranks and brackets are, or why there are none. */
function spreadLine({ words, sites }: Ranking): string[] {
  const shown = shownSplit({ sites });
  const count = words[shown];
  if (count === undefined) return [];
  if (count < leastWords) {
    return [`No intervals: the ${shown} pairs share ${countText(count, "word")}, fewer than ${leastWords}.`];
  }
  const ratios = sites.flatMap(({ splits }) =>
    (splits[shown]?.top ?? []).slice(0, named).flatMap(({ by_words: a, by_pairs: b }) => {
      return a && b && b.high > b.low ? [(a.high - a.low) / (b.high - b.low)] : [];
    }),
  );
  const ratio = median(ratios);
  // Where every pair has a word of its own, both say the same.
  const narrow =
    ratio === null || ratio < 1.1 ? "" : ` (over single pairs ${ratio.toFixed(1)} times narrower: too narrow)`;
  return [
    `"±", ranks and brackets: 95 % intervals over other words, those that pairs share (${count} on ${shown}), drawn again${narrow}; "stable": what the top 10 and those of a draw have in common (Jaccard).`,
  ];
}

/** Which other numbers of the same features and pairs the table has. */
function besideText({ sites }: Ranking, method: string): string {
  const rows = sites.flatMap(({ splits }) => Object.values(splits).flatMap(({ top }) => top.map(({ exact }) => exact)));
  const known = kindsBeside(method).filter((kind) => rows.some((exact) => exact !== null && exact[kind] !== null));
  if (known.length === 0) return "";
  return `, ${known.map((kind) => kindNames[kind]).join(" and ")} on the same pairs`;
}

/** How much of what the model computes there the SAEs give back. */
function fitLine(unexplained: Manifest["unexplained"]): string[] {
  const known = Object.entries(unexplained ?? {}).flatMap(([site, share]) => (share === null ? [] : [{ site, share }]));
  if (known.length === 0) return [];
  const most = known.reduce((a, b) => (b.share > a.share ? b : a));
  const least = known.reduce((a, b) => (b.share < a.share ? b : a));
  const [low, high] = [percent(least.share), percent(most.share)];
  const range = low === high ? high : `${low} to ${high}`;
  const where = low === high ? "" : ` (most at ${most.site})`;
  return [`SAEs leave ${range} of the variance of these prompts' activations unexplained${where}.`];
}

/** How far the method's numbers are from the exact ones, over the patched features. */
function missLine(ranking: Ranking): string {
  const miss = exactMiss(ranking);
  if (miss === null) return "";
  const { site, feature, effect, exact } = miss.worst;
  return `Σ|effect − exact| / Σ|exact| = ${percent(miss.distance)}; furthest off: ${site}/${feature}, ${signed(effect)} there, exact ${signed(exact)}.`;
}

const rangeText = ({ low, high }: { low: number; high: number }) => (low === high ? String(low) : `${low}–${high}`);

const shownSplit = ({ sites }: Pick<Ranking, "sites">) => (sites.some(({ splits }) => splits.train) ? "train" : "test");

function percent(share: number | null | undefined): string {
  return share === null || share === undefined ? "–" : `${Math.round(100 * share)} %`;
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

function signed(value: number): string {
  return `${value < 0 ? "−" : "+"}${Math.abs(value).toPrecision(2)}`;
}
