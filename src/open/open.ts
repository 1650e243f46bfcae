import { stat } from "node:fs/promises";
import { basename, dirname, resolve } from "node:path";
import { type OpenedModel, openFiles } from "../analysis/opened.ts";
import { embeddedModel, type JobOptions } from "../analysis/options.ts";
import type { PairOptions, PairSource } from "../analysis/pairs.ts";
import { chooseSites, parseLayers } from "../analysis/sites.ts";
import { subfolder } from "../bytes/folder.ts";
import type { Dictionary } from "../dictionaries/dictionary.ts";
import { dummyDictionary } from "../dictionaries/dummy.ts";
import { fitDictionary } from "../dictionaries/fit.ts";
import { closeDictionaries, openDictionaries, openDictionary } from "../dictionaries/open.ts";
import { UserError } from "../errors.ts";
import { modelPreset } from "../hub/presets.ts";
import { type PullReporter, silent } from "../hub/pull.ts";
import { type ChooseSites, defaultSaes, modelFolder, openHubDictionaries } from "../hub/resolve.ts";
import { isOtherModel } from "../models/names.ts";
import type { BosChoice } from "../prompts/bos.ts";
import { excerpt } from "../prompts/excerpt.ts";
import { parseKinds, parseSite, type SiteKind, type SiteName, siteName } from "../site.ts";
import { InputFiles } from "../storage/input-files.ts";
import { packageRoot } from "../storage/package.ts";
import { openPairs } from "./pairs.ts";

/** A model, with the files that a job reads. */
export interface OpenModel extends OpenedModel {
  /** All files that were opened for the job: the model's, and those of SAEs and pairs that are opened with it. */
  readonly inputs: InputFiles;
}

/** A model opened for a job together with its SAEs and with what names its pairs; `close` closes all of them. */
export interface OpenJob extends OpenModel {
  /** The SAEs by site, in order of computation; none where they were not asked for. */
  readonly dictionaries: ReadonlyMap<SiteName, Dictionary>;
  readonly source: PairSource;
}

/** What a job opens: a model, SAEs and pairs as flags name them. */
export type OpenOptions = Pick<JobOptions, "model_name" | "allow_config_field" | "bos"> &
  PairOptions &
  Partial<Pick<JobOptions, "sae_source" | "layers" | "sites">>;

export interface OpenJobOptions {
  /** Whether SAEs are opened; true by default. */
  readonly saes?: boolean;
  /** Whether pairs may come without a patch prompt; false by default. */
  readonly patchless?: boolean;
}

/**
 * Opens all that a job reads: first what names the pairs, so that a wrong name costs no download, then the model, then its SAEs. Where one cannot be
 * opened, the others are closed again.
 *
 * @throws UserError if one of them does not exist or cannot be used; StoppedError
 */
export async function openJob(
  options: OpenOptions,
  reporter: PullReporter = silent,
  { saes = true, patchless = false }: OpenJobOptions = {},
): Promise<OpenJob> {
  const source = await openPairs(options, { patchless });
  const { model_name, allow_config_field, bos, sae_source = null, layers = null, sites = null, seed } = options;
  const opened = await openModel(model_name, reporter, source.inputs, allow_config_field, bos);
  try {
    const dictionaries = saes
      ? await openSaes(opened, { sae_source, layers, sites, seed }, reporter)
      : new Map<SiteName, Dictionary>();
    const close = async () => {
      await closeDictionaries(dictionaries);
      await opened.close();
    };
    return { ...opened, source, dictionaries, close, [Symbol.asyncDispose]: close };
  } catch (error) {
    await opened.close();
    throw error;
  }
}

/**
 * Opens a model by name: `demo`, a folder in Hugging Face layout or with a GGUF file, a GGUF file, or a model of the hub (see `modelFolder`), which
 * is downloaded where it is not cached.
 *
 * @param inputs takes note of the files that are opened
 * @param allowedFields unknown fields of config.json to go on with
 * @param bos whether texts begin with BOS
 * @throws UserError if there is no such model, it cannot be had, or it cannot be run; StoppedError
 */
export async function openModel(
  name: string,
  reporter: PullReporter = silent,
  inputs = new InputFiles(),
  allowedFields: readonly string[] = [],
  bos: BosChoice = "auto",
): Promise<OpenModel> {
  const path = name === embeddedModel ? `${packageRoot}models/${embeddedModel}` : await modelFolder(name, reporter);
  const gguf = (await isFolder(path)) ? undefined : basename(path);
  const folder = gguf === undefined ? path : dirname(path);
  const opened = await openFiles({ name, path, folder, gguf, inputs, allowedFields, bos });
  return { ...opened, inputs };
}

