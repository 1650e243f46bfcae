import { readFileSync } from "node:fs";
import { join } from "node:path";
import { Command, CommanderError, Option } from "commander";
import type { JobOptions } from "../analysis/options.ts";
import { shardParts } from "../analysis/shards.ts";
import { scores } from "../circuit/ranking.ts";
import { defaultTop, runFolder } from "../commands/default-folder.ts";
import {
  defaultSteps,
  isIntegrated,
  type MethodName,
  methodNames,
  type Rule,
  rules,
  takesSteps,
} from "../effects/method.ts";
import { messageOf, StoppedError, UsageError, UserError } from "../errors.ts";
import { modelPresets, saePresets } from "../hub/presets.ts";
import { taskNames } from "../prompts/english/tasks.ts";
import { systemProblem } from "../storage/files.ts";
import { packageRoot } from "../storage/package.ts";
import { addCircuitCommand } from "./circuit-command.ts";
import { addCompareCommand } from "./compare-command.ts";
import { addCompletionCommand } from "./completion.ts";
import { addContextsCommand } from "./contexts-command.ts";
import { addEvaluateCommand } from "./evaluate-command.ts";
import {
  deviceFlag,
  deviceFlags,
  folded,
  modelFlag,
  mostSteps,
  pairFlags,
  pairsHelp,
  type Flags as SettingFlags,
  saeFlags,
  settingOf,
  wholeNumber,
  wholeNumberFrom0,
  wholeNumberUpTo,
} from "./flags.ts";
import { runJob } from "./host.ts";
import { addServeCommand } from "./serve-command.ts";
import {
  addShardCommands,
  dividedBy,
  isShard,
  printRun,
  printShards,
  runOneShard,
  type ShardFlags,
} from "./shard-commands.ts";
import { errorLine, print, printError, printJson } from "./terminal.ts";
import { addTrainCommands } from "./train.ts";

const version = (JSON.parse(readFileSync(join(packageRoot, "package.json"), "utf8")) as { version: string }).version;

