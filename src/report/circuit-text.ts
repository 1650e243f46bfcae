import { countText, fixedText, percentText } from "../amounts.ts";
import type { Check } from "../circuit/checks.ts";
import { textTable } from "./text-table.ts";

/** What `sfc circuit --help` says after its flags. */
export const circuitHelp = `Features are chosen on train pairs; edges between them, in logits, say which part of a feature's effect comes from which earlier feature, SAE error or token.

Ways to choose: masks (learned), mask-ig, or a method's effects (secant, analytic, …), with -covering every site alike, with -signed only features that
support the clean answer. What the circuit is worth, sfc evaluate RUN --circuit FOLDER/circuit.json measures.

The circuit's folder has
  circuit.json        the features, shares by site, checks
  edges.parquet       all edges into them: split, case, target_site, target,
                      source_site, source, edge; −1 is a site's error, −2 the
                      tokens, −4 the remainder, which no edge carries; with
                      --pair by the positions of target and source
  graph.json          the same edges, summed (with --pair by position), and
                      their nodes
  circuit.svg         a drawing of what carries most influence
  circuit.graphml     the same for Gephi, yEd, Cytoscape and NetworkX
  circuit.graph.json  the same for circuit-tracer's page and Neuronpedia

Examples:
  sfc circuit outputs/demo-agreement-0
  sfc circuit outputs/demo-agreement-0 --way secant-covering --size 40 --cases nounpp_singular,nounpp_plural
  sfc circuit outputs/demo-agreement-0 --way secant --threshold 0.05 --sites attn_out,mlp_out,resid_post --pair 3`;

/** What the text is made of: circuit.json without its manifest. */
export interface CircuitSummary {
  readonly circuit: { readonly way: string; readonly pairs: number } | null;
  readonly options: Readonly<Record<string, unknown>>;
  readonly pairs: number;
  readonly checks: readonly Check[];
  readonly scores: { readonly replacement: number | null; readonly completeness: number | null } | null;
  readonly sites: readonly {
    readonly site: string;
    readonly features: number;
    readonly carried: number;
    readonly error: number;
    readonly total: number;
    readonly remainder: number;
  }[];
  readonly graph: {
    readonly nodes: number;
    readonly edges: number;
    readonly drawn_nodes: number;
    readonly drawn_edges: number;
  } | null;
  readonly strongest: readonly { readonly source: string; readonly target: string; readonly edge: number }[];
}

/** Where a circuit is. */
export interface CircuitPlace {
  readonly run: string;
  readonly folder: string;
  /** Whether it had been there before. */
  readonly again: boolean;
  /** Whether the SAEs are random directions. */
  readonly dummy: boolean;
}

/** What is said of circuits of random directions. */
export const dummyText =
  "DUMMY dictionaries: random directions in place of trained features. No feature in this circuit means anything.";

/** A circuit as text: its size by site with what it carries, the strongest edges, checks. */
export function circuitText(
  { circuit, options, pairs, checks, scores, sites, graph, strongest }: CircuitSummary,
  { run, folder, again, dummy }: CircuitPlace,
): string {
  const size = sites.reduce((sum, { features }) => sum + features, 0);
  const share = (part: number, total: number) => (Math.abs(total) < 0.005 ? "" : percentText(part / total, 0));
  const gaps = pointGaps(checks);
  const failed = checks.filter(({ passed }) => !passed);
  const score = (value: number | null | undefined) =>
    value === null || value === undefined ? "none" : value.toFixed(2);
  return [
    ...(dummy ? [dummyText] : []),
    `Circuit of ${countText(size, "feature")}, chosen by ${circuit!.way} on ${countText(circuit!.pairs, "train pair")}; ${options.edges} edges over ${countText(pairs, "pair")}${options.pair === null ? "" : ", by position"}.`,
    "",
    ...textTable([
      ["site", "features", "effects", "carried", "error", "remainder"],
      ...sites.map(({ site, features, carried, error, total, remainder }) => [
        site,
        String(features),
        fixedText(total, 2),
        share(carried, total),
        share(error, total),
        share(remainder, carried),
      ]),
    ]),
    "effects: their sum at the site, in logits; carried: by the circuit's features; remainder: of what they carry, what no edge does, for it comes",
    "from features outside the circuit, from slopes that were capped or from edges under the threshold.",
    ...(gaps === null ? [] : [gaps]),
    "",
    "Strongest edges, in logits, mean over pairs:",
    ...textTable(strongest.map(({ source, target, edge }) => [edge.toFixed(3), source, "→", target])).map(
      (line) => `  ${line}`,
    ),
    "",
    `Drawn: ${graph!.drawn_nodes} of ${countText(graph!.nodes, "node")}, ${graph!.drawn_edges} of ${countText(graph!.edges, "edge")}.`,
    `Replacement score ${score(scores?.replacement)}: of the influence on the metric, what comes from tokens and not from errors and remainders.`,
    `Completeness ${score(scores?.completeness)}: of the nodes' inputs, weighed by influence, what comes from no error and is no remainder.`,
    failed.length === 0
      ? `Checks: all ${checks.length} passed.`
      : `Checks: ${failed.length} of ${checks.length} failed: ${failed.map(({ name, site, gap, scale }) => `${name}${site === null ? "" : ` at ${site}`} (${(gap / scale).toExponential(1)})`).join("; ")}.`,
    "",
    `${again ? "Already there" : "Written"}: ${folder}/circuit.json, edges.parquet, graph.json, circuit.svg, circuit.graphml, circuit.graph.json`,
    `What it is worth: sfc evaluate ${run} --circuit ${folder}/circuit.json${flagsText(options)}`,
  ].join("\n");
}

/** How far edges into targets miss their effects where slopes of sublayers are means over points; null where none are. */
function pointGaps(checks: readonly Check[]): string | null {
  const shares = checks.flatMap(({ name, gap, scale }) => {
    const kind = /^edges into (\w+) targets/.exec(name)?.[1];
    return kind === undefined ? [] : [[kind, gap / scale] as const];
  });
  if (shares.length === 0) return null;
  const told = shares.map(([kind, share]) => `${percentText(share)} (${kind})`).join(", ");
  const advice = shares.some(([, share]) => share > 0.02) ? " More --steps bring it down." : "";
  return `Edges and remainders miss their targets' effects by ${told} on average, for slopes are means over a few points.${advice}`;
}

/** The flags by which `sfc evaluate` looks at the same sites and cases. */
const flagsText = (options: Readonly<Record<string, unknown>>) =>
  ["sites", "layers", "cases"]
    .filter((name) => options[name] !== null)
    .map((name) => ` --${name} ${String(options[name])}`)
    .join("");
