import type { Tensor } from "../graph/tensor.ts";
import type { ConfigReader } from "./config.ts";
import {
  attention,
  geluTanh,
  linear,
  oncePerContext,
  rmsNorm,
  rotary,
  rotate,
  unembedding,
  windowed,
} from "./layers.ts";
import { blockParameters, blockTap, type Model, type Weights } from "./model.ts";
import { turning } from "./rope.ts";

/**
 * Gemma 2 (arXiv:2408.00118): Gemma with a second norm after attention and MLP, before they are added; soft-caps of attention scores and logits;
 * every other block's attention windowed, from the first.
 *
 * @param c reads config.json of a checkpoint with `model_type` gemma2
 * @throws UserError for a field that is not understood
 */
export function gemma2(c: ConfigReader): Model {
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
  const scale = c.positive("query_pre_attn_scalar", 256) ** -0.5;
  const scoreCap = c.positiveOrNone("attn_logit_softcapping", 50);
  const logitCap = c.positiveOrNone("final_logit_softcapping", 30);
  const window = c.length("sliding_window", 4096);
  const isWindowed = c.windowed(L, (layer) => layer % 2 === 0);
  c.only("sliding_window_size", window);
  c.only("hidden_act", "gelu_pytorch_tanh");
  c.only("hidden_activation", "gelu_pytorch_tanh");
  c.only("attention_bias", false);
  c.only("use_bidirectional_attention", false);
  const tied = c.flag("tie_word_embeddings", true);

  const ropeOf = oncePerContext((context) => rotary(context, E, turns));
  const windowedOf = oncePerContext((context) => windowed(context, window));
  const norm = (w: Weights, name: string, x: Tensor) => rmsNorm(x, w(`${name}.weight`).add(1), epsilon);

  return {
    modelType: "gemma2",
    width: D,
    vocabulary: V,
    maxLength,
    sites: { embed: D, attn_z: H * E, attn_out: D, mlp_act: F, mlp_out: D, resid_post: D },
    // Before transformers 5 the embedding's module left the factor √D out; the others are followed by norms.
    moduleSites: ["resid_post"],
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
          "pre_feedforward_layernorm.weight": [D],
          "mlp.gate_proj.weight": [F, D],
          "mlp.up_proj.weight": [F, D],
          "mlp.down_proj.weight": [D, F],
          "post_feedforward_layernorm.weight": [D],
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
      const seen = isWindowed[layer] ? windowedOf(context) : context;

      const h = norm(w, "input_layernorm", x);
      const q = rotate(linear(w, "self_attn.q_proj", h), H, rope);
      const k = rotate(linear(w, "self_attn.k_proj", h), K, rope);
      const v = linear(w, "self_attn.v_proj", h);
      const z = site("attn_z", attention(q, k, v, seen, { heads: H, keyHeads: K, scale, cap: scoreCap }));
      const middle = x.add(site("attn_out", norm(w, "post_attention_layernorm", linear(w, "self_attn.o_proj", z))));

      const m = norm(w, "pre_feedforward_layernorm", middle);
      const neurons = site("mlp_act", geluTanh(linear(w, "mlp.gate_proj", m)).mul(linear(w, "mlp.up_proj", m)));
      const mlp = norm(w, "post_feedforward_layernorm", linear(w, "mlp.down_proj", neurons));
      return site("resid_post", middle.add(site("mlp_out", mlp)));
    },

    ...unembedding(tied ? "model.embed_tokens.weight" : "lm_head.weight", (w, x) => norm(w, "model.norm", x), logitCap),
  };
}