/** The command line. Flags may be written with underscores or dashes: --num_examples, --num-examples. */
function program(): Command {
  const sfc = new Command("sfc")
    .description("Finds the sparse features that cause a behaviour of a language model.")
    .version(version)
    .exitOverride();

  const run = sfc
    .command("run")
    .description("the whole analysis: prompt pairs, effects on train and test, rankings, a report")
    .addHelpText("after", folded(runHelp));
  jobFlags(run)
    .option(
      "--output_dir <folder>",
      "the run's folder (default: outputs/<model>-<task or file>-<seed>, then options that are not the default)",
    )
    .option("--force", "replace a run with other options in that folder")
    .argument("[folder]", "with --shard: the folder of a run that is planned as shards")
    .option("--shards <n>", "only plan the run, as shards of equal work for as many machines", wholeNumber)
    .option("--shard <k>", "compute shard K of a planned run, or what is left of it", wholeNumber)
    .addOption(new Option("--part <which>", "with --shard: only this part of it").choices(shardParts))
    .option("--json", "print JSON: the strongest features, accuracy, checks, and where the files are")
    .option("--quiet", "show no progress")
    .action(async (planned: string | undefined, flags: Flags & ShardFlags, command: Command) => {
      if (isShard(planned, flags, command)) return runOneShard(planned!, flags);
      const options = jobOptions(flags);
      const folder = flags.output_dir ?? runFolder(options);
      const force = flags.force === true;
      const divided = dividedBy(flags, options);
      const request = { command: "run", options, folder, force, ...(divided && { divided }) };
      const { manifest, again, shards } = await runJob("run", request, { quiet: flags.quiet });
      if (shards) return printShards(folder, shards, flags.json);
      await printRun(folder, manifest, again, flags.json);
    });

  const estimate = sfc
    .command("estimate")
    .description(
      "memory, disk and time of a run, estimated from file headers; takes the flags of run (evaluate and circuit have --estimate)",
    );
  jobFlags(estimate)
    .option("--json", "print JSON")
    .option("--quiet", "show no progress")
    .action(async (flags: Flags) => {
      const result = await runJob("estimate", { options: jobOptions(flags) }, { quiet: flags.quiet });
      if (flags.json) return printJson(result);
      const { estimateText } = await import("../commands/estimate-text.ts");
      print(estimateText(result));
    });

  const pairs = sfc
    .command("pairs")
    .description("make or import prompt pairs and check them against the tokenizer and the model (accuracy by case)")
    .addHelpText("after", folded(pairsHelp));
  modelFlag(pairFlags(pairs))
    .option("--output <file>", "write the pairs that can be used to this file, as JSON lines")
    .option("--json", "print JSON, with every pair that cannot be used")
    .option("--quiet", "show no progress")
    .action(async (flags: Flags) => {
      // What needs a patch prompt is asked when the pairs are used.
      const options = settingOf(flags, { patchless: true });
      const request = { options, output: flags.output ?? null, all: flags.json === true };
      const result = await runJob("pairs", request, { quiet: flags.quiet });
      const { pairsText } = await import("../commands/pairs-text.ts");
      if (flags.json) printJson(result);
      else print(pairsText(result));
    });

  sfc
    .command("report")
    .description("write the report of a run's or a comparison's folder again")
    .argument("<folder>", "a run's or a comparison's folder")
    .action(async (folder: string) => {
      // What loads the database is loaded only where it is used: a third of a second that --help need not take.
      const { rewriteReport } = await import("../results/report.ts");
      print(`Report: ${await rewriteReport(folder)}`);
    });

  sfc
    .command("models")
    .description("list the presets of models and SAEs, and which are cached")
    .option("--json", "print JSON")
    .action(async (flags: { json?: boolean }) => {
      const { knownModels } = await import("../commands/known-models.ts");
      const { knownModelsText } = await import("../commands/models-text.ts");
      const known = await knownModels();
      if (flags.json) printJson(known);
      else print(knownModelsText(known));
    });

  sfc
    .command("pull")
    .description("fetch models and SAEs from the hub into the cache that Python's libraries use too")
    .argument("<names...>", "presets (sfc models lists them), or organisation/name[/folder][@revision]")
    .option("--sae_source <source>", "SAEs to fetch as well")
    .option("--layers <blocks>", "blocks of SAEs, as 0-3,5 (default: all)")
    .option("--sites <kinds>", "kinds of sites of SAEs, as resid_post,mlp_out (default: all)")
    .option("--revision <name>", "branch, tag or commit (default: main)")
    .option("--dry_run", "list the files and their sizes, fetch nothing")
    .option("--quiet", "show no progress")
    .addHelpText("after", folded(pullHelp))
    .action(async (names: string[], flags: Flags) => {
      const request = {
        names: flags.sae_source === undefined ? names : [...names, flags.sae_source],
        layers: flags.layers ?? null,
        sites: flags.sites ?? null,
        revision: flags.revision ?? null,
        dry_run: flags.dry_run === true,
      };
      const outcome = await runJob("pull", request, { quiet: flags.quiet });
      const { pullText } = await import("./pull-text.ts");
      print(pullText(outcome));
    });

  const bench = sfc
    .command("bench")
    .description(
      "measure matrix-multiply speed, the share of it that the passes reach, and the speed-up from the prefix forest",
    );
  deviceFlag(modelFlag(bench))
    .option("--pairs <file>", "also time these pairs, one token per word")
    .option("--seed <n>", "seed of the pairs", wholeNumberFrom0, 1)
    .option("--json", "print JSON")
    .option("--quiet", "show no progress")
    .action(async (flags: Flags) => {
      const request = {
        model_name: flags.model_name,
        ...(flags.allow_config_field && { allow_config_field: flags.allow_config_field }),
        pairs: flags.pairs ?? null,
        seed: flags.seed,
        device: flags.device,
      };
      const result = await runJob("bench", request, { quiet: flags.quiet });
      if (flags.json) return printJson(result);
      const { benchText } = await import("./bench-text.ts");
      print(benchText(result));
    });

  addCompareCommand(sfc);
  addShardCommands(sfc);
  addEvaluateCommand(sfc);
  addCircuitCommand(sfc);
  addServeCommand(sfc);
  addTrainCommands(sfc);
  addContextsCommand(sfc);
  addCompletionCommand(
    sfc,
    new Map([
      ["--model_name", modelPresets.map(({ name }) => name)],
      ["--sae_source", ["dummy", ...saePresets.map(({ name }) => name)]],
      ["--task", [...taskNames]],
    ]),
  );
  explainUsage(sfc);
  return sfc;
}

