import type { Tensor } from "../graph/tensor.ts";
import type { ConfigReader } from "./config.ts";
import { attention, linear, oncePerContext, rmsNorm, rotary, rotate, silu, unembedding, windowed } from "./layers.ts";
import { blockParameters, blockTap, type Model, type Weights } from "./model.ts";
import { turning } from "./rope.ts";

/**
 * Qwen 3 (arXiv:2505.09388): Llama with norms of each head's queries and keys, and the upper blocks' attention windowed if the config says so.
 *
 * @param c reads config.json of a checkpoint with `model_type` qwen3
 * @throws UserError for a field that is not understood
 */
export function qwen3(c: ConfigReader): Model {
  const D = c.count("hidden_size");
  const F = c.count("intermediate_size");
  const L = c.layers("num_hidden_layers");
  const H = c.count("num_attention_heads");
  const K = c.divisor("num_key_value_heads", H, H);
  const E = c.even("head_dim", 128);
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
  const bias = c.flag("attention_bias", false);
  c.only("hidden_act", "silu");
  c.only("mlp_bias", false);

  const ropeOf = oncePerContext((context) => rotary(context, E, turns));
  const windowedOf = oncePerContext((context) => windowed(context, window));
  const perHead = (w: Weights, name: string, x: Tensor) => {
    const [N, width] = x.shape as [string, number];
    return rmsNorm(x.reshape(N, width / E, E), w(`${name}.weight`), epsilon).reshape(N, width);
  };

  return {
    modelType: "qwen3",
    width: D,
    vocabulary: V,
    maxLength,
    sites: { embed: D, attn_z: H * E, attn_out: D, mlp_act: F, mlp_out: D, resid_post: D },
    moduleSites: ["embed", "attn_out", "mlp_out", "resid_post"],
    ignoresMean: false,
    valueBias: bias,
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
          ...(bias
            ? {
                "self_attn.q_proj.bias": [H * E],
                "self_attn.k_proj.bias": [K * E],
                "self_attn.v_proj.bias": [K * E],
                "self_attn.o_proj.bias": [D],
              }
            : {}),
          "self_attn.q_norm.weight": [E],
          "self_attn.k_norm.weight": [E],
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
      const q = rotate(perHead(w, "self_attn.q_norm", linear(w, "self_attn.q_proj", h, { bias })), H, rope);
      const k = rotate(perHead(w, "self_attn.k_norm", linear(w, "self_attn.k_proj", h, { bias })), K, rope);
      const v = linear(w, "self_attn.v_proj", h, { bias });
      const z = site("attn_z", attention(q, k, v, seen, { heads: H, keyHeads: K, scale: E ** -0.5 }));
      const middle = x.add(site("attn_out", linear(w, "self_attn.o_proj", z, { bias })));

      const m = rmsNorm(middle, w("post_attention_layernorm.weight"), epsilon);
      const neurons = site("mlp_act", silu(linear(w, "mlp.gate_proj", m)).mul(linear(w, "mlp.up_proj", m)));
      return site("resid_post", middle.add(site("mlp_out", linear(w, "mlp.down_proj", neurons))));
    },

    ...unembedding(tied ? "model.embed_tokens.weight" : "lm_head.weight", (w, x) =>
      rmsNorm(x, w("model.norm.weight"), epsilon),
    ),
  };
}
