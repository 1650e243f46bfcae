import { type Folder, subfolder } from "../bytes/folder.ts";
import type { ByteSource } from "../bytes/source.ts";
import { UserError } from "../errors.ts";
import { compareSites, type SiteName } from "../site.ts";
import type { Dictionary } from "./dictionary.ts";
import { circuitTracerFile } from "./formats/circuit-tracer.ts";
import { openDictionaryLearning } from "./formats/dictionary-learning.ts";
import { openGemmaScope, siteOfPath } from "./formats/gemma-scope.ts";
import { gemmaScope2Files, openGemmaScope2, siteOfGemmaScope2 } from "./formats/gemma-scope-2.ts";
import { layerFile, listedSite, openLayerFile } from "./formats/layer-files.ts";
import { llamaScopeFiles, openLlamaScope } from "./formats/llama-scope.ts";
import { openAiFile, openOpenAi } from "./formats/openai.ts";
import { openQwenScope, qwenScopeFile, siteOfQwenScope } from "./formats/qwen-scope.ts";
import { openSaeLens, saeLensFiles } from "./formats/sae-lens.ts";
import { openSparsify, sparsifyFiles } from "./formats/sparsify.ts";
import { UnplacedError } from "./hooks.ts";

/**
 * Opens the dictionaries of a folder, of all formats (see `formats` below), in it and in its subfolders. Headers are read, no weights.
 *
 * @param wanted only these sites' dictionaries; default all
 * @param paths only those that these files tell, see `listDictionaries`; default all of the folder
 * @returns sites in order of computation
 * @throws UserError if there are none, one is damaged, two are of the same site, or a wanted site has none
 */
export async function openDictionaries(
  folder: Folder,
  wanted?: readonly SiteName[],
  paths?: readonly string[],
): Promise<ReadonlyMap<SiteName, Dictionary>> {
  const found = new Map<SiteName, Dictionary>();
  try {
    for (const path of paths ?? (await folder.list())) {
      const dictionary = await openIfKnown(folder, path);
      if (!dictionary) continue;
      const other = found.get(dictionary.writes);
      if (wanted && !wanted.includes(dictionary.writes)) {
        await dictionary.close();
      } else if (other) {
        await dictionary.close();
        throw new UserError(
          `SAEs: expected one for ${dictionary.writes}, got ${other.name} and ${dictionary.name}. Name the folder of the one to use, or put one for each site into a folder of their own.`,
        );
      } else {
        found.set(dictionary.writes, dictionary);
      }
    }
    checkFound(folder, found, wanted);
    return new Map([...found].sort(([a], [b]) => compareSites(a, b)));
  } catch (error) {
    await closeDictionaries(found);
    throw error;
  }
}

/** Closes the files of all dictionaries. */
export async function closeDictionaries(dictionaries: ReadonlyMap<SiteName, Dictionary>): Promise<void> {
  for (const dictionary of dictionaries.values()) await dictionary.close();
}

/** A format, by the file that tells it. */
interface Format {
  /** What is looked for, in words. */
  readonly files: string;
  readonly pattern: RegExp;
  /** Other files that belong to a dictionary, from the folder of that one. */
  readonly beside?: readonly string[];
  /** The site, where the path alone tells it. @param hasBeside whether the first of `beside` is there */
  site?(path: string, hasBeside: boolean): SiteName | undefined;
  open(folder: Folder, path: string): Promise<Dictionary>;
}

