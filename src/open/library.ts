import { type LanguageModel, languageModel, watched } from "../analysis/language-model.ts";
import { embeddedModel } from "../analysis/options.ts";
import { chooseSites } from "../analysis/sites.ts";
import type { Dictionary } from "../dictionaries/dictionary.ts";
import { closeDictionaries } from "../dictionaries/open.ts";
import { UserError } from "../errors.ts";
import type { Device } from "../graph/runtime.ts";
import { parameterCount } from "../models/model.ts";
import { heldWeights, loadedModel, streamedWeights } from "../models/weights.ts";
import type { Watching } from "../progress.ts";
import type { BosChoice } from "../prompts/bos.ts";
import { compareSites, parseSite, type SiteKind, type SiteName } from "../site.ts";
import { InputFiles } from "../storage/input-files.ts";
import { thisMachine } from "../storage/machine.ts";
import { packageRoot } from "../storage/package.ts";
import { checkRuntime } from "./device.ts";
import { openChosenSaes, openModel as openFiles } from "./open.ts";

/** How a model is opened. */
export interface ModelOptions extends Watching {
  /** Default: `cpu`. */
  readonly device?: Device;
  /** What is computed in. Default: `float32`. */
  readonly precision?: "float32" | "float64";
  /** Where weights are kept: all in memory, or in their files, read layer by layer. Default: held if they take at most a quarter of the free memory. */
  readonly weights?: "held" | "streamed";
  /** Whether prompts begin with BOS. Default: as the tokenizer says. */
  readonly bos?: BosChoice;
  /** Fields of config.json that are not understood and are to be ignored. */
  readonly allowConfigFields?: readonly string[];
  /** Whether only files on this machine may be used; default false: what is missing is downloaded. */
  readonly cachedOnly?: boolean;
}

/**
 * Opens a language model with its tokenizer.
 *
 * @param source `demo` (the embedded model), a folder in Hugging Face layout, a GGUF file, a preset (`sfc models` lists them) or
 *   organisation/name[@revision] of the hub, which is downloaded where it is not cached
 * @throws UserError if there is no such model, or it cannot be run (`code` says which); the signal's reason if it is aborted
 */
export function openModel(source: string, options: ModelOptions = {}): Promise<LanguageModel> {
  const { device = "cpu", precision = "float32", bos, allowConfigFields = [], cachedOnly = false } = options;
  return watched(options, async (reporter) => {
    await checkRuntime(device, reporter);
    const files = await openFiles(source, { ...reporter, cachedOnly }, new InputFiles(), allowConfigFields, bos);
    try {
      const { model, checkpoint } = files;
      const bytes = parameterCount(model) * (precision === "float64" ? 8 : 4);
      const held = options.weights ? options.weights === "held" : bytes < thisMachine.availableMemory() / 4;
      const weights = held ? await heldWeights(model, checkpoint, precision) : streamedWeights(checkpoint);
      const loaded = loadedModel(model, weights, { dtype: precision, device });
      return languageModel(files, loaded);
    } catch (error) {
      await files.close();
      throw error;
    }
  });
}

/** Which SAEs are opened, and for which model. */
export interface SaeOptions extends Watching {
  readonly model: LanguageModel;
  /** The sites, as `resid_post.3`; each must have an SAE. Default: all that have one, but `embed`. */
  readonly sites?: readonly SiteName[];
  /** In place of `sites`: kinds of sites. */
  readonly kinds?: readonly SiteKind[];
  /** In place of `sites`: layers, counted from 0. */
  readonly layers?: readonly number[];
  /** Of the random directions of the source `dummy`. Default: 1. */
  readonly seed?: number;
  /** Whether only files on this machine may be used; default false. */
  readonly cachedOnly?: boolean;
}

/** SAEs by site, in order of computation. */
export interface Saes extends ReadonlyMap<SiteName, Dictionary>, AsyncDisposable {
  /** Closes their files. */
  close(): Promise<void>;
}

/**
 * Opens SAEs of a model. Only headers are read; weights are read when they are used.
 *
 * @param source `demo`, a folder or file, a preset, organisation/name/folder of the hub, `dummy` for random directions, or null for the model's own
 * @throws UserError if there are none at a site that is asked for, or they do not fit the model; the signal's reason if it is aborted
 */
export function openSaes(source: string | null, options: SaeOptions): Promise<Saes> {
  const { model, sites, kinds = null, layers = null, seed = 1, cachedOnly = false } = options;
  const choose = (there: readonly SiteName[]): readonly SiteName[] => {
    if (!sites) return chooseSites(there, kinds, layers && new Set(layers));
    const missing = sites.find((site) => !there.includes(site));
    if (missing === undefined) return [...new Set(sites)].sort(compareSites);
    throw new UserError(
      `SAEs: expected one for ${missing}, got only ${there.join(", ")}. Choose other sites, or another source.`,
      { code: "not_found" },
    );
  };
  return watched(options, async (reporter) => {
    const choice = {
      source: source === embeddedModel ? `${packageRoot}models/${embeddedModel}/saes` : source,
      kinds: sites ? [...new Set(sites.map((site) => parseSite(site).kind))] : kinds,
      seed,
      choose,
    };
    const dictionaries = await openChosenSaes(model.files, choice, { ...reporter, cachedOnly });
    const close = () => closeDictionaries(dictionaries);
    return Object.assign(new Map(dictionaries), { close, [Symbol.asyncDispose]: close });
  });
}
