import { sha256OfText } from "../bytes/sha256.ts";
import { UserError } from "../errors.ts";
import type { SiteName } from "../site.ts";
import type { Dictionary } from "./dictionary.ts";

/**
 * The numbers of a site's activation as if they were features: f = x, signed, with unit vectors as decoder rows, no biases and no error. What is found
 * with it is found for the basis of the residual stream, or at `mlp_act` for neurons, on the same axes as for SAEs.
 *
 * @param width D of the site
 */
export function identityDictionary(site: SiteName, width: number): Dictionary {
  const rows = (features: ArrayLike<number>): Float32Array => {
    const out = new Float32Array(features.length * width);
    for (let s = 0; s < features.length; s++) {
      const i = features[s]!;
      if (!Number.isInteger(i) || i < 0 || i >= width) {
        throw new UserError(`feature: expected 0 to ${width - 1}, got ${i} of the basis of ${site}.`);
      }
      out[s * width + i] = 1;
    }
    return out;
  };
  const matrix = () => rows(Array.from({ length: width }, (_, i) => i));
  return {
    name: "basis (single numbers of the activation)",
    reads: site,
    writes: site,
    inputWidth: width,
    outputWidth: width,
    featureCount: width,
    kind: "identity",
    meanActive: width,
    encoder: async () => ({ weight: matrix(), bias: new Float32Array(width), activation: { kind: "identity" } }),
    decoder: async () => matrix(),
    decoderRows: async (features) => rows(features),
    decoderBias: async () => new Float32Array(width),
    sha256: async () => sha256OfText(`basis/${site}/${width}`),
    async close() {},
  };
}
