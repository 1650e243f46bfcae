// Codes of one wide random SAE by bounds and by the dense product: node bench/wide-dictionaries.mjs [features] [rows] [L0] [random|sparse] [threads] [D]
// `random`: activations without structure, thresholds where L0 features are active, the hardest case for the bound. `sparse`: sums of L0 decoder rows.
import { codeReader } from "analytic-sfc/effects";

const [features = "65536", rows = "10000", active = "100", kind = "sparse", threads = "1", width = "2304"] =
  process.argv.slice(2);
const [F, n, L0, D] = [Number(features), Number(rows), Number(active), Number(width)];

let state = 0x9e3779b9;
/** A roughly normal number: the four bytes of a 32-bit generator added up. */
function normal() {
  state ^= state << 13;
  state ^= state >>> 17;
  state ^= state << 5;
  return ((state & 255) + ((state >>> 8) & 255) + ((state >>> 16) & 255) + (state >>> 24) - 510) / 147.8;
}

/** z above which a normal number lies with probability p. */
function normalTail(p) {
  let [z, tail] = [8, 0];
  for (; tail < p; z -= 1e-4) tail += (Math.exp((-z * z) / 2) * 1e-4) / Math.sqrt(2 * Math.PI);
  return z;
}

const directions = Float32Array.from({ length: F * D }, () => normal() / Math.sqrt(D));
const weight = new Float32Array(D * F);
for (let from = 0; from < F; from += 64) {
  const end = Math.min(F, from + 64);
  for (let d = 0; d < D; d++) for (let i = from; i < end; i++) weight[d * F + i] = directions[i * D + d];
}
const x = new Float32Array(n * D);
let threshold = normalTail(L0 / F);
if (kind === "random") for (let i = 0; i < x.length; i++) x[i] = normal();
else {
  // Other features' directions add up to normal numbers of size √(L0/D); half of a tenth of the active ones come from them.
  threshold = Math.max(0.5, normalTail(L0 / 20 / F) * Math.sqrt(L0 / D));
  for (let r = 0; r < n; r++) {
    const row = x.subarray(r * D, (r + 1) * D);
    for (let k = 0; k < L0; k++) {
      normal();
      const at = Math.floor(F * ((state >>> 0) / 2 ** 32) ** 3) * D;
      const code = threshold + 0.25 * Math.abs(normal());
      for (let d = 0; d < D; d++) row[d] += code * directions[at + d];
    }
  }
}
const bias = new Float32Array(F);
const thresholds = new Float32Array(F).fill(threshold);
const dictionary = {
  reads: "resid_post.0",
  writes: "resid_post.0",
  inputWidth: D,
  outputWidth: D,
  featureCount: F,
  kind: "jumprelu",
  encoder: async () => ({ weight, bias, activation: { kind: "jumprelu", threshold: thresholds } }),
  encoderPart: async (first, end) => ({
    rows: directions.subarray(first * D, end * D),
    bias: bias.subarray(first, end),
    activation: { kind: "jumprelu", threshold: thresholds.subarray(first, end) },
  }),
};

async function measure(name, wide) {
  const reader = codeReader({ threads: Number(threads), wide });
  await reader.encode(dictionary, x.subarray(0, 2 * D));
  const [began, before] = [performance.now(), process.cpuUsage()];
  const codes = await reader.encode(dictionary, x);
  const { user, system } = process.cpuUsage(before);
  const [cpu, wall] = [(user + system) / 1e6, (performance.now() - began) / 1e3];
  await reader.release();
  console.log(
    `${name}: ${cpu.toFixed(2)} s of processor time, ${wall.toFixed(2)} s, L0 ${(codes.features.length / n).toFixed(1)}`,
  );
  return { codes, cpu, wall };
}

const bounds = await measure("bounds", { bytes: 0, gain: Infinity });
const dense = await measure("dense", { bytes: Infinity, gain: Infinity });
const chosen = await measure("as chosen by default", undefined);
const bytes = ({ buffer, byteOffset, byteLength }) => Buffer.from(buffer, byteOffset, byteLength);
const same = ["offsets", "features", "values"].every((part) =>
  [bounds, chosen].every(({ codes }) => bytes(codes[part]).equals(bytes(dense.codes[part]))),
);
console.log(
  `${F} × ${D}, ${n} rows, ${kind}, ${threads} threads: ${same ? "the same bits" : "DIFFERENT"}, dense ÷ bounds ${(dense.cpu / bounds.cpu).toFixed(2)} in processor time, ${(dense.wall / bounds.wall).toFixed(2)} elapsed`,
);
