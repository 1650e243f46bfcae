import type { Floats, Hooks, Inputs } from "../src/capture/hooks.ts";
import { runModel } from "../src/capture/run.ts";
import type { Pack } from "../src/forest/packs.ts";
import type { LoadedModel } from "../src/models/weights.ts";
import type { SiteName } from "../src/site.ts";

/** Runs one pack with hooks: m[P] in logits, and what hooks find as `<kind>/<site>/<name>`. */
export async function runPack(
  loaded: LoadedModel,
  pack: Pack,
  hooks: Hooks,
  inputs: (site: SiteName) => Inputs = () => ({}),
): Promise<{ metric: Floats; found: Map<string, Floats> }> {
  const found = new Map<string, Floats>();
  let metric: Floats = new Float64Array();
  await runModel(
    loaded,
    [
      {
        pack,
        inputs,
        metric: (values) => {
          metric = values;
        },
        found({ site, kind, tensors }) {
          for (const [name, data] of Object.entries(tensors)) found.set(`${kind}/${site}/${name}`, data);
          return undefined;
        },
      },
    ],
    { hooks },
  );
  return { metric, found };
}

/** M = Σ weight·m of a pack. */
export async function packMetric(
  loaded: LoadedModel,
  pack: Pack,
  hooks: Hooks,
  inputs?: (site: SiteName) => Inputs,
): Promise<number> {
  const { metric } = await runPack(loaded, { ...pack, kind: "forward" }, hooks, inputs);
  return Array.from(metric).reduce((sum, m, i) => sum + m * pack.metric.weight[i]!, 0);
}
