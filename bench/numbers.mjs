// What circuits of single numbers are worth on any model, no SAE taking part: the residual stream at some blocks, MLP neurons and MLP outputs at all,
// chosen by secant effects on train and measured on test; for each construction, singular and plural apart.
// node bench/numbers.mjs MODEL PAIRS.jsonl [blocks of the stream, 5,10,15,20,25] [ablations, mean] ; wants `npm run build` before. PAIRS are of the
// cases CONSTRUCTION_singular and CONSTRUCTION_plural, as bench/smollm2_pairs.py makes them.
import { readFile } from "node:fs/promises";
import { tokenizePairs } from "analytic-sfc/capture";
import { codeReader, identityDictionary } from "analytic-sfc/effects";
import { heldWeights, loadedModel } from "analytic-sfc/models";
import { ablationBase, evaluationForest, readActivations } from "../dist/interventions/ablation.js";
import { chooseTop } from "../dist/interventions/choose.js";
import { evaluateSubsets, meanMetric } from "../dist/interventions/evaluate.js";
import { scoresOf } from "../dist/interventions/scores.js";
import { openModel } from "../dist/open/open.js";

const [path, file, blocks = "5,10,15,20,25", ablations = "mean"] = process.argv.slice(2);
const sizes = [10, 30, 100, 300, 1000, 3000];
const { model, checkpoint, tokenizer } = await openModel(path);
const loaded = loadedModel(model, await heldWeights(model, checkpoint));
const { outside } = tokenizer;
const rows = (await readFile(file, "utf8"))
  .trim()
  .split("\n")
  .map((line) => JSON.parse(line));
const pairs = tokenizePairs(rows, tokenizer).kept;
const codes = codeReader();
const constructionOf = ({ pair }) => pair.case.replace(/_[^_]*$/, "");
const all = Array.from({ length: model.layers }, (_, layer) => layer);
const kinds = { resid_post: blocks.split(",").map(Number), mlp_act: all, mlp_out: all };

/** (Σ m − Σ m(∅)) / (Σ m(M) − Σ m(∅)) over the pairs of a case, or all. */
function faithfulness(own, forest, m, empty, whole, isIn) {
  let [gain, most] = [0, 0];
  own.forEach((pair, i) => {
    if (!isIn(pair)) return;
    const end = forest.endIndexOfPair[i];
    gain += m[end] - empty[end];
    most += whole[end] - empty[end];
  });
  return (gain / most).toFixed(2);
}

for (const construction of new Set(pairs.map(constructionOf))) {
  const of = (split) => pairs.filter((one) => one.pair.split === split && constructionOf(one) === construction);
  const [train, test] = [of("train"), of("test")];
  for (const [kind, layers] of Object.entries(kinds)) {
    const sites = layers.map((layer) => `${kind}.${layer}`);
    const dictionaries = new Map(sites.map((site) => [site, identityDictionary(site, model.sites[kind])]));
    const { scores } = await scoresOf("secant", { loaded, dictionaries, outside }, train);
    const circuits = sizes.map((n) => chooseTop(scores, n));
    const union = new Map(sites.map((site) => [site, [...new Set(circuits.flatMap((c) => c.get(site) ?? []))]]));
    const forest = evaluationForest(test, () => construction);
    const activations = await readActivations(loaded, forest, sites);
    for (const values of ablations.split(",")) {
      const base = await ablationBase(activations, dictionaries, codes, union, { values, errors: "ablated" });
      const subsets = [new Map(), ...circuits].map((features) => ({ kind: "circuit", features }));
      const [empty, ...found] = await evaluateSubsets({ loaded, forest, dictionaries, outside }, base, subsets);
      const whole = activations.cleanMetric;
      const [top, bottom] = [whole, empty].map((m) => meanMetric(forest, m).toFixed(2));
      console.log(`${construction}, ${kind}, ${values} ablation: F(M) ${top}, F(∅) ${bottom}; singular, plural apart`);
      found.forEach((m, i) => {
        const worth = (ending) => faithfulness(test, forest, m, empty, whole, ({ pair }) => pair.case.endsWith(ending));
        console.log(`  ${sizes[i]}: ${worth("")} (${worth("singular")}, ${worth("plural")})`);
      });
    }
  }
}
await codes.release();
await checkpoint.close();
