// How many features, neurons or numbers of the residual stream keep 80 % of the embedded model's agreement when everything else at the same sites is set
// to its mean, and what random features matched by activity keep: node bench/baselines.mjs [construction, nounpp] [seed, 1] ; wants `npm run build`
// before. They are chosen by effects on 120 train pairs and measured on 200 test pairs with other nouns.
import { fileURLToPath } from "node:url";
import { agreementPairs } from "analytic-sfc";
import { loadTokenizer, tokenizePairs } from "analytic-sfc/capture";
import { closeDictionaries, codeReader, identityDictionary, openDictionaries } from "analytic-sfc/effects";
import { fittedModel, heldWeights, loadedModel, openCheckpoint, openFolder, subfolder } from "analytic-sfc/models";
import { ablationBase, evaluationForest, readActivations } from "../dist/interventions/ablation.js";
import { activityOf, matchedByActivity } from "../dist/interventions/baselines.js";
import { chooseTop } from "../dist/interventions/choose.js";
import { evaluateSubsets, meanMetric } from "../dist/interventions/evaluate.js";
import { scoresOf } from "../dist/interventions/scores.js";

const wanted = 0.8;
const [construction = "nounpp", seed = "1"] = process.argv.slice(2);
const folder = await openFolder(fileURLToPath(new URL("../models/demo", import.meta.url)));
const checkpoint = await openCheckpoint(folder);
const { model } = await fittedModel(checkpoint);
const saes = await openDictionaries(subfolder(folder, "saes"));
const tokenizer = loadTokenizer(checkpoint.tokenizer, checkpoint.tokenizerConfig);
const { outside } = tokenizer;
const loaded = loadedModel(model, await heldWeights(model, checkpoint));
const cases = ["singular", "plural"].map((number) => `${construction}_${number}`);
const pairs = tokenizePairs(agreementPairs({ seed: Number(seed), perCase: 100, cases }), tokenizer).kept;
const of = (split, count) =>
  cases.flatMap((name) => pairs.filter(({ pair }) => pair.split === split && pair.case === name).slice(0, count));
const [train, test] = [of("train", 60), of("test", 100)];
const codes = codeReader();

const layers = (kind) => Array.from({ length: model.layers }, (_, layer) => `${kind}.${layer}`);
const features = (kind) => new Map(layers(kind).map((site) => [site, saes.get(site)]));
const basis = (kind) => new Map(layers(kind).map((site) => [site, identityDictionary(site, model.sites[kind])]));

/** What circuits are worth on the test pairs, other features of some sites and their errors set to means by position. */
async function faithfulnessOn(dictionaries) {
  const forest = evaluationForest(test, () => construction);
  const activations = await readActivations(loaded, forest, [...dictionaries.keys()]);
  const setting = { loaded, forest, dictionaries, outside };
  const means = { values: "mean", errors: "ablated" };
  const F = async (circuits) => {
    const all = new Map(
      [...dictionaries.keys()].map((site) => [site, [...new Set(circuits.flatMap((c) => c.get(site) ?? []))]]),
    );
    const base = await ablationBase(activations, dictionaries, codes, all, means);
    const found = await evaluateSubsets(setting, base, circuits.map((some) => ({ kind: "circuit", features: some }))); // biome-ignore format: one row
    return found.map((m) => meanMetric(forest, m));
  };
  const [whole, [empty]] = [meanMetric(forest, activations.cleanMetric), await F([new Map()])];
  return { empty, whole, of: async (circuits) => (await F(circuits)).map((f) => (f - empty) / (whole - empty)) };
}

/** The least number of the strongest features that keep `wanted`: every number up to 40, above it in steps of 10, then those between. */
async function least(scores, worth) {
  const scan = async (from, to, step) => {
    const sizes = Array.from({ length: Math.floor((to - from) / step) + 1 }, (_, i) => from + i * step);
    const values = await worth.of(sizes.map((n) => chooseTop(scores, n)));
    const at = values.findIndex((value) => value >= wanted);
    return at < 0 ? undefined : { size: sizes[at], value: values[at] };
  };
  const few = (await scan(1, 20, 1)) ?? (await scan(21, 40, 1));
  if (few) return few;
  for (let from = 50; from < 1000; from += 50) {
    const found = await scan(from, from + 40, 10);
    if (found) return scan(found.size - 9, found.size, 1);
  }
  return { size: Number.NaN, value: Number.NaN };
}

console.log(
  `${train.length} train pairs, ${test.length} test pairs of ${construction}, seed ${seed}; faithfulness ${wanted} on test`,
);
for (const [name, dictionaries] of [
  ["MLP outputs, features", features("mlp_out")],
  ["MLP outputs, neurons", basis("mlp_act")],
  ["MLP outputs, basis", basis("mlp_out")],
  ["residual stream, features", features("resid_post")],
  ["residual stream, basis", basis("resid_post")],
]) {
  const worth = await faithfulnessOn(dictionaries);
  const counts = [];
  for (const method of ["analytic", "secant"]) {
    const { scores } = await scoresOf(method, { loaded, dictionaries, outside }, train);
    const { size, value } = await least(scores, worth);
    counts.push(`${method} ${size} (${value.toFixed(3)})`);
    if (method !== "analytic" || name.endsWith("basis") || name.endsWith("neurons")) continue;
    const activations = await readActivations(
      loaded,
      evaluationForest(train, () => construction),
      [...dictionaries.keys()],
    );
    const activity = await activityOf(activations, dictionaries, codes, outside);
    const random = await worth.of(
      [60, 150, 300].flatMap((n) => [1, 2, 3].map((s) => matchedByActivity(chooseTop(scores, n), activity, s))),
    );
    counts.push(`random of 60, 150, 300: ${Math.min(...random).toFixed(3)} to ${Math.max(...random).toFixed(3)}`);
  }
  console.log(
    `${name.padEnd(26)} F(∅) ${worth.empty.toFixed(2)}, F(M) ${worth.whole.toFixed(2)}: ${counts.join("; ")}`,
  );
}
await codes.release();
await closeDictionaries(saes);
await checkpoint.close();
