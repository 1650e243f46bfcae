import type { Tensor } from "../graph/tensor.ts";
import type { ConfigReader } from "./config.ts";
import { attention, geluTanh, linear, oncePerContext, rmsNorm, rotary, rotate, unembedding } from "./layers.ts";
import { blockParameters, blockTap, type Model, type Weights } from "./model.ts";
import { turning } from "./rope.ts";

/**
 * Gemma (arXiv:2403.08295): embeddings times √D, RMSNorm whose weight counts from 1, rotary positions, GeGLU, unembedding as a rule tied to the embedding.
 *
 * @param c reads config.json of a checkpoint with `model_type` gemma
 * @throws UserError for a field that is not understood
 */
export function gemma(c: ConfigReader): Model {
  const D = c.count("hidden_size");
  const F = c.count("intermediate_size");
  const L = c.layers("num_hidden_layers");
  const H = c.count("num_attention_heads");
  const K = c.divisor("num_key_value_heads", H);
  const E = c.even("head_dim", 256);
  const V = c.count("vocab_size");
  const maxLength = c.length("max_position_embeddings", 8192);
  const epsilon = c.positive("rms_norm_eps", 1e-6);
  const embeddingScale = c.rounded(Math.sqrt(D));
  const turns = turning(c.rope(10_000, maxLength), E);
  // The first configs say "gelu" and mean its approximation.
  c.only("hidden_act", "gelu", "gelu_pytorch_tanh");
  c.only("hidden_activation", "gelu_pytorch_tanh");
  c.only("attention_bias", false);
  c.only("use_bidirectional_attention", false);
  const tied = c.flag("tie_word_embeddings", true);

  const ropeOf = oncePerContext((context) => rotary(context, E, turns));
  const norm = (w: Weights, name: string, x: Tensor) => rmsNorm(x, w(`${name}.weight`).add(1), epsilon);

  return {
    modelType: "gemma",
    width: D,
    vocabulary: V,
    maxLength,
    sites: { embed: D, attn_z: H * E, attn_out: D, mlp_act: F, mlp_out: D, resid_post: D },
    // Before transformers 5 the embedding's module left the factor √D out.
    moduleSites: ["attn_out", "mlp_out", "resid_post"],
    ignoresMean: false,
    valueBias: false,
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
        },
        after: { "model.norm.weight": [D], ...(tied ? {} : { "lm_head.weight": [V, D] }) },
      },
      L,
    ),

    embed: (w, { tokens }) => w("model.embed_tokens.weight").gather(tokens).mul(embeddingScale),

    block(weights, layer, x, context, tap) {
      const w = (name: string) => weights(`model.layers.${layer}.${name}`);
      const site = blockTap(tap, layer);
      const rope = ropeOf(context);

      const h = norm(w, "input_layernorm", x);
      const q = rotate(linear(w, "self_attn.q_proj", h), H, rope);
      const k = rotate(linear(w, "self_attn.k_proj", h), K, rope);
      const v = linear(w, "self_attn.v_proj", h);
      const z = site("attn_z", attention(q, k, v, context, { heads: H, keyHeads: K, scale: E ** -0.5 }));
      const middle = x.add(site("attn_out", linear(w, "self_attn.o_proj", z)));

      const m = norm(w, "post_attention_layernorm", middle);
      const neurons = site("mlp_act", geluTanh(linear(w, "mlp.gate_proj", m)).mul(linear(w, "mlp.up_proj", m)));
      return site("resid_post", middle.add(site("mlp_out", linear(w, "mlp.down_proj", neurons))));
    },

    ...unembedding(tied ? "model.embed_tokens.weight" : "lm_head.weight", (w, x) => norm(w, "model.norm", x)),
  };
}
