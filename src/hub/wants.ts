import { listDictionaries, lookedFor } from "../dictionaries/open.ts";
import { UserError } from "../errors.ts";
import { checkModelType } from "../models/architectures.ts";
import type { SiteName } from "../site.ts";
import { readJsonFile } from "../storage/files.ts";
import { checkRepo, checkRevision } from "./client.ts";
import { modelPreset, modelPresets, type PresetSae } from "./presets.ts";

/** A place on the hub: a repository, perhaps a folder or file in it, perhaps a revision. */
export interface HubPath {
  /** `organisation/name` */
  readonly id: string;
  /** The folder or file; `*` stands for any part of a name; empty for the whole repository. */
  readonly inner: string;
  /** Branch, tag or commit. */
  readonly revision: string;
}

/**
 * `organisation/name[/folder][@revision]` as a place on the hub, or undefined for a text of another form.
 *
 * @throws UserError for a name or revision that the hub does not have
 */
export function parseHubPath(text: string): HubPath | undefined {
  const [, id, inner, revision = "main"] = /^(\w[\w.-]*\/[\w.-]+)((?:\/[^/@\\]+)*)\/?(?:@(.*))?$/.exec(text) ?? [];
  if (id === undefined || inner === undefined) return undefined;
  checkRepo(id);
  checkRevision(revision);
  return { id, inner: inner.slice(1), revision };
}

/**
 * Where a model lies on the hub: a preset, or a path of a repository; undefined for another name.
 *
 * @throws UserError for a folder in a repository
 */
export function modelPlace(name: string): HubPath | undefined {
  const preset = modelPreset(name);
  const place = parseHubPath(preset ? name.replace(/^[^@]*/, preset.repo) : name);
  if (place && place.inner !== "") {
    throw new UserError(
      `model: expected organisation/name, got a folder in it, "${name}". Download that folder and name it with --model_name.`,
    );
  }
  return place;
}

/** The presets of models, for messages. */
export const presetNames = modelPresets.map(({ name }) => name).join(", ");

/** Files that are wanted of a repository. */
export interface Want {
  readonly id: string;
  readonly revision: string;
  /** What to give `sfc pull` to get them. */
  readonly pull: string;
  /** Those that are wanted of the files that there are, and names of what lacks. */
  choose(there: readonly string[]): Choice;
  /** Whether what is cached tells all that is wanted, so that the list of the hub's files is not needed. */
  isTold(cached: readonly string[]): boolean;
  /** Looks at a file once it is on the disk. @throws UserError if the others would be of no use */
  check?(path: string, file: string): Promise<void>;
  /** The error of a repository that lacks something. */
  refuse(there: readonly string[], missing: string): UserError;
}

export interface Choice {
  readonly wanted: readonly string[];
  readonly missing: readonly string[];
}

const tokenizerConfig = "tokenizer_config.json";
const shardIndex = "model.safetensors.index.json";

/** The files of a model: configuration, tokenizer, and its weights as safetensors, whole or in shards. Other forms of the weights are left. */
export function modelWant({ id, revision }: HubPath, pull: string): Want {
  return {
    id,
    revision,
    pull,
    choose(there) {
      const weights = weightFiles(there);
      const needed = ["config.json", "tokenizer.json", ...weights];
      const optional = there.includes(tokenizerConfig) ? [tokenizerConfig] : [];
      const has = new Set(there);
      return {
        wanted: [...needed.filter((path) => has.has(path)), ...optional],
        missing: needed.filter((path) => !has.has(path)),
      };
    },
    isTold: (cached) => cached.includes(tokenizerConfig),
    async check(path, file) {
      if (path === "config.json") checkModelType(Object(await readJsonFile(file)), id);
    },
    refuse(there, missing) {
      const others = there.filter((path) => /\.(bin|pt|pth|msgpack|h5|gguf)$/.test(path));
      if (missing !== "model.safetensors") return missingFile(id, missing, "Choose another model.");
      const got = others.length > 0 ? `only ${others.slice(0, 3).join(", ")}` : "none";
      return new UserError(
        `weights: expected model.safetensors or its shards, got ${got} in ${id}. Try a revision that has it (${id}@<revision>), or save the model as safetensors and name its folder.`,
      );
    },
  };
}

