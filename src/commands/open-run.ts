import {
  type CircuitEstimate,
  type CircuitSubject,
  circuitEstimateLine,
  secondsOfCircuit,
} from "../analysis/estimate-circuits.ts";
import type { JobOptions } from "../analysis/options.ts";
import { parseLayers } from "../analysis/sites.ts";
import type { Dictionary } from "../dictionaries/dictionary.ts";
import { closeDictionaries } from "../dictionaries/open.ts";
import { UserError } from "../errors.ts";
import type { Device } from "../graph/runtime.ts";
import { heldWeights, type LoadedModel, loadedModel, streamedWeights } from "../models/weights.ts";
import { checkRuntime } from "../open/device.ts";
import { type OpenModel, openModel, openSaes } from "../open/open.ts";
import type { Reporter } from "../progress.ts";
import { tokenizePairs } from "../prompts/check.ts";
import type { TokenPair } from "../prompts/pairs.ts";
import { runIdentity, stepsOfRun } from "../results/made-of.ts";
import { type Run, readRun } from "../results/read-run.ts";
import { parseKinds, parseSite, type SiteKind, type SiteName } from "../site.ts";
import { checkDevice } from "./check-device.ts";

/** A finished run with what it was made of, opened again. */
export interface OpenRun extends AsyncDisposable {
  readonly run: Run;
  readonly options: JobOptions;
  readonly opened: OpenModel;
  /** Those of the run's sites that were asked for. */
  readonly dictionaries: ReadonlyMap<SiteName, Dictionary>;
  readonly pairs: readonly TokenPair[];
  /** Where its weights were kept, and are again. */
  readonly weights: "held" | "streamed";
  readonly loaded: LoadedModel;
}

/** Which of a run's sites are asked for; null for all. */
export interface SiteFlags {
  readonly sites: string | null;
  readonly layers: string | null;
  /** The kind that is looked at where no sites are named and the run has it. */
  readonly defaultKind?: SiteKind;
  /** The sites that are looked at where neither kinds nor layers are named and the run has them; they go before `defaultKind`. */
  readonly defaultSites?: readonly string[];
  /** Reads headers alone: neither weights nor what tells whether they are those of the run. */
  readonly headersOnly?: boolean;
}

/**
 * Opens the model, the SAEs and the pairs of a finished run again.
 *
 * @throws UserError if it is no finished run, one of them is another than then, or the run's device is not exact
 */
export async function openRun(folder: string, asked: SiteFlags, reporter: Reporter): Promise<OpenRun> {
  reporter.begin("reading", 1);
  const { headersOnly = false } = asked;
  const run = await readRun(folder);
  const options = run.manifest.options as unknown as JobOptions;
  if (options.score !== "effect") {
    throw new UserError(
      `run: expected one of effects, got one of the score ${options.score} in ${folder}. Run it with --score effect.`,
    );
  }
  await checkRuntime(options.device as Device, reporter);
  const { model_name, allow_config_field, bos, sae_source, seed } = options;
  const opened = await openModel(model_name, reporter, undefined, allow_config_field, bos);
  try {
    const changed = () =>
      new UserError(
        `run: expected the model and SAEs that ${folder} was made of, got others by the same names. Run it again.`,
        { code: "changed_input" },
      );
    const { model, checkpoint, tokenizer } = opened;
    if (!headersOnly && run.manifest.model?.sha256 !== (await checkpoint.sha256())) throw changed();
    const wanted = chosenSites(
      run.manifest.dictionaries.map((d) => d.site),
      asked,
      model,
      folder,
    );
    const all = await openSaes(opened, { sae_source, layers: options.layers, sites: options.sites, seed }, reporter);
    const dictionaries = new Map([...all].filter(([site]) => wanted.includes(site)));
    await closeDictionaries(new Map([...all].filter(([site]) => !wanted.includes(site))));
    const close = async () => {
      await closeDictionaries(dictionaries);
      await opened.close();
    };
    try {
      for (const { site, sha256, dummy } of run.manifest.dictionaries) {
        if (!wanted.includes(site)) continue;
        const dictionary = dictionaries.get(site);
        if (!dictionary || (!headersOnly && !dummy && sha256 !== (await dictionary.sha256()))) throw changed();
      }
      const { kept } = tokenizePairs(run.pairs, tokenizer, model.maxLength, model.vocabulary, {
        ...(options.answer_tokens && { answers: options.answer_tokens }),
        stopped: reporter.stopped,
      });
      if (kept.length !== run.pairs.length) throw changed();
      const weights = run.manifest.estimate?.weights ?? "held";
      const loaded = loadedModel(
        model,
        weights === "streamed" || headersOnly
          ? streamedWeights(checkpoint)
          : await heldWeights(model, checkpoint, options.precision),
        { dtype: options.precision, device: options.device as Device },
      );
      if (!headersOnly) {
        await checkDevice({ loaded, dictionaries, pairs: kept }, options.device_tolerance, reporter);
      }
      return { run, options, opened, dictionaries, pairs: kept, weights, loaded, [Symbol.asyncDispose]: close };
    } catch (error) {
      await closeDictionaries(dictionaries);
      throw error;
    }
  } catch (error) {
    await opened.close();
    throw error;
  }
}

