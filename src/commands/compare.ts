import { existsSync } from "node:fs";
import { rename } from "node:fs/promises";
import { cpus, totalmem } from "node:os";
import { join } from "node:path";
import { type MethodSpec, methodFolder, namesIn, parseMethods } from "../analysis/compare-methods.ts";
import { featuresToPatch, findingsOf, type MethodResult, methodResultSchema } from "../analysis/compare-results.ts";
import { checkFits, checkRoom, estimateRun, gemmGflops, workLine } from "../analysis/estimate.ts";
import { type CompareOptions, taskName } from "../analysis/options.ts";
import { sha256OfText } from "../bytes/sha256.ts";
import type { Dictionary } from "../dictionaries/dictionary.ts";
import { planFor } from "../effects/capture-for.ts";
import { wantedBy } from "../effects/dispatch.ts";
import { UserError } from "../errors.ts";
import type { Device } from "../graph/runtime.ts";
import { parameterCount } from "../models/model.ts";
import { checkRuntime } from "../open/device.ts";
import { dictionaryWarnings, type OpenModel, openJob } from "../open/open.ts";
import { usablePairs } from "../open/open-pairs.ts";
import type { Reporter } from "../progress.ts";
import type { TokenPair } from "../prompts/pairs.ts";
import { type Comparison, comparisonSchema } from "../report/comparison.ts";
import { closeFinished, type FolderKind, type OpenFolder, openWorkFolder, partialFor } from "../results/folder.ts";
import { comparisonFile, reportFile, reportTemplate, writeComparisonReport } from "../results/report.ts";
import type { SiteName } from "../site.ts";
import { jobProblem, makeFolder, readJsonFile, writeFileAtomic, writeProblem } from "../storage/files.ts";
import type { InputFiles } from "../storage/input-files.ts";
import { thisMachine } from "../storage/machine.ts";
import { versions } from "../storage/package.ts";
import { isSealed } from "../storage/seal.ts";
import { featuresFile, forestOf, type MethodRequest, resultFile, resultSeal } from "./compare-measure.ts";
import { measureInProcess } from "./compare-process.ts";

export interface CompareRequest {
  readonly command: string;
  readonly options: CompareOptions;
  /** The comparison's folder. */
  readonly folder: string;
  readonly force: boolean;
}

export interface CompareOutcome {
  readonly comparison: Comparison;
  /** Whether it had been finished before and nothing was computed. */
  readonly again: boolean;
}

const comparisonFolder: FolderKind<Comparison> = {
  noun: "comparison",
  manifestFile: comparisonFile,
  schema: comparisonSchema,
  files: (stored) => {
    const { options } = Object(stored) as { options?: { methods?: unknown } };
    return [reportFile, ...namesIn(options?.methods).map((name) => join(methodFolder(name), featuresFile))];
  },
};

/**
 * The methods side by side (`sfc compare`), each in a process of its own, one after the other; then what their effects have in common.
 *
 * @throws UserError for bad input; StoppedError if asked to stop, the methods that have finished stay for the next call
 */
export async function compare(request: CompareRequest, reporter: Reporter): Promise<CompareOutcome> {
  const { options } = request;
  const specs = parseMethods(options.methods, options);
  reporter.begin("reading", 1);
  // Better now than at the end of the work.
  const template = await reportTemplate();
  await checkRuntime(options.device as Device, reporter);
  const { folder, inputs, files, width } = await openWork(request, specs, reporter);
  if ("comparison" in folder) {
    reporter.end();
    const { comparison } = folder;
    return { comparison, again: true };
  }
  try {
    const comparison = await work({ request, specs, folder, inputs, files, width, template, reporter });
    return { comparison, again: false };
  } catch (error) {
    throw jobProblem(files.reasonOf(error), request.folder);
  } finally {
    await folder.release();
  }
}

/** Refuses methods that need more memory than there is. @throws UserError saying what to do instead */
async function checkMethodsFit(
  specs: readonly MethodSpec[],
  { by_pair, ...options }: CompareOptions,
  opened: OpenModel,
  dictionaries: ReadonlyMap<SiteName, Dictionary>,
  pairs: readonly TokenPair[],
): Promise<void> {
  for (const spec of specs) {
    const { method, batch, steps } = spec;
    const plan = planFor(
      { forest: forestOf(pairs, spec, by_pair), ...(batch !== null && { batch }) },
      wantedBy(method),
    );
    const work = { ...options, method, score: "effect", ...(steps !== null && { steps }) } as const;
    checkFits(await estimateRun(opened, dictionaries, [plan], work, thisMachine), [plan], method, thisMachine);
  }
}

