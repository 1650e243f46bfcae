import { join } from "node:path";
import { type Command, Option } from "commander";
import { type MethodSpec, parseMethods } from "../analysis/compare-methods.ts";
import type { CompareOptions } from "../analysis/options.ts";
import { compareFolder, defaultMethods } from "../commands/default-folder.ts";
import { defaultSteps, isIntegrated, type Rule, rules } from "../effects/method.ts";
import { UsageError } from "../errors.ts";
import { reportFile } from "../results/report.ts";
import {
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
  wholeNumberUpTo,
} from "./flags.ts";
import { runJob } from "./host.ts";
import { print, printJson } from "./terminal.ts";

interface Flags extends SettingFlags {
  readonly methods: string;
  readonly steps?: number;
  readonly rule?: Rule;
  readonly top?: number;
  readonly by_pair?: boolean;
  readonly weights: "held" | "streamed";
  readonly output_dir?: string;
  readonly force?: boolean;
  readonly json?: boolean;
  readonly quiet?: boolean;
}

const help = `${pairsHelp}

Methods, with commas between them:
  analytic     Δf·⟨g, d⟩ with the gradient g of the plain model; no SAE in any pass
  analytic-ig  the same with the mean gradient between the clean and the patch activation
  sfc          SAEs spliced into forward and backward pass, gradients straight through
  sfc-ig       SAEs spliced in at one site at a time, between the clean and the patch codes
  spliced      SAEs at all sites, no straight-through: gradients run through the encoders
  exact        each feature of each node patched by itself; slow (--top says how many)
A name may go on: ":64" runs it in padded batches of 64 pairs, as the field does, instead of the prefix forest; "@40", "@left" or "@40-left" give an
integrated method other steps or another rule than --steps and --rule, so that several can stand side by side.

Each method runs in a process of its own, one after the other. Its time goes from the loaded model to the last effect; its memory is the peak above
the loaded model. Agreement is over features and sites, effects being means over all pairs, BOS and padding left out. The same command resumes an
interrupted comparison; a finished one with the same options is shown again.

Examples:
  sfc compare
  sfc compare --methods analytic,analytic:64,sfc:64 --num_examples 8
  sfc compare --methods analytic,analytic-ig@10,analytic-ig@10-left,analytic-ig@40 --by_pair
  sfc compare --methods analytic,analytic-ig,exact --top 20 --layers 2-3 --sites resid_post
  sfc compare --model_name gpt2 --layers 4-7 --json`;

/** Adds `compare`. */
export function addCompareCommand(program: Command): void {
  const command = program
    .command("compare")
    .description("compare methods: agreement, time and peak memory, each in a process of its own")
    .addHelpText("after", folded(help))
    .option("--methods <names>", "what to compare, as analytic,sfc:64,analytic-ig@40; see below", defaultMethods)
    .option("--steps <n>", `steps of integrated methods (default: ${defaultSteps})`, wholeNumberUpTo(mostSteps))
    .addOption(
      new Option("--rule <name>", "where along the way integrated methods take gradients (default: midpoint)").choices(
        rules,
      ),
    )
    .option(
      "--top <n>",
      "exact patches only features among the n strongest of another method at a site (of analytic, if there is no other); default: all",
      wholeNumber,
    )
    .option(
      "--by_pair",
      "compute effects per pair (slower); reports the median gap between summed effects and the metric's change",
    );
  deviceFlags(saeFlags(pairFlags(modelFlag(command))))
    .addOption(
      new Option("--weights <where>", "held in memory, or streamed from their files block by block")
        .choices(["held", "streamed"])
        .default("held"),
    )
    .option(
      "--output_dir <folder>",
      "the comparison's folder (default: outputs/<model>-<task or file>-<seed>-compare, then options that are not the default)",
    )
    .option("--force", "replace a comparison with other options in that folder")
    .option("--json", "print JSON: what compare.json holds")
    .option("--quiet", "show no progress")
    .action(async (flags: Flags) => {
      const setting = settingOf(flags);
      const { steps = defaultSteps, rule = "midpoint", weights } = flags;
      const specs = parseMethods(flags.methods, { steps, rule });
      refuseUnused(flags, specs);
      const methods = specs.map(({ name }) => name).join(",");
      const options: CompareOptions = {
        ...setting,
        methods,
        steps,
        rule,
        top: flags.top ?? null,
        by_pair: flags.by_pair === true,
        weights,
      };
      const folder = flags.output_dir ?? compareFolder(options);
      const request = { command: "compare", options, folder, force: flags.force === true };
      const { comparison, again } = await runJob("compare", request, { quiet: flags.quiet });
      if (flags.json) return printJson(comparison);
      const { comparisonText } = await import("../report/comparison-text.ts");
      print(comparisonText(folder, join(folder, reportFile), comparison, { again }));
    });
}

/** Refuses flags that bear on none of the methods. */
function refuseUnused({ steps, rule, top }: Flags, specs: readonly MethodSpec[]): void {
  const given = steps !== undefined ? "--steps" : rule !== undefined ? "--rule" : null;
  if (given !== null && !specs.some(({ method }) => isIntegrated(method))) {
    throw new UsageError(`${given}: expected analytic-ig or sfc-ig among --methods with it, got none. Leave it out.`);
  }
  if (top !== undefined && !specs.some(({ method }) => method === "exact")) {
    throw new UsageError("--top: expected exact among --methods with it, got none. Leave it out.");
  }
}