/** What an estimate is made of. */
export const subjectOf = (open: OpenRun): CircuitSubject => ({
  files: open.opened,
  dictionaries: open.dictionaries,
  weights: open.weights,
  options: open.options,
  steps: stepsOf(open),
});

/** Tells what a job will take, where that is long. */
export function tellEstimate(estimate: CircuitEstimate, reporter: Reporter): void {
  if (secondsOfCircuit(estimate) > longWork) reporter.line(circuitEstimateLine(estimate));
}

/** Seconds of work that one is told of before they begin. */
export const longWork = 20;

/** The pairs of the cases that are named; null for all. @throws UserError if the run has none of a case */
export function pairsOfCases({ run, pairs }: OpenRun, cases: readonly string[] | null): readonly TokenPair[] {
  const there = [...new Set(pairs.map(({ pair }) => pair.case))];
  const missing = cases?.find((name) => !there.includes(name));
  if (missing !== undefined) {
    throw new UserError(`--cases: expected some of ${there.join(", ")}, got "${missing}" for ${run.folder}.`);
  }
  return cases === null ? pairs : pairs.filter(({ pair }) => cases.includes(pair.case));
}

/** See `stepsOfRun`. */
export const stepsOf = (open: OpenRun): number | undefined => stepsOfRun(open.run.manifest);

/** Whether some of a run's SAEs are random directions. */
export const isDummy = ({ run: { manifest } }: OpenRun) => manifest.dictionaries.some(({ dummy }) => dummy);

/** What tells the SAEs of a run apart: SHA-256 of their files, and of what the random directions of `dummy` are drawn from. */
export async function saesOf(
  { dictionaries }: Pick<OpenRun, "dictionaries">,
  of: OpenRun["run"]["manifest"]["dictionaries"],
): Promise<{ site: SiteName; sha256: string | null }[]> {
  const one = async ({ site, sha256, dummy }: (typeof of)[number]) => ({
    site,
    sha256: dummy ? ((await dictionaries.get(site)?.sha256()) ?? null) : sha256,
  });
  return Promise.all(of.map(one));
}

/** See `runIdentity`. */
export const identityOf = (open: OpenRun, ...others: readonly unknown[]): string => runIdentity(open.run, ...others);

/** The sites of a run that flags name. @throws UserError if it has none of them */
function chosenSites(
  there: readonly SiteName[],
  { sites, layers, defaultKind, defaultSites = [] }: SiteFlags,
  model: OpenModel["model"],
  folder: string,
): SiteName[] {
  const byDefault = there.filter((site) => defaultSites.includes(site));
  if (sites === null && layers === null && byDefault.length > 0) return byDefault;
  const kinds = sites === null ? null : parseKinds(sites, model.sites);
  const blocks = layers === null ? null : parseLayers(layers, model.layers);
  if (kinds === null && defaultKind !== undefined && there.some((site) => parseSite(site).kind === defaultKind)) {
    return chosenSites(there, { sites: defaultKind, layers }, model, folder);
  }
  const chosen = there.filter((site) => {
    const { kind, layer } = parseSite(site);
    return (kinds?.includes(kind) ?? true) && (blocks?.has(layer) ?? true);
  });
  if (chosen.length > 0) return chosen;
  throw new UserError(
    `--sites: expected some that the run has, ${there.join(", ")}, got ${[sites, layers].filter((s) => s !== null).join(" in layers ")} for ${folder}.`,
  );
}