/** model.safetensors, or all shards, whose names say how many there are, with the index if there is one. */
function weightFiles(there: readonly string[]): string[] {
  const counts = there.flatMap((path) => /^model-\d{5}-of-(\d{5})\.safetensors$/.exec(path)?.[1] ?? []);
  const hasIndex = there.includes(shardIndex);
  if (there.includes("model.safetensors") || !(hasIndex || counts.length > 0)) return ["model.safetensors"];
  const name = (i: number) => `model-${String(i + 1).padStart(5, "0")}-of-${counts[0] ?? "?"}.safetensors`;
  return [...(hasIndex ? [shardIndex] : []), ...Array.from({ length: Number(counts[0] ?? 1) }, (_, i) => name(i))];
}

/** The files of SAEs of a preset, per repository. */
export function presetWants(saes: readonly PresetSae[], pull: string): Want[] {
  return [...new Set(saes.map((sae) => sae.repo))].map((id) => ({
    id,
    revision: "main",
    pull,
    choose(there) {
      const has = new Set(there);
      const its = saes.filter((sae) => sae.repo === id);
      const needed = its.flatMap((sae) => sae.files);
      const optional = its.flatMap((sae) => sae.optional ?? []);
      return {
        wanted: [...needed, ...optional].filter((path) => has.has(path)),
        missing: needed.filter((path) => !has.has(path)),
      };
    },
    isTold: () => true,
    refuse: (_, missing) => missingFile(id, missing, "The repository has changed; name its folder on the hub instead."),
  }));
}

/**
 * The files of all SAEs in a folder of a repository, of those whose names tell the site only the sites that are chosen.
 *
 * @param folder where its snapshot lies or would lie
 * @param chosen the wanted ones of these sites
 */
export function folderWant(
  { id, inner, revision }: HubPath,
  pull: string,
  folder: string,
  chosen: (sites: readonly SiteName[]) => readonly SiteName[],
): Want {
  return {
    id,
    revision,
    pull,
    choose(there) {
      const found = dictionariesIn(there, inner, folder, chosen);
      return { wanted: found.flatMap(({ files }) => files), missing: found.length > 0 ? [] : [inner || "an SAE"] };
    },
    isTold: () => false,
    refuse: () =>
      new UserError(
        `SAEs: expected ${lookedFor}, got none of them in ${id}${inner && `/${inner}`} on the hub. Check the path.`,
      ),
  };
}

/**
 * The dictionaries in a folder of a repository, of those whose names tell the site only the chosen ones.
 *
 * @throws UserError if two are of one site
 */
export function dictionariesIn(
  there: readonly string[],
  inner: string,
  folder: string,
  chosen: (sites: readonly SiteName[]) => readonly SiteName[],
) {
  const parts = inner.split("*").map((part) => part.replace(/[.+?^${}()|[\]\\]/g, "\\$&"));
  const isWanted = inner === "" ? /^/ : new RegExp(`^${parts.join("[^/]*")}(?:/|$)`);
  // Settings may lie beside a file that is named by itself.
  const found = listDictionaries(there, folder, (path) => isWanted.test(path));
  const bySite = new Map<SiteName, string>();
  for (const { path, site } of found) {
    if (site === undefined) continue;
    const other = bySite.get(site);
    if (other !== undefined) {
      throw new UserError(
        `SAEs: expected one for ${site}, got ${other} and ${path} on the hub. Name the folder of the one to use; * stands for any part of a folder's name.`,
      );
    }
    bySite.set(site, path);
  }
  const wanted = new Set(bySite.size > 0 ? chosen([...bySite.keys()]) : []);
  return found.filter(({ site }) => site === undefined || wanted.has(site));
}

function missingFile(id: string, path: string, advice: string): UserError {
  return new UserError(`hub file ${path}: expected one in ${id}, got none. ${advice}`);
}