interface Flags extends SettingFlags {
  readonly batch_size?: number;
  readonly method?: MethodName;
  readonly steps?: number;
  readonly rule?: Rule;
  readonly score?: JobOptions["score"];
  readonly contexts?: string;
  readonly top?: number;
  readonly keep?: JobOptions["keep"];
  readonly weights?: JobOptions["weights"];
  readonly output_dir?: string;
  readonly output?: string;
  readonly force?: boolean;
  readonly json?: boolean;
  readonly quiet?: boolean;
  readonly revision?: string;
  readonly dry_run?: boolean;
}

const pullHelp = `
Of a model: config.json, tokenizer.json, tokenizer_config.json and the safetensors. Of SAEs: those of --layers and --sites. An interrupted download
resumes; lengths and hashes are checked.

Environment: HF_TOKEN, HF_HOME, HF_HUB_CACHE, HF_HUB_OFFLINE, HF_ENDPOINT, as for Python's huggingface_hub; HTTPS_PROXY, NO_PROXY.

Examples:
  sfc pull gpt2 gpt2-res-jb --layers 4-7
  sfc pull gemma-2-2b gemma-scope-2b-pt-res-16k --dry_run
  sfc pull google/gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71`;

const runHelp = `${pairsHelp}

Effects are changes of logit(patch answer) − logit(clean answer): a feature with a positive effect moves the model to the patch answer when it
takes its value at the patch prompt. Layers are counted from 0. Sites: attn_z, attn_out, mlp_act, mlp_out, resid_post, and embed by name only.
The same command resumes an interrupted run; a finished one with the same options is shown again.

Examples:
  sfc run
  sfc run --task pronoun --layers 2-4 --sites resid_post
  sfc run --pairs my-pairs.jsonl --output_dir outputs/mine
  sfc run --model_name gpt2 --layers 4-7             # downloaded the first time, with its SAEs
  sfc run --model_name ./my-llama --sae_source dummy # random directions for SAEs: a first try
  sfc run --model_name ./my-llama --sae_source ./my-saes --num_examples 200
  sfc run --method exact --shards 8 --output_dir outputs/exact   # planned for eight machines; then sfc slurm, or:
  sfc run --shard 1 outputs/exact                                # … 8, twice each, and sfc merge outputs/exact`;

function jobFlags(command: Command): Command {
  return deviceFlags(
    saeFlags(pairFlags(modelFlag(command))),
    "number format; float64 keeps all packs in memory, and an interrupted run resumes site by site only",
  )
    .option(
      "--batch_size <n>",
      "at most so many pairs per pack; never changes results (default: automatic)",
      wholeNumber,
    )
    .addOption(new Option("--method <name>", "how effects are computed").choices(methodNames).default("analytic"))
    .option(
      "--steps <n>",
      `steps of analytic-ig and sfc-ig (default: ${defaultSteps}), points of secant (default: 4, with embed 8)`,
      wholeNumberUpTo(mostSteps),
    )
    .addOption(
      new Option("--rule <name>", "where the steps of analytic-ig and sfc-ig lie (default: midpoint)").choices(rules),
    )
    .addOption(new Option("--score <name>", "what features are ranked by").choices(scores).default("effect"))
    .option("--contexts <folder>", "evidence of sfc contexts for the features' cards (default: that beside the SAEs)")
    .option("--top <n>", "features listed per site and split", wholeNumber, defaultTop)
    .addOption(
      new Option("--keep <which>", "which pairs count: all, or those that the model gets right")
        .choices(["all", "correct"])
        .default("all"),
    )
    .addOption(
      new Option(
        "--weights <where>",
        "where weights are kept: held in memory, or streamed from their files block by block; auto by their size and the memory that is free",
      )
        .choices(["auto", "held", "streamed"])
        .default("auto"),
    );
}

