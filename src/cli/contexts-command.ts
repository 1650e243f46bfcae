import type { Command } from "commander";
import type { ContextsRequest } from "../commands/contexts.ts";
import { contextsHelp, contextsText } from "../commands/contexts-text.ts";
import { folded, modelFlag, saeFlags, wholeNumber, wholeNumberFrom0, wholeNumberUpTo } from "./flags.ts";
import { runJob } from "./host.ts";
import { print, printJson } from "./terminal.ts";

interface Flags extends Pick<ContextsRequest, "model_name" | "tokens" | "contexts" | "window"> {
  readonly allow_config_field?: string[];
  readonly sae_source?: string;
  readonly layers?: string;
  readonly sites?: string;
  readonly features?: string;
  readonly text?: string[];
  readonly column: string;
  readonly seed: number;
  readonly length?: number;
  readonly output_dir?: string;
  readonly force?: boolean;
  readonly json?: boolean;
  readonly quiet?: boolean;
}

/** Adds `contexts`. */
export function addContextsCommand(program: Command): void {
  const command = program
    .command("contexts")
    .description("what the features of SAEs are active on in a corpus: top contexts, density, histograms, top tokens")
    .addHelpText("after", folded(contextsHelp));
  saeFlags(modelFlag(command))
    .option("--text <files...>", "plain text, JSON lines (.jsonl) or Parquet (.parquet) (default: generated English)")
    .option("--column <name>", "the field of JSON lines, or column of Parquet, that has the text", "text")
    .option("--seed <n>", "seed of generated English", wholeNumberFrom0, 1)
    .option("--features <names>", "only these features, as resid_post.3/41, with commas (default: all of the sites)")
    .option("--tokens <n>", "tokens to read at most", wholeNumber, 1_000_000)
    .option("--length <n>", "tokens per row of text (default: as the SAEs were trained, else 128)", wholeNumber)
    .option("--contexts <n>", "top contexts per feature", wholeNumberUpTo(100), 10)
    .option("--window <n>", "tokens of a context at most, two thirds of them before the top token", wholeNumber, 16)
    .option("--output_dir <folder>", "where the evidence goes (default: contexts in the SAEs' folder)")
    .option("--force", "replace evidence that is there already")
    .option("--json", "print JSON")
    .option("--quiet", "show no progress")
    .action(async ({ features, text, column, seed, output_dir, force, json, quiet, ...flags }: Flags) => {
      const outcome = await runJob(
        "contexts",
        {
          ...flags,
          sae_source: flags.sae_source ?? null,
          layers: flags.layers ?? null,
          sites: flags.sites ?? null,
          features: features?.split(",").map((name) => name.trim()) ?? null,
          text: { files: text ?? [], column, seed },
          length: flags.length ?? null,
          folder: output_dir ?? null,
          force: force === true,
        },
        { quiet },
      );
      if (json) printJson(outcome);
      else print(contextsText(outcome));
    });
}
