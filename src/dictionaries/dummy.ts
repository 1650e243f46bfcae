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
 * @param D length of the site's activations
 * @param F number of features
 * @param seed equal seeds give equal rows, each row from a stream of its own
 */
export function dummyDictionary(site: SiteName, D: number, F: number, seed: number | string): Dictionary {
  const stream = `${seed}/dummy/${site}`;
  const row = (feature: number): Float32Array => {
    if (!Number.isInteger(feature) || feature < 0 || feature >= F) {
      throw new UserError(`feature: expected 0 to ${F - 1}, got ${feature} of the dummy dictionary of ${site}.`);
    }
    const random = new Random(`${stream}/${feature}`);
    const direction = Float64Array.from({ length: D }, () => random.normal());
    const norm = Math.sqrt(direction.reduce((sum, x) => sum + x * x, 0));
    return Float32Array.from(direction, (x) => x / norm);
  };
  const rows = (features: ArrayLike<number>): Float32Array => {
    const out = new Float32Array(features.length * D);
    for (let n = 0; n < features.length; n++) out.set(row(features[n]!), n * D);
    return out;
  };
  const decoder = () => rows(Array.from({ length: F }, (_, i) => i));
  return {
    name: "dummy (random unit decoder rows)",
    reads: site,
    writes: site,
    inputWidth: D,
    outputWidth: D,
    featureCount: F,
    kind: "topk",
    meanActive: Math.min(dummyK, F),
    async encoder() {
      return {
        weight: transposed(decoder(), F, D),
        bias: new Float32Array(F),
        activation: { kind: "topk", k: Math.min(dummyK, F) },
      };
    },
    decoder: async () => decoder(),
    decoderRows: async (features) => rows(features),
    decoderBias: async () => new Float32Array(D),
    sha256: async () => sha256OfText(`${stream} ${D} ${F}`),
    async close() {},
  };
}

function transposed(matrix: Float32Array, rows: number, columns: number): Float32Array {
  const out = new Float32Array(matrix.length);
  for (let r = 0; r < rows; r++) for (let c = 0; c < columns; c++) out[c * rows + r] = matrix[r * columns + c]!;
  return out;
}
