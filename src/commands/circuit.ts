import { join, relative, resolve } from "node:path";
import { type CircuitOptions, type FoundCircuit, findCircuit, usualPoints } from "../analysis/circuit.ts";
import { type CircuitEstimate, estimateCircuit } from "../analysis/estimate-circuits.ts";
import { isByAblation, ofSplit, parseWay } from "../analysis/evaluate.ts";
import { attributionGraph } from "../circuit/export/attribution.ts";
import { graphMl } from "../circuit/export/graphml.ts";
import { graphSvg } from "../circuit/export/svg.ts";
import type { GraphSubject } from "../circuit/graph.ts";
import { UnfitOptionError, UserError } from "../errors.ts";
import { featuresJson } from "../interventions/evaluation.ts";
import type { Reporter } from "../progress.ts";
import type { Split, TokenPair } from "../prompts/pairs.ts";
import type { Tokenizer } from "../prompts/tokenizer.ts";
import {
  abandonCircuit,
  type CircuitFile,
  checkCircuitFiles,
  circuitFiles,
  circuitParts,
  openCircuitFolder,
  writeCircuit,
} from "../results/circuit.ts";
import { closeFinished } from "../results/folder.ts";
import { refreshReport } from "../results/report.ts";
import { circuitFolderName } from "../results/report-circuit.ts";
import { parseSite } from "../site.ts";
import { jobProblem, writeFileAtomic } from "../storage/files.ts";
import { thisMachine } from "../storage/machine.ts";
import { versions } from "../storage/package.ts";
import { writeCircuitCards } from "./circuit-cards.ts";
import {
  identityOf,
  isDummy,
  type OpenRun,
  openRun,
  pairsOfCases,
  saesOf,
  stepsOf,
  subjectOf,
  tellEstimate,
} from "./open-run.ts";

/** The flags of `sfc circuit`, as they come from the command line. */
export interface CircuitFlags {
  readonly way: string;
  readonly size?: number;
  readonly threshold?: number;
  readonly ablation: CircuitOptions["ablation"];
  readonly edges: CircuitOptions["jacobian"];
  /** Points of secants. */
  readonly steps?: number;
  readonly edge_threshold: number;
  readonly influence: number;
  readonly edge_influence: number;
  /** The pairs over which edges are taken. */
  readonly split: Split | "both";
  /** One pair of the run instead, counted from 1 as the lines of pairs.jsonl. */
  readonly pair?: number;
  readonly by_position?: boolean;
  readonly cases?: string;
  readonly layers?: string;
  readonly sites?: string;
  readonly output_dir?: string;
  readonly force?: boolean;
  readonly estimate?: boolean;
  readonly json?: boolean;
  readonly quiet?: boolean;
}

/** What `sfc circuit` is asked. */
export interface CircuitRequest {
  /** The folder of a finished run. */
  readonly run: string;
  /** The circuit's folder. */
  readonly folder: string;
  readonly flags: CircuitFlags;
}

export interface CircuitOutcome {
  readonly file: CircuitFile;
  /** Whether it had been finished before and nothing was computed. */
  readonly again: boolean;
  /** Whether the SAEs are random directions. */
  readonly dummy: boolean;
}

/** How a circuit is made, as flags say. @throws UserError for shares that are none */
function optionsOf(flags: CircuitFlags): CircuitOptions {
  const { edge_threshold, influence, edge_influence } = flags;
  checkShare("--influence", influence);
  checkShare("--edge_influence", edge_influence);
  return {
    way: parseWay(flags.way, "--way"),
    size: flags.threshold === undefined ? (flags.size ?? defaultSize) : null,
    threshold: flags.threshold ?? null,
    ablation: flags.ablation,
    jacobian: flags.edges,
    edgeThreshold: edge_threshold,
    influence,
    edgeInfluence: edge_influence,
    byPosition: flags.pair === undefined ? flags.by_position === true : "both",
  };
}

const casesOf = ({ cases }: CircuitFlags) => cases?.split(",").map((name) => name.trim()) ?? null;

/** What edges over some pairs will take; of a circuit by a threshold as if it had the usual size. */
function estimateOf(
  open: OpenRun,
  pairs: readonly TokenPair[],
  drawn: readonly TokenPair[],
  asked: CircuitOptions,
  steps = stepsOf(open),
) {
  const subject = { ...subjectOf(open), steps };
  const work = { ...asked, size: asked.size ?? defaultSize, points: steps ?? usualPoints(drawn.length) };
  return estimateCircuit(subject, pairs, drawn, work, thisMachine);
}

/**
 * Tells what a circuit will take, without reading weights (`sfc circuit --estimate`).
 *
 * @throws UserError for bad input
 */