function jobOptions(flags: Flags): JobOptions {
  const { method = "analytic", score = "effect", steps, rule } = flags;
  if (method !== "analytic" && score !== "effect") {
    throw new UsageError(`--score ${score}: expected --method analytic with it, got ${method}. Leave one of them out.`);
  }
  if (steps !== undefined && !takesSteps(method)) {
    throw new UsageError(
      `--steps: expected --method analytic-ig, sfc-ig or secant with it, got ${method}. Leave it out.`,
    );
  }
  if (rule !== undefined && !isIntegrated(method)) {
    throw new UsageError(`--rule: expected --method analytic-ig or sfc-ig with it, got ${method}. Leave it out.`);
  }
  return {
    ...settingOf(flags, { patchless: score !== "effect" }),
    batch_size: flags.batch_size ?? null,
    method,
    ...(isIntegrated(method) && { steps: steps ?? defaultSteps, rule: rule ?? "midpoint" }),
    ...(method === "secant" && steps !== undefined && { steps }),
    score,
    top: flags.top ?? defaultTop,
    keep: flags.keep ?? "all",
    weights: flags.weights ?? "auto",
    ...(flags.contexts !== undefined && { contexts: flags.contexts }),
  };
}

/** Has every command tell what it cannot understand in the form of the other errors, with the help to look at. */
function explainUsage(command: Command, name = command.name()): void {
  command.configureOutput({ outputError: (text, write) => write(usageProblem(text, name)) });
  for (const inner of command.commands) explainUsage(inner, `${name} ${inner.name()}`);
}

/** Commander's words for a command line that it cannot understand. */
function usageProblem(text: string, command: string): string {
  const problem = errorLine(text.replace(/^error: /, "")).replace(/\.$/, "");
  return `sfc: ${problem}. See ${command} --help.\n`;
}

/** --num-examples → --num_examples, so that both spellings of the flags work. */
function underscored(argv: readonly string[]): string[] {
  const end = argv.indexOf("--");
  return argv.map((arg, i) => {
    if (!arg.startsWith("--") || (end >= 0 && i >= end)) return arg;
    const [name, ...value] = arg.split("=");
    return [`--${name!.slice(2).replaceAll("-", "_")}`, ...value].join("=");
  });
}

/** Runs the command that the process was called with, and sets its exit status. */
export async function runProgram(): Promise<void> {
  // Whoever reads our output may stop reading, as head does.
  process.stdout.on("error", (error: NodeJS.ErrnoException) => {
    if (error.code !== "EPIPE") {
      printError(`sfc: Cannot write to standard output (${error.code}). Free some space, or send it elsewhere.`);
      process.exitCode = 1;
    }
    process.exit();
  });
  // Of what cannot be told nothing else depends.
  process.stderr.on("error", () => {});

  try {
    await program().parseAsync([...process.argv.slice(0, 2), ...underscored(process.argv.slice(2))]);
  } catch (thrown) {
    const error = systemProblem(thrown);
    if (error instanceof CommanderError) process.exitCode = error.exitCode === 0 ? 0 : 2;
    else {
      if (error instanceof StoppedError) printError(error.message);
      else if (error instanceof UserError) printError(`sfc: ${errorLine(error.message)}`);
      else {
        printError(`sfc: ${errorLine(messageOf(error))}`);
        if (error instanceof Error && error.stack) printError(error.stack);
        printError("This is a bug in sfc. Please report it with the command and this trace.");
      }
      process.exitCode = error instanceof UsageError ? 2 : error instanceof StoppedError ? 130 : 1;
    }
  }
}