/** What is known of a comparison before any method has run. */
type Inputs = Omit<Comparison, "status" | "accuracy" | "methods" | "agreement" | "scatter" | "sums" | "exactness">;

/** Opens all that is compared, to see that it can be, and the folder; closes all but the folder again. */
async function openWork(
  { command, options, folder: path, force }: CompareRequest,
  specs: readonly MethodSpec[],
  reporter: Reporter,
) {
  await using opened = await openJob(options, reporter);
  const { dictionaries } = opened;
  if (options.weights === "held") checkRoom(opened.model, options.precision, thisMachine);
  const { kept, warnings: told } = usablePairs(opened.source, opened, options, reporter);
  const recorded = { ...options };
  const folder = await openWorkFolder(comparisonFolder, path, recorded, force);
  try {
    if (folder.state !== "finished") await checkMethodsFit(specs, options, opened, dictionaries, kept);
    const dummy = options.sae_source === "dummy";
    const warnings = [
      ...opened.warnings,
      ...told,
      ...dictionaryWarnings(dictionaries, kept, opened),
      ...(dummy
        ? ["DUMMY dictionaries: random directions in place of trained features. No feature here means anything."]
        : []),
    ];
    const sha256 = await identityOf(opened, dictionaries, kept);
    if (folder.state === "finished") checkSameInputs(path, folder.manifest.sha256, sha256);
    else for (const warning of warnings) reporter.line(warning);
    const inputs: Inputs = {
      format: 1,
      command,
      options: recorded,
      versions: await versions(),
      machine: { cpu: cpus()[0]?.model.trim() ?? "unknown", cores: cpus().length, memory_bytes: totalmem() },
      model: {
        name: options.model_name,
        model_type: opened.model.modelType,
        parameters: parameterCount(opened.model),
      },
      dictionaries: {
        source: options.sae_source ?? "the model's own",
        dummy,
        sites: [...dictionaries.keys()],
        features: [...dictionaries.values()].reduce((sum, d) => sum + d.featureCount, 0),
      },
      sha256,
      task: taskName(options),
      pairs: kept.length,
      warnings,
    };
    opened.inputs.check();
    return {
      folder: folder.state === "finished" ? { comparison: folder.manifest } : folder,
      inputs,
      files: opened.inputs,
      width: opened.model.width,
    };
  } catch (error) {
    if (folder.state !== "finished") await folder.release();
    throw error;
  }
}

async function identityOf(
  { checkpoint }: OpenModel,
  dictionaries: ReadonlyMap<SiteName, Dictionary>,
  pairs: readonly TokenPair[],
): Promise<Comparison["sha256"]> {
  const each: string[] = [];
  for (const [site, dictionary] of dictionaries) each.push(`${site} ${await dictionary.sha256()}`);
  return {
    model: await checkpoint.sha256(),
    dictionaries: sha256OfText(each.join("\n")),
    pairs: sha256OfText(JSON.stringify(pairs)),
  };
}

/** Refuses to show a finished comparison again that was made of other files than those that the same options name now. */
function checkSameInputs(path: string, then: Comparison["sha256"], now: Comparison["sha256"]): void {
  const names = { model: "another model", dictionaries: "other SAEs", pairs: "other pairs" } as const;
  const changed = (["model", "dictionaries", "pairs"] as const).filter((what) => then[what] !== now[what]);
  if (changed.length === 0) return;
  throw new UserError(
    `output folder: expected the model, SAEs and pairs of its finished comparison, got ${changed.map((what) => names[what]).join(" and ")} for ${path}. Choose another --output_dir, or --force to replace that comparison.`,
  );
}

interface WorkSetting {
  readonly request: CompareRequest;
  readonly specs: readonly MethodSpec[];
  readonly folder: OpenFolder<Comparison>;
  readonly inputs: Inputs;
  /** The files that the methods read. */
  readonly files: InputFiles;
  /** D, the model's. */
  readonly width: number;
  readonly template: string;
  readonly reporter: Reporter;
}

