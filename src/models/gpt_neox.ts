import type { Tensor } from "../graph/tensor.ts";
import type { ConfigReader } from "./config.ts";
import { activations, attention, layerNorm, linear, oncePerContext, rotary, rotate, unembedding } from "./layers.ts";
import { blockParameters, blockTap, type Model } from "./model.ts";
import { turning } from "./rope.ts";

/**
 * GPT-NeoX (arXiv:2204.06745), the architecture of Pythia: attention and MLP side by side on the same input (or one after the other, as the config
 * says), a share of each head's axes turns with the position, queries, keys and values from one matrix, head by head.
 *
 * @param c reads config.json of a checkpoint with `model_type` gpt_neox
 * @throws UserError for a field that is not understood
 */
export function gptNeox(c: ConfigReader): Model {
  const D = c.count("hidden_size");
  const F = c.count("intermediate_size");
  const L = c.layers("num_hidden_layers");
  const H = c.count("num_attention_heads");
  const E = c.count("head_dim", D / H);
  const V = c.count("vocab_size");
  const maxLength = c.length("max_position_embeddings", 2048);
  const epsilon = c.positive("layer_norm_eps", 1e-5);
  const rope = c.rope(10_000, maxLength, {
    field: "rotary_emb_base",
    share: { field: "rotary_pct", byDefault: 0.25 },
  });
  const share = rope.numbers.partial_rotary_factor!;
  const parallel = c.flag("use_parallel_residual", true);
  const activation = c.choice("hidden_act", "gelu", activations);
  const tied = c.flag("tie_word_embeddings", false);
  c.only("head_dim", D / H);
  c.only("rope_theta", rope.base);
  c.only("partial_rotary_factor", share);
  c.only("attention_bias", true);

  const turns = turning(rope, Math.floor(E * share));
  const ropeOf = oncePerContext((context) => rotary(context, E, turns));

  return {
    modelType: "gpt_neox",
    width: D,
    vocabulary: V,
    maxLength,
    sites: { embed: D, attn_z: D, attn_out: D, mlp_act: F, mlp_out: D, resid_post: D },
    moduleSites: ["embed", "attn_out", "mlp_out", "resid_post"],
    ignoresMean: true,
    valueBias: true,
    heads: H,
    tokenTables: ["gpt_neox.embed_in.weight", "embed_out.weight"],
    attentionFlops: 4 * L * D,
    ...blockParameters(
      {
        before: { "gpt_neox.embed_in.weight": [V, D] },
        prefix: "gpt_neox.layers",
        block: {
          "input_layernorm.weight": [D],
          "input_layernorm.bias": [D],
          "post_attention_layernorm.weight": [D],
          "post_attention_layernorm.bias": [D],
          "attention.query_key_value.weight": [3 * D, D],
          "attention.query_key_value.bias": [3 * D],
          "attention.dense.weight": [D, D],
          "attention.dense.bias": [D],
          "mlp.dense_h_to_4h.weight": [F, D],
          "mlp.dense_h_to_4h.bias": [F],
          "mlp.dense_4h_to_h.weight": [D, F],
          "mlp.dense_4h_to_h.bias": [D],
        },
        after: {
          "gpt_neox.final_layer_norm.weight": [D],
          "gpt_neox.final_layer_norm.bias": [D],
          ...(tied ? {} : { "embed_out.weight": [V, D] }),
        },
      },
      L,
    ),

    embed: (w, { tokens }) => w("gpt_neox.embed_in.weight").gather(tokens),

    block(weights, layer, x, context, tap) {
      const w = (name: string) => weights(`gpt_neox.layers.${layer}.${name}`);
      const site = blockTap(tap, layer);
      const turned = ropeOf(context);
      const N = x.shape[0]!;

      const h = layerNorm(w, "input_layernorm", x, epsilon);
      const qkv = linear(w, "attention.query_key_value", h, { bias: true }).reshape(N, H, 3, E);
      const [q, k, v] = [0, 1, 2].map((i) => qkv.slice(2, i, i + 1).reshape(N, D)) as [Tensor, Tensor, Tensor];
      const heads = { heads: H, scale: E ** -0.5 };
      const z = site("attn_z", attention(rotate(q, H, turned), rotate(k, H, turned), v, context, heads));
      const middle = x.add(site("attn_out", linear(w, "attention.dense", z, { bias: true })));

      const m = layerNorm(w, "post_attention_layernorm", parallel ? x : middle, epsilon);
      const neurons = site("mlp_act", activation(linear(w, "mlp.dense_h_to_4h", m, { bias: true })));
      return site("resid_post", middle.add(site("mlp_out", linear(w, "mlp.dense_4h_to_h", neurons, { bias: true }))));
    },

    ...unembedding(tied ? "gpt_neox.embed_in.weight" : "embed_out.weight", (w, x) =>
      layerNorm(w, "gpt_neox.final_layer_norm", x, epsilon),
    ),
  };
}
