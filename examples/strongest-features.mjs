// The features of one SAE that carry subject-verb agreement in the embedded model, strongest first.
import { fileURLToPath } from "node:url";
import * as sfc from "analytic-sfc";

const demo = new URL("models/demo", import.meta.resolve("analytic-sfc/package.json"));
const folder = await sfc.openFolder(process.argv[2] ?? fileURLToPath(demo));
const { model, checkpoint } = await sfc.fittedModel(await sfc.openCheckpoint(folder));
const weights = await sfc.heldWeights(model, checkpoint);
const tokenizer = sfc.loadTokenizer(checkpoint.tokenizer, checkpoint.tokenizerConfig);
const saes = await sfc.openDictionaries(sfc.subfolder(folder, "saes"), ["resid_post.3"]);

const { kept } = sfc.tokenizePairs(
  sfc.agreementPairs({ lexicon: sfc.demoLexicon, seed: 1, perCase: 20, split: "train", cases: ["nounpp_plural"] }),
  tokenizer,
);
const plan = sfc.planCapture(sfc.prefixForest(kept), { wanted: "changed" });
const captured = await sfc.capture(sfc.loadedModel(model, weights), plan, { sites: [...saes.keys()] });

for (const sae of saes.values()) {
  const { rows } = await sfc.analyticEffects(captured, sae, sfc.codeReader());
  for (const { feature, effect } of sfc.rankFeatures(rows).slice(0, 5)) {
    console.log(`${sae.site}/${feature}\t${(effect / kept.length).toFixed(3)} logits`);
  }
}
