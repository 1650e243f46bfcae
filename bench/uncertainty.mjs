// How wide the intervals of effects are, by pairs and by the words that pairs share: CIRCUITS' table on the embedded model.
//
//   node bench/uncertainty.mjs [pairs, 100,500] [methods, analytic,secant]
//
// For each: the width of the 95 % interval over |effect|, of the 20 strongest residual features, median (largest). By pairs: with every pair's own
// nodes ("apart"), and as a run does it, what pairs share at a node split evenly among them ("merged").

import { usablePairs } from "../dist/analysis/pairs.js";
import { effectsOf } from "../dist/effects/index.js";
import { prefixForest } from "../dist/forest/forest.js";
import { agreementPairs, openModel, openSaes } from "../dist/index.js";
import { candidatesOf, spreadOf, wordDraws } from "../dist/interventions/spread.js";
import { EffectSummer, unitsOf } from "../dist/interventions/units.js";
import { postingReporter } from "../dist/progress.js";

const [counts = "100,500", methods = "analytic,secant"] = process.argv.slice(2);
const model = await openModel("demo");
const saes = await openSaes("demo", { model, sites: [0, 1, 2, 3, 4, 5].map((layer) => `resid_post.${layer}`) });
const reporter = postingReporter(
  () => {},
  () => false,
);

console.log("pairs  words  method    by words      by pairs, apart  by pairs, merged");
for (const count of counts.split(",").map(Number)) {
  const all = agreementPairs({ perCase: count }).filter(
    ({ case: name, split }) => name === "nounpp_plural" && split === "train",
  );
  const source = { name: "the pairs", choose: () => ({ pairs: all, lines: null, rejected: [], notes: [] }) };
  const pairs = usablePairs(source, model.files, { answer_tokens: "one", num_examples: null }, reporter).kept;
  for (const method of methods.split(",")) {
    const found = {};
    for (const merge of ["forward", "all"]) found[merge] = await spreads(method, pairs, merge);
    const { all: merged, forward: apart } = found;
    const strongest = merged.toSorted((a, b) => Math.abs(b.effect) - Math.abs(a.effect)).slice(0, 20);
    const own = (of) => apart.find(({ key }) => key === of.key);
    const cells = [
      widths(strongest.map((of) => [of.by_words, of.effect])),
      widths(strongest.map((of) => [own(of).by_pairs, of.effect])),
      widths(strongest.map((of) => [of.by_pairs, of.effect])),
    ];
    console.log(
      `${pairs.length}    ${merged.words}     ${method.padEnd(8)}  ${cells.map((cell) => cell.padEnd(14)).join("")}`,
    );
  }
}
await model.close();

async function spreads(method, pairs, merge) {
  const forest = prefixForest(pairs, { merge });
  const units = unitsOf(forest, model.tokenizer.outside);
  const draws = wordDraws(units.splits[0]);
  const features = [];
  for await (const { rows } of effectsOf(method, { ...model.loaded, forest, dictionaries: saes })) {
    const sums = new Map();
    for (const [i, f] of rows.feature.entries()) {
      if (f >= 0 && units.group[rows.node[i]] >= 0) sums.set(f, (sums.get(f) ?? 0) + rows.effect[i]);
    }
    const ranked = [...sums.keys()].sort((a, b) => Math.abs(sums.get(b)) - Math.abs(sums.get(a)));
    const summer = new EffectSummer(units, [candidatesOf(ranked, 40)]);
    summer.add(rows);
    const { features: found } = spreadOf(summer.finish()[0], draws);
    for (const [i, of] of found.entries()) {
      features.push({ ...of, key: `${rows.site}/${ranked[i]}`, effect: sums.get(ranked[i]) / pairs.length });
    }
  }
  return Object.assign(features, { words: units.splits[0].words });
}

function widths(rows) {
  const shares = rows.map(([{ low, high }, effect]) => (high - low) / Math.abs(effect)).sort((a, b) => a - b);
  return `${((shares[9] + shares[10]) / 2).toFixed(2)} (${shares.at(-1).toFixed(2)})`;
}
