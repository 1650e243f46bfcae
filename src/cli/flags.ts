import { type Command, InvalidArgumentError, Option } from "commander";
import { defaultTask, embeddedModel, type JobOptions, parityTolerance, type WorkOptions } from "../analysis/options.ts";
import { checkTask } from "../analysis/pairs.ts";
import { UsageError } from "../errors.ts";
import { type Device, devices } from "../graph/runtime.ts";
import { type BosChoice, bosChoices } from "../prompts/bos.ts";
import { type AnswerTokens, answerTokens } from "../prompts/check.ts";
import { taskNames } from "../prompts/english/tasks.ts";
import { reflowed } from "./terminal.ts";

/** The flags behind a setting, as they come from the command line. */
export interface Flags {
  readonly model_name: string;
  readonly allow_config_field?: string[];
  readonly bos?: BosChoice;
  readonly sae_source?: string;
  readonly layers?: string;
  readonly sites?: string;
  readonly num_examples?: number;
  readonly task?: string;
  readonly pairs?: string;
  readonly clean?: string;
  readonly patch?: string;
  readonly answers?: string;
  readonly answer_tokens?: AnswerTokens;
  readonly seed: number;
  readonly precision?: JobOptions["precision"];
  readonly device?: Device;
  readonly device_tolerance?: number;
}

/** What --pairs expects, for --help. */
export const pairsHelp = `
A line of --pairs:
  {"clean_prefix": "The dog", "patch_prefix": "The dogs", "clean_answer": " runs", "patch_answer": " run", "case": "simple", "split": "train"}
Both prefixes have the same number of tokens, each answer is one token, its space in front included (--answer_tokens first takes longer ones). The
case may be left out, and so may the split (train or test), on all lines: then the pairs are halved, every case by itself, no prompt in both halves.
--score gradient and gradient-activation need no patch_prefix. A JSON array, tabs between named columns and UTF-16 are read too.

Sentence pairs can be given instead: BLiMP's JSON lines (its UID is the case), or lines with tabs between case, good and bad sentence.
The prompt is what both have in front, the answers are the words in which they differ there. The patch prompt is that of a line with the same two
words the other way round and a prompt that differs in one word; without such a line only the two scores can be had. BLiMP's two-prefix pairs and
those that compare whole sentences are left out: they have one answer, or none.

One pair can be typed: --clean "The dogs" --patch "The dog" --answers " are, is"`;

/** Help that a command adds to its flags, as wide as they are. */
export function folded(help: string): (context: { command: Command }) => string {
  return ({ command }) => reflowed(help, command.configureOutput().getOutHelpWidth?.() || 80);
}

/** Adds `--model_name` and `--allow_config_field`. */
export function modelFlag(command: Command): Command {
  return command
    .option(
      "--model_name <name>",
      "the embedded model, a folder in Hugging Face layout, a GGUF file, a preset (sfc models) or organisation/name of the hub",
      embeddedModel,
    )
    .option(
      "--allow_config_field <names>",
      "go on without these fields of config.json, which sfc does not know; only where they change nothing that the model computes",
      (text: string, before: string[] = []) => [...new Set([...before, ...text.split(",").map((name) => name.trim())])],
    );
}

/** Adds the flags that choose the pairs. */
export function pairFlags(command: Command): Command {
  return command
    .option("--task <name>", `${taskNames.join(", ")} (default: ${defaultTask})`)
    .option("--pairs <file>", "prompt pairs of your own, JSON lines or sentence pairs; replaces --task")
    .option("--clean <text>", "a clean prompt, for one pair typed here")
    .option("--patch <text>", "its patch prompt")
    .option("--answers <clean,patch>", "its clean and patch answer, a comma between them")
    .addOption(
      new Option(
        "--answer_tokens <which>",
        "answers of one token only, or scored at the first token in which they differ",
      )
        .choices(answerTokens)
        .default("one"),
    )
    .addOption(
      new Option("--bos <which>", "prompts with BOS in front, without it, or as the tokenizer has it")
        .choices(bosChoices)
        .default("auto"),
    )
    .option("--num_examples <n>", "pairs per split and case (default: 32; all with --pairs)", wholeNumber)
    .option("--seed <n>", "seed of everything that is drawn", wholeNumberFrom0, 1);
}

/** Adds the flags that choose SAEs. */
export function saeFlags(command: Command): Command {
  return command
    .option(
      "--sae_source <source>",
      "folder or file of SAEs, a preset (sfc models), organisation/name[/folder] of the hub, or dummy for random directions (default: the model's own)",
    )
    .option("--layers <blocks>", "blocks, as 0-3,5 (default: all)")
    .option("--sites <kinds>", "kinds of sites, as resid_post,mlp_out (default: all with SAEs)");
}

