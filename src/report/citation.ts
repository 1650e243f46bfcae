import type { Comparison } from "./comparison.ts";
import type { ReportData } from "./data.ts";
import { lastPart } from "./format.ts";

/** A run as BibTeX: what made it, on what, and the fingerprints by which others can tell that they have the same. */
export function citationOf({ run }: Pick<ReportData, "run">): string {
  const version = run.versions.find(({ name }) => name === "analytic-sfc")?.value ?? "?";
  const of = (what: { readonly name: string; readonly sha256: string | null }) =>
    `${lastPart(what.name)}${what.sha256 === null ? "" : ` (sha256 ${what.sha256.slice(0, 12)})`}`;
  const score = run.score === "effect" ? "" : `, score ${run.score}`;
  return [
    "@software{analytic-sfc,",
    `  title   = {analytic-sfc: sparse features behind ${texText(lastPart(run.task))} in ${texText(of(run.model))}},`,
    `  version = {${version}},`,
    `  note    = {SAEs ${texText(of(run.dictionaries))}; method ${texText(run.method + score)}, seed ${run.seed}. Method after Marks et al., Sparse Feature Circuits, arXiv:2403.19647}`,
    "}",
  ].join("\n");
}

/** Text in which TeX finds nothing to carry out. */
const texText = (text: string) => text.replace(/[\\{}]/g, "").replace(/[#$%&_]/g, (sign) => `\\${sign}`);

/** The command line that makes a comparison again: what `compare.json` calls its command, with the options that it was started with. */
export function comparisonCommand({ command, options }: Pick<Comparison, "command" | "options">): string {
  // A command line as it was typed has its flags already.
  if (command.includes(" --")) return command;
  return commandLine(command.replace(/^sfc /, ""), options);
}

/** A command of `sfc` with its options, by the names of their flags, as a line that a shell reads back. Null and false are options that are not given. */
export function commandLine(command: string, options: Readonly<Record<string, unknown>>): string {
  const flags = Object.entries(options).flatMap(([name, value]) =>
    value === null || value === false ? [] : value === true ? [`--${name}`] : [`--${name} ${shellWord(value)}`],
  );
  return ["sfc", command, ...flags].join(" ");
}

/** A value as one word that a shell reads back. */
export function shellWord(value: unknown): string {
  const text = Array.isArray(value) ? value.join(",") : String(value);
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}
