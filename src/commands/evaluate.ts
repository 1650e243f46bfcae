import { relative, resolve } from "node:path";
import { type CircuitEstimate, estimateEvaluation } from "../analysis/estimate-circuits.ts";
import { checkEvaluation, type EvaluateOptions, evaluateCircuits } from "../analysis/evaluate.ts";
import { UnfitOptionError, UserError } from "../errors.ts";
import { featuresJson, featuresOf } from "../interventions/evaluation.ts";
import type { Reporter } from "../progress.ts";
import {
  abandonEvaluation,
  type EvaluationFile,
  evaluationPlaces,
  finishEvaluation,
  openEvaluationFolder,
  readCircuit,
  writeEvaluation,
} from "../results/evaluation.ts";
import { refreshReport } from "../results/report.ts";
import { evaluationFolderName } from "../results/report-circuit.ts";
import { jobProblem } from "../storage/files.ts";
import { thisMachine } from "../storage/machine.ts";
import { versions } from "../storage/package.ts";
import {
  identityOf,
  isDummy,
  type OpenRun,
  openRun,
  pairsOfCases,
  type SiteFlags,
  saesOf,
  stepsOf,
  subjectOf,
  tellEstimate,
} from "./open-run.ts";

/** What `sfc evaluate` is asked. */
export interface EvaluateRequest extends SiteFlags {
  /** The folder of a finished run. */
  readonly run: string;
  /** The evaluation's folder. */
  readonly folder: string;
  readonly force: boolean;
  /** Cases that are looked at; null for all. */
  readonly cases: readonly string[] | null;
  /** A circuit.json to measure beside the ways; null for none. */
  readonly circuit: string | null;
  readonly evaluate: Omit<EvaluateOptions, "given">;
}

/**
 * Tells what an evaluation will take, without reading weights (`sfc evaluate --estimate`).
 *
 * @throws UserError for bad input
 */
export async function estimateEvaluate(request: EvaluateRequest, reporter: Reporter): Promise<CircuitEstimate> {
  await using open = await openFor(request, reporter, true);
  const pairs = pairsOfCases(open, request.cases);
  const given = request.circuit === null ? null : await circuitFor(open, request.circuit);
  const options = { ...request.evaluate, given };
  const cases = open.pairs.map(({ pair }) => pair.case);
  checkEvaluation({ dictionaries: open.dictionaries, pairs, cases }, options);
  const estimate = await estimateEvaluation(subjectOf(open), { pairs, cases }, options, thisMachine);
  reporter.end();
  return estimate;
}

export interface EvaluateOutcome {
  readonly file: EvaluationFile;
  /** Whether it had been finished before and nothing was computed. */
  readonly again: boolean;
  /** Whether the SAEs are random directions. */
  readonly dummy: boolean;
}

/**
 * Measures circuits of a run's features: faithfulness, completeness and transfer (`sfc evaluate`). Where the evaluation lies in the run's folder, the
 * run's report gets it too.
 *
 * @throws UserError for bad input; StoppedError if asked to stop, finished groups stay for the next call
 */
