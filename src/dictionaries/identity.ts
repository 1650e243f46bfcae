import type { Folder } from "../bytes/folder.ts";
import { sha256OfFiles } from "../bytes/sha256.ts";
import type { ByteSource } from "../bytes/source.ts";
import { UserError } from "../errors.ts";

/**
 * The identity of a dictionary that is kept in two files, settings and weights: one SHA-256 of both, as `sha256OfFiles` makes it.
 *
 * @param weights the open file named `weightsFile`; stays open
 * @throws UserError if the settings are gone
 */
export async function identity(
  folder: Folder,
  settingsFile: string,
  weightsFile: string,
  weights: ByteSource,
): Promise<string> {
  const settings = await folder.open(settingsFile);
  if (!settings) throw new UserError(`SAE: expected a file ${settingsFile}, got none any more in ${folder.name}.`);
  try {
    return await sha256OfFiles(
      new Map([
        [settingsFile, settings],
        [weightsFile, weights],
      ]),
    );
  } finally {
    await settings.close();
  }
}
