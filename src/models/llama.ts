import { ConfigReader, type Rope } from "./config.ts";
import {
  attention,
  linear,
  oncePerContext,
  rmsNorm,
  rotary,
  rotaryFrequencies,
  rotate,
  silu,
  unembedding,
} from "./layers.ts";
import { blockParameters, blockTap, type Model } from "./model.ts";

/**
 * Llama (arXiv:2302.13971) and its likes: RMSNorm before each part, rotary positions, grouped keys (arXiv:2305.13245), SwiGLU. Llama 3.1 and later
 * stretch the slow rotations (arXiv:2407.21783).
 *
 * @param config config.json of a checkpoint with `model_type` llama
 * @throws UserError for a field that is not understood
 */
export function llama(config: Readonly<Record<string, unknown>>, where: string): Model {
  const c = new ConfigReader(config, where);
  const D = c.count("hidden_size");
  const F = c.count("intermediate_size");
  const L = c.count("num_hidden_layers");
  const H = c.count("num_attention_heads");
  const K = c.count("num_key_value_heads", H);
  const E = c.even("head_dim", D / H);
  const V = c.count("vocab_size");
  const maxLength = c.count("max_position_embeddings", 2048);
  const epsilon = c.positive("rms_norm_eps", 1e-6);
  const frequencies = scaledFrequencies(c.rope(10_000, { forms: { default: {}, llama3: llama3Numbers } }), E);
  const tied = c.flag("tie_word_embeddings", false);
  c.only("hidden_act", "silu");
  c.only("attention_bias", false);
  c.only("mlp_bias", false);
  c.only("rope_interleaved", false);
  c.done();

  const ropeOf = oncePerContext((context) => rotary(context, E, frequencies));

  return {
    modelType: "llama",
    width: D,
    vocabulary: V,
    maxLength,
    sites: { embed: D, attn_z: H * E, attn_out: D, mlp_out: D, resid_post: D },
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

    embed: (w, { tokens }) => w("model.embed_tokens.weight").gather(tokens),

    block(weights, layer, x, context, tap) {
      const w = (name: string) => weights(`model.layers.${layer}.${name}`);
      const site = blockTap(tap, layer);
      const rope = ropeOf(context);

      const h = rmsNorm(x, w("input_layernorm.weight"), epsilon);
      const q = rotate(linear(w, "self_attn.q_proj", h), H, rope);
      const k = rotate(linear(w, "self_attn.k_proj", h), K, rope);
      const v = linear(w, "self_attn.v_proj", h);
      const z = site("attn_z", attention(q, k, v, context, { heads: H, keyHeads: K, scale: E ** -0.5 }));
      const middle = x.add(site("attn_out", linear(w, "self_attn.o_proj", z)));

      const m = rmsNorm(middle, w("post_attention_layernorm.weight"), epsilon);
      const gated = silu(linear(w, "mlp.gate_proj", m)).mul(linear(w, "mlp.up_proj", m));
      return site("resid_post", middle.add(site("mlp_out", linear(w, "mlp.down_proj", gated))));
    },

    ...unembedding(tied ? "model.embed_tokens.weight" : "lm_head.weight", (w, x) =>
      rmsNorm(x, w("model.norm.weight"), epsilon),
    ),
  };
}

/** Numbers of a `llama3` rope scaling; all of them have to be given. */
const llama3Numbers = {
  factor: undefined,
  low_freq_factor: undefined,
  high_freq_factor: undefined,
  original_max_position_embeddings: undefined,
};

/**
 * Llama 3.1's frequencies: those that turn fewer than `low_freq_factor` times within the original context are divided by `factor`, those that turn
 * more than `high_freq_factor` times stay, and between the two the share that stays grows linearly.
 */
function scaledFrequencies({ type, base, numbers }: Rope, E: number): number[] {
  const frequencies = rotaryFrequencies(E, base);
  if (type !== "llama3") return frequencies;
  const { factor, low_freq_factor: low, high_freq_factor: high, original_max_position_embeddings: length } = numbers;
  return frequencies.map((frequency) => {
    const turns = (length! * frequency) / (2 * Math.PI);
    const stays = Math.min(1, Math.max(0, (turns - low!) / (high! - low!)));
    return frequency * (stays + (1 - stays) / factor!);
  });
}
