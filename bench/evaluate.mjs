// What one evaluation of a circuit costs beside a plain forward pass of the same nodes, and how long learning masks takes, on the embedded model:
// node bench/evaluate.mjs [pairs per case, 100] [features, 60]; wants `npm run build` before. Both passes in turns, medians.
import { fileURLToPath } from "node:url";
import { agreementPairs } from "analytic-sfc";
import { loadTokenizer, openRunner, tokenizePairs } from "analytic-sfc/capture";
import {
  ablationBase,
  chooseTop,
  evaluateSubsets,
  evaluationForest,
  learnOnHalves,
  readActivations,
} from "analytic-sfc/circuit";
import { closeDictionaries, codeReader, openDictionaries } from "analytic-sfc/effects";
import { fittedModel, heldWeights, loadedModel, openCheckpoint, openFolder, subfolder } from "analytic-sfc/models";
import { forwardPacks } from "../dist/interventions/evaluate.js";
import { scoresOf } from "../dist/interventions/scores.js";

const [perCase = "100", size = "60"] = process.argv.slice(2);
const rounds = 15;
const folder = await openFolder(fileURLToPath(new URL("../models/demo", import.meta.url)));
const checkpoint = await openCheckpoint(folder);
const { model } = await fittedModel(checkpoint);
const saes = await openDictionaries(subfolder(folder, "saes"));
const dictionaries = new Map([...saes].filter(([site]) => site.startsWith("resid_post")));
const tokenizer = loadTokenizer(checkpoint.tokenizer, checkpoint.tokenizerConfig);
const { outside } = tokenizer;
const loaded = loadedModel(model, await heldWeights(model, checkpoint));
const cases = ["nounpp_singular", "nounpp_plural"];
const made = agreementPairs({ seed: 0, perCase: Number(perCase), cases });
const pairs = tokenizePairs(made, tokenizer).kept.filter(({ pair }) => pair.split === "train");
const forest = evaluationForest(pairs, () => "nounpp");
const codes = codeReader();
const setting = { loaded, forest, dictionaries, outside };
const { scores } = await scoresOf("secant", setting, pairs);
const features = chooseTop(scores, Number(size));
const activations = await readActivations(loaded, forest, [...dictionaries.keys()]);
const means = { values: "mean", errors: "ablated" };
const base = await ablationBase(activations, dictionaries, codes, features, means);
const subset = { kind: "circuit", features };

const since = (start) => performance.now() - start;
const median = (values) => values.sort((a, b) => a - b)[values.length >> 1];
const packs = forwardPacks(forest);
const plain = openRunner(loaded);
// Twenty circuits at once, as a curve has them: sessions are opened once.
const many = Array(20).fill(subset);
const [forward, evaluation] = [[], []];
for (let round = 0; round < rounds; round++) {
  let start = performance.now();
  for (let i = 0; i < many.length; i++) await plain.run(packs.map((pack) => ({ pack })));
  forward.push(since(start) / many.length);
  start = performance.now();
  await evaluateSubsets(setting, base, many);
  evaluation.push(since(start) / many.length);
}
console.log(
  `${pairs.length} pairs, ${forest.backward.size} nodes, ${packs.reduce((n, p) => n + p.tokens.length, 0)} rows`,
);
console.log(
  `forward pass ${median(forward).toFixed(1)} ms, evaluation of ${size} features ${median(evaluation).toFixed(1)} ms`,
);
console.log(`ratio ${(median(evaluation) / median(forward)).toFixed(2)}`);
const candidates = chooseTop(scores, 300);
const start = performance.now();
await learnOnHalves(setting, pairs, candidates, means, codes, { groupOf: () => "nounpp" });
console.log(
  `masks: 60 gradients on six halves of ${pairs.length} pairs, 300 candidates: ${(since(start) / 1000).toFixed(1)} s`,
);
await plain.release();
await codes.release();
await closeDictionaries(saes);
await checkpoint.close();
