// Writes a checkpoint of Gemma 2 2B's shape with random weights (2.6 billion parameters in bfloat16, 5.2 GB), to measure the engine with where the real
// weights cannot be had: node bench/random-gemma-2-2b.mjs FOLDER [seed]
import { mkdir, open, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { modelFromConfig } from "analytic-sfc/models";

const [folder, seed = "1"] = process.argv.slice(2);
if (!folder) throw new Error("usage: node bench/random-gemma-2-2b.mjs FOLDER [seed]");

const config = {
  model_type: "gemma2",
  vocab_size: 256_000,
  hidden_size: 2304,
  intermediate_size: 9216,
  num_hidden_layers: 26,
  num_attention_heads: 8,
  num_key_value_heads: 4,
  head_dim: 256,
  query_pre_attn_scalar: 256,
  attn_logit_softcapping: 50,
  final_logit_softcapping: 30,
  sliding_window: 4096,
  max_position_embeddings: 8192,
  rms_norm_eps: 1e-6,
  rope_theta: 10_000,
  hidden_activation: "gelu_pytorch_tanh",
  torch_dtype: "bfloat16",
};

/** The two bytes of a bfloat16, from a 32-bit generator (xorshift) whose four bytes add up to something near a normal distribution. */
function generator(seed) {
  let state = (Number(seed) * 2654435761 + 1) >>> 0 || 1;
  const float = new Float32Array(1);
  const word = new Uint32Array(float.buffer);
  // The sum of four bytes has mean 510 and deviation 147.8; one rounded value for each of its 1,021 sums.
  return (out, deviation) => {
    const table = Uint16Array.from({ length: 1021 }, (_, sum) => {
      float[0] = ((sum - 510) / 147.8) * deviation;
      return word[0] >>> 16;
    });
    for (let i = 0; i < out.length; i++) {
      state ^= state << 13;
      state ^= state >>> 17;
      state ^= state << 5;
      out[i] = table[(state & 255) + ((state >>> 8) & 255) + ((state >>> 16) & 255) + (state >>> 24)];
    }
  };
}

await mkdir(folder, { recursive: true });
const model = modelFromConfig(config, folder);
const header = {};
let offset = 0;
for (const [name, shape] of model.parameters) {
  const length = 2 * shape.reduce((a, b) => a * b, 1);
  header[name] = { dtype: "BF16", shape, data_offsets: [offset, offset + length] };
  offset += length;
}
const text = Buffer.from(JSON.stringify(header));
const padded = Buffer.concat([text, Buffer.alloc((8 - (text.length % 8)) % 8, " ")]);
const size = Buffer.alloc(8);
size.writeBigUInt64LE(BigInt(padded.length));

const file = await open(join(folder, "model.safetensors"), "w");
await file.write(size);
await file.write(padded);
const fill = generator(seed);
const piece = new Uint16Array(2 ** 22);
for (const shape of model.parameters.values()) {
  // Matrices keep the size of what they multiply; norms are near 1 (Gemma adds the 1).
  const deviation = shape.length === 1 ? 0.1 : shape[1] ** -0.5;
  for (let left = shape.reduce((a, b) => a * b, 1); left > 0; left -= piece.length) {
    const part = piece.subarray(0, Math.min(left, piece.length));
    fill(part, deviation);
    await file.write(new Uint8Array(part.buffer, 0, 2 * part.length));
  }
}
await file.close();
await writeFile(join(folder, "config.json"), JSON.stringify(config, null, 2));
// The embedded model's tokenizer: its tokens are a small part of the vocabulary, and the words of the public pairs are single tokens in it.
for (const name of ["tokenizer.json", "tokenizer_config.json"]) {
  const from = new URL(`../models/demo/${name}`, import.meta.url);
  await writeFile(join(folder, name), await readFile(from)).catch(() => {});
}
console.log(`${folder}: ${(offset / 1e9).toFixed(2)} GB of weights, seed ${seed}`);
