import { UserError } from "../errors.ts";
import { makeFolder } from "../storage/files.ts";
import { Live, type LiveModel } from "./live.ts";
import { liveModels } from "./models.ts";
import { Places } from "./places.ts";
import { Queries } from "./queries.ts";
import { type OpenServer, openServer } from "./server.ts";
import { Work } from "./work.ts";

/** What `sfc serve` is asked. */
export interface ServeOptions {
  /** The folder whose runs are shown; null for the usual one, which is made if it is missing. */
  readonly folder: string | null;
  readonly port: number;
  /** A model for live work that no run of the folder has. */
  readonly given?: LiveModel | null;
  readonly onFault: (error: unknown) => void;
}

/** Where runs go when they are not told otherwise. */
const usualFolder = "outputs";
/** The port where none is named. */
export const usualPort = 7327;

/**
 * Opens the server of `sfc serve`: the runs and comparisons of a folder, on this machine alone.
 *
 * @throws UserError if there is no such folder, or it is a file, or the port is taken
 */
export async function serve({ folder, port, given = null, onFault }: ServeOptions): Promise<OpenServer> {
  if (folder === null) await makeFolder(usualFolder);
  const places = await Places.open(folder ?? usualFolder).catch((error: NodeJS.ErrnoException) => {
    const got = error.code === "ENOTDIR" ? "a file" : "nothing";
    throw new UserError(`folder: expected one with runs, got ${got} at ${folder}. Check the path.`, {
      code: "not_found",
    });
  });
  const models = () => liveModels(places, given);
  const live = new Live(models);
  const work = new Work(places, models);
  const queries = new Queries();
  const server = await openServer({ context: { places, live, work, queries }, port, onFault });
  return {
    ...server,
    async close() {
      await Promise.all([server.close(), live.close(), work.close(), queries.close()]);
    },
  };
}

/** A model for live work that the command names. */
export function givenModel(model_name: string, sae_source: string | null): LiveModel {
  return {
    id: "given",
    model: model_name,
    saes: sae_source,
    options: { model_name, sae_source, layers: null, sites: null, seed: 1 },
  };
}
