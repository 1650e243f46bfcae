import { readFile } from "node:fs/promises";
import { describe, expect, it } from "vitest";
import { openFolder } from "../src/bytes/file.node.ts";
import { memorySource } from "../src/bytes/memory.ts";
import { openSafetensors } from "../src/bytes/safetensors.ts";
import { capture } from "../src/capture/capture.ts";
import { prefixForest } from "../src/forest/forest.ts";
import { planCapture } from "../src/forest/packs.ts";
import { modelFromConfig, modelTypes } from "../src/models/architectures.ts";
import { openCheckpoint } from "../src/models/checkpoint.ts";
import { heldWeights, loadedModel } from "../src/models/weights.ts";
import type { TokenPair } from "../src/prompts/pairs.ts";
import type { SiteName } from "../src/site.ts";
import { lastLogits, relativeGap } from "./last-logits.ts";

type Config = Readonly<Record<string, unknown>>;

interface Expected {
  readonly sites: readonly SiteName[];
  readonly prompts: readonly {
    readonly tokens: readonly number[];
    readonly clean_answer: number;
    readonly patch_answer: number;
    readonly metric: number;
  }[];
}

const fixtures = new URL("fixtures/", import.meta.url).pathname;
const names = [
  ...["llama-mha", "llama-gqa", "llama-mqa-headdim", "llama-scaled", "llama-bias", "llama-yarn", "mistral"],
  ...["mistral-yarn", "qwen2", "qwen3", "qwen3-bias", "gemma", "gemma-untied", "gemma2", "gemma2-untied"],
  ...["gemma3_text", "gemma3_text-untied", "gemma3", "gpt2", "gpt2-scaled", "gpt_neox", "gpt_neox-sequential"],
  "gpt_neox-relu",
];

it("every architecture has a fixture", async () => {
  const types = await Promise.all(names.map(async (name) => (await configOf(name)).model_type));
  expect([...new Set(types)].sort()).toEqual([...modelTypes].sort());
});

/** The fixtures' figures come from transformers in float64 (test/oracles/make_models.py). */
describe.each(names)("%s gives what transformers gives", (name) => {
  it.for(["float32", "float64"] as const)(
    "activations and ∂m/∂x at every site and position, %s",
    async (dtype, { skip }) => {
      const { model, weights, config, expected, tensors } = await load(name, dtype);
      skip(dtype === "float64" && config.hidden_act === "gelu", "onnxruntime has no erf in float64");
      const tolerance = dtype === "float32" ? 1e-5 : 2e-7;
      for (const [p, prompt] of expected.prompts.entries()) {
        const plan = planCapture(prefixForest([pairOf(prompt)]), { wanted: "clean" });
        const result = await capture(loadedModel(model, weights, { dtype }), plan, { sites: expected.sites });
        expect(Math.abs(result.cleanMetric[0]! - prompt.metric)).toBeLessThan(tolerance * 10);
        for (const site of expected.sites) {
          const { x, g } = await result.site(site);
          expect(relativeGap(x, await tensors.read(`p${p}/x/${site}`)), `x at ${site}`).toBeLessThan(tolerance);
          expect(relativeGap(g, await tensors.read(`p${p}/g/${site}`)), `g at ${site}`).toBeLessThan(tolerance);
        }
      }
    },
  );

  it("logits of the whole vocabulary", async () => {
    const { model, weights, expected, tensors } = await load(name, "float32");
    for (const [p, { tokens }] of expected.prompts.entries()) {
      const logits = await lastLogits(model, weights, tokens);
      expect(relativeGap(logits, await tensors.read(`p${p}/logits`))).toBeLessThan(1e-5);
    }
  });
});

