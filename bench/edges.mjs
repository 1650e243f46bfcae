// Times edges of the embedded model's default run (1,024 pairs, 18 SAEs) into the strongest features of each site, beside the least work that their
// products with Jacobians take: node bench/edges.mjs [targets per site, 100] [float32|float64] [gradient,secant] ; wants `npm run build` before.
import { fileURLToPath } from "node:url";
import { agreementPairs } from "analytic-sfc";
import { capture, loadTokenizer, planCapture, prefixForest, tokenizePairs } from "analytic-sfc/capture";
import { edges, sitesOfEdges } from "analytic-sfc/circuit";
import { closeDictionaries, effectsOf, openDictionaries } from "analytic-sfc/effects";
import { fittedModel, heldWeights, loadedModel, openCheckpoint, openFolder, subfolder } from "analytic-sfc/models";

const [count = "100", dtype = "float32", kinds = "gradient,secant"] = process.argv.slice(2);
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

/**
 * Floating-point operations of taking the cotangents back, K times, without any forward pass: for an MLP three products at each node where a target is
 * alive, for attention those with W_O and W_Q there, and with W_K and W_V there and at all changed nodes before.
 */
function floor({ site, node, feature, fClean }, chosen, jacobian, K) {
  const {
    hidden_size: D,
    intermediate_size: M,
    num_attention_heads: H,
    num_key_value_heads: KV,
    head_dim: E,
  } = checkpoint.config;
  const { parent, clean, patch } = forest.backward;
  const wanted = new Set(chosen);
  let alive = 0;
  const reached = new Set();
  feature.forEach((one, i) => {
    if (!wanted.has(one) || (jacobian === "gradient" && fClean[i] === 0)) return;
    alive++;
    for (let at = node[i]; at >= 0 && clean[at] !== patch[at]; at = parent[at])
      reached.add(one * forest.backward.size + at);
  });
  if (site.startsWith("mlp_out")) return K * alive * 3 * 2 * D * M;
  return site.startsWith("attn_out") ? K * (alive * 2 * 2 * D * H * E + reached.size * 2 * 2 * D * KV * E) : 0;
}

for (const jacobian of kinds.split(",")) {
  const given = { ...loaded, forest, dictionaries, captured };
  const targets = new Map();
  let flops = 0;
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
    flops += floor(rows, targets.get(rows.site), jacobian, jacobian === "secant" ? 4 : 1);
  }
  console.log(`${jacobian}: at least ${(flops / 1e9).toFixed(0)} GFLOP`);
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
  console.log(`  ${found} edges in ${seconds(start)} s, ${((user + system) / 1e6).toFixed(2)} s of processor time`);
  for (const [kind, ms] of bySite) console.log(`  ${kind}: ${(ms / 1000).toFixed(2)} s`);
}
await closeDictionaries(dictionaries);
await checkpoint.close();
