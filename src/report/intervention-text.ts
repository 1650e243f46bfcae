import { fixedText, percentText } from "../amounts.ts";
import type { IntervenedGroup, Intervention, NextToken } from "../interventions/intervene.ts";
import { visible } from "../prompts/excerpt.ts";
import type { PromptPair } from "../prompts/pairs.ts";
import { textTable } from "./text-table.ts";

/** A token that is among the most probable next ones, before or after. */
export interface NextTokenText extends NextToken {
  readonly text: string;
}

/** What interventions on features do to a run's behaviour: `sfc evaluate --ablate … --json` prints it. */
export interface InterventionResult {
  /** The run's folder. */
  readonly run: string;
  readonly interventions: readonly Intervention[];
  /** By split and case, then each split as a whole ('') where it has several cases. */
  readonly groups: readonly (Omit<IntervenedGroup, "next"> & { readonly next: readonly NextTokenText[] })[];
  /** Each pair with m at its clean prompt, in logits, below 0 where the clean answer wins. */
  readonly pairs: readonly (Pick<PromptPair, "split" | "case" | "clean_prefix" | "clean_answer" | "patch_answer"> & {
    readonly before: number;
    readonly after: number;
    readonly next: readonly NextTokenText[];
  })[];
}

/** What interventions have done, as text: the metric by case, and the next token on test, or train where there is no test. */
export function interventionText({ interventions, groups }: InterventionResult): string {
  const split = groups.some((group) => group.split === "test") ? "test" : "train";
  const own = groups.filter((group) => group.split === split);
  const whole = own.find((group) => group.case === "");
  return [
    "Codes changed at every token of the clean prompts:",
    ...textTable(interventions.map((one) => [`${one.site}/${one.feature}`, changeText(one)])).map(indented),
    "",
    ...textTable([
      ["", "pairs", "metric", "after", "accuracy", "after"],
      ...groups.map(({ split, case: name, pairs, before, after }) => [
        `${split} ${name === "" ? "all" : visible(name)}`,
        String(pairs),
        fixedText(before.metric, 2),
        fixedText(after.metric, 2),
        percentText(before.accuracy),
        percentText(after.accuracy),
      ]),
    ]),
    "metric: logit(patch answer) − logit(clean answer), mean over pairs; below 0 where the model prefers the clean answer.",
    ...(whole ? [whole] : own).flatMap(({ case: name, next }) => [
      "",
      `Next token, mean probability over ${split} pairs${name === "" ? "" : ` of ${visible(name)}`}, before and after:`,
      ...textTable(
        next.map(({ text, before, after }) => [JSON.stringify(text), before.toFixed(4), after.toFixed(4)]),
      ).map(indented),
    ]),
  ].join("\n");
}

const indented = (line: string) => `  ${line}`;

function changeText({ factor, value }: Intervention): string {
  if (factor !== 0) return `times ${factor}`;
  return value === 0 ? "ablated" : `set to ${value}`;
}