describe("a config in the spelling of transformers 4 means the same", () => {
  const gone = { dtype: undefined, rope_parameters: undefined, layer_types: undefined };
  const yarnOfQwen3 = { factor: 4, original_max_position_embeddings: 256 };
  // As published: what is transformers' default is left out.
  const gemma3 = {
    ...{ model_type: "gemma3_text", head_dim: 12, hidden_size: 18, intermediate_size: 20, num_attention_heads: 2 },
    ...{ num_hidden_layers: 6, num_key_value_heads: 1, query_pre_attn_scalar: 12, sliding_window: 4, vocab_size: 64 },
    ...{ sliding_window_pattern: 3, rope_theta: 100, rope_local_base_freq: 10 },
    rope_scaling: { factor: 8, rope_type: "linear" },
  };
  it.each<[string, Config]>([
    ["llama-gqa", { ...gone, torch_dtype: "float32", rope_theta: 500_000, rope_scaling: null }],
    [
      "llama-scaled",
      {
        ...gone,
        rope_theta: 100,
        rope_scaling: {
          rope_type: "llama3",
          factor: 8,
          low_freq_factor: 1,
          high_freq_factor: 4,
          original_max_position_embeddings: 32,
        },
      },
    ],
    ["llama-bias", { ...gone, rope_theta: 100, rope_scaling: { type: "linear", factor: 2.5 } }],
    [
      "llama-yarn",
      {
        ...gone,
        rope_theta: 100,
        rope_scaling: {
          ...{ type: "yarn", factor: 8, original_max_position_embeddings: 32, beta_fast: 3, beta_slow: 0.5 },
          ...{ mscale: 0.7, mscale_all_dim: 1.5, truncate: false, finetuned: true, attention_factor: null },
        },
      },
    ],
    // The context is the original one where no other is named.
    [
      "mistral-yarn",
      {
        ...{ ...gone, rope_theta: 200, max_position_embeddings: 32 },
        rope_scaling: { type: "yarn", factor: 4, beta_fast: 4, beta_slow: null, attention_factor: 1.25 },
      },
    ],
    ["mistral", { ...gone, rope_theta: 1000, head_dim: 6 }],
    ["qwen2", { ...gone, rope_theta: 1000 }],
    ["qwen3", { ...gone, rope_theta: 1000 }],
    ["qwen3-bias", { ...gone, rope_theta: 100, rope_scaling: { rope_type: "yarn", ...yarnOfQwen3 } }],
    ["gemma", { ...gone, torch_dtype: "bfloat16", rope_theta: 1000, hidden_act: "gelu", hidden_activation: null }],
    ["gemma2", { ...gone, rope_theta: 1000, sliding_window_size: 4, cache_implementation: "hybrid" }],
    [
      "gemma3_text",
      { ...gone, torch_dtype: "bfloat16", rope_theta: 1000, rope_local_base_freq: 10, sliding_window_pattern: 6 },
    ],
    ["gemma3", { ...gone, torch_dtype: "bfloat16", tie_word_embeddings: undefined, text_config: gemma3 }],
    ["gpt2", { ...gone, n_ctx: 24, tie_word_embeddings: undefined, task_specific_params: {} }],
    ["gpt_neox", { ...gone, rotary_emb_base: 1000, rotary_pct: 0.25, rope_theta: 1000, attention_bias: undefined }],
    [
      "gpt_neox-relu",
      {
        ...{ ...gone, rotary_emb_base: 100, rotary_pct: 0.5 },
        rope_scaling: { type: "yarn", factor: 4, original_max_position_embeddings: 32, beta_fast: 8 },
      },
    ],
    // Other names of the same functions.
    ["gpt_neox-sequential", { hidden_act: "gelu_fast" }],
    ["gpt_neox-sequential", { hidden_act: "gelu_pytorch_tanh" }],
    ["gpt_neox", { hidden_act: "gelu_python" }],
    ["gpt2-scaled", { reorder_and_upcast_attn: false }],
  ])("%s", async (name, change) => {
    const { weights, config, expected, tensors } = await load(name, "float32");
    const old = JSON.parse(JSON.stringify({ ...config, ...change }));
    const logits = await lastLogits(modelFromConfig(old, name), weights, expected.prompts[2]!.tokens);
    expect(relativeGap(logits, await tensors.read("p2/logits"))).toBeLessThan(1e-5);
  });
});

