// Compares models on a device with the CPU, in a process of its own, which has to be started with the driver's environment. Prints a line of JSON for
// each model: its checks.
const [device, weights, pairs, ...models] = process.argv.slice(2);
const from = (path) => import(new URL(`../dist/${path}`, import.meta.url).href);
const { compareWithCpu } = await from("analysis/parity.js");
const { noPairs, usablePairs } = await from("analysis/pairs.js");
const { openJob } = await from("open/open.js");
const { heldWeights, loadedModel, streamedWeights } = await from("models/weights.js");

const silent = { begin() {}, set() {}, end() {}, line() {}, stopped: () => false };
for (const model_name of models) {
  const own = model_name === "demo";
  const options = {
    ...noPairs,
    model_name,
    seed: 1,
    ...(own ? { task: "agreement", num_examples: 1 } : { sae_source: "dummy", sites: "resid_post,mlp_out", pairs }),
  };
  const opened = await openJob(options, silent);
  const { model, checkpoint, dictionaries } = opened;
  const held = weights === "held" ? await heldWeights(model, checkpoint) : streamedWeights(checkpoint);
  const { kept } = usablePairs(opened.source, opened, options, silent);
  const checks = await compareWithCpu({ loaded: loadedModel(model, held, { device }), dictionaries, pairs: kept });
  process.stdout.write(`${JSON.stringify({ model: model_name.split("/").at(-1), checks })}\n`);
  await opened.close();
}
