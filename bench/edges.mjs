// Times edges of the embedded model's default run (1,024 pairs, 18 SAEs) into the strongest features of each site, and counts the work that this takes at
// least: node bench/edges.mjs [targets per site, 100] [float32] ; wants `npm run build` before.
import { fileURLToPath } from "node:url";
import { agreementPairs } from "analytic-sfc";
import { capture, loadTokenizer, planCapture, prefixForest, tokenizePairs } from "analytic-sfc/capture";
import { edges, sitesOfEdges } from "analytic-sfc/circuit";
import { closeDictionaries, effectsOf, openDictionaries } from "analytic-sfc/effects";
import { fittedModel, heldWeights, loadedModel, openCheckpoint, openFolder, subfolder } from "analytic-sfc/models";

const [count = "100", dtype = "float32"] = process.argv.slice(2);
const folder = await openFolder(fileURLToPath(new URL("../models/demo", import.meta.url)));
const checkpoint = await openCheckpoint(folder);
const { model } = await fittedModel(checkpoint);
const dictionaries = await openDictionaries(subfolder(folder, "saes"));
const tokenizer = loadTokenizer(checkpoint.tokenizer, checkpoint.tokenizerConfig);
const { kept } = tokenizePairs(agreementPairs(), tokenizer);
const loaded = loadedModel(model, await heldWeights(model, checkpoint, dtype), { dtype });
const forest = prefixForest(kept);

const seconds = (since) => ((performance.now() - since) / 1000).toFixed(2);
const begun = performance.now();
const sites = sitesOfEdges([...dictionaries.keys()], model.layers);
const captured = await capture(loaded, planCapture(forest, { wanted: "both" }), { sites });
console.log(`${kept.length} pairs, ${forest.backward.size} nodes; captured in ${seconds(begun)} s`);

for (const jacobian of (process.env.J ?? "gradient,secant").split(",")) {
  const given = { ...loaded, forest, dictionaries, captured };
  const targets = new Map();
  for await (const { rows } of effectsOf(jacobian === "secant" ? "secant" : "analytic", given)) {
    const sums = new Map();
    rows.feature.forEach((feature, i) => {
      if (feature >= 0) sums.set(feature, (sums.get(feature) ?? 0) + rows.effect[i]);
    });
    const strongest = [...sums].sort((a, b) => Math.abs(b[1]) - Math.abs(a[1])).slice(0, Number(count));
    targets.set(
      rows.site,
      strongest.map(([feature]) => feature),
    );
  }
  const start = performance.now();
  const cpu = process.cpuUsage();
  const bySite = new Map();
  let [found, last] = [0, start];
  for await (const { target, through, blocks } of edges(given, { targets, jacobian })) {
    found += blocks.reduce((sum, { features }) => sum + features.length, 0);
    const kind = `${through} → ${target.split(".")[0]}`;
    bySite.set(kind, (bySite.get(kind) ?? 0) + performance.now() - last);
    last = performance.now();
  }
  const { user, system } = process.cpuUsage(cpu);
  console.log(
    `${jacobian}: ${found} edges in ${seconds(start)} s, ${((user + system) / 1e6).toFixed(2)} s of processor time`,
  );
  for (const [kind, ms] of bySite) console.log(`  ${kind}: ${(ms / 1000).toFixed(2)} s`);
}
await closeDictionaries(dictionaries);
await checkpoint.close();
