import { siteName } from "../site.ts";
import { ConfigReader } from "./config.ts";
import { attention, linear, type Rotary, rmsNorm, rotary, rotate, silu } from "./layers.ts";
import type { Context, Model } from "./model.ts";

/**
 * Llama (arXiv:2302.13971) and its likes: RMSNorm before each part, rotary positions, grouped keys (arXiv:2305.13245), SwiGLU.
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
  const E = c.count("head_dim", D / H);
  const V = c.count("vocab_size");
  const maxLength = c.count("max_position_embeddings", 2048);
  const epsilon = c.positive("rms_norm_eps", 1e-6);
  const base = c.ropeBase(10_000);
  const tied = c.flag("tie_word_embeddings", false);
  c.only("hidden_act", "silu");
  c.only("attention_bias", false);
  c.only("mlp_bias", false);
  c.done();

  const parameters = new Map<string, readonly number[]>([["model.embed_tokens.weight", [V, D]]]);
  for (let l = 0; l < L; l++) {
    for (const [name, ...shape] of [
      ["input_layernorm", D],
      ["self_attn.q_proj", H * E, D],
      ["self_attn.k_proj", K * E, D],
      ["self_attn.v_proj", K * E, D],
      ["self_attn.o_proj", D, H * E],
      ["post_attention_layernorm", D],
      ["mlp.gate_proj", F, D],
      ["mlp.up_proj", F, D],
      ["mlp.down_proj", D, F],
    ] as const) {
      parameters.set(`model.layers.${l}.${name}.weight`, shape);
    }
  }
  parameters.set("model.norm.weight", [D]);
  if (!tied) parameters.set("lm_head.weight", [V, D]);
  const ropes = new WeakMap<Context, Rotary>();
  const ropeOf = (context: Context) => {
    const rope = ropes.get(context) ?? rotary(context, E, base);
    ropes.set(context, rope);
    return rope;
  };
  const unembedding = tied ? "model.embed_tokens.weight" : "lm_head.weight";

  return {
    modelType: "llama",
    layers: L,
    width: D,
    vocabulary: V,
    maxLength,
    sites: { embed: D, attn_z: H * E, attn_out: D, mlp_out: D, resid_post: D },
    parameters,
    flopsPerToken: 2 * L * (2 * H * E * D + 2 * K * E * D + 3 * D * F),
    attentionFlops: 4 * L * H * E,

    embed: (w, { tokens }) => w("model.embed_tokens.weight").gather(tokens),

    block(w, layer, x, context, tap) {
      const at = (part: string) => `model.layers.${layer}.${part}`;
      const site = (kind: "attn_z" | "attn_out" | "mlp_out" | "resid_post") => siteName({ kind, layer });
      const rope = ropeOf(context);

      const h = rmsNorm(x, w(at("input_layernorm.weight")), epsilon);
      const q = rotate(linear(w, at("self_attn.q_proj"), h), H, rope);
      const k = rotate(linear(w, at("self_attn.k_proj"), h), K, rope);
      const v = linear(w, at("self_attn.v_proj"), h);
      const z = tap(site("attn_z"), attention(q, k, v, context, { heads: H, keyHeads: K, scale: E ** -0.5 }));
      const middle = x.add(tap(site("attn_out"), linear(w, at("self_attn.o_proj"), z)));

      const m = rmsNorm(middle, w(at("post_attention_layernorm.weight")), epsilon);
      const gated = silu(linear(w, at("mlp.gate_proj"), m)).mul(linear(w, at("mlp.up_proj"), m));
      return tap(site("resid_post"), middle.add(tap(site("mlp_out"), linear(w, at("mlp.down_proj"), gated))));
    },

    logits: (w, x) => rmsNorm(x, w("model.norm.weight"), epsilon).matmul(w(unembedding), { transB: true }),

    tokenLogits: (w, x, tokens) =>
      rmsNorm(x, w("model.norm.weight"), epsilon).mul(w(unembedding).gather(tokens)).sum(-1).reshape(tokens.shape[0]!),
  };
}
