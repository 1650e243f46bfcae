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
 * The text model of Gemma 3 (arXiv:2503.19786): Gemma 2 with norms of queries and keys in place of soft-caps; one block in six attends to everything,
 * with slower rotations than the windowed ones, slower still in models of 4B and up.
 *
 * @param c reads config.json of a checkpoint with `model_type` gemma3_text
 * @throws UserError for a field that is not understood
 */
export function gemma3Text(c: ConfigReader): Model {
  // Gemma 3's published configs leave out what transformers has as defaults.
  const D = c.count("hidden_size", 2304);
  const F = c.count("intermediate_size", 9216);
  const L = c.layers("num_hidden_layers", 26);
  const H = c.count("num_attention_heads", 8);
  const K = c.divisor("num_key_value_heads", H, 4);
  const E = c.even("head_dim", 256);
  const V = c.count("vocab_size", 262_208);
  const maxLength = c.length("max_position_embeddings", 131_072);
  const epsilon = c.positive("rms_norm_eps", 1e-6);
  const embeddingScale = c.rounded(Math.sqrt(D));
  const turns = turning(c.rope(1_000_000, maxLength, { kind: "full_attention" }), E);
  const windowedRope = c.rope(10_000, maxLength, { kind: "sliding_attention", field: "rope_local_base_freq" });
  const windowedTurns = turning(windowedRope, E);
  const scale = c.positive("query_pre_attn_scalar", 256) ** -0.5;
  const window = c.length("sliding_window", 4096);
  const period = c.count("sliding_window_pattern", c.count("_sliding_window_pattern", 6));
  const isWindowed = c.windowed(L, (layer) => (layer + 1) % period !== 0);
  c.only("attn_logit_softcapping", null);
  c.only("final_logit_softcapping", null);
  c.only("hidden_activation", "gelu_pytorch_tanh");
  c.only("attention_bias", false);
  c.only("use_bidirectional_attention", false);
  const tied = c.flag("tie_word_embeddings", true);

  const ropeOf = oncePerContext((context) => rotary(context, E, turns));
  const windowedRopeOf = oncePerContext((context) => rotary(context, E, windowedTurns));
  const windowedOf = oncePerContext((context) => windowed(context, window));
  const norm = (w: Weights, name: string, x: Tensor) => rmsNorm(x, w(`${name}.weight`).add(1), epsilon);
  const perHead = (w: Weights, name: string, x: Tensor) => {
    const [N, width] = x.shape as [string, number];
    return norm(w, name, x.reshape(N, width / E, E)).reshape(N, width);
  };

  return {
    modelType: "gemma3_text",
    width: D,
    vocabulary: V,
    maxLength,
    sites: { embed: D, attn_z: H * E, attn_out: D, mlp_act: F, mlp_out: D, resid_post: D },
    moduleSites: ["embed", "resid_post"],
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
          "self_attn.q_norm.weight": [E],
          "self_attn.k_norm.weight": [E],
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
      const rope = (isWindowed[layer] ? windowedRopeOf : ropeOf)(context);
      const seen = isWindowed[layer] ? windowedOf(context) : context;

      const h = norm(w, "input_layernorm", x);
      const q = rotate(perHead(w, "self_attn.q_norm", linear(w, "self_attn.q_proj", h)), H, rope);
      const k = rotate(perHead(w, "self_attn.k_norm", linear(w, "self_attn.k_proj", h)), K, rope);
      const v = linear(w, "self_attn.v_proj", h);
      const z = site("attn_z", attention(q, k, v, seen, { heads: H, keyHeads: K, scale }));
      const middle = x.add(site("attn_out", norm(w, "post_attention_layernorm", linear(w, "self_attn.o_proj", z))));

      const m = norm(w, "pre_feedforward_layernorm", middle);
      const neurons = site("mlp_act", geluTanh(linear(w, "mlp.gate_proj", m)).mul(linear(w, "mlp.up_proj", m)));
      const mlp = norm(w, "post_feedforward_layernorm", linear(w, "mlp.down_proj", neurons));
      return site("resid_post", middle.add(site("mlp_out", mlp)));
    },

    ...unembedding(tied ? "model.embed_tokens.weight" : "lm_head.weight", (w, x) => norm(w, "model.norm", x)),
  };
}