async function work(setting: WorkSetting): Promise<Comparison> {
  const { request, specs, folder, inputs, files, template, reporter } = setting;
  if (folder.state === "resume") reporter.line(`Resuming the interrupted comparison in ${folder.path}.`);
  const unfinished: Comparison = {
    ...inputs,
    status: "running",
    accuracy: null,
    methods: [],
    agreement: [],
    scatter: [],
    sums: [],
    exactness: [],
  };
  await writeComparison(folder.path, unfinished);
  const partial = await partialFor(folder, [inputs.versions, inputs.sha256], () =>
    reporter.line(
      "The model, the SAEs, the pairs or this program changed since the interruption, so the comparison starts over.",
    ),
  );
  const results = await measureAll(setting, partial);

  reporter.begin("comparing", 1);
  const measured = specs.map((spec) => ({ spec, result: results.get(spec.name)! }));
  const findings = findingsOf(measured, request.options.top);
  const comparison: Comparison = {
    ...inputs,
    ...findings,
    status: "finished",
    warnings: [...inputs.warnings, ...findings.warnings],
  };
  for (const { name } of specs) await moveFeatures(partial, folder.path, name);
  await writeComparisonReport(folder.path, comparison, template);
  files.check();
  await writeComparison(folder.path, comparison);
  await closeFinished(folder);
  reporter.end();
  return comparison;
}

/** Runs the methods that have not run yet, `exact` last: which features it patches may depend on the others. */
async function measureAll(
  { request: { options, folder: path }, specs, files, width, reporter }: WorkSetting,
  partial: string,
): Promise<ReadonlyMap<string, MethodResult>> {
  const results = new Map<string, MethodResult>();
  const isExact = ({ method }: MethodSpec) => method === "exact";
  const { methods: _, steps: __, rule: ___, top, by_pair: byPair, weights, ...setting } = options;
  for (const spec of [...specs.filter((of) => !isExact(of)), ...specs.filter(isExact)]) {
    const folder = join(partial, methodFolder(spec.name));
    const known = await storedResult(folder, join(path, methodFolder(spec.name)));
    if (known) {
      results.set(spec.name, known);
      continue;
    }
    const features = isExact(spec) ? featuresToPatch([...results.values()], top) : null;
    const request: MethodRequest = { setting, weights, spec, byPair, features, folder, inputs: files.states() };
    // Measured while nothing else runs.
    const gflops = isExact(spec) ? await gemmGflops(width) : 0;
    await measureInProcess(request, reporter, ({ patches, flops }) => reporter.line(workLine(patches, flops, gflops)));
    const result = await storedResult(folder, join(path, methodFolder(spec.name)));
    if (!result) throw new Error(`internal: ${spec.name} left no result`);
    results.set(spec.name, result);
  }
  return results;
}

/**
 * What a method that has finished left; null if it has not, or it is not whole any more.
 *
 * @param moved where its table may have been moved to
 */
async function storedResult(folder: string, moved: string): Promise<MethodResult | null> {
  const table = [folder, moved].map((at) => join(at, featuresFile)).find(existsSync);
  const files = [join(folder, resultFile), ...(table === undefined ? [] : [table])];
  if (!(await isSealed(join(folder, resultSeal), files))) return null;
  const stored = await readJsonFile(join(folder, resultFile)).catch(() => null);
  return methodResultSchema.safeParse(stored).data ?? null;
}

/** Puts a method's table in its place. An interruption among several leaves the others where they were. */
async function moveFeatures(partial: string, path: string, name: string): Promise<void> {
  const to = join(path, methodFolder(name));
  try {
    await makeFolder(to);
    await rename(join(partial, methodFolder(name), featuresFile), join(to, featuresFile));
  } catch (error) {
    // One that was moved before an interruption lies there already.
    const moved = (error as NodeJS.ErrnoException).code === "ENOENT" && existsSync(join(to, featuresFile));
    if (!moved) throw writeProblem(error, to);
  }
}

async function writeComparison(path: string, comparison: Comparison): Promise<void> {
  const text = JSON.stringify(comparisonSchema.parse(comparison), null, 2);
  await writeFileAtomic(join(path, comparisonFile), `${text}\n`);
}
