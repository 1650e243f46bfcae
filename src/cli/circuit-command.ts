import { join } from "node:path";
import { type Command, Option } from "commander";
import type { CircuitFlags } from "../commands/circuit.ts";
import { circuitHelp, circuitText } from "../report/circuit-text.ts";
import { amount, folded, mostSteps, wholeNumber, wholeNumberUpTo } from "./flags.ts";
import { runJob } from "./host.ts";
import { print, printJson } from "./terminal.ts";

const choice = (flags: string, text: string, of: readonly string[]) =>
  new Option(flags, text).choices(of).default(of[0]);

/** Adds `circuit`. */
export function addCircuitCommand(program: Command): void {
  program
    .command("circuit")
    .description("the circuit of a run: its features, the edges between them, and drawings")
    .argument("<run>", "the folder of a finished run")
    .addHelpText("after", folded(circuitHelp))
    .option("--way <name>", "how features are chosen; see below", "masks")
    .option("--size <n>", "features in the circuit (default: 60)", wholeNumber)
    .addOption(
      new Option("--threshold <x>", "all features of at least this |effect| per pair")
        .argParser(amount)
        .conflicts("size"),
    )
    .addOption(choice("--ablation <kind>", "what masks are fitted to", ["mean", "patch", "zero"]))
    .addOption(
      choice("--edges <kind>", "slopes of edges: averaged between clean and patch, or at clean", [
        "secant",
        "gradient",
      ]),
    )
    .option(
      "--steps <n>",
      "points of secant edges and effects (default: the run's, else 8, for one pair 32)",
      wholeNumberUpTo(mostSteps),
    )
    .option("--edge_threshold <x>", "smallest |edge| to keep, in logits per pair", amount, 0)
    .option("--influence <share>", "share of influence that drawn nodes hold", amount, 0.8)
    .option("--edge_influence <share>", "share of influence that drawn edges hold", amount, 0.98)
    .addOption(choice("--split <name>", "pairs over which edges are taken", ["train", "test", "both"]))
    .option("--pair <n>", "edges of one pair, the nth line of the run's pairs.jsonl", wholeNumber)
    .option("--by_position", "rows of edges.parquet by their target's node and position")
    .option("--cases <names>", "cases of the run, with commas between them (default: all)")
    .option("--layers <blocks>", "blocks of the run's SAEs, as 0-3,5 (default: all)")
    .option(
      "--sites <kinds>",
      "kinds of sites, as attn_out,mlp_out,resid_post (default: resid_post where the run has it, else all)",
    )
    .option("--output_dir <folder>", "the circuit's folder (default: circuit in the run's folder)")
    .option("--force", "replace a circuit with other options in that folder")
    .option("--estimate", "tell what it will take, from file headers, and make nothing")
    .option("--json", "print circuit.json, or with --estimate the estimate as JSON")
    .option("--quiet", "show no progress")
    .action(async (run: string, flags: CircuitFlags) => {
      const folder = flags.output_dir ?? join(run, "circuit");
      const request = { run, folder, flags };
      if (flags.estimate) {
        const estimate = await runJob("estimateCircuit", request, flags);
        const { circuitEstimateText } = await import("../commands/estimate-text.ts");
        return flags.json ? printJson(estimate) : print(circuitEstimateText(estimate));
      }
      const { file, again, dummy } = await runJob("circuit", request, { quiet: flags.quiet });
      if (flags.json) printJson(file);
      else print(circuitText(file, { run, folder, again, dummy }));
    });
}
