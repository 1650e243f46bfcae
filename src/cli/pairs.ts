import { runMetric } from "../capture/capture.ts";
import { planMetric } from "../capture/packs.ts";
import { streamedWeights } from "../capture/weights.ts";
import { describeDropped } from "../prompts/check.ts";
import { prefixForest } from "../prompts/forest.ts";
import type { PromptPair } from "../prompts/pairs.ts";
import { writePairs } from "../prompts/read-pairs.ts";
import { writeFileAtomic } from "./files.ts";
import type { Reporter } from "./reporter.ts";
import { checkPairs, choosePairs, type JobOptions, openModel } from "./setting.ts";
import { table } from "./summary.ts";

export interface PairsRequest {
  readonly options: Pick<JobOptions, "model_name" | "task" | "pairs" | "num_examples" | "seed">;
  /** File for the pairs that the tokenizer can use, in the public JSON lines; null to write none. */
  readonly output: string | null;
}

/**
 * Makes or imports prompt pairs and checks them against a model's tokenizer and the model itself (`sfc pairs`).
 *
 * @returns what to print: pairs and accuracy by split and case, what was dropped and why
 */
export async function pairs({ options, output }: PairsRequest, reporter: Reporter): Promise<string> {
  const { chosen, kept, dropped, forest, metric } = await measured(options, reporter);
  const rows = new Map<string, { first: PromptPair; pairs: number; correct: number; margin: number }>();
  kept.forEach(({ pair }, i) => {
    const key = JSON.stringify([pair.split, pair.case]);
    const row = rows.get(key) ?? { first: pair, pairs: 0, correct: 0, margin: 0 };
    rows.set(key, row);
    const m = metric[forest.entryOfPair[i]!]!;
    row.pairs++;
    row.margin -= m;
    if (m < 0) row.correct++;
  });
  const lines = table([
    ["split", "case", "pairs", "accuracy", "margin", "for example"],
    ...[...rows.values()].map(({ first, pairs: n, correct, margin }) => [
      first.split,
      first.case,
      String(n),
      `${((100 * correct) / n).toFixed(1)} %`,
      (margin / n).toFixed(2),
      `${first.clean_prefix} |${first.clean_answer} /${first.patch_answer}`,
    ]),
  ]);
  lines.push("", `${kept.length} of ${chosen.length} pairs can be used with this tokenizer.`);
  for (const line of describeDropped(dropped)) lines.push(`Left out ${line}.`);
  lines.push("accuracy: the clean answer has the larger logit. margin: by how many logits, on average.");
  if (output !== null) {
    await writeFileAtomic(output, writePairs(kept.map(({ pair }) => pair)));
    lines.push(`Written to ${output}.`);
  }
  return lines.join("\n");
}

/** The pairs that can be used, and the metric at every end of their forest. */
async function measured(options: PairsRequest["options"], reporter: Reporter) {
  reporter.begin("reading", 1);
  const opened = await openModel(options.model_name, reporter);
  try {
    const chosen = await choosePairs(opened.tokenizer, options, opened.inputs);
    const { kept, dropped } = checkPairs(chosen, opened, options.pairs ?? `the task ${options.task}`);
    reporter.begin("accuracy", 1);
    const forest = prefixForest(kept);
    const weights = streamedWeights(opened.checkpoint);
    const metric = await runMetric(opened.model, weights, planMetric(forest), { sites: [], stopped: reporter.stopped });
    opened.inputs.check();
    reporter.end();
    return { chosen, kept, dropped, forest, metric };
  } finally {
    await opened.checkpoint.close();
  }
}
