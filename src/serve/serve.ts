import { UserError } from "../errors.ts";
import { makeFolder } from "../storage/files.ts";
import { Places } from "./places.ts";
import { type OpenServer, openServer } from "./server.ts";

/** What `sfc serve` is asked. */
export interface ServeOptions {
  /** The folder whose runs are shown; null for the usual one, which is made if it is missing. */
  readonly folder: string | null;
  readonly port: number;
  readonly onFault: (error: unknown) => void;
}

/** Where runs go when they are not told otherwise. */
const usualFolder = "outputs";
/** The port where none is named. */
export const usualPort = 7327;

/**
 * Opens the server of `sfc serve`: the runs and comparisons of a folder, on this machine alone.
 *
 * @throws UserError if there is no such folder, or the port is taken
 */
export async function serve({ folder, port, onFault }: ServeOptions): Promise<OpenServer> {
  if (folder === null) await makeFolder(usualFolder);
  const places = await Places.open(folder ?? usualFolder).catch(() => {
    throw new UserError(`folder: expected one with runs, got nothing at ${folder}. Check the path.`, {
      code: "not_found",
    });
  });
  return openServer({ context: { places }, port, onFault });
}
