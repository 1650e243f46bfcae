import { stat } from "node:fs/promises";
import { join } from "node:path";
import { openFolder } from "#file";
import { countText, percentText } from "../amounts.ts";
import { type JumpReluWeights, saveSaeLens } from "../dictionaries/formats/sae-lens.ts";
import { closeDictionaries, openDictionaries } from "../dictionaries/open.ts";
import { UserError } from "../errors.ts";
import type { ProgressReporter } from "../progress.ts";
import { compareSites, type SiteName } from "../site.ts";
import { rounded } from "../stats.ts";
import { makeFolder, reserveFolder, writeFileAtomic } from "../storage/files.ts";
import type { InputFiles } from "../storage/input-files.ts";
import { tokensOfBatch } from "../training/activations.ts";
import type { DictionaryQuality } from "../training/evaluate.ts";
import type { DictionaryProgress, DictionaryRecipe } from "../training/sae.ts";
import { json } from "./train-lm.ts";
import { nameOf, type TextChoice } from "./train-text.ts";
import { runBySites } from "./train-threads.ts";

export interface DictionaryTask {
  /** The model's folder. */
  readonly model: string;
  /** Unknown fields of config.json to go on with. */
  readonly allowedFields: readonly string[];
  readonly modelName: string;
  /** The files that are read. */
  readonly inputs: InputFiles;
  readonly sites: readonly SiteName[];
  /** Where the SAEs go or lie, one folder per site. */
  readonly folder: string;
  readonly text: TextChoice;
  /** Tokens per row of text. */
  readonly length: number;
  /** Whether rows begin with BOS. */
  readonly bos: boolean;
  /** How often the model is held in memory: each copy has its share of the sites and of the threads. */
  readonly copies: number;
  readonly threads: number;
  readonly progress: ProgressReporter;
  readonly signal: AbortSignal;
}

/**
 * Trains an SAE per site and writes them in SAELens' layout, with their curves as JSON lines in `training` beside the SAEs' folder. Nothing
 * is written before all are trained.
 *
 * @throws UserError if there is an SAE already and `force` is not set, or the folder cannot be written
 */
export async function trainSaes(task: DictionaryTask, recipe: DictionaryRecipe, force: boolean): Promise<void> {
  const { sites, folder, text, length, copies, threads, progress, signal } = task;
  for (const site of sites) {
    if (!force && (await stat(join(folder, site)).catch(() => null))) {
      throw new UserError(
        `--output_dir: expected a folder without SAEs of ${site}, got ${folder}. Choose another one, or replace them with --force.`,
      );
    }
  }
  await reserveFolder(folder);
  const curve: DictionaryProgress[] = [];
  /** The last step that each site told of. */
  const reached = new Map<SiteName, number>();
  const started = performance.now();
  // Means and deviations of the sites take a while before the first step, which would spoil the estimate of the rest.
  progress.begin("scales of activations", 1);
  const trained = await runBySites<JumpReluWeights, DictionaryProgress>(
    {
      kind: "dictionaries",
      model: task.model,
      allowedFields: task.allowedFields,
      sites,
      recipe,
      text,
      length,
      threads: Math.floor(threads / copies),
    },
    copies,
    (line) => {
      if (reached.size === 0) progress.begin(`training ${countText(sites.length, "SAE")}`, sites.length * recipe.steps);
      reached.set(line.site, line.step);
      progress.set([...reached.values()].reduce((all, step) => all + step, 0));
      curve.push({ ...line, unexplained: rounded(line.unexplained), activeFeatures: rounded(line.activeFeatures) });
    },
    signal,
  );
  progress.end();
  const cpu = process.cpuUsage();
  const record = {
    recipe,
    sites,
    text: nameOf(text),
    length,
    tokens: Math.round(recipe.steps * tokensOfBatch(length)),
    seconds: Math.round((performance.now() - started) / 1000),
    cpu_seconds: Math.round((cpu.user + cpu.system) / 1e6),
    threads,
  };
  task.inputs.check();
  for (const sae of trained) {
    await makeFolder(join(folder, sae.site));
    const files = saveSaeLens(sae, {
      dtype: "float16",
      metadata: {
        model_name: task.modelName,
        context_size: length,
        dataset_path: nameOf(text),
        prepend_bos: task.bos,
      },
    });
    for (const [name, bytes] of Object.entries(files)) await writeFileAtomic(join(folder, sae.site, name), bytes);
  }
  const notes = join(folder, "../training");
  await makeFolder(notes);
  curve.sort((a, b) => compareSites(a.site, b.site) || a.step - b.step);
  await writeFileAtomic(join(notes, "saes.jsonl"), curve.map((line) => `${JSON.stringify(line)}\n`).join(""));
  await writeFileAtomic(join(notes, "saes.json"), json(record));
  progress.line(`SAEs: ${folder}`);
}

/**
 * Measures SAEs again on held-out text and prints a table, or JSON.
 *
 * @param tokens how many, BOS not counted; lossTokens: how many of them for the losses
 */
export async function evaluateSaes(
  task: DictionaryTask,
  { tokens, lossTokens }: { readonly tokens: number; readonly lossTokens: number },
  asJson: boolean,
  print: (line: string) => void,
): Promise<void> {
  const { sites, folder, text, length, copies, threads, progress, signal } = task;
  // Opened first, so that a missing or damaged file is found before the work begins.
  await closeDictionaries(await openDictionaries(await openFolder(folder), sites));
  const done = Array.from({ length: copies }, () => ({ done: 0, total: 0 }));
  progress.begin(`evaluating ${countText(sites.length, "SAE")}`, 1);
  const found = await runBySites<DictionaryQuality, { done: number; total: number }>(
    {
      kind: "evaluation",
      model: task.model,
      allowedFields: task.allowedFields,
      saes: folder,
      sites,
      text,
      length,
      threads: Math.floor(threads / copies),
      tokens,
      lossTokens,
    },
    copies,
    (state, thread) => {
      done[thread] = state;
      const sum = (which: "done" | "total") => done.reduce((all, one) => all + one[which], 0);
      progress.set(sum("done"), sum("total"));
    },
    signal,
  );
  found.sort((a, b) => compareSites(a.site, b.site));
  if (asJson) return print(json({ tokens, loss_tokens: Math.min(tokens, lossTokens), sites: found }).trimEnd());
  print(
    "| site | features | variance explained | loss recovered | loss: plain, SAE, mean | active per token | silent |",
  );
  print("|---|---|---|---|---|---|---|");
  for (const q of found) {
    const losses = [q.loss, q.lossReconstructed, q.lossAblated].map((x) => x.toFixed(4)).join(", ");
    print(
      `| ${q.site} | ${q.features} | ${q.varianceExplained.toFixed(4)} | ${q.lossRecovered.toFixed(4)} | ${losses} | ${q.activeFeatures.toFixed(1)} | ${percentText(q.silent)} |`,
    );
  }
}
