import { countText, fixedText } from "../amounts.ts";
import type { Curve, CurvePoint, Evaluation } from "../interventions/evaluation.ts";
import { visible } from "../prompts/excerpt.ts";
import { textTable } from "./text-table.ts";

const two = (value: number) => fixedText(value, 2);

/** What an evaluation has found, as text: curves on test, or train where there is no test, and transfer. */
export function evaluationText({ pairs, curves, sites, transfer, circuits }: Evaluation): string {
  const tested = new Set(pairs.filter(({ split }) => split === "test").map(({ group }) => group));
  const splitOf = (group: string) => (tested.has(group) ? "test" : "train");
  const shown = curves.filter(({ split, group }) => split === splitOf(group));
  const groups = [...new Set(shown.map(({ group }) => group))];
  const splits = [...new Set(groups.map(splitOf))];
  const alone = splits.length === 1 ? splits[0] : undefined;
  const lines = [
    `Faithfulness of circuits on ${alone ?? "test"} pairs${alone ? "" : ", or train pairs where there are no others"}, chosen on train. Ablated at ${siteText(sites)}.`,
    "Behind each number its 95 % interval over the words that pairs share; then completeness, of the model without the circuit.",
    "CPR: mean faithfulness over sizes from none to all features, straight lines between those measured; CMD: its mean distance from 1.",
  ];
  for (const group of groups) {
    const own = pairs.find((of) => of.group === group && of.split === splitOf(group))!;
    for (const ablation of [...new Set(shown.map((curve) => curve.ablation))]) {
      const of = shown.filter((curve) => curve.group === group && curve.ablation === ablation);
      const { f_model, f_empty, whole, errors } = of[0]!;
      const reconstruction = whole === null ? "" : `, all features ${two(whole)}`;
      lines.push(
        "",
        `${visible(group)}, ${ablation} ablation, errors ${errors}: ${countText(own.pairs, alone ? "pair" : `${own.split} pair`)} of ${countText(own.words, "word")}; F(M) ${two(f_model)}, F(∅) ${two(f_empty)} logits${reconstruction}`,
        ...curveTable(of),
      );
    }
  }
  const steady = circuits.filter(({ stability }) => stability !== null);
  if (steady.length > 0) {
    const mean = steady.reduce((sum, { stability }) => sum + stability!, 0) / steady.length;
    lines.push(
      "",
      `Chosen again from resampled words, circuits share ${(100 * mean).toFixed(0)} % of their features on average (Jaccard).`,
    );
  }
  if (transfer) {
    const measured = transfer.groups.every((group) => tested.has(group))
      ? "test pairs"
      : "test pairs, or train pairs where there are no others";
    lines.push("", ...transferText(transfer, measured));
  }
  return lines.join("\n");
}

const siteText = (sites: readonly string[]) =>
  sites.length <= 4 ? sites.join(", ") : `${sites.slice(0, 3).join(", ")} … ${sites.at(-1)} (${sites.length} sites)`;

function curveTable(curves: readonly Curve[]): string[] {
  const sizes = [...new Set(curves.flatMap(({ points }) => points.map(({ size }) => size)))].sort((a, b) => a - b);
  const nameOf = ({ way, seed }: Curve) => (seed === null ? way : `${way} ${seed}`);
  return textTable([
    ["features", ...curves.map(nameOf)],
    ...sizes.map((size) => [
      String(size),
      ...curves.map(({ points }) => {
        const point = points.find((of) => of.size === size);
        return point ? cell(point) : "";
      }),
    ]),
    ["CPR", ...curves.map(({ cpr }) => two(cpr))],
    ["CMD", ...curves.map(({ cmd }) => two(cmd))],
  ]).map((line) => `  ${line}`);
}

function cell({ faithfulness, by_words, completeness }: CurvePoint): string {
  const interval = by_words ? ` [${two(by_words.low)}, ${two(by_words.high)}]` : "";
  return `${two(faithfulness)}${interval}${completeness === null ? "" : ` ${two(completeness)}`}`;
}

function transferText(
  { way, size, ablation, groups, faithfulness }: NonNullable<Evaluation["transfer"]>,
  measured: string,
): string[] {
  const names = groups.map(visible);
  return [
    `Transfer: circuits of ${size} features (${way}, ${ablation} ablation), chosen for the row, measured on the column's ${measured}`,
    ...textTable([["", ...names], ...names.map((name, i) => [name, ...faithfulness[i]!.map(two)])]).map(
      (line) => `  ${line}`,
    ),
  ];
}
