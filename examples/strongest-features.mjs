// The features of one SAE that carry subject-verb agreement in the embedded model, strongest first.
import { agreementPairs, analyse, openModel, openSaes } from "analytic-sfc";

const model = await openModel("demo"); // or a folder, a GGUF file, a preset, a model of the hub
const saes = await openSaes("demo", { model, sites: ["resid_post.3"] });
const result = await analyse(model, saes, agreementPairs({ perCase: 20 }), { method: "analytic" });
for (const { feature, effect } of result.top({ site: "resid_post.3", k: 5 })) {
  console.log(`resid_post.3/${feature}\t${effect.toFixed(3)} logits`);
}

// What run_with_cache gives elsewhere, and the gradients of m = logit(" run") − logit(" runs") at the prompt's end.
const prompts = [{ prompt: "The dog near the cars", clean_answer: " runs", patch_answer: " run" }];
const { tokens, x, g, m } = await model.capture(prompts, ["resid_post.3"]);
const [T, D] = [tokens[0].length, model.width];
console.log(
  `m = ${m[0].toFixed(2)} logits; x and g are [${T}, ${D}], of ${x["resid_post.3"][0].length} and ${g["resid_post.3"][0].length} numbers`,
);

await saes.close();
await model.close();
