// Writes SAEs in Gemma Scope's layout with random directions for a model in a folder: node bench/random-gemma-scope.mjs MODEL FOLDER [features] [L0]
// Thresholds are set where random activations of the model's own size would have the wanted mean number of active features.
import { mkdir, open } from "node:fs/promises";
import { join } from "node:path";
import { crc32 } from "node:zlib";
import { agreementPairs, demoLexicon } from "analytic-sfc";
import { capture, loadTokenizer, planCapture, prefixForest, tokenizePairs } from "analytic-sfc/capture";
import { loadedModel, modelFromConfig, openCheckpoint, openFolder, streamedWeights } from "analytic-sfc/models";

const [modelFolder, folder, features = "16384", active = "100"] = process.argv.slice(2);
if (!folder) throw new Error("usage: node bench/random-gemma-scope.mjs MODEL FOLDER [features] [L0]");
const [F, L0] = [Number(features), Number(active)];

const checkpoint = await openCheckpoint(await openFolder(modelFolder));
const model = modelFromConfig(checkpoint.config, modelFolder);
const tokenizer = loadTokenizer(checkpoint.tokenizer, checkpoint.tokenizerConfig);
const D = model.width;
const sites = Array.from({ length: model.layers }, (_, layer) => `resid_post.${layer}`);
const pairs = agreementPairs({
  lexicon: demoLexicon,
  seed: 1,
  perCase: 4,
  split: "train",
  cases: ["simple_plural"],
});
const { kept } = tokenizePairs(pairs, tokenizer);
const plan = planCapture(prefixForest(kept), { wanted: "clean" });
const captured = await capture(loadedModel(model, streamedWeights(checkpoint)), plan, { sites });

let state = 0x9e3779b9;
/** Roughly normal numbers: the four bytes of a 32-bit generator added up. */
function fill(out) {
  for (let i = 0; i < out.length; i++) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    out[i] = ((state & 255) + ((state >>> 8) & 255) + ((state >>> 16) & 255) + (state >>> 24) - 510) / 147.8;
  }
}

/** z above which a normal number lies with probability p, by bisection of the tail's integral. */
function normalTail(p) {
  const tail = (z) => {
    let sum = 0;
    for (let t = z; t < z + 8; t += 1e-3) sum += Math.exp((-t * t) / 2) * 1e-3;
    return sum / Math.sqrt(2 * Math.PI);
  };
  let [low, high] = [0, 8];
  for (let i = 0; i < 40; i++) {
    const middle = (low + high) / 2;
    if (tail(middle) > p) low = middle;
    else high = middle;
  }
  return low;
}

const cut = normalTail(L0 / F);
for (const [layer, site] of sites.entries()) {
  const { x } = await captured.site(site);
  const size = Math.sqrt(x.reduce((sum, v) => sum + v * v, 0) / (x.length / D));
  const decoder = new Float32Array(F * D);
  fill(decoder);
  for (let i = 0; i < decoder.length; i++) decoder[i] /= Math.sqrt(D);
  const encoder = new Float32Array(D * F);
  for (let i = 0; i < F; i++) for (let d = 0; d < D; d++) encoder[d * F + i] = decoder[i * D + d];
  // ⟨x, d⟩ of a random direction of length 1 has deviation ‖x‖/√D.
  const threshold = new Float32Array(F).fill((cut * size) / Math.sqrt(D));
  const path = join(folder, `layer_${layer}`, "width_16k", `average_l0_${L0}`);
  await mkdir(path, { recursive: true });
  await writeNpz(join(path, "params.npz"), {
    W_enc: [[D, F], encoder],
    W_dec: [[F, D], decoder],
    b_enc: [[F], new Float32Array(F)],
    b_dec: [[D], new Float32Array(D)],
    threshold: [[F], threshold],
  });
}
await checkpoint.close();
console.log(`${folder}: ${sites.length} SAEs of ${F} features`);

/** A zip of npy files, stored, as numpy.savez writes it. */
async function writeNpz(path, arrays) {
  const file = await open(path, "w");
  const central = [];
  let offset = 0;
  for (const [name, [shape, data]] of Object.entries(arrays)) {
    const text = `{'descr': '<f4', 'fortran_order': False, 'shape': (${shape.join(", ")},), }`;
    const length = Math.ceil((10 + text.length + 1) / 64) * 64 - 10;
    const head = Buffer.concat([
      Buffer.from([0x93]),
      Buffer.from("NUMPY"),
      Buffer.from([1, 0, length & 255, length >> 8]),
      Buffer.from(`${text.padEnd(length - 1)}\n`),
    ]);
    const bytes = new Uint8Array(data.buffer);
    const size = head.length + bytes.length;
    const entry = Buffer.from(`${name}.npy`);
    const common = Buffer.alloc(26);
    common.writeUInt16LE(20, 0);
    common.writeUInt32LE(crc32(bytes, crc32(head)), 10);
    common.writeUInt32LE(size, 14);
    common.writeUInt32LE(size, 18);
    common.writeUInt16LE(entry.length, 22);
    await file.write(Buffer.concat([Buffer.from("PK\x03\x04"), common, entry, head]));
    await file.write(bytes);
    const tail = Buffer.alloc(14);
    tail.writeUInt32LE(offset, 10);
    central.push(Buffer.concat([Buffer.from("PK\x01\x02\x14\x00"), common, tail, entry]));
    offset += 30 + entry.length + size;
  }
  const directory = Buffer.concat(central);
  const end = Buffer.alloc(18);
  end.writeUInt16LE(central.length, 4);
  end.writeUInt16LE(central.length, 6);
  end.writeUInt32LE(directory.length, 8);
  end.writeUInt32LE(offset, 12);
  await file.write(Buffer.concat([directory, Buffer.from("PK\x05\x06"), end]));
  await file.close();
}