/**
 * Opens the dictionaries of a run, those of the sites that `--sites` and `--layers` name, in order of computation. The others are closed again. Those
 * of the hub that are not cached are downloaded.
 *
 * @throws UserError if what is named has no dictionary, a layer does not exist, or a dictionary does not fit the model; StoppedError
 */
export function openSaes(
  opened: OpenedModel,
  { sae_source, layers, sites, seed }: Pick<JobOptions, "sae_source" | "layers" | "sites" | "seed">,
  reporter: PullReporter = silent,
): Promise<ReadonlyMap<SiteName, Dictionary>> {
  const { model } = opened;
  const wantedLayers = layers === null ? null : parseLayers(layers, model.layers);
  const wantedKinds = sites === null ? null : parseKinds(sites, model.sites);
  const choose: ChooseSites = (there) => chooseSites(there, wantedKinds, wantedLayers);
  return openChosenSaes(opened, { source: sae_source, kinds: wantedKinds, seed, choose }, reporter);
}

/** Which SAEs are opened. */
export interface SaeChoice {
  /** A folder, a file, a preset, a place on the hub or `dummy`; null for the model's own. */
  readonly source: string | null;
  /** Kinds of sites for `dummy`, which has them all; null for the usual ones. */
  readonly kinds: readonly SiteKind[] | null;
  /** Of `dummy`'s random directions. */
  readonly seed: number;
  /** The sites that are wanted of those that have SAEs. @throws UserError if one that is wanted has none */
  readonly choose: ChooseSites;
}

/** Opens the SAEs of a source at the sites that are chosen, in order of computation, and closes the others again. See `openSaes`. */
export async function openChosenSaes(
  opened: OpenedModel,
  { source, kinds, seed, choose }: SaeChoice,
  reporter: PullReporter = silent,
): Promise<ReadonlyMap<SiteName, Dictionary>> {
  const { model } = opened;
  const found = await findSaes(opened, source, kinds, seed, choose, reporter);
  try {
    const chosen = choose([...found.keys()]);
    const fitted = new Map(chosen.map((site) => [site, ofModel(fitDictionary(found.get(site)!, model), opened)]));
    await closeDictionaries(new Map([...found].filter(([site]) => !chosen.includes(site))));
    return fitted;
  } catch (error) {
    await closeDictionaries(found);
    throw error;
  }
}

/** The dictionary, with a warning if it names another model than the one at hand. */
function ofModel(dictionary: Dictionary, { name, model, checkpoint }: OpenedModel): Dictionary {
  const said = dictionary.trainedOn?.model;
  const { _name_or_path: path } = checkpoint.config;
  const names = [resolve(name), modelPreset(name)?.repo ?? name, ...(typeof path === "string" ? [path] : [])];
  if (said === undefined || !isOtherModel(said, model.modelType, names)) return dictionary;
  const warning = `The SAEs were trained on ${excerpt(said)}, which ${excerpt(name)} does not seem to be. If it is another model, their features mean little here.`;
  return { ...dictionary, warnings: [...(dictionary.warnings ?? []), warning] };
}

async function findSaes(
  { name, model, folder, inputs }: OpenedModel,
  source: string | null,
  kinds: readonly SiteKind[] | null,
  seed: number,
  choose: ChooseSites,
  reporter: PullReporter,
): Promise<ReadonlyMap<SiteName, Dictionary>> {
  if (source === "dummy") {
    const names = (kinds ?? (["attn_out", "mlp_out", "resid_post"] as const)).flatMap((kind) =>
      kind === "embed" ? ["embed"] : Array.from({ length: model.layers }, (_, layer) => siteName({ kind, layer })),
    );
    return new Map(
      names.map((site) => {
        const width = model.sites[parseSite(site).kind]!;
        return [site, dummyDictionary(site, width, 4 * width, seed)];
      }),
    );
  }
  if (source === null) {
    if (await isFolder(`${folder}/saes`)) return openDictionaries(subfolder(await inputs.folder(folder), "saes"));
    const preset = defaultSaes(name);
    if (preset !== null) return openHubDictionaries(preset, choose, model, name, reporter, inputs);
    throw new UserError(
      `SAEs: expected a folder saes in ${folder}, got none. Give the model's SAEs with --sae_source, train some with sfc train sae, or try --sae_source dummy.`,
      { code: "not_found" },
    );
  }
  const found = await stat(source).catch(() => null);
  if (found?.isFile()) {
    const dictionary = await openDictionary(await inputs.folder(dirname(source)), basename(source));
    return new Map([[dictionary.writes, dictionary]]);
  }
  if (!found) return openHubDictionaries(source, choose, model, name, reporter, inputs);
  return openDictionaries(await inputs.folder(source));
}

async function isFolder(path: string): Promise<boolean> {
  return (await stat(path).catch(() => null))?.isDirectory() ?? false;
}
