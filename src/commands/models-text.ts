import { bytesText } from "../amounts.ts";
import { modelTypes } from "../models/architectures.ts";
import { textTable } from "../report/text-table.ts";
import type { KnownModels } from "./known-models.ts";

/** The same as text: tables of models and of SAEs, and what else can be named. */
export function knownModelsText({ cache, models, saes, others }: KnownModels): string {
  const defaults = new Set(models.map((model) => model.saes));
  return [
    ...textTable([
      ["--model_name", "parameters", "on the hub", "cached"],
      ...models.map(({ name, repo, parameters, gated, cached, bytes }) => [
        name,
        parameters,
        repo === null ? "no: part of this package" : `${repo}${gated ? " (gated)" : ""}`,
        cached ? bytesText(bytes) : bytes > 0 ? `${bytesText(bytes)}, not all` : "no",
      ]),
      ...others.map(({ name, model_type }) => [name, model_type, name, "yes"]),
    ]),
    "",
    ...textTable([
      ["--sae_source", "of model", "sites", "features", "SAEs", "total", "cached"],
      ...saes.map(({ name, model, kinds, features, count, bytes, cached }) => [
        `${name}${defaults.has(name) ? " *" : ""}`,
        model,
        kinds.join(", "),
        String(features),
        String(count),
        bytesText(bytes),
        cached === 0 ? "no" : cached === count ? "yes" : `${cached} of ${count}`,
      ]),
    ]),
    "* used where --sae_source is not given; only SAEs of the wanted --layers and --sites are fetched.",
    "",
    `Both also take organisation/name[@revision] of the hub, SAEs organisation/name/folder, and local folders (model_type ${modelTypes.join(", ")}).`,
    "gated: accept the licence on the hub, then set HF_TOKEN. For a model without SAEs: sfc train sae, or --sae_source dummy.",
    `Cache: ${cache}`,
  ].join("\n");
}
