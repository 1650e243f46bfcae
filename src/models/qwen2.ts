import type { ConfigReader } from "./config.ts";
import { attention, linear, oncePerContext, rmsNorm, rotary, rotate, silu, unembedding, windowed } from "./layers.ts";
import { blockParameters, blockTap, type Model } from "./model.ts";
import { turning } from "./rope.ts";

/**
 * Qwen 2 and 2.5 (arXiv:2407.10671): Llama with biases on queries, keys and values, and the upper blocks' attention windowed if the config says so.
 *
 * @param c reads config.json of a checkpoint with `model_type` qwen2
 * @throws UserError for a field that is not understood
 */
export function qwen2(c: ConfigReader): Model {
  const D = c.count("hidden_size");
  const F = c.count("intermediate_size");
  const L = c.layers("num_hidden_layers");
  const H = c.count("num_attention_heads");
  const K = c.divisor("num_key_value_heads", H, H);
  const E = c.even("head_dim", D / H);
  const V = c.count("vocab_size");
  const maxLength = c.length("max_position_embeddings", 32_768);
  const epsilon = c.positive("rms_norm_eps", 1e-6);
  const turns = turning(c.rope(10_000, maxLength), E);
  const tied = c.flag("tie_word_embeddings", false);
  const windows = c.flag("use_sliding_window", false) && !c.isNone("sliding_window");
  const window = windows ? c.length("sliding_window", 4096) : Number.POSITIVE_INFINITY;
  const firstWindowed = windows ? c.length("max_window_layers", 28) : L;
  const isWindowed = c.windowed(L, (layer) => layer >= firstWindowed);
  c.without("sliding_window", "max_window_layers");
  c.only("hidden_act", "silu");
  c.only("attention_bias", true);
  c.only("mlp_bias", false);

  const ropeOf = oncePerContext((context) => rotary(context, E, turns));
  const windowedOf = oncePerContext((context) => windowed(context, window));

  return {
    modelType: "qwen2",
    width: D,
    vocabulary: V,
    maxLength,
    sites: { embed: D, attn_z: H * E, attn_out: D, mlp_act: F, mlp_out: D, resid_post: D },
    moduleSites: ["embed", "attn_out", "mlp_out", "resid_post"],
    ignoresMean: false,
    valueBias: true,
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
          "self_attn.q_proj.bias": [H * E],
          "self_attn.k_proj.weight": [K * E, D],
          "self_attn.k_proj.bias": [K * E],
          "self_attn.v_proj.weight": [K * E, D],
          "self_attn.v_proj.bias": [K * E],
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

    embed: (w, { tokens }) => w("model.embed_tokens.weight").gather(tokens),

    block(weights, layer, x, context, tap) {
      const w = (name: string) => weights(`model.layers.${layer}.${name}`);
      const site = blockTap(tap, layer);
      const rope = ropeOf(context);
      const seen = isWindowed[layer] ? windowedOf(context) : context;

      const h = rmsNorm(x, w("input_layernorm.weight"), epsilon);
      const q = rotate(linear(w, "self_attn.q_proj", h, { bias: true }), H, rope);
      const k = rotate(linear(w, "self_attn.k_proj", h, { bias: true }), K, rope);
      const v = linear(w, "self_attn.v_proj", h, { bias: true });
      const z = site("attn_z", attention(q, k, v, seen, { heads: H, keyHeads: K, scale: E ** -0.5 }));
      const middle = x.add(site("attn_out", linear(w, "self_attn.o_proj", z)));

      const m = rmsNorm(middle, w("post_attention_layernorm.weight"), epsilon);
      const neurons = site("mlp_act", silu(linear(w, "mlp.gate_proj", m)).mul(linear(w, "mlp.up_proj", m)));
      return site("resid_post", middle.add(site("mlp_out", linear(w, "mlp.down_proj", neurons))));
    },

    ...unembedding(tied ? "model.embed_tokens.weight" : "lm_head.weight", (w, x) =>
      rmsNorm(x, w("model.norm.weight"), epsilon),
    ),
  };
}