/** Adds `--precision`, described by these words, and what says where sessions run. */
export function deviceFlags(command: Command, precision = "number format"): Command {
  return deviceFlag(command)
    .addOption(new Option("--precision <type>", precision).choices(["float32", "float64"]).default("float32"))
    .option(
      "--device_tolerance <share>",
      `how far the device's numbers may be from the CPU's, as a share of the largest (default: ${parityTolerance})`,
      amount,
    );
}

/** Adds `--device`. */
export function deviceFlag(command: Command): Command {
  return command.addOption(new Option("--device <name>", "where sessions run").choices(devices).default("cpu"));
}

/**
 * The setting that the flags say.
 *
 * @param patchless whether a typed pair may come without a patch prompt
 * @throws UsageError if there is no such task, or a typed pair is not whole
 */
export function settingOf(flags: Flags, { patchless = false } = {}): WorkOptions {
  checkTyped(flags, patchless);
  const typed = flags.clean !== undefined;
  const task = typed || flags.pairs !== undefined ? null : (flags.task ?? defaultTask);
  // Better now than after a download.
  if (task !== null) checkTask(task);
  return {
    model_name: flags.model_name,
    ...(flags.allow_config_field && { allow_config_field: flags.allow_config_field.toSorted() }),
    ...(flags.bos !== undefined && flags.bos !== "auto" && { bos: flags.bos }),
    sae_source: flags.sae_source ?? null,
    layers: flags.layers ?? null,
    sites: flags.sites ?? null,
    num_examples: flags.num_examples ?? null,
    task,
    pairs: flags.pairs ?? null,
    ...(typed && { clean: flags.clean!, patch: flags.patch ?? null, answers: flags.answers! }),
    // Runs of before there was a choice have the default without its name.
    ...(flags.answer_tokens === "first" && { answer_tokens: "first" as const }),
    seed: flags.seed,
    precision: flags.precision ?? "float32",
    device: flags.device ?? "cpu",
    ...(flags.device_tolerance !== undefined && { device_tolerance: flags.device_tolerance }),
  };
}

/** Refuses a pair that is typed by halves, or beside other pairs. */
function checkTyped(flags: Flags, patchless: boolean): void {
  const { clean, patch, answers } = flags;
  if (clean === undefined && patch === undefined && answers === undefined) return;
  const missing = clean === undefined ? "--clean" : answers === undefined ? "--answers" : null;
  if (missing !== null) {
    throw new UsageError(
      `${missing}: expected it with ${given(flags)}, got none. Give --clean, --patch and --answers.`,
    );
  }
  if (patch === undefined && !patchless) {
    throw new UsageError(
      "--patch: expected it with --clean, got none. Give it, or use --score gradient, which needs no patch prompt.",
    );
  }
  for (const name of ["clean", "patch", "answers"] as const) {
    if (flags[name]?.trim() === "") throw new UsageError(`--${name}: expected text, got none. Put it in quotes.`);
  }
  for (const other of ["pairs", "task", "num_examples"] as const) {
    if (flags[other] === undefined) continue;
    throw new UsageError(
      `--${other}: expected no --clean with it, which is one pair by itself. Leave one of them out.`,
    );
  }
}

const given = (flags: Flags) =>
  (["clean", "patch", "answers"] as const)
    .filter((name) => flags[name] !== undefined)
    .map((name) => `--${name}`)
    .join(" and ");

/** A count. @throws InvalidArgumentError */
export function wholeNumber(text: string): number {
  return numberFrom(1, text);
}

/** A size such as an |effect|. @throws InvalidArgumentError */
export function amount(text: string): number {
  const value = Number(text);
  if (value >= 0 && Number.isFinite(value) && text.trim() !== "") return value;
  throw new InvalidArgumentError("Expected a number from 0 up.");
}

/** Reads a whole number from 1 up to the largest that makes sense. Larger ones would take all memory, or no one's time. */
export function wholeNumberUpTo(most: number): (text: string) => number {
  return (text) => {
    const value = numberFrom(1, text);
    if (value > most) throw new InvalidArgumentError(`Expected at most ${most}.`);
    return value;
  };
}

/** Steps of the integrated methods: as many as `--methods analytic-ig@99999` can have. */
export const mostSteps = 99_999;

/** A number such as a seed. @throws InvalidArgumentError */
export function wholeNumberFrom0(text: string): number {
  return numberFrom(0, text);
}

function numberFrom(least: number, text: string): number {
  const value = Number(text);
  if (!/^\d+$/.test(text) || !Number.isSafeInteger(value) || value < least) {
    throw new InvalidArgumentError(`Expected a whole number from ${least} up.`);
  }
  return value;
}
