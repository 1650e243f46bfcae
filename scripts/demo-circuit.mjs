// Writes the embedded model's circuit of subject-verb agreement as FOLDER/circuit.svg, .graphml and .json (an attribution graph), pruned:
// node scripts/demo-circuit.mjs FOLDER [SITES, resid_post] [nodes to keep, 0.8] [edges, 0.75] ; wants `npm run build` before. The docs' pictures are made
// with it.
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { agreementPairs } from "analytic-sfc";
import { loadTokenizer, prefixForest, tokenizePairs } from "analytic-sfc/capture";
import { attributionGraph, edges, graphMl, graphOf, graphSvg, lintAttributionGraph, prune } from "analytic-sfc/circuit";
import { closeDictionaries, effectsOf, openDictionaries } from "analytic-sfc/effects";
import { fittedModel, heldWeights, loadedModel, openCheckpoint, openFolder, subfolder } from "analytic-sfc/models";

const [out, kinds = "resid_post", keptNodes = "0.8", keptEdges = "0.75"] = process.argv.slice(2);
if (out === undefined) {
  console.error("usage: node scripts/demo-circuit.mjs FOLDER [SITES] [NODES] [EDGES]");
  process.exit(2);
}

const folder = await openFolder(fileURLToPath(new URL("../models/demo", import.meta.url)));
const checkpoint = await openCheckpoint(folder);
const { model } = await fittedModel(checkpoint);
const all = await openDictionaries(subfolder(folder, "saes"));
const dictionaries = new Map([...all].filter(([site]) => kinds.split(",").includes(site.split(".")[0])));
const tokenizer = loadTokenizer(checkpoint.tokenizer, checkpoint.tokenizerConfig);
const pairs = agreementPairs({ perCase: 50 }).filter((pair) => pair.case.startsWith("nounpp"));
const { kept } = tokenizePairs(pairs, tokenizer);
const loaded = loadedModel(model, await heldWeights(model, checkpoint, "float32"), { dtype: "float32" });
const given = { ...loaded, forest: prefixForest(kept), dictionaries };

const [targets, effects] = [new Map(), new Map()];
for await (const { rows } of effectsOf("secant", given)) {
  const sums = new Map();
  rows.feature.forEach((feature, i) => {
    sums.set(feature, (sums.get(feature) ?? 0) + rows.effect[i] / kept.length);
  });
  const error = sums.get(-1) ?? null;
  sums.delete(-1);
  const strongest = [...sums].sort((a, b) => Math.abs(b[1]) - Math.abs(a[1])).slice(0, 60);
  targets.set(rows.site, [...strongest.map(([feature]) => feature), "error"]);
  effects.set(rows.site, { feature: [...sums.keys()], effect: [...sums.values()], error });
}
const about = {
  model: "demo",
  layers: model.layers,
  dictionaries: [...dictionaries.keys()].map((site) => ({ site, source: "demo" })),
  subject: { kind: "pairs", pairs: kept.length, cases: [...new Set(pairs.map((pair) => pair.case))], split: null },
  metric: "logit(patch answer) − logit(clean answer)",
  method: "secant",
  jacobian: "secant",
  slope: "secant",
  slopeCap: 3,
};
const whole = await graphOf(edges(given, { targets }), { pairs: kept.length, about, effects });
const graph = prune(whole, { nodes: Number(keptNodes), edges: Number(keptEdges) });
const json = attributionGraph(graph, { slug: "agreement", pinned: 16 });
mkdirSync(out, { recursive: true });
writeFileSync(join(out, "circuit.svg"), graphSvg(graph));
writeFileSync(join(out, "circuit.graphml"), graphMl(graph));
writeFileSync(join(out, "circuit.json"), `${JSON.stringify(json, null, 1)}\n`);
const { replacement, completeness } = graph.about.scores;
console.log(
  `${whole.nodes.length} nodes, ${whole.edges.length} edges; kept ${graph.nodes.length} and ${graph.edges.length}`,
);
console.log(`replacement ${replacement.toFixed(3)}, completeness ${completeness.toFixed(3)}`);
for (const line of lintAttributionGraph(json)) console.log(`linter: ${line}`);
await closeDictionaries(all);
await checkpoint.close();