describe("the fixtures notice when a field is read wrongly", () => {
  const yarn = (numbers: Config, rope_theta = 100, factor = 8) => ({
    rope_parameters: {
      ...{ rope_type: "yarn", rope_theta, factor, original_max_position_embeddings: 32, beta_fast: 3, beta_slow: 0.5 },
      ...{ mscale: 0.7, mscale_all_dim: 1.5, truncate: false, ...numbers },
    },
  });
  const rope = (numbers: Config) => ({ rope_parameters: { rope_type: "default", rope_theta: 1000, ...numbers } });
  it.each<[string, Config]>([
    ["llama-scaled", rope({ rope_theta: 100 })],
    ["llama-bias", { rope_parameters: { rope_type: "linear", rope_theta: 100, factor: 2 } }],
    ["llama-yarn", yarn({ truncate: true })],
    ["llama-yarn", yarn({ mscale: 0.8 })],
    ["llama-yarn", yarn({ beta_fast: 4 })],
    ["llama-yarn", yarn({ beta_slow: 1 })],
    ["mistral", { sliding_window: null }],
    ["mistral", { sliding_window: 5 }],
    ["mistral-yarn", yarn({ beta_fast: 4, attention_factor: 1.2 }, 200, 4)],
    ["qwen2", { use_sliding_window: false }],
    ["qwen3", { use_sliding_window: false }],
    ["qwen3", { rms_norm_eps: 0.01 }],
    ["gemma", { dtype: "float32" }],
    ["gemma2", { attn_logit_softcapping: null }],
    ["gemma2", { final_logit_softcapping: null }],
    ["gemma2", { query_pre_attn_scalar: 12 }],
    ["gemma2", { sliding_window: 5 }],
    ["gemma3_text", { layer_types: Array(7).fill("sliding_attention") }],
    ["gemma3_text", { rope_parameters: { full_attention: { rope_theta: 10 }, sliding_attention: { rope_theta: 10 } } }],
    ["gemma3_text", { dtype: "float32" }],
    ["gemma3", { dtype: "float32" }],
    ["gemma2-untied", { tie_word_embeddings: true }],
    ["gpt2-scaled", { scale_attn_by_inverse_layer_idx: false }],
    ["gpt2-scaled", { scale_attn_weights: true }],
    ["gpt2-scaled", { activation_function: "gelu_fast" }],
    ["gpt_neox", { use_parallel_residual: false }],
    ["gpt_neox", { hidden_act: "gelu_new" }],
    ["gpt_neox", rope({ partial_rotary_factor: 0.5 })],
  ])("%s %j", async (name, change) => {
    const { weights, config, expected, tensors } = await load(name, "float32");
    const model = modelFromConfig({ ...config, ...change }, name);
    const logits = await lastLogits(model, weights, expected.prompts[2]!.tokens);
    expect(relativeGap(logits, await tensors.read("p2/logits"))).toBeGreaterThan(1e-4);
  });
});

describe("weights are found under other names too:", () => {
  it.each<[string, string, RegExp, string]>([
    ["gpt2", "without the prefix", /^transformer\./, ""],
    ["gpt_neox", "as transformers 5 calls the unembedding", /^embed_out\./, "lm_head."],
    ["gemma3", "as transformers 5 has them in memory", /^language_model\.model\./, "model.language_model."],
    ["gemma3", "of the text model alone", /^language_model\.model\./, "model."],
    ["gemma3", "with one prefix", /^language_model\.model\./, "language_model."],
    [
      "gemma3_text-untied",
      "with an unembedding of their own within a larger model",
      /^(?=model\.|lm_head\.)/,
      "language_model.",
    ],
  ])("%s %s", async (name, _, from, to) => {
    const rename = (name: string) => name.replace(from, to);
    const folder = await openFolder(`${fixtures}${name}`);
    const checkpoint = await openCheckpoint(folder);
    const model = modelFromConfig(checkpoint.config, name);
    const { renamed, count } = await withRenamed(`${fixtures}${name}/model.safetensors`, rename);
    expect(count).toBeGreaterThan(0);
    const respelled = await openCheckpoint({
      name: folder.name,
      list: folder.list,
      open: async (path) => (path === "model.safetensors" ? renamed : folder.open(path)),
    });
    for (const [parameter, shape] of model.parameters) {
      expect(await respelled.tensor(parameter, shape)).toEqual(await checkpoint.tensor(parameter, shape));
    }
    await checkpoint.close();
  });
});

