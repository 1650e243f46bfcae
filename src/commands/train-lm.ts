import { readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { percentText } from "../amounts.ts";
import { writeSafetensors } from "../bytes/safetensors.ts";
import { UserError } from "../errors.ts";
import { constant } from "../graph/tensor.ts";
import { modelFromConfig } from "../models/architectures.ts";
import type { Model, Weights } from "../models/model.ts";
import { heldWeights } from "../models/weights.ts";
import { openModel } from "../open/open.ts";
import type { ProgressReporter } from "../progress.ts";
import { tokenizePairs } from "../prompts/check.ts";
import { agreementPairs } from "../prompts/english/agreement.ts";
import { demoLexicon } from "../prompts/english/lexicon-demo.ts";
import { determinerPairs, pronounPairs } from "../prompts/english/tasks.ts";
import { makeTokenizer } from "../prompts/make-tokenizer.ts";
import type { PromptPair } from "../prompts/pairs.ts";
import { loadTokenizer, type Tokenizer } from "../prompts/tokenizer.ts";
import { mean, rounded } from "../stats.ts";
import { makeFolder, readJsonFile, reserveFolder, writeFileAtomic } from "../storage/files.ts";
import { accuracyByCase, type CaseAccuracy } from "../training/accuracy.ts";
import { combinationReader, combinationsRead } from "../training/combinations.ts";
import { demoConfig } from "../training/demo.ts";
import { type LanguageModelRecipe, trainLanguageModel } from "../training/lm.ts";
import { meanLoss } from "../training/loss.ts";
import { layoutOf, namedParameters } from "../training/parameters.ts";
import { type GeneratedText, generatedText, heldOutText } from "../training/text.ts";
import { threadPool } from "./train-threads.ts";

/** The file that says how a model was trained, in its folder. */
const recordFile = "training/lm.json";

/** Pairs per case of the measurement: of agreement, and of the other tasks. */
const pairsPerCase = { agreement: 500, other: 120 };
/** Steps between two looks at held-out text and pairs, and pairs per case then. */
const checkEvery = 250;
const pairsPerCheck = 40;

/** What `training/lm.json` holds. */
interface TrainingRecord {
  readonly recipe: LanguageModelRecipe;
  readonly parameters: number;
  readonly tokens: number;
  /** Of the training with its checks: wall time, and all threads together. */
  readonly seconds: number;
  readonly cpu_seconds: number;
  readonly threads: number;
}

/**
 * Trains the embedded model's architecture on generated English and writes a folder in Hugging Face layout, with the learning curve as JSON lines in `training`.
 * Nothing is written into it before training is done.
 *
 * @throws UserError if there is something in the folder and `force` is not set, or it cannot be written
 */
export async function trainModel(
  folder: string,
  recipe: LanguageModelRecipe,
  {
    threads,
    force,
    progress,
    signal,
  }: { threads: number; force: boolean; progress: ProgressReporter; signal: AbortSignal },
): Promise<void> {
  if (!force && (await readdir(folder).catch(() => [])).length > 0) {
    throw new UserError(
      `--output_dir: expected a new or empty folder, got ${folder}. Choose another one, or replace the model in it with --force.`,
    );
  }
  await reserveFolder(folder);
  const files = makeTokenizer(demoLexicon);
  const tokenizerJson: unknown = JSON.parse(files["tokenizer.json"]);
  const tokenizer = loadTokenizer(tokenizerJson);
  const config = demoConfig(tokenizer.vocabularySize);
  const model = modelFromConfig(config, folder);
  const layout = layoutOf(model.parameters);
  const curve: object[] = [];
  const started = performance.now();

  const pool = threadPool(config, tokenizerJson, recipe, threads);
  try {
    progress.begin("training", recipe.steps);
    let [sum, count] = [0, 0];
    await trainLanguageModel(
      model,
      recipe,
      pool,
      async ({ step, loss, learningRate, norm }) => {
        progress.set(step);
        sum += loss;
        count++;
        const last = step === recipe.steps;
        if (step % 25 === 0 || last) {
          const tokens = step * recipe.rows * recipe.length;
          const line = {
            step,
            tokens,
            loss: rounded(sum / count),
            learning_rate: rounded(learningRate),
            norm: rounded(norm),
          };
          [sum, count] = [0, 0];
          if (step % checkEvery === 0 || last) {
            const weights = weightsIn(model, pool.weights);
            const check = await look(model, weights, tokenizer, recipe, threads);
            curve.push({ ...line, ...check });
            progress.line(
              `step ${step}: loss ${line.loss}, held-out ${check.held_out_loss}, accuracy ${percentText(check.accuracy)} (least: ${percentText(check.least_accuracy)}, ${check.least_case})`,
            );
          } else curve.push(line);
        }
      },
      signal,
    );
    progress.end();
    const cpu = process.cpuUsage();
    const record: TrainingRecord = {
      recipe,
      parameters: layout.size,
      tokens: recipe.steps * recipe.rows * recipe.length,
      seconds: Math.round((performance.now() - started) / 1000),
      cpu_seconds: Math.round((cpu.user + cpu.system) / 1e6),
      threads,
    };
    await makeFolder(join(folder, "training"));
    await rm(join(folder, "saes"), { recursive: true, force: true });
    for (const [name, text] of Object.entries(files)) await writeFileAtomic(join(folder, name), text);
    await writeFileAtomic(join(folder, "config.json"), json(config));
    await writeFileAtomic(join(folder, "generation_config.json"), json(generationConfig));
    await writeFileAtomic(join(folder, "training/lm.jsonl"), curve.map((line) => `${JSON.stringify(line)}\n`).join(""));
    await writeFileAtomic(join(folder, recordFile), json(record));
    const bytes = writeSafetensors(namedParameters(layout, pool.weights), {
      dtype: "F16",
      metadata: { format: "pt" },
    });
    await writeFileAtomic(join(folder, "model.safetensors"), bytes);
    progress.line(`model: ${folder}`);
  } finally {
    await pool.close();
  }
}

const generationConfig = { bos_token_id: 0, eos_token_id: 1, pad_token_id: 2 };

/** Held-out loss and agreement of a model in training. */
async function look(
  model: Model,
  weights: Weights,
  tokenizer: Tokenizer,
  recipe: LanguageModelRecipe,
  threads: number,
) {
  const cases = [
    ...(await agreementOn(model, weights, tokenizer, pairsPerCheck, recipe.seed, threads)),
    ...(await otherTasks(model, weights, tokenizer, pairsPerCheck, threads)),
  ];
  const shares = cases.map(({ correct, pairs }) => correct / pairs);
  return {
    held_out_loss: rounded(await heldOutLoss(model, weights, tokenizer, recipe, 128, threads)),
    accuracy: rounded(mean(shares)),
    least_accuracy: rounded(Math.min(...shares)),
    least_case: cases[shares.indexOf(Math.min(...shares))]!.case,
  };
}

function heldOutLoss(
  model: Model,
  weights: Weights,
  tokenizer: Tokenizer,
  { seed, length }: LanguageModelRecipe,
  rows: number,
  threads: number,
): Promise<number> {
  const text = generatedText(tokenizer, demoLexicon, heldOutText(seed));
  return meanLoss(model, weights, text.rows(0, rows, length), { threads });
}

/** Accuracy on combinations that generated English holds out, over all nouns; `read` are left out, should any have slipped through. */
async function agreementOn(
  model: Model,
  weights: Weights,
  tokenizer: Tokenizer,
  perCase: number,
  seed: number,
  threads: number,
  wasRead: (pair: PromptPair) => boolean = () => false,
): Promise<CaseAccuracy[]> {
  const half = Math.ceil(perCase / 2);
  const pairs = (["train", "test"] as const).flatMap((split) => {
    const options = { lexicon: demoLexicon, seed, split, combinations: "held-out", pool: 10_000 } as const;
    const taken = new Map<string, number>();
    // Half as many again, for those that were read.
    return agreementPairs({ ...options, perCase: Math.ceil(half * 1.5) }).filter((pair) => {
      const before = taken.get(pair.case) ?? 0;
      if (before === half || wasRead(pair)) return false;
      taken.set(pair.case, before + 1);
      return true;
    });
  });
  return accuracyByCase(model, weights, tokenizePairs(pairs, tokenizer).kept, { threads });
}

/** Accuracy on the tasks besides agreement. */
function otherTasks(
  model: Model,
  weights: Weights,
  tokenizer: Tokenizer,
  perCase: number,
  threads: number,
): Promise<CaseAccuracy[]> {
  const options = { lexicon: demoLexicon, seed: 1, perCase: perCase / 2 };
  const pairs = [...determinerPairs(options), ...pronounPairs(options)];
  return accuracyByCase(model, weights, tokenizePairs(pairs, tokenizer).kept, { threads });
}

/**
 * Measures a model of this recipe again: agreement by case on combinations of noun and verb that it never read in that construction, the other
 * tasks, and its loss on held-out text. Prints a table, or JSON.
 */
export async function evaluateModel(
  folder: string,
  threads: number,
  asJson: boolean,
  progress: ProgressReporter,
  print: (line: string) => void,
): Promise<void> {
  await using opened = await openModel(folder);
  const { model, checkpoint, tokenizer } = opened;
  const { recipe } = (await readJsonFile(join(folder, recordFile))) as TrainingRecord;
  const weights = await heldWeights(model, checkpoint);
  progress.begin("reading the training text again", recipe.steps);
  const text: GeneratedText = generatedText(tokenizer, demoLexicon, recipe.seed);
  const read = combinationsRead(text, recipe, (step) => progress.set(step));
  progress.end();
  const combinationOf = combinationReader(demoLexicon);
  const agreement = await agreementOn(model, weights, tokenizer, pairsPerCase.agreement, 1, threads, (pair) =>
    read.has(combinationOf(pair)),
  );
  const tasks = await otherTasks(model, weights, tokenizer, pairsPerCase.other, threads);
  const quality = {
    held_out_loss: rounded(await heldOutLoss(model, weights, tokenizer, recipe, 1024, threads)),
    combinations_read: read.size,
    agreement,
    tasks,
  };

  if (asJson) return print(json(quality).trimEnd());
  print(`loss on held-out text: ${quality.held_out_loss} nats per token\n`);
  print("| case | pairs | correct |\n|---|---|---|");
  for (const { case: name, pairs, correct } of [...agreement, ...tasks]) {
    print(`| ${name} | ${pairs} | ${percentText(correct / pairs)} |`);
  }
}

/** The parameters in a flat array as constants of graphs; copies, since the array may be shared and goes on changing. */
function weightsIn(model: Model, flat: Float32Array): Weights {
  const named = namedParameters(layoutOf(model.parameters), flat);
  const tensors = new Map(
    [...named].map(([name, { shape, data }]) => [name, constant(Float32Array.from(data), "float32", shape, name)]),
  );
  return (name) => tensors.get(name)!;
}

/** A value as the text of a JSON file. */
export function json(value: unknown): string {
  return `${JSON.stringify(value, null, 2)}\n`;
}