const formats: readonly Format[] = [
  {
    files: `SAELens folders (${saeLensFiles.join(", ")})`,
    pattern: /(?:^|\/)sae_weights\.safetensors$/,
    beside: saeLensFiles,
    open: (folder, path) => openSaeLens(parentOf(folder, path)),
  },
  {
    files: "Gemma Scope's layer_20/…/params.npz",
    pattern: /(?:^|\/)params\.npz$/,
    site: siteOfPath,
    open: async (folder, path) => openGemmaScope(await openIn(folder, path), `${folder.name}/${path}`),
  },
  {
    files: "Gemma Scope 2's resid_post/layer_12_…/params.safetensors",
    pattern: /(?:^|\/)params\.safetensors$/,
    beside: gemmaScope2Files,
    site: siteOfGemmaScope2,
    open: async (folder, path) =>
      openGemmaScope2(await openIn(folder, path), parentOf(folder, path), `${folder.name}/${path}`),
  },
  {
    files: "Qwen-Scope's layer0.sae.pt",
    pattern: qwenScopeFile,
    site: siteOfQwenScope,
    open: async (folder, path) => openQwenScope(await openIn(folder, path), `${folder.name}/${path}`),
  },
  {
    files: "layer_0.safetensors, .npz or .pt",
    pattern: layerFile,
    beside: [circuitTracerFile],
    site: listedSite,
    open: async (folder, path) =>
      openLayerFile(await openIn(folder, path), parentOf(folder, path), `${folder.name}/${path}`),
  },
  {
    files: "dictionary_learning's ae.pt",
    pattern: /(?:^|\/)ae\.pt$/,
    beside: ["config.json"],
    open: async (folder, path) =>
      openDictionaryLearning(await openIn(folder, path), parentOf(folder, path), `${folder.name}/${path}`),
  },
  {
    files: `Llama Scope folders (${llamaScopeFiles.join(", ")})`,
    pattern: /(?:^|\/)hyperparams\.json$/,
    beside: llamaScopeFiles,
    open: (folder, path) => openLlamaScope(parentOf(folder, path)),
  },
  {
    files: `sparsify folders (${sparsifyFiles.join(", ")})`,
    pattern: /(?:^|\/)sae\.safetensors$/,
    beside: sparsifyFiles,
    open: (folder, path) => openSparsify(parentOf(folder, path)),
  },
  {
    files: "OpenAI's resid_post_mlp_v5_32k/autoencoders/0.pt",
    pattern: openAiFile,
    open: async (folder, path) => openOpenAi(await openIn(folder, path), `${folder.name}/${path}`),
  },
];

/**
 * Opens the dictionary that one file belongs to: its weights, or for formats of several files the one that `openDictionaries` knows them by. Some
 * formats tell the site by folders above the file: those of its whole path count, wherever the folder was named from, and those that links lead to.
 *
 * @param path in the folder
 * @throws UserError if the name is none of a known format, the file is damaged, or two paths to it say different things
 */
export async function openDictionary(folder: Folder, path: string): Promise<Dictionary> {
  const dictionary = await openIfKnown(folder, path);
  if (dictionary) return dictionary;
  throw new UserError(`SAE: expected ${lookedFor}, got ${folder.name}/${path}. Give it a name of its format.`);
}

/** The dictionary that a file belongs to, or undefined if none of its names is one of a known format. */
async function openIfKnown(folder: Folder, path: string): Promise<Dictionary | undefined> {
  if (!couldBeKnown.test(path)) return undefined;
  const names = (await folder.namesOf?.(path)) ?? [`${folder.name}/${path}`];
  const opened: { readonly name: string; readonly dictionary: Dictionary }[] = [];
  let unplaced: UnplacedError | undefined;
  try {
    for (const name of names) {
      const format = formats.find(({ pattern }) => pattern.test(name));
      if (!format) continue;
      try {
        opened.push({ name, dictionary: await format.open(...calledSo(folder, path, name)) });
      } catch (error) {
        if (!(error instanceof UnplacedError)) throw error;
        unplaced ??= error;
      }
    }
    if (opened.length === 0 && unplaced) throw unplaced;
    const [chosen] = agreed(opened);
    for (const { dictionary } of opened) if (dictionary !== chosen) await dictionary.close();
    return chosen;
  } catch (error) {
    for (const { dictionary } of opened) await dictionary.close();
    throw error;
  }
}

