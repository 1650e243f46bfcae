import { countText, percentText } from "../amounts.ts";
import { excerpt } from "../prompts/excerpt.ts";
import { textTable } from "../report/text-table.ts";
import type { PairsResult, RejectedPair } from "./check-pairs.ts";
import { shownRejected } from "./check-pairs.ts";
/** A result as text for a terminal: pairs and accuracy by split and case, what was dropped and why. */
export function pairsText({ pairs: { total, usable }, cases, rejected, warnings, output }: PairsResult): string {
  const lines = textTable([
    ["split", "case", "pairs", "accuracy", "margin", "for example"],
    ...cases.map(({ split, case: name, pairs: n, accuracy, margin, example }) => [
      split,
      excerpt(name),
      String(n),
      percentText(accuracy),
      margin.toFixed(2),
      `${excerpt(example.clean_prefix)} |${excerpt(example.clean_answer, 40)} /${excerpt(example.patch_answer, 40)}`,
    ]),
  ]);
  lines.push("", `${usable} of ${countText(total, "pair")} can be used with this tokenizer.`, ...warnings);
  if (rejected.length > 0) {
    lines.push("", "Left out, tokens separated by |:");
    for (const one of rejected.slice(0, shownRejected)) lines.push(`  ${rejectedText(one)}`);
    const more = total - usable - shownRejected;
    if (more > 0) lines.push(`  and ${more} more; --json lists all of them.`);
    lines.push("");
  }
  lines.push("accuracy: the clean answer has the larger logit. margin: by how many logits, on average.");
  if (output !== null) lines.push(`Written to ${output}.`);
  return lines.join("\n");
}

function rejectedText({ line, reason, texts, tokens }: RejectedPair): string {
  const where = line === null ? "" : `line ${line}: `;
  const quoted = (pieces: readonly string[]) => `"${excerpt(pieces.join("|"), 60)}"`;
  if (tokens === null) return `${where}${reason}: ${texts.map((text) => quoted([text])).join(", ")}`;
  const prompts = [tokens.clean_prefix, tokens.patch_prefix].filter((list) => list.length > 0);
  const counts = reason.includes("numbers of tokens") ? ` (${prompts.map((list) => list.length).join(" and ")})` : "";
  const answers = [tokens.clean_answer, tokens.patch_answer].map(quoted).join(", ");
  return `${where}${reason}${counts}: ${prompts.map(quoted).join(" and ")} → ${answers}`;
}
