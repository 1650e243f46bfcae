import type { Activation, Dictionary, Normalization } from "../src/dictionaries/dictionary.ts";
import { Random } from "../src/random.ts";
import type { SiteName } from "../src/site.ts";

/** A dictionary of random weights: unit decoder rows, an encoder that is not their transpose, all biases at work. */
export function randomDictionary(
  site: SiteName,
  D: number,
  F: number,
  seed: string,
  {
    kind = "jumprelu",
    threshold = 0.5,
    normalization,
  }: { kind?: Activation["kind"]; threshold?: number; normalization?: Normalization } = {},
): Dictionary {
  const random = new Random(`${seed}/${site}`);
  const normal = (n: number, scale: number) => Float32Array.from({ length: n }, () => scale * random.normal());
  const weight = normal(D * F, D ** -0.5);
  const decoder = normal(F * D, D ** -0.5);
  const [bias, decoderBias] = [normal(F, 0.3), normal(D, 0.2)];
  const activations: { readonly [K in Activation["kind"]]: () => Activation } = {
    relu: () => ({ kind: "relu" }),
    jumprelu: () => ({ kind: "jumprelu", threshold: normal(F, threshold).map((t) => Math.abs(t)) }),
    topk: () => ({ kind: "topk", k: F >> 3 }),
    identity: () => ({ kind: "identity" }),
  };
  const activation = activations[kind]();
  return {
    name: `random ${site}`,
    reads: site,
    writes: site,
    inputWidth: D,
    outputWidth: D,
    featureCount: F,
    kind,
    ...(normalization && { normalization }),
    encoder: async () => ({
      weight,
      bias,
      inputBias: decoderBias,
      activation,
      ...(normalization && { normalization }),
    }),
    decoder: async () => decoder,
    decoderRows: async (features) =>
      Float32Array.from(Array.from(features).flatMap((i) => [...decoder.subarray(i * D, (i + 1) * D)])),
    decoderBias: async () => decoderBias,
    sha256: async () => "",
    close: async () => {},
  };
}
