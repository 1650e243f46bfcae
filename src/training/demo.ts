import type { LanguageModelRecipe } from "./lm.ts";
import type { DictionaryRecipe } from "./sae.ts";

/** config.json of the embedded model, for a vocabulary of this size whose BOS, EOS and padding are tokens 0, 1 and 2. */
export function demoConfig(vocabularySize: number): Record<string, unknown> {
  return {
    architectures: ["LlamaForCausalLM"],
    model_type: "llama",
    hidden_size: 192,
    intermediate_size: 512,
    num_hidden_layers: 6,
    num_attention_heads: 6,
    num_key_value_heads: 2,
    head_dim: 32,
    hidden_act: "silu",
    rms_norm_eps: 1e-5,
    rope_theta: 10000,
    max_position_embeddings: 128,
    vocab_size: vocabularySize,
    tie_word_embeddings: true,
    attention_bias: false,
    mlp_bias: false,
    bos_token_id: 0,
    eos_token_id: 1,
    pad_token_id: 2,
    torch_dtype: "float16",
  };
}

/** How models/demo was trained. */
export const demoRecipe: LanguageModelRecipe = {
  seed: 1,
  steps: 4000,
  rows: 32,
  length: 32,
  shards: 2,
  learningRate: 3e-3,
  warmup: 200,
  decay: 0.1,
  clip: 1,
  deviation: 0.05,
};

/** How its SAEs were trained. */
export const demoDictionaryRecipe: DictionaryRecipe = {
  seed: 1,
  expansion: 8,
  steps: 1200,
  activeFeatures: 21,
  learningRate: 1e-3,
};
