import { cpus, totalmem } from "node:os";
import { type ComparisonContext, checkMethodsFit, compareStep } from "../analysis/compare.ts";
import { type MethodSpec, parseMethods } from "../analysis/compare-methods.ts";
import { checkRoom, workLine } from "../analysis/estimate.ts";
import { type CompareOptions, taskName } from "../analysis/options.ts";
import { dictionaryWarnings, usablePairs } from "../analysis/pairs.ts";
import { gemmGflops } from "../analysis/rates.ts";
import { sha256OfText } from "../bytes/sha256.ts";
import type { Dictionary } from "../dictionaries/dictionary.ts";
import { UserError } from "../errors.ts";
import type { Device } from "../graph/runtime.ts";
import { parameterCount } from "../models/model.ts";
import { heldWeights, loadedModel, streamedWeights } from "../models/weights.ts";
import { checkRuntime } from "../open/device.ts";
import { type OpenJob, type OpenModel, openJob } from "../open/open.ts";
import type { Reporter } from "../progress.ts";
import type { TokenPair } from "../prompts/pairs.ts";
import type { Comparison } from "../report/comparison.ts";
import { comparisonPlaces, openComparisonFolder } from "../results/comparison.ts";
import type { OpenFolder } from "../results/folder.ts";
import { reportTemplate } from "../results/report.ts";
import type { SiteName } from "../site.ts";
import { jobProblem } from "../storage/files.ts";
import type { InputFiles } from "../storage/input-files.ts";
import { thisMachine } from "../storage/machine.ts";
import { versions } from "../storage/package.ts";
import { checkDevice } from "./check-device.ts";
import type { MethodRequest } from "./compare-measure.ts";
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
  const { folder, context, files, width } = await openWork(request, specs, reporter);
  if ("comparison" in folder) {
    reporter.end();
    const { comparison } = folder;
    return { comparison, again: true };
  }
  try {
    const comparison = await work({ request, specs, folder, context, files, width, template, reporter });
    return { comparison, again: false };
  } catch (error) {
    throw jobProblem(files.reasonOf(error), request.folder);
  } finally {
    await folder.release();
  }
}

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
  const folder = await openComparisonFolder(path, recorded, force);
  try {
    if (folder.state !== "finished") {
      await checkMethodsFit(specs, options, opened, dictionaries, kept, thisMachine);
      await checkDeviceOf(options, opened, kept, reporter);
    }
    const dummy = options.sae_source === "dummy";
    const warnings = [
      ...opened.warnings,
      ...told,
      ...dictionaryWarnings(dictionaries, kept, opened.tokenizer),
      ...(dummy
        ? ["DUMMY dictionaries: random directions in place of trained features. No feature here means anything."]
        : []),
    ];
    const sha256 = await identityOf(opened, dictionaries, kept);
    if (folder.state === "finished") checkSameInputs(path, folder.manifest.sha256, sha256);
    else for (const warning of warnings) reporter.line(warning);
    const context: ComparisonContext = {
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
      context,
      files: opened.inputs,
      width: opened.model.width,
    };
  } catch (error) {
    if (folder.state !== "finished") await folder.release();
    throw error;
  }
}

/** @throws UserError if the device's numbers are not the CPU's */
async function checkDeviceOf(
  { device, device_tolerance, weights: where, precision }: CompareOptions,
  { model, checkpoint, dictionaries }: OpenJob,
  pairs: readonly TokenPair[],
  reporter: Reporter,
): Promise<void> {
  if (device === "cpu") return;
  const weights = where === "held" ? await heldWeights(model, checkpoint, precision) : streamedWeights(checkpoint);
  const loaded = loadedModel(model, weights, { dtype: precision, device: device as Device });
  await checkDevice({ loaded, dictionaries, pairs }, device_tolerance, reporter);
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

interface OpenComparison {
  readonly request: CompareRequest;
  readonly specs: readonly MethodSpec[];
  readonly folder: OpenFolder<Comparison>;
  readonly context: ComparisonContext;
  /** The files that the methods read. */
  readonly files: InputFiles;
  /** D, the model's. */
  readonly width: number;
  readonly template: string;
  readonly reporter: Reporter;
}

/** Runs each method in a process of its own, and compares them in the folder. */
async function work({
  request,
  specs,
  folder,
  context,
  files,
  width,
  template,
  reporter,
}: OpenComparison): Promise<Comparison> {
  if (folder.state === "resume") reporter.line(`Resuming the interrupted comparison in ${folder.path}.`);
  const { methods: _, steps: __, rule: ___, top, by_pair: byPair, weights, ...options } = request.options;
  const places = comparisonPlaces(folder, {
    inputs: files,
    template,
    startOver: () =>
      reporter.line(
        "The model, the SAEs, the pairs or this program changed since the interruption, so the comparison starts over.",
      ),
    async measure(run, folder) {
      // Measured while nothing else runs.
      const gflops = run.spec.method === "exact" ? await gemmGflops(width, options.device as Device) : 0;
      const asked: MethodRequest = { ...run, options, weights, folder, inputs: files.states() };
      await measureInProcess(asked, reporter, ({ patches, flops }) => reporter.line(workLine(patches, flops, gflops)));
    },
  });
  const comparison = await compareStep(specs, { top, byPair }, context, places, reporter);
  reporter.end();
  return comparison;
}