export async function estimateCircuitOf({ run, flags }: CircuitRequest, reporter: Reporter): Promise<CircuitEstimate> {
  const { split, sites = null, layers = null, pair = null } = flags;
  const asked = optionsOf(flags);
  await using open = await openRun(run, { sites, layers, defaultKind: "resid_post", headersOnly: true }, reporter);
  checkSites(open);
  const pairs = pairsOfCases(open, casesOf(flags));
  const estimate = await estimateOf(open, pairs, drawnPairs(open, pairs, split, pair), asked, flags.steps);
  reporter.end();
  return estimate;
}

/**
 * Makes a circuit of a run: its features, the edges between them, and drawings (`sfc circuit`).
 *
 * @throws UserError for bad input; StoppedError if asked to stop, finished target sites stay for the next call
 */
export async function circuit(request: CircuitRequest, reporter: Reporter): Promise<CircuitOutcome> {
  const { folder: path, flags } = request;
  const { edge_threshold, influence, edge_influence, split, sites = null, layers = null, pair = null } = flags;
  const cases = casesOf(flags);
  const asked = optionsOf(flags);
  await using open = await openRun(request.run, { sites, layers, defaultKind: "resid_post" }, reporter);
  checkSites(open);
  const pairs = pairsOfCases(open, cases);
  const drawn = drawnPairs(open, pairs, split, pair);
  const { way, size, threshold, ablation } = asked;
  const options: CircuitFile["options"] = {
    // As in an evaluation, seen from the folder itself.
    run: relative(path, request.run),
    way,
    size,
    threshold,
    ablation,
    edges: asked.jacobian,
    ...(flags.steps !== undefined && { steps: flags.steps }),
    edge_threshold,
    influence,
    edge_influence,
    by_position: flags.by_position === true,
    split,
    pair,
    sites,
    layers,
    cases,
  };
  const folder = await openCircuitFolder(path, options, flags.force === true);
  const madeOf = { run: identityOf(open), versions: await versions() };
  if (folder.state === "finished") {
    if (folder.manifest.run !== madeOf.run) {
      throw new UserError(
        `output folder: expected a circuit of this run, got one of another by the same name in ${path}. Give --force to replace it.`,
        { code: "changed_input" },
      );
    }
    await checkCircuitFiles(path);
    reporter.end();
    return { file: folder.manifest, again: true, dummy: isDummy(open) };
  }
  try {
    if (folder.state === "resume") {
      reporter.line(
        `Resuming the interrupted circuit in ${path}. Its features, once chosen, steps of masks and target sites that are done stay; gradients are computed again.`,
      );
    }
    const file: CircuitFile = {
      command: "circuit",
      status: "running",
      options,
      ...madeOf,
      circuit: null,
      pairs: drawn.length,
      checks: [],
      scores: null,
      sites: [],
      graph: null,
      strongest: [],
    };
    await writeCircuit(path, file);
    const parts = await circuitParts(folder, madeOf, () =>
      reporter.line("The run or this program changed since the interruption, so the circuit starts over."),
    );
    try {
      tellEstimate(await estimateOf(open, pairs, drawn, asked, flags.steps), reporter);
      const { loaded, dictionaries, opened, run } = open;
      const { manifest } = run;
      const named = [...new Set(drawn.map(({ pair }) => pair.case))];
      const splits = [...new Set(drawn.map(({ pair }) => pair.split))];
      const subject: GraphSubject =
        pair === null
          ? { kind: "pairs", pairs: drawn.length, cases: named, split: splits.length === 1 ? splits[0]! : null }
          : subjectOfPair(drawn[0]!, opened.tokenizer);
      const about = {
        model: manifest.model!.name,
        layers: loaded.model.layers,
        dictionaries: manifest.dictionaries.flatMap(({ site, source }) =>
          dictionaries.has(site) ? [{ site, source }] : [],
        ),
        subject,
        metric: "logit(patch answer) − logit(clean answer)",
      } as const;
      const { outside } = opened.tokenizer;
      const steps = flags.steps ?? stepsOf(open);
      const found = await findCircuit(
        { loaded, dictionaries, outside, pairs, drawn, all: open.pairs, about, ...(steps !== undefined && { steps }) },
        asked,
        parts,
        reporter,
      );
      opened.inputs.check();
      reporter.begin("writing", 1);
      await parts.writeEdges(
        join(path, circuitFiles.edges),
        [...dictionaries.keys()].filter((site) => site !== "embed").concat("metric"),
      );
      await writeGraph(path, found);
      await writeCircuitCards(open, path, found.features, reporter);
      const finished: CircuitFile = { ...file, ...(await foundJson(open, pairs, asked, found)), status: "finished" };
      await writeCircuit(path, finished);
      await closeFinished(folder);
      if (resolve(path) === resolve(request.run, circuitFolderName)) {
        reporter.begin("report", 1);
        await refreshReport(request.run, reporter);
      }
      reporter.end();
      return { file: finished, again: false, dummy: isDummy(open) };
    } finally {
      parts.close();
    }
  } catch (error) {
    if (error instanceof UnfitOptionError) await abandonCircuit(folder);
    throw jobProblem(open.opened.inputs.reasonOf(error), path);
  } finally {
    await folder.release();
  }
}

