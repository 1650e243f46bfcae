import { writeSafetensors } from "../src/bytes/safetensors.ts";
import type { Dictionary } from "../src/dictionaries/dictionary.ts";
import { constant } from "../src/graph/tensor.ts";
import { modelFromConfig } from "../src/models/architectures.ts";
import type { Model, Weights } from "../src/models/model.ts";
import { type LoadedModel, loadedModel } from "../src/models/weights.ts";
import type { PromptPair, TokenPair } from "../src/prompts/pairs.ts";
import type { SiteName } from "../src/site.ts";

/** A Llama whose blocks add nothing, so that its logits can be worked out by hand. */
export interface Toy {
  readonly config: Readonly<Record<string, unknown>>;
  readonly model: Model;
  readonly weights: Weights;
  readonly loaded: LoadedModel;
  /** Its model.safetensors. */
  readonly file: Uint8Array;
}

/**
 * A Llama of L blocks with all matrices 0 but embedding and unembedding: the residual stream is the last token's embedding throughout, and the
 * logit of a token is ⟨unembedding, x / √mean(x²)⟩. Scaling does not change which of two logits is larger.
 *
 * @param embedding one row of an even number D of coordinates per token
 * @param unembedding the rows of the tokens that have one; all others are 0
 */
export function toyModel(
  embedding: readonly (readonly number[])[],
  unembedding: ReadonlyMap<number, readonly number[]>,
  L: number,
): Toy {
  const [V, D] = [embedding.length, embedding[0]!.length];
  const config = {
    model_type: "llama",
    hidden_size: D,
    intermediate_size: 2,
    num_hidden_layers: L,
    num_attention_heads: 1,
    num_key_value_heads: 1,
    vocab_size: V,
    tie_word_embeddings: false,
  };
  const model = modelFromConfig(config, "toy");
  const rows = (of: (token: number) => readonly number[] | undefined) =>
    Float32Array.from(embedding.flatMap((_, token) => of(token) ?? Array(D).fill(0)));
  const data = (name: string, size: number): Float32Array => {
    if (name === "model.embed_tokens.weight") return rows((token) => embedding[token]);
    if (name === "lm_head.weight") return rows((token) => unembedding.get(token));
    return new Float32Array(size).fill(name.includes("norm") ? 1 : 0);
  };
  const tensors = new Map(
    [...model.parameters].map(([name, shape]) => [
      name,
      {
        shape,
        data: data(
          name,
          shape.reduce((a, b) => a * b, 1),
        ),
      },
    ]),
  );
  const constants = new Map([...tensors].map(([name, t]) => [name, constant(t.data, "float32", t.shape, name)]));
  const weights: Weights = (name) => constants.get(name)!;
  return { config, model, weights, loaded: loadedModel(model, weights), file: writeSafetensors(tensors) };
}

/** A dictionary whose features are the coordinates: f = max(0, x), d_i = e_i. */
export function coordinates(site: SiteName, D: number): Dictionary {
  const unit = new Float32Array(D * D);
  for (let i = 0; i < D; i++) unit[i * D + i] = 1;
  return handDictionary(site, unit, unit, D);
}

/** A ReLU dictionary without biases. @param weight [D,F] @param decoder [F,D] */
export function handDictionary(site: SiteName, weight: Float32Array, decoder: Float32Array, D: number): Dictionary {
  const F = decoder.length / D;
  return {
    name: `hand ${site}`,
    reads: site,
    writes: site,
    inputWidth: D,
    outputWidth: D,
    featureCount: F,
    kind: "relu",
    encoder: async () => ({ weight, bias: new Float32Array(F), activation: { kind: "relu" } }),
    decoder: async () => decoder,
    decoderRows: async (features) =>
      Float32Array.from(Array.from(features).flatMap((i) => [...decoder.subarray(i * D, (i + 1) * D)])),
    decoderBias: async () => new Float32Array(D),
    sha256: async () => "",
    close: async () => {},
  };
}

/** A pair of token ids. */
export function tokenPair(
  clean: readonly number[],
  patch: readonly number[],
  [cleanAnswer, patchAnswer]: readonly [number, number],
  { case: name = "a", split = "train" }: Partial<Pick<PromptPair, "case" | "split">> = {},
): TokenPair {
  const texts = { clean_prefix: clean.join(" "), patch_prefix: patch.join(" "), clean_answer: "", patch_answer: "" };
  return { pair: { ...texts, case: name, split }, clean, patch, cleanAnswer, patchAnswer };
}
