import { stat } from "node:fs/promises";
import { countText } from "../amounts.ts";
import type { JobOptions } from "../analysis/options.ts";
import { type PairOptions, type Rejected, usablePairs } from "../analysis/pairs.ts";
import { runMetric } from "../capture/capture.ts";
import { StoppedError, UsageError } from "../errors.ts";
import { prefixForest } from "../forest/forest.ts";
import { planMetric } from "../forest/packs.ts";
import { loadedModel, streamedWeights } from "../models/weights.ts";
import { openJob } from "../open/open.ts";
import type { Reporter } from "../progress.ts";
import { groupPairs, type PromptPair, type Split } from "../prompts/pairs.ts";
import { writePairs } from "../prompts/read-pairs.ts";
import type { Tokenizer } from "../prompts/tokenizer.ts";
import { mean } from "../stats.ts";
import { writeFileAtomic } from "../storage/files.ts";

export interface PairsRequest {
  readonly options: PairOptions & Pick<JobOptions, "model_name" | "allow_config_field" | "bos">;
  /** File for the pairs that the tokenizer can use, in the public JSON lines; null to write none. */
  readonly output: string | null;
  /** Whether to list every pair that cannot be used, not only the first ones. */
  readonly all?: boolean;
}

/** What is known of some pairs on a model: `sfc pairs --json` prints it. */
export interface PairsResult {
  readonly model: string;
  /** The file, or the task. */
  readonly source: string;
  readonly pairs: { readonly total: number; readonly usable: number; readonly without_patch: number };
  /** By split and case. margin: by how many logits the clean answer is above the patch answer, on average. */
  readonly cases: readonly {
    readonly split: Split;
    readonly case: string;
    readonly pairs: number;
    readonly correct: number;
    readonly accuracy: number;
    readonly margin: number;
    readonly example: PromptPair;
  }[];
  /** All of them, or the first ones. */
  readonly rejected: readonly RejectedPair[];
  readonly warnings: readonly string[];
  /** The file that the usable pairs were written to. */
  readonly output: string | null;
}

/** A pair that cannot be used, with its tokens as text; the answers' tokens are those that they add to the clean prompt. */
export interface RejectedPair {
  readonly line: number | null;
  readonly reason: string;
  readonly texts: readonly string[];
  readonly tokens: Readonly<Record<"clean_prefix" | "patch_prefix" | "clean_answer" | "patch_answer", string[]>> | null;
}

/** Rejected pairs that are shown on a terminal. */
export const shownRejected = 20;

/**
 * Makes or imports prompt pairs and checks them against a model's tokenizer and the model itself (`sfc pairs`).
 *
 * @throws UserError if none can be used; StoppedError if asked to stop
 */
export async function pairs({ options, output, all = false }: PairsRequest, reporter: Reporter): Promise<PairsResult> {
  reporter.begin("reading", 1);
  if (output !== null && options.pairs !== null) await refuseSameFile(options.pairs, output);
  await using opened = await openJob(options, reporter, { saes: false, patchless: true });
  const { total, kept, rejected, warnings } = usablePairs(opened.source, opened, options, reporter);
  reporter.begin("accuracy", 1);
  const { stopped, set: onProgress } = reporter;
  const forest = prefixForest(kept, { stopped });
  const loaded = loadedModel(opened.model, streamedWeights(opened.checkpoint));
  const metric = await runMetric(loaded, planMetric(forest, { stopped }), { stopped, onProgress });
  opened.inputs.check();
  if (output !== null) await writeFileAtomic(output, writePairs(kept.map(({ pair }) => pair)), "--output");
  const without = kept.filter(({ pair }) => pair.patch_prefix === null).length;
  const none = `${countText(without, "pair")} ${without === 1 ? "has" : "have"} no patch prompt: of use with --score gradient and gradient-activation alone.`;
  const result: PairsResult = {
    model: options.model_name,
    source: opened.source.name,
    pairs: { total, usable: kept.length, without_patch: without },
    cases: groupPairs(kept.map(({ pair }) => pair)).map(({ split, case: name, members }) => {
      const m = members.map((i) => metric[forest.endIndexOfPair[i]!]!);
      const correct = m.filter((value) => value < 0).length;
      return {
        split,
        case: name,
        pairs: m.length,
        correct,
        accuracy: correct / m.length,
        margin: -mean(m),
        example: kept[members[0]!]!.pair,
      };
    }),
    rejected: rejected.slice(0, all ? undefined : shownRejected).map((one) => {
      if (stopped()) throw new StoppedError();
      return withTokens(one, opened.tokenizer);
    }),
    warnings: [...opened.warnings, ...warnings, ...(without > 0 ? [none] : [])],
    output,
  };
  reporter.end();
  return result;
}

/** The lines that cannot be used would be lost. @throws UsageError */
async function refuseSameFile(input: string, output: string): Promise<void> {
  const [from, to] = await Promise.all([input, output].map((path) => stat(path).catch(() => null)));
  if (!from || !to || from.dev !== to.dev || from.ino !== to.ino) return;
  throw new UsageError(
    `--output: expected another file than that of --pairs, whose lines that cannot be used would be lost, got ${output} for both. Name a new one.`,
  );
}

function withTokens({ line, reason, pair }: Rejected, tokenizer: Tokenizer): RejectedPair {
  if ("sentences" in pair) return { line, reason, texts: pair.sentences, tokens: null };
  const texts = (ids: readonly number[]) => ids.map((id) => tokenizer.token(id));
  const clean = tokenizer.encode(pair.clean_prefix);
  // Where the prompt itself is split otherwise before the answer, the tokens from there on.
  const added = (answer: string) => {
    const whole = tokenizer.encode(pair.clean_prefix + answer);
    const at = whole.findIndex((id, i) => id !== clean[i]);
    return at < 0 ? [] : whole.slice(at);
  };
  return {
    line,
    reason,
    texts: [
      pair.clean_prefix,
      ...(pair.patch_prefix === null ? [] : [pair.patch_prefix]),
      pair.clean_answer,
      pair.patch_answer,
    ],
    tokens: {
      clean_prefix: texts(clean),
      patch_prefix: pair.patch_prefix === null ? [] : texts(tokenizer.encode(pair.patch_prefix)),
      clean_answer: texts(added(pair.clean_answer)),
      patch_answer: texts(added(pair.patch_answer)),
    },
  };
}