function checkShare(flag: string, value: number): void {
  if (value > 0 && value <= 1) return;
  throw new UserError(`${flag}: expected a share over 0 and up to 1, got ${value}. The default keeps most.`);
}

/** Refuses sites that no edge leads to, before any work. */
function checkSites({ dictionaries }: OpenRun): void {
  const neurons = [...dictionaries.keys()].find((site) => parseSite(site).kind === "mlp_act");
  if (neurons === undefined) return;
  throw new UserError(
    `--sites: expected sites with edges between them, got ${neurons}. Name others of the run; mlp_out of that layer is what its neurons add up to.`,
  );
}

/** The pairs over which edges are taken. @throws UserError if there are none */
function drawnPairs(
  open: OpenRun,
  pairs: readonly TokenPair[],
  split: CircuitFlags["split"],
  pair: number | null,
): readonly TokenPair[] {
  if (ofSplit(pairs, "train").length === 0) {
    throw new UserError(
      "pairs: expected train pairs, on which circuits are chosen, got only test pairs. Name some train, or more --cases.",
    );
  }
  if (pair !== null) {
    const one = open.pairs[pair - 1];
    if (one) return [one];
    throw new UserError(`--pair: expected 1 to ${open.pairs.length}, a line of the run's pairs.jsonl, got ${pair}.`);
  }
  const own = split === "both" ? pairs : ofSplit(pairs, split);
  if (own.length > 0) return own;
  throw new UserError(`--split ${split}: expected some pairs in it, got none. Choose another split or more cases.`);
}

/** Both prompts, token by token. */
function subjectOfPair({ clean, patch }: TokenPair, tokenizer: Tokenizer): GraphSubject {
  const texts = (ids: readonly number[]) => ids.map((id) => tokenizer.token(id));
  return { kind: "pair", clean: texts(clean), patch: texts(patch) };
}

async function writeGraph(path: string, { whole, drawn }: FoundCircuit): Promise<void> {
  const write = (name: string, text: string) => writeFileAtomic(join(path, name), text);
  await write(circuitFiles.whole, JSON.stringify(whole));
  await write(circuitFiles.svg, graphSvg(drawn));
  await write(circuitFiles.graphml, graphMl(drawn));
  const json = attributionGraph(drawn, { slug: "circuit", pinned: 16 });
  await write(circuitFiles.graph, `${JSON.stringify(json, null, 1)}\n`);
}

/** Features in a circuit where no size is given. */
const defaultSize = 60;
/** How many of the strongest edges the manifest names. */
const strongestEdges = 10;

async function foundJson(
  open: OpenRun,
  pairs: readonly TokenPair[],
  { way, ablation }: CircuitOptions,
  { features, whole, drawn, shares, checks }: FoundCircuit,
): Promise<Pick<CircuitFile, "circuit" | "checks" | "scores" | "sites" | "graph" | "strongest">> {
  const { manifest } = open.run;
  const { dictionaries } = open;
  const train = ofSplit(pairs, "train");
  const { name, sha256 } = manifest.model!;
  return {
    circuit: {
      format: 1,
      features: featuresJson(features),
      sites: [...dictionaries.keys()],
      way,
      ablation: isByAblation(way) ? ablation : null,
      errors: "ablated",
      cases: [...new Set(train.map(({ pair }) => pair.case))],
      pairs: train.length,
      model: { name, sha256: sha256! },
      dictionaries: await saesOf(
        open,
        manifest.dictionaries.filter(({ site }) => dictionaries.has(site)),
      ),
    },
    checks: [...checks],
    scores: drawn.about.scores!,
    sites: [...shares],
    graph: {
      nodes: whole.nodes.length,
      edges: whole.edges.length,
      drawn_nodes: drawn.nodes.length,
      drawn_edges: drawn.edges.length,
    },
    strongest: whole.edges
      .toSorted((a, b) => Math.abs(b.value) - Math.abs(a.value))
      .slice(0, strongestEdges)
      .map(({ source, target, value }) => ({ source, target, edge: value })),
  };
}
