import type { Tensor } from "../graph/tensor.ts";
import type { ConfigReader } from "./config.ts";
import { activations, attention, layerNorm, unembedding } from "./layers.ts";
import { blockParameters, blockTap, type Model, type Weights } from "./model.ts";

/**
 * GPT-2 (Radford et al. 2019): LayerNorm before each part, learned positions, biases everywhere, queries, keys and values from one matrix. Matrices
 * are stored as [in,out].
 *
 * @param c reads config.json of a checkpoint with `model_type` gpt2
 * @throws UserError for a field that is not understood
 */
export function gpt2(c: ConfigReader): Model {
  const D = c.count("n_embd", 768);
  const F = c.count("n_inner", 4 * D);
  const L = c.layers("n_layer", 12);
  const H = c.count("n_head", 12);
  const E = c.count("head_dim", D / H);
  const V = c.count("vocab_size", 50_257);
  const maxLength = c.count("n_positions", 1024);
  const epsilon = c.positive("layer_norm_epsilon", 1e-5);
  c.only("head_dim", D / H);
  c.only("n_ctx", maxLength);
  const activation = c.choice("activation_function", "gelu_new", activations);
  const scale = c.flag("scale_attn_weights", true) ? E ** -0.5 : 1;
  const byDepth = c.flag("scale_attn_by_inverse_layer_idx", false);
  c.only("add_cross_attention", false);
  const tied = c.flag("tie_word_embeddings", true);
  // Says in which order and format transformers computes the scores, not what they are.
  c.without("reorder_and_upcast_attn");

  const projection = (w: Weights, name: string, x: Tensor) => x.matmul(w(`${name}.weight`)).add(w(`${name}.bias`));

  return {
    modelType: "gpt2",
    width: D,
    vocabulary: V,
    maxLength,
    sites: { embed: D, attn_z: D, attn_out: D, mlp_act: F, mlp_out: D, resid_post: D },
    // Positions are added behind the embedding's module.
    moduleSites: ["attn_out", "mlp_out", "resid_post"],
    ignoresMean: true,
    valueBias: true,
    heads: H,
    tokenTables: ["transformer.wte.weight", "lm_head.weight"],
    attentionFlops: 4 * L * D,
    ...blockParameters(
      {
        before: { "transformer.wte.weight": [V, D], "transformer.wpe.weight": [maxLength, D] },
        prefix: "transformer.h",
        block: {
          "ln_1.weight": [D],
          "ln_1.bias": [D],
          "attn.c_attn.weight": [D, 3 * D],
          "attn.c_attn.bias": [3 * D],
          "attn.c_proj.weight": [D, D],
          "attn.c_proj.bias": [D],
          "ln_2.weight": [D],
          "ln_2.bias": [D],
          "mlp.c_fc.weight": [D, F],
          "mlp.c_fc.bias": [F],
          "mlp.c_proj.weight": [F, D],
          "mlp.c_proj.bias": [D],
        },
        after: {
          "transformer.ln_f.weight": [D],
          "transformer.ln_f.bias": [D],
          ...(tied ? {} : { "lm_head.weight": [V, D] }),
        },
      },
      L,
    ),

    embed: (w, { tokens, positions }) =>
      w("transformer.wte.weight").gather(tokens).add(w("transformer.wpe.weight").gather(positions)),

    block(weights, layer, x, context, tap) {
      const w = (name: string) => weights(`transformer.h.${layer}.${name}`);
      const site = blockTap(tap, layer);

      const qkv = projection(w, "attn.c_attn", layerNorm(w, "ln_1", x, epsilon));
      const [q, k, v] = [0, D, 2 * D].map((start) => qkv.slice(-1, start, start + D));
      const z = site(
        "attn_z",
        attention(q!, k!, v!, context, { heads: H, scale: byDepth ? scale / (layer + 1) : scale }),
      );
      const middle = x.add(site("attn_out", projection(w, "attn.c_proj", z)));

      const m = layerNorm(w, "ln_2", middle, epsilon);
      const neurons = site("mlp_act", activation(projection(w, "mlp.c_fc", m)));
      return site("resid_post", middle.add(site("mlp_out", projection(w, "mlp.c_proj", neurons))));
    },

    ...unembedding(tied ? "transformer.wte.weight" : "lm_head.weight", (w, x) =>
      layerNorm(w, "transformer.ln_f", x, epsilon),
    ),
  };
}
