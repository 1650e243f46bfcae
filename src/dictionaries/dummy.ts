import { sha256OfText } from "../bytes/sha256.ts";
import { UserError } from "../errors.ts";
import { Random } from "../random.ts";
import type { SiteName } from "../site.ts";
import type { Dictionary } from "./dictionary.ts";

/** How many features of a token a dummy dictionary lets through. */
const dummyK = 32;

/**
 * A dictionary that stands for none: random directions of length 1 as decoder rows, the encoder their transpose, no biases, the 32 largest codes
 * kept. It runs through everything a real one does and means nothing; its name says so.
 *
 * @param inputWidth D
 * @param width F
 * @param seed equal seeds give equal rows, each row from a stream of its own
 */
export function dummyDictionary(site: SiteName, inputWidth: number, width: number, seed: number | string): Dictionary {
  const stream = `${seed}/dummy/${site}`;
  const row = (feature: number): Float32Array => {
    if (!Number.isInteger(feature) || feature < 0 || feature >= width) {
      throw new UserError(`feature: expected 0 to ${width - 1}, got ${feature} of the dummy dictionary of ${site}.`);
    }
    const random = new Random(`${stream}/${feature}`);
    const direction = Float64Array.from({ length: inputWidth }, () => random.normal());
    const norm = Math.sqrt(direction.reduce((sum, x) => sum + x * x, 0));
    return Float32Array.from(direction, (x) => x / norm);
  };
  const rows = (features: ArrayLike<number>): Float32Array => {
    const out = new Float32Array(features.length * inputWidth);
    for (let n = 0; n < features.length; n++) out.set(row(features[n]!), n * inputWidth);
    return out;
  };
  const decoder = () => rows(Array.from({ length: width }, (_, i) => i));
  return {
    name: "dummy (random unit decoder rows)",
    site,
    inputWidth,
    featureCount: width,
    kind: "topk",
    meanActive: Math.min(dummyK, width),
    async encoder() {
      return {
        weight: transposed(decoder(), width, inputWidth),
        bias: new Float32Array(width),
        activation: { kind: "topk", k: Math.min(dummyK, width) },
      };
    },
    decoder: async () => decoder(),
    decoderRows: async (features) => rows(features),
    decoderBias: async () => new Float32Array(inputWidth),
    sha256: async () => sha256OfText(`${stream} ${inputWidth} ${width}`),
    async close() {},
  };
}

function transposed(matrix: Float32Array, rows: number, columns: number): Float32Array {
  const out = new Float32Array(matrix.length);
  for (let r = 0; r < rows; r++) for (let c = 0; c < columns; c++) out[c * rows + r] = matrix[r * columns + c]!;
  return out;
}
