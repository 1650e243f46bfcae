// Writes a Llama of SmolLM2 135M's shape and an SAE for the residual stream after each of its 30 blocks, all with random weights, to time methods on
// with where the real ones cannot be had: node bench/random-smollm2.mjs FOLDER PAIRS [features] [L0] [seed]
//
// FOLDER/model: config.json, model.safetensors (float32, 538 MB) and the embedded model's tokenizer, in Hugging Face layout
// FOLDER/saes:  resid_post.0 … resid_post.29, JumpReLU, as SAELens saves them (4,608 features: 640 MB)
// FOLDER/pairs.jsonl: the pairs of PAIRS that the tokenizer can use, all of one split, as in the public files
//
// Thresholds are set on the pairs themselves, so that codes are as sparse as those of trained SAEs.
import { mkdir, open, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { readPairs, writePairs } from "analytic-sfc";
import { capture, loadTokenizer, planCapture, prefixForest, tokenizePairs } from "analytic-sfc/capture";
import { codeReader, openDictionary } from "analytic-sfc/effects";
import { loadedModel, modelFromConfig, openCheckpoint, openFolder, streamedWeights } from "analytic-sfc/models";

const [folder, pairsFile, features = "4608", active = "64", seed = "1"] = process.argv.slice(2);
if (!pairsFile) throw new Error("usage: node bench/random-smollm2.mjs FOLDER PAIRS [features] [L0] [seed]");
const [F, L0] = [Number(features), Number(active)];
// Read first: a wrong path should end it before a gigabyte is written.
const text = await readFile(pairsFile, "utf8").catch((error) => {
  console.error(
    `PAIRS: cannot read ${pairsFile} (${error.code}). Give a file of prompt pairs, such as those of sfc pairs --task determiner --output FILE.`,
  );
  process.exit(1);
});
const pairs = readPairs(text, pairsFile, 1);
const [modelFolder, saeFolder] = [join(folder, "model"), join(folder, "saes")];

const config = {
  architectures: ["LlamaForCausalLM"],
  model_type: "llama",
  hidden_size: 576,
  intermediate_size: 1536,
  num_hidden_layers: 30,
  num_attention_heads: 9,
  num_key_value_heads: 3,
  head_dim: 64,
  hidden_act: "silu",
  rms_norm_eps: 1e-5,
  rope_theta: 100_000,
  max_position_embeddings: 8192,
  // The tokenizer has 2,667 tokens. The table keeps the size of the real one: 113 MB of the model's memory, of which a run needs a few rows.
  vocab_size: 49_152,
  tie_word_embeddings: true,
  attention_bias: false,
  mlp_bias: false,
  bos_token_id: 0,
  eos_token_id: 1,
  pad_token_id: 2,
  torch_dtype: "float32",
};

/** Fills arrays with roughly normal numbers: the four bytes of a 32-bit generator (xorshift) added up, mean 510 and deviation 147.8. */
function generator(seed) {
  let state = (Number(seed) * 2654435761 + 1) >>> 0 || 1;
  return (out, deviation) => {
    const scale = deviation / 147.8;
    for (let i = 0; i < out.length; i++) {
      state ^= state << 13;
      state ^= state >>> 17;
      state ^= state << 5;
      out[i] = ((state & 255) + ((state >>> 8) & 255) + ((state >>> 16) & 255) + (state >>> 24) - 510) * scale;
    }
    return out;
  };
}

/** Writes a safetensors file of float32 tensors, each made when its turn comes. */
async function writeSafetensors(path, tensors) {
  const header = {};
  let offset = 0;
  for (const [name, shape] of tensors) {
    const length = 4 * shape.reduce((a, b) => a * b, 1);
    header[name] = { dtype: "F32", shape, data_offsets: [offset, offset + length] };
    offset += length;
  }
  const text = Buffer.from(JSON.stringify(header));
  const padded = Buffer.concat([text, Buffer.alloc((8 - (text.length % 8)) % 8, " ")]);
  const size = Buffer.alloc(8);
  size.writeBigUInt64LE(BigInt(padded.length));
  const file = await open(path, "w");
  await file.write(size);
  await file.write(padded);
  for (const [, , make] of tensors) await file.write(new Uint8Array(make().buffer));
  await file.close();
}

// The model. Matrices keep the size of what they multiply; what is written to the residual stream is smaller, so that after 30 blocks it is a few
// times larger than the embedding, as in trained models, and neither vanishes nor explodes.
const fill = generator(seed);
const model = modelFromConfig(config, modelFolder);
const written = (2 * config.num_hidden_layers) ** -0.5;
const deviationOf = (name, [, columns]) => {
  if (name.includes("embed_tokens")) return 0.1;
  return /o_proj|down_proj/.test(name) ? columns ** -0.5 * written : columns ** -0.5;
};
const parameters = [...model.parameters].map(([name, shape]) => [
  name,
  shape,
  () => {
    const out = new Float32Array(shape.reduce((a, b) => a * b, 1));
    return shape.length === 1 ? fill(out, 0.1).map((w) => 1 + w) : fill(out, deviationOf(name, shape));
  },
]);
await mkdir(modelFolder, { recursive: true });
await writeSafetensors(join(modelFolder, "model.safetensors"), parameters);
await writeFile(join(modelFolder, "config.json"), JSON.stringify(config, null, 2));
// The words of the public pairs are single tokens in the embedded model's tokenizer, and BOS stands first.
for (const name of ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"]) {
  await writeFile(join(modelFolder, name), await readFile(new URL(`../models/demo/${name}`, import.meta.url)));
}

// The pairs, not halved: PAIRS is one split of a public set.
const checkpoint = await openCheckpoint(await openFolder(modelFolder));
const tokenizer = loadTokenizer(checkpoint.tokenizer, checkpoint.tokenizerConfig);
const kept = tokenizePairs(pairs, tokenizer).kept.map((one) => ({ ...one, pair: { ...one.pair, split: "train" } }));
await writeFile(join(folder, "pairs.jsonl"), writePairs(kept.map(({ pair }) => pair)));

// Activations at every prefix that differs between a clean and its patch prompt: there codes are needed.
const D = config.hidden_size;
const sites = Array.from({ length: config.num_hidden_layers }, (_, layer) => `resid_post.${layer}`);
const plan = planCapture(prefixForest(kept), { wanted: "changed" });
const captured = await capture(loadedModel(model, streamedWeights(checkpoint)), plan, { sites });
await checkpoint.close();

/**
 * A threshold for one feature, from its pre-activations z > 0: between the ones that make it active on its share of n prefixes, in the widest gap
 * near there. So no z lies within rounding of a threshold, and two programs that add in different orders have the same features active.
 */
function thresholdOf(z, n) {
  z.sort((a, b) => b - a);
  const rank = Math.round((n * L0) / F);
  const [first, last] = [Math.max(1, Math.floor(rank * 0.8)), Math.ceil(rank * 1.2)];
  // With too few positive ones all of them are active.
  if (z.length <= last) return z.length > 0 ? z.at(-1) / 2 : 1;
  let best = first;
  for (let i = first; i <= last; i++) if (z[i - 1] - z[i] > z[best - 1] - z[best]) best = i;
  return (z[best - 1] + z[best]) / 2;
}

let total = 0;
let narrowest = Number.POSITIVE_INFINITY;
const codes = codeReader();
for (const [layer, site] of sites.entries()) {
  const { x } = await captured.site(site);
  const n = x.length / D;
  const mean = new Float32Array(D);
  for (let i = 0; i < x.length; i++) mean[i % D] += x[i] / n;
  const decoder = fill(new Float32Array(F * D), 1);
  for (let i = 0; i < F; i++) {
    const row = decoder.subarray(i * D, (i + 1) * D);
    const length = Math.hypot(...row);
    for (let d = 0; d < D; d++) row[d] /= length;
  }
  const encoder = new Float32Array(D * F);
  for (let i = 0; i < F; i++) for (let d = 0; d < D; d++) encoder[d * F + i] = decoder[i * D + d];
  const threshold = new Float32Array(F);
  const tensors = [
    ["W_enc", [D, F], () => encoder],
    ["W_dec", [F, D], () => decoder],
    ["b_enc", [F], () => new Float32Array(F)],
    // The mean activation, taken off before the encoder, as trained SAEs come to do.
    ["b_dec", [D], () => mean],
    ["threshold", [F], () => threshold],
  ];
  const path = join(saeFolder, site);
  await mkdir(path, { recursive: true });
  const settings = {
    architecture: "jumprelu",
    d_in: D,
    d_sae: F,
    dtype: "float32",
    apply_b_dec_to_input: true,
    normalize_activations: "none",
    reshape_activations: "none",
    metadata: { hook_name: `blocks.${layer}.hook_resid_post`, hook_head_index: null, model_name: "random-smollm2" },
  };
  await writeFile(join(path, "cfg.json"), JSON.stringify(settings, null, 2));
  const weights = join(path, "sae_weights.safetensors");
  await writeSafetensors(weights, tensors);

  // With thresholds of 0 the codes are the positive pre-activations, as the engine computes them.
  const sae = await openDictionary(await openFolder(saeFolder), `${site}/sae_weights.safetensors`);
  const positive = Array.from({ length: F }, () => []);
  for (let from = 0; from < n; from += 512) {
    const { features: feature, values } = await codes.encode(sae, x.slice(from * D, Math.min(from + 512, n) * D));
    for (let i = 0; i < feature.length; i++) positive[feature[i]].push(values[i]);
  }
  await sae.close();
  for (const [i, z] of positive.entries()) {
    threshold[i] = thresholdOf(z, n);
    for (const value of z) {
      if (value > threshold[i]) total++;
      narrowest = Math.min(narrowest, Math.abs(value - threshold[i]) / z[0]);
    }
  }
  await writeSafetensors(weights, tensors);
}
await codes.release();
const { rows } = plan;
console.log(
  `${folder}: ${kept.length} of ${pairs.length} pairs, ${rows} prefixes; ${sites.length} SAEs of ${F} features`,
);
console.log(
  `mean L0 ${(total / rows / sites.length).toFixed(1)}; no pre-activation nearer to a threshold than ${narrowest.toExponential(1)} of its feature's largest`,
);