export async function evaluate(request: EvaluateRequest, reporter: Reporter): Promise<EvaluateOutcome> {
  const { folder: path, force, sites, layers } = request;
  await using open = await openFor(request, reporter);
  const pairs = pairsOfCases(open, request.cases);
  const given = request.circuit === null ? null : await circuitFor(open, request.circuit);
  const { by, ways, sizes, thresholds = [], ablations, errors, transfer } = request.evaluate;
  const options: EvaluationFile["options"] = {
    // Seen from the folder itself, so that both can be moved together, or be named in another way.
    run: relative(path, request.run),
    by,
    ways: [...ways],
    sizes: [...sizes],
    ...(thresholds.length > 0 && { thresholds: [...thresholds] }),
    ablation: [...ablations],
    errors,
    transfer,
    sites,
    layers,
    cases: request.cases === null ? null : [...request.cases],
    circuit: request.circuit === null ? null : relative(path, request.circuit),
  };
  // A folder that says it was interrupted would keep the next call, with better flags, out of it.
  const cases = open.pairs.map(({ pair }) => pair.case);
  checkEvaluation({ dictionaries: open.dictionaries, pairs, cases }, { ...request.evaluate, given });
  const folder = await openEvaluationFolder(path, options, force);
  const madeOf = { run: identityOf(open, ...(given ? [[...given]] : [])), versions: await versions() };
  if (folder.state === "finished") {
    if (folder.manifest.run !== madeOf.run) {
      throw new UserError(
        `output folder: expected an evaluation of this run and circuit, got one of others by the same name in ${path}. Give --force to replace it.`,
        { code: "changed_input" },
      );
    }
    reporter.end();
    return { file: folder.manifest, again: true, dummy: isDummy(open) };
  }
  try {
    if (folder.state === "resume") {
      reporter.line(
        `Resuming the interrupted evaluation in ${path}. Groups that are done stay, and steps of masks; all else of the one in the middle starts over.`,
      );
    }
    const file: EvaluationFile = { command: "evaluate", status: "running", options, evaluation: null, ...madeOf };
    await writeEvaluation(path, file);
    const places = await evaluationPlaces(folder, [madeOf], () =>
      reporter.line(
        "The run, the circuit or this program changed since the interruption, so the evaluation starts over.",
      ),
    );
    const { loaded, dictionaries, opened } = open;
    const asked = { ...request.evaluate, given };
    tellEstimate(await estimateEvaluation(subjectOf(open), { pairs, cases }, asked, thisMachine), reporter);
    const { outside } = opened.tokenizer;
    const steps = stepsOf(open);
    const evaluation = await evaluateCircuits(
      { loaded, dictionaries, outside, pairs, cases, ...(steps !== undefined && { steps }) },
      asked,
      places,
      reporter,
    );
    opened.inputs.check();
    const finished: EvaluationFile = { ...file, status: "finished", evaluation };
    await writeEvaluation(path, finished);
    await finishEvaluation(folder);
    if (resolve(path) === resolve(request.run, evaluationFolderName)) {
      reporter.begin("report", 1);
      await refreshReport(request.run, reporter);
    }
    reporter.end();
    return { file: finished, again: false, dummy: isDummy(open) };
  } catch (error) {
    if (error instanceof UnfitOptionError) await abandonEvaluation(folder);
    throw jobProblem(open.opened.inputs.reasonOf(error), path);
  } finally {
    await folder.release();
  }
}

/** Opens a run at the sites that are named, those of the given circuit by default. */
async function openFor(
  { run, circuit, sites, layers }: EvaluateRequest,
  reporter: Reporter,
  headersOnly = false,
): Promise<OpenRun> {
  const defaultSites = circuit === null ? undefined : (await readCircuit(circuit)).sites;
  const asked = { sites, layers, defaultKind: "resid_post", headersOnly } as const;
  return openRun(run, { ...asked, ...(defaultSites && { defaultSites }) }, reporter);
}

/** The features of a circuit.json. @throws UserError if it was made for another model, other SAEs, or sites that are not looked at */
async function circuitFor(open: OpenRun, path: string) {
  const { run, dictionaries } = open;
  const circuit = await readCircuit(path);
  const refuse = (expected: string, got: string) =>
    new UserError(`circuit: expected ${expected}, got ${got} in ${path}. Make one from this run with sfc circuit.`);
  if (circuit.model.sha256 !== run.manifest.model?.sha256) throw refuse("one of the run's model", circuit.model.name);
  const there = new Map((await saesOf(open, run.manifest.dictionaries)).map(({ site, sha256 }) => [site, sha256]));
  for (const { site, sha256 } of circuit.dictionaries) {
    if (there.get(site) !== sha256) throw refuse("one of the run's SAEs", `another SAE at ${site}`);
  }
  const twice = circuit.sites.find((site, i) => circuit.sites.indexOf(site) < i);
  if (twice !== undefined) throw refuse("each of its sites once", `${twice} twice`);
  const sites = [...dictionaries.keys()];
  if (circuit.sites.length !== sites.length || circuit.sites.some((site) => !dictionaries.has(site))) {
    throw refuse(`one over ${sites.join(", ")}`, `one over ${circuit.sites.join(", ")}; name its --sites and --layers`);
  }
  const unnamed = circuit.sites.find((site) => !circuit.dictionaries.some((of) => of.site === site));
  if (unnamed !== undefined) throw refuse(`the SAE of each of its sites in "dictionaries"`, `none of ${unnamed}`);
  for (const [site, features] of Object.entries(circuit.features)) {
    const count = dictionaries.get(site)?.featureCount;
    if (count === undefined) throw refuse(`features at ${sites.join(", ")}`, `some at ${site}`);
    const again = features.findIndex((feature, i) => feature <= features[i - 1]!);
    if (again >= 0) {
      throw refuse(`each feature once and ascending at ${site}`, `${features[again]} after ${features[again - 1]}`);
    }
    const wrong = features.find((feature) => feature >= count);
    if (wrong !== undefined) throw refuse(`features below ${count} at ${site}`, String(wrong));
  }
  if (Object.values(circuit.features).flat().length === 0) throw refuse("features", "none");
  // As evaluation.json has them, by which its report knows them again.
  return featuresOf(featuresJson(featuresOf(circuit.features)));
}
