import { countText, percentText } from "../amounts.ts";
import { textTable } from "../report/text-table.ts";
import type { ContextsOutcome } from "./contexts.ts";

/** Help of `sfc contexts`. */
export const contextsHelp = `
Reads a text with the model and keeps, for every feature, the windows with its largest codes, how often it is active, a histogram of its codes, and the
tokens at which it is strongest in a row. sfc run finds this beside the SAEs and puts it on the cards of the features that it names; SAEs of the hub
need --output_dir here and --contexts there. Documents of plain text stand between blank lines. Rows are cut as in sfc train sae; their first
tokens (BOS) are not looked at.

An interrupted command resumes, to the same files. Sites can be divided over machines: give each its --layers, and all the same --output_dir.

Examples:
  sfc contexts --tokens 20000 --output_dir outputs/contexts
  sfc contexts --text corpus.parquet --column text --layers 3 --sites resid_post
  sfc contexts --model_name gpt2 --sae_source gpt2-res-jb --layers 6 --text corpus.jsonl --output_dir outputs/gpt2-contexts`;

/** What was found, as text for a terminal. */
export function contextsText({ folder, sites, tokens, rows, corpus, again }: ContextsOutcome): string {
  const table = textTable([
    ["site", "features", "silent", "active per token"],
    ...sites.map(({ site, features, silent, active }) => [
      site,
      String(features),
      percentText(silent / features),
      active.toFixed(1),
    ]),
  ]);
  return [
    ...table,
    "",
    `${countText(tokens, "token")} of ${corpus} in ${countText(rows, "row")}.`,
    `${again ? "Already there" : "Written"}: ${folder}`,
  ].join("\n");
}
