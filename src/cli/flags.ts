import { basename, join, resolve } from "node:path";
import { type Command, InvalidArgumentError, Option } from "commander";
import { embeddedModel, generatedTask, type JobOptions } from "./setting.ts";

/** The part of the options that says what is analysed: model, SAEs, pairs, and on what it is computed. */
export type Setting = Pick<
  JobOptions,
  "model_name" | "sae_source" | "layers" | "sites" | "num_examples" | "task" | "pairs" | "seed" | "precision" | "device"
>;

/** The flags behind a setting, as they come from the command line. */
export interface Flags {
  readonly model_name: string;
  readonly sae_source?: string;
  readonly layers?: string;
  readonly sites?: string;
  readonly num_examples?: number;
  readonly task?: string;
  readonly pairs?: string;
  readonly seed: number;
  readonly precision?: JobOptions["precision"];
  readonly device?: string;
}

/** What --pairs expects, for --help. */
export const pairsHelp = `
A line of --pairs:
  {"clean_prefix": "The dog", "patch_prefix": "The dogs", "clean_answer": " runs", "patch_answer": " run", "case": "simple", "split": "train"}
Both prefixes have the same number of tokens, each answer is one token, its space in front included. The case may be left out, and so may the
split (train or test), on all lines: then the pairs are halved, no prompt in both halves.`;

/** Adds `--model_name`. */
export function modelFlag(command: Command): Command {
  return command.option(
    "--model_name <name>",
    "the embedded model, a folder in Hugging Face layout, a GGUF file, a preset (sfc models) or organisation/name of the hub",
    embeddedModel,
  );
}

/** Adds the flags that choose the pairs. */
export function pairFlags(command: Command): Command {
  return command
    .option("--task <name>", "agreement, determiner or pronoun", generatedTask)
    .option("--pairs <file>", "prompt pairs of your own, JSON lines; replaces --task")
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

/** Adds `--precision`, described by these words, and `--device`. */
export function deviceFlags(command: Command, precision = "number format"): Command {
  return command
    .addOption(new Option("--precision <type>", precision).choices(["float32", "float64"]).default("float32"))
    .addOption(
      new Option("--device <name>", "where sessions run")
        .choices(["cpu", "webgpu", "cuda", "coreml", "dml"])
        .default("cpu"),
    );
}

/** The setting that the flags say. */
export function settingOf(flags: Flags): Setting {
  return {
    model_name: flags.model_name,
    sae_source: flags.sae_source ?? null,
    layers: flags.layers ?? null,
    sites: flags.sites ?? null,
    num_examples: flags.num_examples ?? null,
    task: flags.pairs === undefined ? (flags.task ?? generatedTask) : null,
    pairs: flags.pairs ?? null,
    seed: flags.seed,
    precision: flags.precision ?? "float32",
    device: flags.device ?? "cpu",
  };
}

/** Where results go unless `--output_dir` says otherwise: `outputs/<model>-<task or file>-<seed>`. */
export function defaultFolder({ model_name, seed, ...setting }: Setting): string {
  // `.` and `..` are folders with names of their own; a name that begins with a dot would be hidden.
  const model = basename(resolve(model_name)).replace(/^\.+/, "") || "model";
  return join("outputs", [model, taskName(setting), seed].join("-").replace(/[^\w.-]+/g, "_"));
}

/** The task, or the name of the file of pairs without its ending. */
export function taskName({ task, pairs }: Pick<Setting, "task" | "pairs">): string {
  return pairs === null ? (task ?? generatedTask) : basename(pairs).replace(/\.[a-z]+$/, "");
}

/** A count. @throws InvalidArgumentError */
export function wholeNumber(text: string): number {
  const value = wholeNumberFrom0(text);
  if (value < 1) throw new InvalidArgumentError("Expected a whole number from 1 up.");
  return value;
}

/** A number such as a seed. @throws InvalidArgumentError */
export function wholeNumberFrom0(text: string): number {
  const value = Number(text);
  if (!/^\d+$/.test(text) || !Number.isSafeInteger(value)) {
    throw new InvalidArgumentError("Expected a whole number from 0 up.");
  }
  return value;
}
