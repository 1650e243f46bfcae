import { countText } from "../../amounts.ts";
import type { GraphSubject } from "../graph.ts";

/** The prompts behind a graph in a line: `100 pairs of nounpp_singular, train`, `The dog → The dogs`. */
export function subjectText(subject: GraphSubject): string {
  if (subject.kind === "prompt") return subject.tokens.join("");
  if (subject.kind === "pair") return `${subject.clean.join("")} → ${subject.patch.join("")}`;
  const cases = subject.cases.length > 3 ? countText(subject.cases.length, "case") : subject.cases.join(", ");
  return `${countText(subject.pairs, "pair")} of ${cases}${subject.split === null ? "" : `, ${subject.split}`}`;
}
