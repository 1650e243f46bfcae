import { bytesText, duration } from "../amounts.ts";
import type { Comparison } from "./comparison.ts";
import { textTable } from "./text-table.ts";

/**
 * A comparison as text for a terminal.
 *
 * @param again whether it had been finished before and nothing was computed
 */
export function comparisonText(folder: string, report: string, comparison: Comparison, { again = false } = {}): string {
  const { accuracy, pairs, dictionaries, agreement, exactness, sums, warnings } = comparison;
  const right = accuracy === null ? "–" : (100 * accuracy).toFixed(1);
  const sections = [
    ...(again ? [[`${folder} holds the finished comparison with these options.`]] : []),
    [
      `${pairs} ${pairs === 1 ? "pair" : "pairs"}, accuracy ${right} %; ${dictionaries.sites.length} sites, ${dictionaries.features} features.`,
    ],
    methodLines(comparison),
    agreement.length > 0 ? agreementLines(agreement) : [],
    exactness.length > 0 ? exactnessLines(exactness) : [],
    wordLines(comparison),
    sums.length > 0 ? sumLines(sums) : [],
    warnings.map((warning) => `warning  ${warning}`),
    [`Report: ${report}`],
  ];
  return sections
    .filter((lines) => lines.length > 0)
    .map((lines) => lines.join("\n"))
    .join("\n\n");
}

/** What each method took, and how many times the first one's. */
function methodLines({ methods }: Comparison): string[] {
  const [first] = methods;
  return textTable([
    ["method", "time", "×", "memory above the model", "×", "peak"],
    ...methods.map((m) => [
      m.name,
      duration(m.seconds),
      times(m.seconds, first!.seconds),
      bytesText(m.above_bytes),
      times(m.above_bytes, first!.above_bytes),
      bytesText(m.peak_bytes),
    ]),
  ]);
}

function agreementLines(agreement: Comparison["agreement"]): string[] {
  return textTable([
    [
      "all sites together",
      "features",
      "Pearson",
      "Spearman",
      "sign",
      "top 10",
      "50",
      "100",
      "largest difference / effect",
    ],
    ...agreement
      .filter(({ site }) => site === "")
      .map((of) => [
        `${of.a}, ${of.b}`,
        String(of.features),
        correlation(of.pearson, of.pearson_by_words),
        correlation(of.spearman),
        share(of.sign),
        share(of.top_10, of.top_10_by_words),
        share(of.top_50, of.top_50_by_words),
        share(of.top_100, of.top_100_by_words),
        ofLargest(of),
      ]),
  ]);
}

function exactnessLines(exactness: Comparison["exactness"]): string[] {
  return textTable([
    ["against exact", "patched features", "Pearson", "Spearman", "sign", "Σ|difference| / Σ|exact|"],
    ...exactness
      .filter(({ site }) => site === "")
      .map((of) => [
        of.method,
        String(of.features),
        correlation(of.pearson, of.pearson_by_words),
        correlation(of.spearman),
        share(of.sign),
        of.error === null ? "–" : of.error.toPrecision(2) + bracket(of.error_by_words, (value) => value.toPrecision(2)),
      ]),
  ]);
}

/** What the brackets are. */
function wordLines({ agreement, exactness, words }: Comparison): string[] {
  const known = [...agreement, ...exactness].some(({ pearson_by_words }) => pearson_by_words !== null);
  return known ? [`In brackets: 95 % intervals over other words, the ${words} that pairs share drawn again.`] : [];
}

/** For each method the site whose effects add up worst to the change of the metric. */
function sumLines(sums: Comparison["sums"]): string[] {
  const byPair = sums.some(({ median_gap }) => median_gap !== null);
  const rows = [...new Set(sums.map(({ method }) => method))].map((name) => {
    const worst = sums
      .filter(({ method }) => method === name)
      .reduce((most, of) => ((of.gap ?? 0) > (most.gap ?? 0) ? of : most));
    const medianGap = worst.median_gap === null ? "–" : worst.median_gap.toPrecision(2);
    return [
      name,
      worst.sum.toFixed(3),
      worst.total.toFixed(3),
      worst.gap === null ? "–" : worst.gap.toPrecision(2),
      worst.site,
      ...(byPair ? [medianGap] : []),
    ];
  });
  return textTable([
    [
      "effects and error",
      "sum",
      "m(patch) − m(clean)",
      "largest gap",
      "at",
      ...(byPair ? ["median of the pairs"] : []),
    ],
    ...rows,
  ]);
}

function times(value: number, first: number): string {
  if (first <= 0) return "–";
  const ratio = value / first;
  return `${ratio < 10 ? ratio.toFixed(1) : Math.round(ratio)} ×`;
}

type Range = { readonly low: number; readonly high: number } | null;

const bracket = (of: Range, show: (value: number) => string) => (of ? ` [${show(of.low)}–${show(of.high)}]` : "");
const share = (value: number | null, of: Range = null) =>
  value === null ? "–" : `${Math.round(100 * value)} %${bracket(of, (v) => String(Math.round(100 * v)))}`;
const correlation = (value: number | null, of: Range = null) =>
  value === null ? "–" : value.toFixed(4) + bracket(of, (v) => v.toFixed(4));
const ofLargest = ({ difference, scale }: { difference: number; scale: number }) =>
  scale === 0 ? "–" : (difference / scale).toPrecision(2);
