// How well edges predict what changing their sources does, on the embedded model: for each kind of target the correlation of the strongest edges between
// features with what checkEdges measures: node bench/edge-interventions.mjs [pairs, 20] [targets per site, 30] ; wants `npm run build` before.
import { fileURLToPath } from "node:url";
import { agreementPairs } from "analytic-sfc";
import { capture, loadTokenizer, planCapture, prefixForest, tokenizePairs } from "analytic-sfc/capture";
import { checkEdges, edges, sitesOfEdges } from "analytic-sfc/circuit";
import { closeDictionaries, effectsOf, openDictionaries } from "analytic-sfc/effects";
import { fittedModel, heldWeights, loadedModel, openCheckpoint, openFolder, subfolder } from "analytic-sfc/models";

const [pairCount = 20, targetCount = 30] = process.argv.slice(2).map(Number);
const folder = await openFolder(fileURLToPath(new URL("../models/demo", import.meta.url)));
const checkpoint = await openCheckpoint(folder);
const { model } = await fittedModel(checkpoint);
const dictionaries = await openDictionaries(subfolder(folder, "saes"));
const tokenizer = loadTokenizer(checkpoint.tokenizer, checkpoint.tokenizerConfig);
const { kept } = tokenizePairs(agreementPairs(), tokenizer);
const pairs = kept.filter(({ pair }) => pair.case.startsWith("nounpp") && pair.split === "train");
// Both numbers alike.
const step = Math.max(1, Math.floor(pairs.length / pairCount));
const forest = prefixForest(pairs.filter((_, i) => i % step === 0).slice(0, pairCount));
const loaded = loadedModel(model, await heldWeights(model, checkpoint));
const plan = planCapture(forest, { wanted: "both" });
const captured = await capture(loaded, plan, { sites: sitesOfEdges([...dictionaries.keys()], model.layers) });
const given = { ...loaded, forest, dictionaries, captured };

const correlation = (x, y) => {
  const mean = (of) => of.reduce((a, b) => a + b, 0) / of.length;
  const [mx, my] = [mean(x), mean(y)];
  const product = (a, ma, b, mb) => a.reduce((sum, v, i) => sum + (v - ma) * (b[i] - mb), 0);
  return product(x, mx, y, my) / Math.sqrt(product(x, mx, x, mx) * product(y, my, y, my));
};

console.log(`${forest.pairs.length} pairs, ${forest.backward.size} nodes, ${targetCount} targets per site`);
for (const jacobian of ["gradient", "secant"]) {
  const targets = new Map();
  for await (const { rows } of effectsOf(jacobian === "secant" ? "secant" : "analytic", given)) {
    const sums = new Map();
    rows.feature.forEach((feature, i) => {
      if (feature >= 0) sums.set(feature, (sums.get(feature) ?? 0) + rows.effect[i]);
    });
    const strongest = [...sums].sort((a, b) => Math.abs(b[1]) - Math.abs(a[1])).slice(0, targetCount);
    targets.set(
      rows.site,
      strongest.map(([feature]) => feature),
    );
  }
  const found = new Map();
  for await (const { blocks } of edges(given, { targets, jacobian })) {
    for (const { target, source, features, values } of blocks) {
      features.forEach((feature, i) => {
        const key = `${source}/${feature}/${target.site}/${target.feature}`;
        const edge = found.get(key) ?? { source: { site: source, feature }, target, value: 0 };
        found.set(key, { ...edge, value: edge.value + values[i] });
      });
    }
  }
  for (const kind of ["resid_post", "mlp_out", "attn_out", "metric"]) {
    const own = [...found.values()].filter(({ target }) => target.site.startsWith(kind));
    const strongest = own.sort((a, b) => Math.abs(b.value) - Math.abs(a.value)).slice(0, 200);
    const start = performance.now();
    const checked = await checkEdges(given, strongest, { jacobian });
    const seconds = (performance.now() - start) / 1000;
    const r = (n, name) =>
      correlation(
        checked.slice(0, n).map(({ value }) => value),
        checked.slice(0, n).map((edge) => edge[name]),
      ).toFixed(3);
    const [size, gap] = ["measured", "gap"].map((what) =>
      checked.reduce((sum, e) => sum + Math.abs(what === "gap" ? e.value - e.measured : e.measured), 0),
    );
    const names = ["measured", "intoClean", "outOfPatch"];
    console.log(
      `${jacobian} → ${kind}: ${names.map((name) => `${name} r ${r(50, name)} (200: ${r(200, name)})`).join(", ")}; Σ|edge − measured| ${((100 * gap) / size).toFixed(0)} % of Σ|measured|; ${seconds.toFixed(1)} s`,
    );
  }
}
await closeDictionaries(dictionaries);
await checkpoint.close();