it("what Gemma 3 has for pictures is known, and nothing else", async () => {
  const checkpoint = await openCheckpoint(await openFolder(`${fixtures}gemma3`));
  const { parameters, unused } = modelFromConfig(checkpoint.config, "gemma3");
  const text = [...parameters.keys()].map((name) => `language_model.${name}`);
  const rest = checkpoint.names.filter((name) => !text.includes(name));
  expect(rest.length).toBeGreaterThan(20);
  expect(rest.filter((name) => !unused!.some((start) => name.startsWith(start)))).toEqual([]);
  await checkpoint.close();
});

/** config.json of published models as their authors wrote them, and the parameters that they count. */
describe("published configs are understood, and have as many parameters as their authors say", () => {
  const gemmaCommon = { attention_bias: false, attention_dropout: 0, hidden_activation: "gelu_pytorch_tanh" };
  it.each<[string, number, Config]>([
    [
      "SmolLM2-135M",
      134_515_008,
      {
        ...{ model_type: "llama", attention_bias: false, hidden_act: "silu", hidden_size: 576, num_hidden_layers: 30 },
        ...{ intermediate_size: 1536, is_llama_config: true, max_position_embeddings: 8192, num_attention_heads: 9 },
        ...{ num_key_value_heads: 3, pretraining_tp: 1, rms_norm_eps: 1e-5, rope_interleaved: false },
        ...{ rope_scaling: null, rope_theta: 100_000, tie_word_embeddings: true, torch_dtype: "bfloat16" },
        ...{ vocab_size: 49_152 },
      },
    ],
    [
      "Llama-3.2-1B",
      1_235_814_400,
      {
        ...{ model_type: "llama", attention_bias: false, head_dim: 64, hidden_act: "silu", hidden_size: 2048 },
        ...{ intermediate_size: 8192, max_position_embeddings: 131_072, mlp_bias: false, num_attention_heads: 32 },
        ...{ num_hidden_layers: 16, num_key_value_heads: 8, rms_norm_eps: 1e-5, rope_theta: 500_000 },
        rope_scaling: {
          ...{ factor: 32, high_freq_factor: 4, low_freq_factor: 1, original_max_position_embeddings: 8192 },
          rope_type: "llama3",
        },
        ...{ tie_word_embeddings: true, torch_dtype: "bfloat16", vocab_size: 128_256 },
      },
    ],
    [
      "Qwen2.5-0.5B",
      494_032_768,
      {
        ...{ model_type: "qwen2", hidden_act: "silu", hidden_size: 896, intermediate_size: 4864, use_mrope: false },
        ...{ max_position_embeddings: 32_768, max_window_layers: 24, num_attention_heads: 14, num_hidden_layers: 24 },
        ...{ num_key_value_heads: 2, rms_norm_eps: 1e-6, rope_theta: 1_000_000, sliding_window: 32_768 },
        ...{ tie_word_embeddings: true, use_sliding_window: false, vocab_size: 151_936 },
      },
    ],
    [
      "Qwen3-0.6B",
      596_049_920,
      {
        ...{ model_type: "qwen3", attention_bias: false, head_dim: 128, hidden_act: "silu", hidden_size: 1024 },
        ...{ intermediate_size: 3072, max_position_embeddings: 40_960, max_window_layers: 28, num_attention_heads: 16 },
        ...{ num_hidden_layers: 28, num_key_value_heads: 8, rms_norm_eps: 1e-6, rope_scaling: null },
        ...{ rope_theta: 1_000_000, sliding_window: null, tie_word_embeddings: true, use_sliding_window: false },
        vocab_size: 151_936,
      },
    ],
    [
      "Mistral-7B-v0.1",
      7_241_732_096,
      {
        ...{ model_type: "mistral", hidden_act: "silu", hidden_size: 4096, intermediate_size: 14_336 },
        ...{ max_position_embeddings: 32_768, num_attention_heads: 32, num_hidden_layers: 32, num_key_value_heads: 8 },
        ...{ rms_norm_eps: 1e-5, rope_theta: 10_000, sliding_window: 4096, tie_word_embeddings: false },
        vocab_size: 32_000,
      },
    ],
    [
      "Mistral-Nemo-Base-2407",
      12_247_782_400,
      {
        ...{ model_type: "mistral", head_dim: 128, hidden_act: "silu", hidden_size: 5120, intermediate_size: 14_336 },
        ...{ max_position_embeddings: 128_000, num_attention_heads: 32, num_hidden_layers: 40, num_key_value_heads: 8 },
        ...{ rms_norm_eps: 1e-5, rope_theta: 1_000_000, sliding_window: null, tie_word_embeddings: false },
        vocab_size: 131_072,
      },
    ],
    [
      "gemma-3-4b-pt, without what it has for pictures",
      3_880_263_168,
      {
        ...{ model_type: "gemma3", boi_token_index: 255_999, eoi_token_index: 256_000, eos_token_id: [1, 106] },
        ...{ image_token_index: 262_144, initializer_range: 0.02, mm_tokens_per_image: 256, torch_dtype: "bfloat16" },
        text_config: {
          ...{ hidden_size: 2560, intermediate_size: 10_240, model_type: "gemma3_text", num_hidden_layers: 34 },
          ...{ rope_scaling: { factor: 8, rope_type: "linear" }, sliding_window: 1024 },
        },
        vision_config: { hidden_size: 1152, image_size: 896, model_type: "siglip_vision_model", patch_size: 14 },
      },
    ],
    [
      "gemma-3-27b-pt, likewise",
      27_009_346_304,
      {
        ...{ model_type: "gemma3", boi_token_index: 255_999, eoi_token_index: 256_000, eos_token_id: [1, 106] },
        ...{ image_token_index: 262_144, initializer_range: 0.02, mm_tokens_per_image: 256, torch_dtype: "bfloat16" },
        text_config: {
          ...{ head_dim: 128, hidden_size: 5376, intermediate_size: 21_504, model_type: "gemma3_text" },
          ...{ num_attention_heads: 32, num_hidden_layers: 62, num_key_value_heads: 16, query_pre_attn_scalar: 168 },
          ...{ rope_scaling: { factor: 8, rope_type: "linear" }, sliding_window: 1024 },
        },
        vision_config: { hidden_size: 1152, image_size: 896, model_type: "siglip_vision_model", patch_size: 14 },
      },
    ],
    [
      "gemma-2b",
      2_506_172_416,
      {
        ...{ ...gemmaCommon, model_type: "gemma", head_dim: 256, hidden_act: "gelu", hidden_size: 2048 },
        ...{ intermediate_size: 16_384, max_position_embeddings: 8192, num_attention_heads: 8, num_hidden_layers: 18 },
        ...{ num_key_value_heads: 1, rms_norm_eps: 1e-6, rope_scaling: null, rope_theta: 10_000, vocab_size: 256_000 },
      },
    ],
    [
      "gemma-2-2b",
      2_614_341_888,
      {
        ...{ ...gemmaCommon, model_type: "gemma2", attn_logit_softcapping: 50, cache_implementation: "hybrid" },
        ...{ final_logit_softcapping: 30, head_dim: 256, hidden_act: "gelu_pytorch_tanh", hidden_size: 2304 },
        ...{ intermediate_size: 9216, max_position_embeddings: 8192, num_attention_heads: 8, num_hidden_layers: 26 },
        ...{ num_key_value_heads: 4, query_pre_attn_scalar: 256, rms_norm_eps: 1e-6, rope_theta: 10_000 },
        ...{ sliding_window: 4096, vocab_size: 256_000 },
      },
    ],
    [
      "gemma-3-270m",
      268_098_176,
      {
        ...{ ...gemmaCommon, model_type: "gemma3_text", _sliding_window_pattern: 6, attn_logit_softcapping: null },
        ...{ final_logit_softcapping: null, head_dim: 256, hidden_size: 640, intermediate_size: 2048 },
        ...{ max_position_embeddings: 32_768, num_attention_heads: 4, num_hidden_layers: 18, num_key_value_heads: 1 },
        ...{ query_pre_attn_scalar: 256, rms_norm_eps: 1e-6, rope_local_base_freq: 10_000, rope_scaling: null },
        ...{ rope_theta: 1_000_000, sliding_window: 512, use_bidirectional_attention: false, vocab_size: 262_144 },
      },
    ],
    [
      "gpt2",
      124_439_808,
      {
        ...{ model_type: "gpt2", activation_function: "gelu_new", attn_pdrop: 0.1, embd_pdrop: 0.1, resid_pdrop: 0.1 },
        ...{ layer_norm_epsilon: 1e-5, n_ctx: 1024, n_embd: 768, n_head: 12, n_layer: 12, n_positions: 1024 },
        ...{ summary_type: "cls_index", task_specific_params: { "text-generation": {} }, vocab_size: 50_257 },
      },
    ],
    [
      "pythia-70m",
      70_426_624,
      {
        ...{ model_type: "gpt_neox", hidden_act: "gelu", hidden_size: 512, intermediate_size: 2048 },
        ...{ layer_norm_eps: 1e-5, max_position_embeddings: 2048, num_attention_heads: 8, num_hidden_layers: 6 },
        ...{ rotary_emb_base: 10_000, rotary_pct: 0.25, tie_word_embeddings: false, use_parallel_residual: true },
        ...{ vocab_size: 50_304 },
      },
    ],
  ])("%s", (name, count, config) => {
    const { parameters } = modelFromConfig(config, name);
    expect([...parameters.values()].reduce((sum, shape) => sum + shape.reduce((a, b) => a * b, 1), 0)).toBe(count);
  });
});

