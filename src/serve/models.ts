import type { JobOptions } from "../analysis/options.ts";
import { readFolder } from "./listing.ts";
import { demoModel, type LiveModel } from "./live.ts";
import type { Places } from "./places.ts";

/** The models that live work may open: one that the command named, the embedded one, and those of the folder's finished runs, each once. */
export async function liveModels(places: Places, given: LiveModel | null): Promise<LiveModel[]> {
  const found = given ? [given, demoModel] : [demoModel];
  for (const { item, manifest } of (await readFolder(places)).listed) {
    const { name, status, dummy } = item;
    if (manifest === null || status !== "finished" || dummy) continue;
    const { model_name, allow_config_field, bos, sae_source, layers, sites } =
      manifest.options as unknown as JobOptions;
    const model: LiveModel = {
      id: `run:${name}`,
      model: model_name,
      saes: sae_source,
      options: {
        model_name,
        ...(allow_config_field && { allow_config_field }),
        ...(bos && { bos }),
        sae_source,
        layers,
        sites,
        seed: 1,
      },
    };
    const key = JSON.stringify(model.options);
    if (!found.some((other) => JSON.stringify(other.options) === key)) found.push(model);
  }
  return found;
}