/** How the names of all files end that a format is known by. */
const couldBeKnown = /\.(?:safetensors|npz|pt|json)$/;

/** Those of a dictionary's openings by several names that know its site from them. @throws UserError if they do not agree */
function agreed(opened: readonly { readonly name: string; readonly dictionary: Dictionary }[]): Dictionary[] {
  const sure = opened.filter(({ dictionary }) => !dictionary.isSiteAssumed);
  const kept = sure.length > 0 ? sure : opened;
  const what = ({ writes: site, kind, meanActive }: Dictionary) =>
    kind === "topk" ? `${site} with k = ${meanActive}` : site;
  const [first] = kept;
  const other = kept.find(({ dictionary }) => what(dictionary) !== what(first!.dictionary));
  if (other) {
    throw new UserError(
      `SAE: expected one site, got ${what(first!.dictionary)} by the name ${first!.name} and ${what(other.dictionary)} by the link's end ${other.name}. Name the one that is right by its own path.`,
    );
  }
  return kept.map(({ dictionary }) => dictionary);
}

/** A file of a folder as one that is called `name`, in the folder that the name says. */
function calledSo(folder: Folder, path: string, name: string): [folder: Folder, path: string] {
  if (name === `${folder.name}/${path}`) return [folder, path];
  const parent = parentOf(folder, path);
  const [file, called] = [path, name].map((whole) => whole.slice(whole.lastIndexOf("/") + 1)) as [string, string];
  return [
    {
      ...parent,
      name: name.slice(0, name.lastIndexOf("/")),
      open: (inner) => parent.open(inner === called ? file : inner),
    },
    called,
  ];
}

/** A dictionary among files of which only the names are known. */
export interface ListedDictionary {
  /** The file that tells its format, as `openDictionary` takes it. */
  readonly path: string;
  /** All its files. */
  readonly files: readonly string[];
  /** Undefined where only the files' contents tell it. */
  readonly site: SiteName | undefined;
}

/**
 * The dictionaries among files of these names, before they are fetched.
 *
 * @param name of the folder that the paths are in; folders in it count where a format tells the site by them
 * @param among the files by which dictionaries may be known; other files may still belong to them
 * @throws UserError for files that are known to be none, as transcoders
 */
export function listDictionaries(
  paths: readonly string[],
  name: string,
  among: (path: string) => boolean = () => true,
): ListedDictionary[] {
  const there = new Set(paths);
  return paths.filter(among).flatMap((path) => {
    const format = formats.find(({ pattern }) => pattern.test(`${name}/${path}`));
    if (!format) return [];
    const parent = path.slice(0, path.lastIndexOf("/") + 1);
    const beside = (format.beside ?? []).map((file) => parent + file);
    const files = new Set([path, ...beside.filter((file) => there.has(file))]);
    return [{ path, files: [...files], site: format.site?.(`${name}/${path}`, there.has(beside[0] ?? "")) }];
  });
}

/** The formats that can be read, by their files, in words. */
export const lookedFor = `one of ${formats.map(({ files }) => files).join("; ")}`;

function parentOf(folder: Folder, path: string): Folder {
  return subfolder(folder, path.split("/").slice(0, -1).join("/"));
}

async function openIn(folder: Folder, path: string): Promise<ByteSource> {
  const source = await folder.open(path);
  if (!source) throw new UserError(`SAE: expected a file ${path}, got none any more in ${folder.name}.`);
  return source;
}

function checkFound(
  folder: Folder,
  found: ReadonlyMap<SiteName, Dictionary>,
  wanted: readonly SiteName[] | undefined,
): void {
  const missing = wanted?.find((site) => !found.has(site));
  if (missing !== undefined) {
    throw new UserError(
      `SAEs: expected one for ${missing}, got none in ${folder.name}. Leave the site out or name other SAEs.`,
    );
  }
  if (found.size === 0) {
    throw new UserError(`SAEs: expected ${lookedFor}, got none of them in ${folder.name}. Check the folder.`);
  }
}
