import { type Folder, subfolder } from "../bytes/folder.ts";
import { UserError } from "../errors.ts";
import { compareSites, type SiteName } from "../site.ts";
import type { Dictionary } from "./dictionary.ts";
import { layerOfFile, openLayerFile } from "./layer-files.ts";
import { openSaeLens, saeLensFiles } from "./sae-lens.ts";

/**
 * Opens the dictionaries of a folder: SAELens folders in it (or the folder itself), and files named `layer_{i}.safetensors`. Headers are read, no
 * weights.
 *
 * @param wanted only these sites' dictionaries; default all
 * @returns sites in order of computation
 * @throws UserError if there are none, one is damaged, two are of the same site, or a wanted site has none
 */
export async function openDictionaries(
  folder: Folder,
  wanted?: readonly SiteName[],
): Promise<ReadonlyMap<SiteName, Dictionary>> {
  const found = new Map<SiteName, Dictionary>();
  try {
    for (const open of openersIn(folder, await folder.list())) {
      const dictionary = await open();
      const other = found.get(dictionary.site);
      if (wanted && !wanted.includes(dictionary.site)) {
        await dictionary.close();
      } else if (other) {
        await dictionary.close();
        throw new UserError(
          `SAEs: expected one for ${dictionary.site}, got ${other.name} and ${dictionary.name}. Name the folder of the one to use.`,
        );
      } else {
        found.set(dictionary.site, dictionary);
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

function openersIn(folder: Folder, paths: readonly string[]): (() => Promise<Dictionary>)[] {
  const [, weightsFile] = saeLensFiles;
  const openers: (() => Promise<Dictionary>)[] = [];
  for (const path of paths) {
    const layer = layerOfFile(path);
    const parts = path.split("/");
    if (layer !== undefined) {
      openers.push(async () => {
        const source = await folder.open(path);
        if (!source) throw new UserError(`SAE: expected a file ${path}, got none any more in ${folder.name}.`);
        return openLayerFile(source, layer);
      });
    } else if (parts.at(-1) === weightsFile) {
      openers.push(() => openSaeLens(subfolder(folder, parts.slice(0, -1).join("/"))));
    }
  }
  return openers;
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
    throw new UserError(
      `SAEs: expected SAELens folders (${saeLensFiles.join(", ")}) or files layer_0.safetensors …, got none in ${folder.name}. Check the folder.`,
    );
  }
}
