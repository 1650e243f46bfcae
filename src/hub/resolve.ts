import { readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import type { Inputs } from "../analysis/opened.ts";
import { type Folder, readJson } from "../bytes/folder.ts";
import { memorySource } from "../bytes/memory.ts";
import type { Dictionary } from "../dictionaries/dictionary.ts";
import { closeDictionaries, openDictionaries } from "../dictionaries/open.ts";
import { UserError } from "../errors.ts";
import type { Model } from "../models/model.ts";
import { parseSite, type SiteName } from "../site.ts";
import { InputFiles } from "../storage/input-files.ts";
import { cachedSnapshot, hasFile, offlineProblem, repoFolder, type Snapshot } from "./cache.ts";
import { UnreachableError } from "./client.ts";
import { modelPreset, type PresetSae, type SaePreset, saePreset, saePresets } from "./presets.ts";
import { type PullPlan, type PullReporter, planPull, pull, stoppable } from "./pull.ts";
import { type HubSettings, hubSettings } from "./settings.ts";
import {
  dictionariesIn,
  folderWant,
  modelPlace,
  modelWant,
  parseHubPath,
  presetNames,
  presetWants,
  type Want,
} from "./wants.ts";

/** Which sites of those that have a dictionary are wanted. */
export type ChooseSites = (sites: readonly SiteName[]) => readonly SiteName[];

/**
 * The folder of a model, or its GGUF file, by name: a local one, a preset, or `organisation/name[@revision]` on the hub. What is cached whole is used without the
 * network; otherwise what lacks is downloaded.
 *
 * @throws UserError if the name means nothing, or the files cannot be had; StoppedError
 */
export async function modelFolder(name: string, reporter: PullReporter): Promise<string> {
  const there = await stat(name).catch(() => null);
  if (there?.isDirectory() || (there && /\.gguf$/i.test(name))) return name;
  if (there) {
    throw new UserError(
      `model: expected a folder with config.json or a GGUF file, got a file of another kind at ${name}. Check --model_name.`,
    );
  }
  if (/^(\.{0,2}|~)[/\\]|^[A-Za-z]:\\|^\.{1,2}$|\/$|\.(gguf|safetensors|json)$/i.test(name)) {
    throw new UserError(`No such folder or file (${name}). Check --model_name.`, { code: "not_found" });
  }
  const place = modelPlace(name);
  if (!place) {
    throw new UserError(
      `model: expected demo, a folder with config.json, a GGUF file, ${presetNames}, or organisation/name of the hub, got "${name}". Check --model_name.`,
      { code: "not_found" },
    );
  }
  try {
    const [snapshot] = await snapshotsOf([modelWant(place, name)], await hubSettings(), reporter);
    return snapshot!.folder;
  } catch (error) {
    if (!(error instanceof UserError) || modelPreset(name)) throw error;
    throw new UserError(`${error.message} There is no folder ${name} here either.`, { code: error.code, cause: error });
  }
}

/** The SAEs of a model that has none in its folder: those of its preset; null if there are none. */
export function defaultSaes(modelName: string): string | null {
  return modelPreset(modelName)?.saes ?? null;
}

/**
 * Opens dictionaries of the hub, those of the chosen sites: of a preset, or of `organisation/name[/folder][@revision]`. What is cached is used
 * without the network; otherwise what lacks is downloaded.
 *
 * @param modelName as asked, for which a preset must have been made
 * @param inputs takes note of the files that are opened
 * @throws UserError if the source means nothing, the files cannot be had, or a dictionary is damaged; StoppedError
 */
export async function openHubDictionaries(
  source: string,
  choose: ChooseSites,
  model: Model,
  modelName: string,
  reporter: PullReporter,
  inputs: Inputs = new InputFiles(),
): Promise<ReadonlyMap<SiteName, Dictionary>> {
  const settings = await hubSettings();
  const preset = saePreset(source);
  if (preset) {
    checkPreset(preset, model, modelName);
    const saes = chosenSaes(preset, choose);
    const snapshots = await snapshotsOf(presetWants(saes, source), settings, reporter);
    return openPreset(saes, snapshots, settings, inputs);
  }
  const place = parseHubPath(source);
  if (!place) {
    throw new UserError(
      `SAEs: expected a folder, a file, "dummy", a preset (sfc models lists them) or organisation/name of the hub, got "${source}", which does not exist. Check --sae_source.`,
      { code: "not_found" },
    );
  }
  const folder = repoFolder(settings.cache, place.id);
  const [snapshot] = await snapshotsOf([folderWant(place, source, folder, choose)], settings, reporter);
  const found = dictionariesIn(await namesIn(snapshot!), place.inner, folder, choose);
  const paths = found.map(({ path }) => path);
  return openDictionaries(await inputs.folder(snapshot!.folder), undefined, paths);
}

/** The SAEs of a preset at the chosen sites. */
export function chosenSaes(preset: SaePreset, choose: ChooseSites): readonly PresetSae[] {
  const sites = new Set(choose(preset.saes.map(({ site }) => site)));
  return preset.saes.filter(({ site }) => sites.has(site));
}

/** Better before gigabytes are fetched than afterwards. @throws UserError */
function checkPreset(preset: SaePreset, model: Model, modelName: string): void {
  const asked = modelPreset(modelName)?.name;
  const other = preset.saes.find(({ site }) => {
    const { kind, layer } = parseSite(site);
    return model.sites[kind] !== preset.inputWidth[kind] || layer >= model.layers;
  });
  if (other || (asked !== undefined && asked !== preset.model)) {
    const fitting = saePresets.filter((known) => known.model === asked).map(({ name }) => name);
    const advice = fitting.length > 0 ? `For this model there are ${fitting.join(", ")}.` : "Use SAEs of this model.";
    throw new UserError(`SAEs: expected some of ${modelName}, got ${preset.name}, of ${preset.model}. ${advice}`);
  }
}

async function openPreset(
  saes: readonly PresetSae[],
  snapshots: readonly Snapshot[],
  { cache }: HubSettings,
  inputs: Inputs,
): Promise<ReadonlyMap<SiteName, Dictionary>> {
  const opened = new Map<SiteName, Dictionary>();
  try {
    for (const { repo, path, site, settings } of saes) {
      const snapshot = snapshots.find(({ folder }) => folder.startsWith(join(repoFolder(cache, repo), "snapshots")))!;
      const folder = withSettings(await inputs.folder(snapshot.folder), settings);
      for (const [found, dictionary] of await openDictionaries(folder, [site], [path])) opened.set(found, dictionary);
    }
    return opened;
  } catch (error) {
    await closeDictionaries(opened);
    throw error;
  }
}

/** A folder whose cfg.json files say more than they do on the disk. */
function withSettings(folder: Folder, settings: PresetSae["settings"]): Folder {
  if (!settings) return folder;
  return {
    ...folder,
    async open(path) {
      if (!path.endsWith("cfg.json")) return folder.open(path);
      const config = await readJson(folder, path);
      if (!config) return undefined;
      const metadata = config.metadata ? { metadata: { ...config.metadata, ...settings } } : {};
      const text = JSON.stringify({ ...config, ...settings, ...metadata });
      return memorySource(`${folder.name}/${path}`, new TextEncoder().encode(text));
    },
  };
}

/** How far a want is met by the cache. */
interface Cached {
  readonly want: Want;
  readonly snapshot: Snapshot | undefined;
  /** The first file that lacks; undefined if there is none. */
  readonly lacks: string | undefined;
  /** Whether only the hub could say if that is all. */
  readonly unsure: boolean;
}

/** Looks for what is wanted in the cache, without the network. */
export async function inCache(want: Want, { cache }: HubSettings): Promise<Cached> {
  const snapshot = await cachedSnapshot(cache, want.id, want.revision);
  const names = snapshot ? await namesIn(snapshot) : [];
  const { wanted, missing } = want.choose(names);
  let lacks = missing[0];
  for (const path of wanted) if (snapshot && !(await hasFile(snapshot, path))) lacks ??= path;
  return { want, snapshot, lacks, unsure: !snapshot?.files && !want.isTold(names) };
}

/** Names of a repository's files: all of them if they were ever listed, else of those that are cached. */
async function namesIn({ folder, files }: Snapshot): Promise<string[]> {
  if (files) return files.map(({ path }) => path);
  const entries = await readdir(folder, { recursive: true });
  return entries.map((path) => path.replaceAll("\\", "/")).sort();
}

/**
 * The snapshots with what is wanted, downloaded where the cache has it not.
 *
 * @throws UserError if a file is not to be had; StoppedError if asked to stop
 */
async function snapshotsOf(wants: readonly Want[], settings: HubSettings, reporter: PullReporter): Promise<Snapshot[]> {
  const cached = await Promise.all(wants.map((want) => inCache(want, settings)));
  if (cached.every(({ lacks, unsure }) => lacks === undefined && !unsure)) return cached.map((c) => c.snapshot!);
  const lacking = cached.find(({ lacks }) => lacks !== undefined);
  if (settings.offline || reporter.cachedOnly) {
    if (!lacking) return cached.map((c) => c.snapshot!);
    const { want, snapshot, lacks } = lacking;
    if (!settings.offline) {
      throw new UserError(
        `estimate: expected files on this machine, got none of ${want.id} in the cache. sfc pull ${want.pull} --dry_run tells how much there is to fetch, sfc pull ${want.pull} fetches it.`,
        { code: "network" },
      );
    }
    throw offlineProblem(lacks!, want.id, snapshot?.folder ?? repoFolder(settings.cache, want.id), want.pull);
  }
  try {
    return await stoppable(settings, reporter, async (s) => {
      const plans: PullPlan[] = [];
      for (const want of wants) plans.push({ ...(await planWant(s, want)), check: want.check });
      const fetched = await pull(s, plans, reporter);
      // What was going on before.
      reporter.begin("reading", 1);
      return fetched;
    });
  } catch (error) {
    if (lacking || !(error instanceof UnreachableError)) throw error;
    reporter.line(`Cannot reach the hub; using the cached ${wants.map(({ id }) => id).join(", ")}.`);
    return cached.map((c) => c.snapshot!);
  }
}

/** What has to be fetched of a want, as the hub says. @throws UserError if the repository lacks something */
export function planWant(settings: HubSettings, want: Want): Promise<PullPlan> {
  return planPull(settings, want.id, want.revision, (files) => {
    const there = files.map(({ path }) => path);
    const { wanted, missing } = want.choose(there);
    if (missing[0] !== undefined) throw want.refuse(there, missing[0]);
    const names = new Set(wanted);
    return files.filter(({ path }) => names.has(path));
  });
}
