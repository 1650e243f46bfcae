import type { ConfigReader } from "./config.ts";
import { attention, linear, oncePerContext, rmsNorm, rotary, rotate, silu, unembedding } from "./layers.ts";
import { blockParameters, blockTap, type Model } from "./model.ts";
import { turning } from "./rope.ts";

/**
 * Llama (arXiv:2302.13971) and its likes: RMSNorm before each part, rotary positions, grouped keys (arXiv:2305.13245), SwiGLU. Some
 * have biases.
 *
 * @param c reads config.json of a checkpoint with `model_type` llama
 * @throws UserError for a field that is not understood
 */
export function llama(c: ConfigReader): Model {
  const D = c.count("hidden_size");
  const F = c.count("intermediate_size");
  const L = c.layers("num_hidden_layers");
  const H = c.count("num_attention_heads");
  const K = c.divisor("num_key_value_heads", H, H);
  const E = c.even("head_dim", D / H);
  const V = c.count("vocab_size");
  const maxLength = c.length("max_position_embeddings", 2048);
  const epsilon = c.positive("rms_norm_eps", 1e-6);
  const turns = turning(c.rope(10_000, maxLength), E);
  const tied = c.flag("tie_word_embeddings", false);
  const attentionBias = c.flag("attention_bias", false);
  const mlpBias = c.flag("mlp_bias", false);
  c.only("hidden_act", "silu");
  c.only("rope_interleaved", false);

  const ropeOf = oncePerContext((context) => rotary(context, E, turns));

  return {
    modelType: "llama",
    width: D,
    vocabulary: V,
    maxLength,
    sites: { embed: D, attn_z: H * E, attn_out: D, mlp_act: F, mlp_out: D, resid_post: D },
    moduleSites: ["embed", "attn_out", "mlp_out", "resid_post"],
    ignoresMean: false,
    valueBias: attentionBias,
    heads: H,
    tokenTables: ["model.embed_tokens.weight", "lm_head.weight"],
    attentionFlops: 4 * L * H * E,
    ...blockParameters(
      {
        before: { "model.embed_tokens.weight": [V, D] },
        prefix: "model.layers",
        block: {
          "input_layernorm.weight": [D],
          "self_attn.q_proj.weight": [H * E, D],
          "self_attn.k_proj.weight": [K * E, D],
          "self_attn.v_proj.weight": [K * E, D],
          "self_attn.o_proj.weight": [D, H * E],
          "post_attention_layernorm.weight": [D],
          "mlp.gate_proj.weight": [F, D],
          "mlp.up_proj.weight": [F, D],
          "mlp.down_proj.weight": [D, F],
          ...(attentionBias
            ? {
                "self_attn.q_proj.bias": [H * E],
                "self_attn.k_proj.bias": [K * E],
                "self_attn.v_proj.bias": [K * E],
                "self_attn.o_proj.bias": [D],
              }
            : {}),
          ...(mlpBias ? { "mlp.gate_proj.bias": [F], "mlp.up_proj.bias": [F], "mlp.down_proj.bias": [D] } : {}),
        },
        after: { "model.norm.weight": [D], ...(tied ? {} : { "lm_head.weight": [V, D] }) },
      },
      L,
    ),

    embed: (w, { tokens }) => w("model.embed_tokens.weight").gather(tokens),

    block(weights, layer, x, context, tap) {
      const w = (name: string) => weights(`model.layers.${layer}.${name}`);
      const site = blockTap(tap, layer);
      const rope = ropeOf(context);

      const h = rmsNorm(x, w("input_layernorm.weight"), epsilon);
      const q = rotate(linear(w, "self_attn.q_proj", h, { bias: attentionBias }), H, rope);
      const k = rotate(linear(w, "self_attn.k_proj", h, { bias: attentionBias }), K, rope);
      const v = linear(w, "self_attn.v_proj", h, { bias: attentionBias });
      const z = site("attn_z", attention(q, k, v, context, { heads: H, keyHeads: K, scale: E ** -0.5 }));
      const middle = x.add(site("attn_out", linear(w, "self_attn.o_proj", z, { bias: attentionBias })));

      const m = rmsNorm(middle, w("post_attention_layernorm.weight"), epsilon);
      const gate = silu(linear(w, "mlp.gate_proj", m, { bias: mlpBias }));
      const neurons = site("mlp_act", gate.mul(linear(w, "mlp.up_proj", m, { bias: mlpBias })));
      return site("resid_post", middle.add(site("mlp_out", linear(w, "mlp.down_proj", neurons, { bias: mlpBias }))));
    },

    ...unembedding(tied ? "model.embed_tokens.weight" : "lm_head.weight", (w, x) =>
      rmsNorm(x, w("model.norm.weight"), epsilon),
    ),
  };
}
