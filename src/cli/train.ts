import { basename, resolve } from "node:path";
import { type Command, InvalidArgumentError } from "commander";
import { embeddedModel } from "../analysis/options.ts";
import { parseLayers } from "../analysis/sites.ts";
import { evaluateModel, trainModel } from "../commands/train-lm.ts";
import { evaluateSaes, trainSaes } from "../commands/train-sae.ts";
import { readText } from "../commands/train-text.ts";
import { UsageError } from "../errors.ts";
import { parameterCount } from "../models/model.ts";
import { openModel } from "../open/open.ts";
import { parseKinds, parseSite, type SiteKind, type SiteName, siteName } from "../site.ts";
import { packageRoot } from "../storage/package.ts";
import { demoDictionaryRecipe, demoRecipe } from "../training/demo.ts";
import { modelFlag, wholeNumber, wholeNumberFrom0, wholeNumberUpTo } from "./flags.ts";
import { ProgressBar, progressReporter } from "./progress-bar.ts";
import { print, printError } from "./terminal.ts";

/** A model of more parameters is held in memory once, whatever the number of threads. */
const parametersOfCopies = 25e6;

/** Adds `train lm` and `train sae`. */
export function addTrainCommands(program: Command): void {
  const train = program.command("train").description("train a language model and SAEs on the same engine");

  train
    .command("lm")
    .description("train the embedded model's architecture on generated English")
    .requiredOption("--output_dir <folder>", "where the model goes")
    .option("--seed <n>", "seed of the initial weights and of the text", wholeNumberFrom0, demoRecipe.seed)
    .option("--steps <n>", "training steps", wholeNumber, demoRecipe.steps)
    .option(
      "--rows <n>",
      `rows of ${demoRecipe.length} tokens per step, a multiple of ${demoRecipe.shards}`,
      wholeNumber,
      demoRecipe.rows,
    )
    .option("--learning_rate <x>", "highest learning rate", aboveZero, demoRecipe.learningRate)
    .option("--threads <n>", "gradients computed side by side, at most 2", wholeNumberUpTo(256), 2)
    .option("--force", "replace a model that is there already, and remove its SAEs", false)
    .option("--evaluate", "measure the model in the folder instead of training one", false)
    .option("--json", "print what --evaluate finds as JSON", false)
    .action(async (o: LmFlags) => {
      if (o.evaluate) {
        return withProgress((progress) => evaluateModel(folderOf(o.output_dir), o.threads, o.json, progress, print));
      }
      if (o.rows % demoRecipe.shards !== 0) {
        throw new UsageError(`--rows: expected a multiple of ${demoRecipe.shards}, got ${o.rows}.`);
      }
      const { seed, steps, rows, learning_rate: learningRate } = o;
      const warmup = Math.min(demoRecipe.warmup, Math.ceil(steps / 10));
      const recipe = { ...demoRecipe, seed, steps, rows, learningRate, warmup };
      await untilInterrupted((progress, signal) =>
        trainModel(o.output_dir, recipe, { threads: o.threads, force: o.force, progress, signal }),
      );
    });

  const sae = train
    .command("sae")
    .description("train JumpReLU SAEs of a model's sites on plain text or on generated English");
  modelFlag(sae)
    .option("--sites <kinds>", "kinds of sites", "attn_out,mlp_out,resid_post")
    .option("--layers <blocks>", "0-based blocks, e.g. 0-3,5 (default: all)")
    .option(
      "--output_dir <folder>",
      "where the SAEs go (default: saes in the model's folder; needed for a model of the hub)",
    )
    .option("--text <files...>", "plain text in UTF-8, documents between blank lines (default: generated English)")
    .option("--generated <share>", "share of generated English beside --text", share, 0)
    .option("--length <n>", "tokens per row of text", wholeNumber, demoRecipe.length)
    .option("--seed <n>", "seed of the initial weights and of the text", wholeNumberFrom0, demoDictionaryRecipe.seed)
    .option("--steps <n>", "training steps of each SAE", wholeNumber, demoDictionaryRecipe.steps)
    .option(
      "--expansion <n>",
      "features per dimension of the site",
      wholeNumberUpTo(1024),
      demoDictionaryRecipe.expansion,
    )
    .option("--active <n>", "target L0: active features per token", wholeNumber, demoDictionaryRecipe.activeFeatures)
    .option(
      "--threads <n>",
      "threads: sites side by side, or model and SAEs where the model is large",
      wholeNumberUpTo(256),
      2,
    )
    .option("--force", "replace SAEs that are there already", false)
    .option("--evaluate", "measure the SAEs in the folder instead of training some", false)
    .option("--json", "print what --evaluate finds as JSON", false)
    .option("--tokens <n>", "held-out tokens for --evaluate", wholeNumber, 1_000_000)
    .option("--loss_tokens <n>", "how many of them for the losses, which take longest", wholeNumber, 40_000)
    .action(async (o: SaeFlags) => {
      const files = o.text ?? [];
      if (o.generated > 0 && files.length === 0) {
        throw new UsageError(
          `--generated: expected --text with it, got ${o.generated} alone. Without --text all is generated.`,
        );
      }
      // Read here too, so that a wrong path or a broken file is found before the work begins.
      for (const file of files) await readText(file);
      const { model, checkpoint, tokenizer, folder, inputs, warnings } = await withProgress((progress) =>
        openModel(o.model_name, progressReporter(progress), undefined, o.allow_config_field),
      );
      for (const warning of warnings) printError(warning);
      await checkpoint.close();
      for (const file of files) inputs.watch(file);
      if (o.length < 2 || o.length > model.maxLength) {
        throw new UsageError(
          `--length: expected 2 to ${model.maxLength} tokens, got ${o.length} in ${folder}. The model reads no longer rows.`,
        );
      }
      const layers = o.layers === undefined ? undefined : parseLayers(o.layers, model.layers);
      const kinds = parseKinds(o.sites, model.sites);
      const sites = sitesOf(kinds, layers ?? new Set(Array.from({ length: model.layers }, (_, l) => l)));
      for (const { kind } of sites.map(parseSite)) {
        const features = o.expansion * (model.sites[kind] ?? 0);
        if (o.active <= features) continue;
        throw new UsageError(
          `--active: expected at most ${features}, the SAE's features, got ${o.active}. Take fewer.`,
        );
      }
      const large = parameterCount(model) > parametersOfCopies;
      const task = {
        model: folder,
        allowedFields: o.allow_config_field ?? [],
        inputs,
        modelName: basename(resolve(o.model_name)),
        sites,
        folder: o.output_dir ?? ownSaes(o.model_name, folder),
        text: { files, generated: o.generated, seed: o.seed },
        length: o.length,
        bos: tokenizer.bos !== undefined,
        copies: large ? 1 : Math.min(o.threads, new Set(sites.map((site) => parseSite(site).layer)).size),
        threads: o.threads,
      };
      const { seed, steps, expansion, active: activeFeatures } = o;
      const recipe = { ...demoDictionaryRecipe, seed, steps, expansion, activeFeatures };
      await untilInterrupted((progress, signal) =>
        o.evaluate
          ? evaluateSaes({ ...task, progress, signal }, { tokens: o.tokens, lossTokens: o.loss_tokens }, o.json, print)
          : trainSaes({ ...task, progress, signal }, recipe, o.force),
      );
    });
}

