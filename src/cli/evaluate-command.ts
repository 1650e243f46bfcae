import { join } from "node:path";
import { type Command, InvalidArgumentError, Option } from "commander";
import { type Grouping, groupings, parseWay } from "../analysis/evaluate.ts";
import { UsageError } from "../errors.ts";
import type { AblationValue, ErrorTreatment } from "../interventions/ablation.ts";
import { dummyText } from "../report/circuit-text.ts";
import { evaluateHelp } from "../report/evaluation-help.ts";
import { amount, folded, wholeNumber } from "./flags.ts";
import { runJob } from "./host.ts";
import { print, printJson } from "./terminal.ts";

interface Flags {
  readonly by: Grouping;
  readonly ways: string;
  readonly sizes: number[];
  readonly thresholds?: number[];
  readonly ablation: AblationValue[];
  readonly errors: ErrorTreatment;
  readonly transfer?: number;
  readonly circuit?: string;
  readonly cases?: string;
  readonly ablate?: string[];
  readonly scale?: string[];
  readonly set?: string[];
  readonly sites?: string;
  readonly layers?: string;
  readonly output_dir?: string;
  readonly force?: boolean;
  readonly estimate?: boolean;
  readonly json?: boolean;
  readonly quiet?: boolean;
}

/** Adds `evaluate`. */
export function addEvaluateCommand(program: Command): void {
  program
    .command("evaluate")
    .description("what circuits of a run's features are worth: faithfulness and completeness over sizes, and transfer")
    .argument("<run>", "the folder of a finished run")
    .addHelpText("after", folded(evaluateHelp))
    .addOption(
      new Option("--by <what>", "one circuit for all pairs, for each construction, or for each case")
        .choices(groupings)
        .default("set"),
    )
    .option("--ways <names>", "how features are chosen; see below", "masks,secant,secant-covering,random,basis")
    .option("--sizes <list>", "features in a circuit, as 20,40,60", listOf(wholeNumber), [20, 40, 60, 100, 150, 250])
    .option(
      "--thresholds <list>",
      "besides, all features of at least these |effect|s per pair, as 0.1,0.05",
      listOf(amount),
    )
    .option(
      "--ablation <kinds>",
      "what the rest is set to: mean, patch, zero, or several with commas",
      listOf(oneOf(["mean", "patch", "zero"])),
      ["mean"],
    )
    .addOption(
      new Option("--errors <what>", "what becomes of SAE errors")
        .choices(["ablated", "clean", "removed", "kept"])
        .default("ablated"),
    )
    .option("--transfer <n>", "measure circuits of n features on every other group's pairs too", wholeNumber)
    .option("--circuit <file>", "a circuit.json to measure as it is, beside the ways")
    .option("--cases <names>", "cases of the run, with commas between them (default: all)")
    .option("--ablate <features>", "features whose codes become 0, as resid_post.2/1035, with commas", repeated)
    .option("--scale <features>", "features whose codes are multiplied, as resid_post.2/1035=0.5", repeated)
    .option("--set <features>", "features whose codes become a value, as resid_post.3/43=2.5", repeated)
    .option("--layers <blocks>", "blocks of the run's SAEs, as 0-3,5 (default: all)")
    .option(
      "--sites <kinds>",
      "kinds of sites at which everything else is ablated (default: resid_post where the run has it, else all)",
    )
    .option("--output_dir <folder>", "the evaluation's folder (default: evaluation in the run's folder)")
    .option("--force", "replace an evaluation with other options in that folder")
    .option("--estimate", "tell what it will take, from file headers, and evaluate nothing")
    .option("--json", "print JSON: what evaluation.json holds, what changed features do, or the estimate")
    .option("--quiet", "show no progress")
    .action(async (run: string, flags: Flags, command: Command) => {
      const cases = flags.cases?.split(",").map((name) => name.trim()) ?? null;
      const { ablate, scale, set } = flags;
      if (ablate ?? scale ?? set) {
        refuseUnused(command);
        const request = { run, cases, ...(ablate && { ablate }), ...(scale && { scale }), ...(set && { set }) };
        const found = await runJob("intervene", request, { quiet: flags.quiet });
        if (flags.json) return printJson(found);
        const { interventionText } = await import("../report/intervention-text.ts");
        return print(interventionText(found));
      }
      const {
        by,
        sizes,
        thresholds = [],
        ablation: ablations,
        errors,
        transfer = null,
        circuit = null,
        sites = null,
        layers = null,
      } = flags;
      const request = {
        run,
        folder: flags.output_dir ?? join(run, "evaluation"),
        force: flags.force === true,
        cases,
        circuit,
        sites,
        layers,
        evaluate: {
          by,
          ways: listOf((name) => parseWay(name))(flags.ways),
          sizes,
          thresholds,
          ablations,
          errors,
          transfer,
        },
      };
      if (flags.estimate) {
        const estimate = await runJob("estimateEvaluation", request, flags);
        const { circuitEstimateText } = await import("../commands/estimate-text.ts");
        return flags.json ? printJson(estimate) : print(circuitEstimateText(estimate));
      }
      const { file, again, dummy } = await runJob("evaluate", request, { quiet: flags.quiet });
      if (flags.json) return printJson(file);
      const { evaluationText } = await import("../report/evaluation-text.ts");
      print(
        `${dummy ? `${dummyText}\n` : ""}${evaluationText(file.evaluation!)}\n\n${again ? "Already there" : "Written"}: ${join(request.folder, "evaluation.json")}`,
      );
    });
}

/** Flags that bear on changed features. */
const ofInterventions = ["ablate", "scale", "set", "cases", "json", "quiet"];

/** Refuses flags of circuits beside changed features. */
function refuseUnused(command: Command): void {
  const other = command.options.find(
    (option) =>
      command.getOptionValueSource(option.attributeName()) === "cli" &&
      !ofInterventions.includes(option.attributeName()),
  );
  if (other === undefined) return;
  throw new UsageError(
    `${other.long}: expected no --ablate, --scale or --set with it, which measure no circuit. Leave one of them out.`,
  );
}

/** All lists of a flag that may be given several times. */
const repeated = (text: string, before: string[] = []) => [...before, text];

/** Reads values with commas between them, each once, in their order. */
const listOf =
  <T>(read: (text: string) => T) =>
  (text: string): T[] => [...new Set(text.split(",").map((part) => read(part.trim())))];

const oneOf =
  <T extends string>(choices: readonly T[]) =>
  (text: string): T => {
    const found = choices.find((one) => one === text);
    if (found === undefined) throw new InvalidArgumentError(`Expected some of ${choices.join(", ")}.`);
    return found;
  };