describe("a config that is not understood is refused by name", () => {
  it.each([
    ["llama-mha", { rope_scaling: { rope_type: "yarn" } }, "rope_scaling.factor"],
    ["llama-mha", { rope_parameters: { rope_type: "yarn", factor: 4, rope_theta: 1 } }, "rope_parameters.rope_theta"],
    [
      "llama-mha",
      { rope_scaling: { rope_type: "yarn", factor: 4, extrapolation_factor: 2 } },
      "rope_scaling.extrapolation_factor",
    ],
    ["llama-mha", { rope_scaling: { rope_type: "linear", factor: 4, beta_fast: 32 } }, "rope_scaling.beta_fast"],
    ["llama-mha", { rope_scaling: { rope_type: "linear", factor: 4, truncate: false } }, "rope_scaling.truncate"],
    ["llama-mha", { rope_scaling: { rope_type: "linear", factor: "4" } }, "rope_scaling.factor"],
    ["llama-mha", { rope_scaling: { type: "dynamic", factor: 4 } }, "rope_scaling.rope_type"],
    ["llama-mha", { rope_parameters: { rope_type: "longrope", rope_theta: 1e4 } }, "rope_parameters.rope_type"],
    ["llama-mha", { rope_scaling: { rope_type: "llama3", factor: 8 } }, "rope_scaling.low_freq_factor"],
    ["llama-mha", { rope_parameters: { rope_theta: 1e4, beta_fast: 32 } }, "rope_parameters.beta_fast"],
    ["llama-mha", { hidden_act: "gelu" }, "hidden_act"],
    ["llama-mha", { attention_bias: "true" }, "attention_bias"],
    ["llama-mha", { sliding_window: 128 }, "sliding_window"],
    ["llama-mha", { hidden_size: "64" }, "hidden_size"],
    ["llama-mha", { head_dim: 7 }, "head_dim"],
    ["llama-mha", { model_type: "mamba" }, "model_type"],
    ["llama-mha", { model_type: "toString" }, "model_type"],
    ["qwen2", { layer_types: ["full_attention"] }, "layer_types"],
    ["mistral", { rope_parameters: { rope_type: "dynamic", factor: 4, rope_theta: 1e4 } }, "rope_parameters.rope_type"],
    ["mistral", { sliding_window: 0 }, "sliding_window"],
    ["mistral", { layer_types: ["full_attention", "full_attention"] }, "layer_types"],
    ["qwen2", { rope_scaling: { rope_type: "mrope", mrope_section: [1, 1, 1] } }, "rope_scaling.rope_type"],
    ["qwen3", { rope_scaling: { rope_type: "longrope", factor: 4 } }, "rope_scaling.rope_type"],
    ["qwen3", { num_experts: 8 }, "num_experts"],
    ["gemma", { use_bidirectional_attention: true }, "use_bidirectional_attention"],
    ["gemma2", { layer_types: ["chunked_attention", "a", "b", "c"] }, "layer_types"],
    ["gemma2", { hidden_activation: "gelu" }, "hidden_activation"],
    ["gemma3_text", { rope_scaling: { rope_type: "dynamic", factor: 8 } }, "rope_scaling.rope_type"],
    ["gemma3_text", { rope_scaling: { rope_type: "yarn", factor: 8, truncate: false } }, "rope_scaling.truncate"],
    ["gemma3_text", { rope_parameters: { rope_type: "default", rope_theta: 1e4 } }, "rope_parameters.rope_type"],
    ["gemma3_text", { attn_logit_softcapping: 50 }, "attn_logit_softcapping"],
    ["gemma3", { text_config: null }, "text_config"],
    ["gemma3", { text_config: { model_type: "gemma3n_text" } }, "model_type"],
    ["gemma3", { text_config: { residual_scale: 2 } }, "residual_scale"],
    ["gemma3", { text_config: { tie_word_embeddings: false } }, "tie_word_embeddings"],
    ["gemma3", { audio_config: {} }, "audio_config"],
    ["gpt2", { activation_function: "gelu_10" }, "activation_function"],
    ["gpt2", { n_embd: 22 }, "head_dim"],
    ["gpt_neox", { hidden_act: "mish" }, "hidden_act"],
    ["gpt_neox", { attention_bias: false }, "attention_bias"],
  ])("%s %j", async (name, change, field) => {
    const config = await configOf(name);
    expect(() => modelFromConfig(config, "somewhere")).not.toThrow();
    expect(() => modelFromConfig({ ...config, ...change }, "somewhere")).toThrow(`${field}: expected`);
  });
});