interface LmFlags {
  readonly output_dir: string;
  readonly seed: number;
  readonly steps: number;
  readonly rows: number;
  readonly learning_rate: number;
  readonly threads: number;
  readonly force: boolean;
  readonly evaluate: boolean;
  readonly json: boolean;
}

interface SaeFlags {
  readonly model_name: string;
  readonly allow_config_field?: string[];
  readonly sites: string;
  readonly layers?: string;
  readonly output_dir?: string;
  readonly text?: readonly string[];
  readonly generated: number;
  readonly length: number;
  readonly seed: number;
  readonly steps: number;
  readonly expansion: number;
  readonly active: number;
  readonly threads: number;
  readonly force: boolean;
  readonly evaluate: boolean;
  readonly json: boolean;
  readonly tokens: number;
  readonly loss_tokens: number;
}

/** Shows how far work is, until it ends or fails. */
async function withProgress<T>(work: (progress: ProgressBar) => Promise<T>): Promise<T> {
  const progress = new ProgressBar();
  try {
    return await work(progress);
  } finally {
    progress.stop();
  }
}

/** Runs work that shows how far it is, and that Ctrl-C stops in an orderly way. */
async function untilInterrupted(work: (progress: ProgressBar, signal: AbortSignal) => Promise<void>): Promise<void> {
  const controller = new AbortController();
  const stop = () => controller.abort();
  process.once("SIGINT", stop);
  try {
    await withProgress((progress) => work(progress, controller.signal));
  } finally {
    process.off("SIGINT", stop);
  }
}

/** The place of a model's own SAEs. @throws UsageError for a model of the hub, whose files lie in a cache that others share */
function ownSaes(name: string, folder: string): string {
  if (name !== embeddedModel && name !== folder) {
    throw new UsageError(`--output_dir: expected a folder for the SAEs of ${name}, got none. Name one.`);
  }
  return `${folder}/saes`;
}

function folderOf(name: string): string {
  return name === embeddedModel ? `${packageRoot}models/${embeddedModel}` : name;
}

function sitesOf(kinds: readonly SiteKind[], layers: ReadonlySet<number>): SiteName[] {
  return kinds.flatMap((kind) =>
    kind === "embed" ? ["embed"] : [...layers].map((layer) => siteName({ kind, layer })),
  );
}

function aboveZero(text: string): number {
  if (!(Number(text) > 0)) throw new InvalidArgumentError("Expected a number above 0.");
  return Number(text);
}

function share(text: string): number {
  if (!(Number(text) >= 0 && Number(text) < 1))
    throw new InvalidArgumentError("Expected a number from 0 up to, not including, 1.");
  return Number(text);
}