async function configOf(name: string): Promise<Config> {
  return JSON.parse(await readFile(`${fixtures}${name}/config.json`, "utf8"));
}

async function load(name: string, dtype: "float32" | "float64") {
  const checkpoint = await openCheckpoint(await openFolder(`${fixtures}${name}`));
  const { config } = checkpoint;
  const model = modelFromConfig(config, name);
  const expected = JSON.parse(await readFile(`${fixtures}${name}/expected.json`, "utf8")) as Expected;
  const tensors = await openSafetensors(
    memorySource("expected.safetensors", await readFile(`${fixtures}${name}/expected.safetensors`)),
  );
  const weights = await heldWeights(model, checkpoint, dtype);
  await checkpoint.close();
  return { model, weights, config, expected, tensors };
}

/** A safetensors file with the names of its tensors changed, and how many were. */
async function withRenamed(path: string, rename: (name: string) => string) {
  const file = new Uint8Array(await readFile(path));
  const length = Number(new DataView(file.buffer, file.byteOffset).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(file.subarray(8, 8 + length))) as Record<string, unknown>;
  const entries = Object.entries(header).map(([name, value]) => [rename(name), value] as const);
  const text = new TextEncoder().encode(JSON.stringify(Object.fromEntries(entries)));
  const bytes = new Uint8Array(8 + text.length + file.length - 8 - length);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(text.length), true);
  bytes.set(text, 8);
  bytes.set(file.subarray(8 + length), 8 + text.length);
  const count = entries.filter(([name]) => !Object.hasOwn(header, name)).length;
  return { renamed: memorySource("renamed.safetensors", bytes), count };
}

/** A pair whose patch prompt differs in every token, so that no prefix is unchanged. */
function pairOf({ tokens, clean_answer, patch_answer }: Expected["prompts"][number]): TokenPair {
  const pair = {
    clean_prefix: "",
    patch_prefix: "",
    clean_answer: "",
    patch_answer: "",
    case: "",
    split: "test",
  } as const;
  const patch = tokens.map((t) => (t + 1) % 60);
  return { pair, clean: tokens, patch, cleanAnswer: clean_answer, patchAnswer: patch_answer };
}
