import { readdirSync, readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { memoryFolder } from "../src/bytes/folder.ts";
import { memorySource } from "../src/bytes/memory.ts";
import { openSafetensors, writeSafetensors } from "../src/bytes/safetensors.ts";
import { openTorch } from "../src/bytes/torch.ts";
import { readZip } from "../src/bytes/zip.ts";
import { openDictionary } from "../src/dictionaries/open.ts";
import { makeZip } from "./make-zip.ts";

const fixtures = "test/fixtures/dictionaries";
const [D, F] = [8, 24];

/** A format's files, by the folder of a fixture; the first is the one that it is opened by, the second its settings. */
const formats = {
  saeLens: { folder: "sae-lens/gated", files: ["sae_weights.safetensors", "cfg.json"] },
  standard: { folder: "saes/resid_post.1", files: ["sae_weights.safetensors", "cfg.json"] },
  attention: { folder: "saes/attn_z.1", files: ["sae_weights.safetensors", "cfg.json"] },
  topk: { folder: "sae-lens/topk", files: ["sae_weights.safetensors", "cfg.json"] },
  earlier: { folder: "earlier/resid_post.1", files: ["sae_weights.safetensors", "cfg.json"] },
  learning: { folder: "dictionary-learning/batchtopk", files: ["ae.pt", "config.json"] },
  relu: { folder: "dictionary-learning/standard", files: ["ae.pt", "config.json"] },
  sparsify: { folder: "sparsify/layers.1.mlp", files: ["sae.safetensors", "cfg.json"] },
  llamaScope: {
    folder: "llama-scope/Llama3_1-8B-Base-L1M-8x",
    files: ["checkpoints/final.safetensors", "hyperparams.json"],
  },
  gemmaScope2: {
    folder: "gemma-scope-2-tiny-pt/resid_post_all/layer_1_width_16k_l0_small",
    files: ["params.safetensors", "config.json"],
  },
  layer: { folder: "layers", files: ["layer_1.safetensors", ""] },
} as const;
type Format = keyof typeof formats;

const read = (format: Format, file: string) => readFileSync(`${fixtures}/${formats[format].folder}/${file}`);

/** Opens a fixture with other settings or further tensors of one number; the error's message, or undefined if there is none. */
async function opened(
  format: Format,
  change: Change,
  tensors: Record<string, number[]> = {},
  metadata: Record<string, string> = {},
) {
  const { folder, files } = formats[format];
  const [weights, settings] = files;
  let bytes: Uint8Array = read(format, weights);
  if (Object.keys({ ...tensors, ...metadata }).length > 0) bytes = await withTensors(bytes, tensors, metadata);
  const given = settings === "" ? {} : (JSON.parse(read(format, settings).toString()) as Fields);
  const held = memoryFolder("f", {
    [`${folder}/${weights}`]: bytes,
    [`${folder}/${settings}`]: new TextEncoder().encode(JSON.stringify(changed(given, change))),
  });
  const path = format === "llamaScope" ? settings : weights;
  try {
    const dictionary = await openDictionary(held, `${folder}/${path}`);
    await dictionary.close();
    return undefined;
  } catch (error) {
    expect(error).toMatchObject({ name: "UserError" });
    expect((error as Error).message).not.toContain("\n");
    return (error as Error).message;
  }
}

type Fields = Record<string, unknown>;
type Change = Readonly<Record<string, unknown>>;

/** Fields within fields are named with dots. */
function changed(fields: Fields, change: Change): Fields {
  const copy = structuredClone(fields);
  for (const [path, value] of Object.entries(change)) {
    const names = path.split(".");
    let place = copy;
    for (const name of names.slice(0, -1)) {
      place[name] ??= {};
      place = place[name] as Fields;
    }
    place[names.at(-1)!] = value;
  }
  return copy;
}

async function withTensors(bytes: Uint8Array, tensors: Record<string, number[]>, metadata = {}) {
  const file = await openSafetensors(memorySource("x", bytes));
  const all = new Map<string, { shape: number[]; data: Float32Array }>();
  for (const [name, { shape }] of file.tensors) all.set(name, { shape: [...shape], data: await file.read(name) });
  for (const [name, shape] of Object.entries(tensors)) {
    all.set(name, { shape, data: new Float32Array(shape.reduce((a, b) => a * b, 1)).fill(0.5) });
  }
  return writeSafetensors(all, { metadata });
}

describe("a tensor that is not understood is refused by its name:", () => {
  test.each<[Format, string, number[]]>([
    ["standard", "threshold", [F]],
    ["standard", "log_threshold", [F]],
    ["standard", "W_skip", [D, D]],
    ["standard", "b_dec_out", [D]],
    ["standard", "r_mag", [F]],
    ["standard", "whitening_matrix", [D, D]],
    ["saeLens", "b_enc", [F]],
    ["saeLens", "threshold", [F]],
    ["topk", "topk_threshold", []],
    ["topk", "log_threshold", [F]],
    ["sparsify", "W_skip", [D, D]],
    ["sparsify", "encoder.scale", [F]],
    ["llamaScope", "encoder_glu.weight", [F, D]],
    ["llamaScope", "log_jumprelu_threshold", [F]],
    ["layer", "W_skip", [D, D]],
    ["layer", "scaling_factor", [F]],
    ["layer", "b_gate", [F]],
    ["layer", "input_mean", [D]],
    ["gemmaScope2", "affine_skip_connection", [D, D]],
    ["gemmaScope2", "log_threshold", [F]],
  ])("%s with %s", async (format, name, shape) => {
    expect(await opened(format, {}, { [name]: shape })).toContain(`tensor ${name}: expected none in an SAE`);
  });

  test("a threshold, its logarithm and a number k contradict one another", async () => {
    expect(await opened("layer", {}, { log_threshold: [F] })).toMatch(
      /^activation: .* got threshold and log_threshold/,
    );
    expect(await opened("layer", {}, { k: [] })).toMatch(/^activation: .* got threshold and k/);
  });
});

describe("a setting that is not understood is refused by its name:", () => {
  test.each<[Format, Change, RegExp]>([
    ["standard", { activation_scale: 2 }, /^activation_scale: expected a field that is known/],
    ["standard", { "metadata.input_mean": [1] }, /^metadata\.input_mean: expected a field that is known/],
    ["standard", { k: 4 }, /^k: expected a field that is known/],
    ["standard", { norm_scaling_factor: 2 }, /^norm_scaling_factor: expected a field that is known/],
    ["standard", { d_out: 12 }, /^d_out: expected none .*Transcoders are not supported/],
    ["standard", { "metadata.hook_name_out": "blocks.1.hook_mlp_out" }, /^hook_name_out: expected none/],
    ["standard", { activation_fn_kwargs: { k: 4 } }, /^activation_fn_kwargs\.k: expected a field that is known/],
    ["standard", { metadata: "none" }, /^metadata: expected an object, got "none"/],
    ["standard", { hook_name: "blocks.0.hook_resid_post" }, /^hook_name: .*as in metadata/],
    ["standard", { finetuning_scaling_factor: 2 }, /^finetuning_scaling_factor: expected true or false, got 2/],
    ["standard", { apply_b_dec_to_input: "no" }, /^apply_b_dec_to_input: expected true or false, got "no"/],
    ["topk", { activation_fn_kwargs: { k: 5 } }, /^k: expected 5, got 4/],
    ["earlier", { activation_fn: "topk" }, /^activation_fn_str: expected topk, got "relu"/],
    [
      "attention",
      { "metadata.model_from_pretrained_kwargs": { fold_value_biases: true } },
      /^metadata\.model_from_pretrained_kwargs\.fold_value_biases: expected false for SAEs of attn_z\.1/,
    ],
    [
      "attention",
      { model_from_pretrained_kwargs: { refactor_factored_attn_matrices: true } },
      /^model_from_pretrained_kwargs\.refactor_factored_attn_matrices: /,
    ],
    [
      "standard",
      { "metadata.model_from_pretrained_kwargs": { revision: "step3000" } },
      /kwargs\.revision: expected main, got "step3000"/,
    ],
    [
      "standard",
      { "metadata.model_from_pretrained_kwargs": { rescale: true } },
      /kwargs\.rescale: expected a field that is known/,
    ],
    ["learning", { "buffer.io": "in" }, /^buffer\.io: expected out \(the module's output\), got "in"/],
    ["learning", { "buffer.io": "in_and_out" }, /^buffer\.io: .*Transcoders are not supported/],
    ["relu", { "buffer.layer": 1 }, /^buffer\.layer: expected none \(all heads together\)/],
    ["relu", { "trainer.activation_dim": 9 }, /^trainer\.activation_dim: expected 8, as in .*got 9/],
    ["relu", { "buffer.d_submodule": 9 }, /^buffer\.d_submodule: expected 8/],
    ["relu", { "trainer.k": 4 }, /^trainer\.k: expected a field that is known/],
    ["relu", { "trainer.input_scale": 4 }, /^trainer\.input_scale: expected a field that is known/],
    ["relu", { io: "in" }, /^io: expected out/],
    ["relu", { normalization: {} }, /^normalization: expected a field that is known/],
    ["sparsify", { signed: true }, /^signed: expected false, got true/],
    ["sparsify", { normalize_io: true }, /^normalize_io: expected a field that is known/],
    ["sparsify", { num_latents: 32 }, /^num_latents: expected 24/],
    ["llamaScope", { use_decoder_bias: false }, /^use_decoder_bias: expected true/],
    [
      "llamaScope",
      { "dataset_average_activation_norm.out": 3 },
      /^dataset_average_activation_norm\.out: expected 1\.9/,
    ],
    ["llamaScope", { skip_bos: true }, /^skip_bos: expected a field that is known/],
    ["llamaScope", { d_sae: 25 }, /^d_sae: expected 24/],
    ["gemmaScope2", { type: "transcoder" }, /^type: expected sae, got "transcoder" .*Transcoders are not supported/],
    ["gemmaScope2", { affine_connection: true }, /^affine_connection: expected false/],
    ["gemmaScope2", { architecture: "topk" }, /^architecture: expected jump_relu/],
    ["gemmaScope2", { input_scale: 2 }, /^input_scale: expected a field that is known/],
    ["gemmaScope2", { width: 16384 }, /^width: expected 24/],
    [
      "gemmaScope2",
      { hf_hook_point_out: "model.layers.1.post_feedforward_layernorm.output" },
      /^hf_hook_point_out: expected model\.layers\.1\.output, the input, .*Transcoders are not supported/,
    ],
    [
      "gemmaScope2",
      { hf_hook_point_in: "model.layers.0.output", hf_hook_point_out: null },
      /^hf_hook_point_in: expected resid_post\.1, as the folders say/,
    ],
    [
      "gemmaScope2",
      { hf_hook_point_in: "model.layers.1.mlp.output", hf_hook_point_out: null },
      /^hf_hook_point_in: expected model\.layers\.<block>\. and one of output, /,
    ],
  ])("%s with %j", async (format, change, message) => {
    expect(await opened(format, change)).toMatch(message);
  });
});

/** Fields that the libraries' releases write and that change nothing. */
describe("settings that published files have are accepted:", () => {
  test.each<[string, Format, Change]>([
    [
      "a runner's whole configuration of SAELens 0.1",
      "earlier",
      {
        ...{ dataset_path: "text", is_dataset_tokenized: false, context_size: 128, use_cached_activations: false },
        ...{
          cached_activations_path: "activations",
          n_batches_in_buffer: 128,
          total_training_tokens: 3e8,
          device: "mps",
        },
        ...{ store_batch_size: 32, seed: 42, b_dec_init_method: "geometric_median", expansion_factor: 32, lr: 4e-4 },
        ...{ from_pretrained_path: null, l1_coefficient: 8e-5, lr_scheduler_name: null, lr_warm_up_steps: 5000 },
        ...{ train_batch_size: 4096, use_ghost_grads: false, feature_sampling_window: 1000, feature_reinit_scale: 0.2 },
        ...{ feature_sampling_method: null, resample_batches: 1028, dead_feature_window: 5000, log_to_wandb: true },
        ...{ dead_feature_estimation_method: "no_fire", dead_feature_threshold: 1e-8, wandb_project: "p" },
        ...{ wandb_entity: null, wandb_log_frequency: 100, n_checkpoints: 10, checkpoint_path: "c", run_name: "r" },
        ...{ tokens_per_buffer: 67108864, noise_scale: 0, finetuning_scaling_factor: false, prepend_bos: true },
      },
    ],
    [
      "SAELens 5's",
      "earlier",
      {
        ...{
          architecture: "standard",
          apply_b_dec_to_input: true,
          dataset_trust_remote_code: true,
          seqpos_slice: [null],
        },
        ...{
          activation_fn_kwargs: {},
          model_from_pretrained_kwargs: { center_writing_weights: false },
          neuronpedia_id: "n",
        },
        ...{ mse_loss_normalization: null, scale_sparsity_penalty_by_decoder_norm: true, jumprelu_bandwidth: 0.001 },
      },
    ],
    [
      "SAELens 6's metadata",
      "standard",
      {
        ...{ "metadata.model_class_name": "HookedTransformer", "metadata.training_architecture": "standard" },
        ...{ "metadata.sequence_separator_token": "bos", "metadata.disable_concat_sequences": false },
        ...{
          "metadata.exclude_special_tokens": true,
          "metadata.hook_head_index": null,
          "metadata.seqpos_slice": [null],
        },
        "metadata.model_from_pretrained_kwargs": { dtype: "bfloat16", fold_ln: false, fold_value_biases: true },
      },
    ],
    [
      "a trainer's and a buffer's of dictionary_learning",
      "relu",
      {
        ...{ "trainer.trainer_class": "PAnnealTrainer", "trainer.sparsity_function": "Lp^p", "trainer.p_end": 0.2 },
        ...{
          "trainer.anneal_start": 10000,
          "trainer.wandb_name": "w",
          "trainer.seed": null,
          "trainer.device": "cuda:0",
        },
        ...{ "buffer.io": "out", "buffer.d_submodule": 8, "buffer.n_ctxs": 30000, "buffer.refresh_batch_size": 128 },
      },
    ],
    [
      "Llama Scope's",
      "llamaScope",
      {
        ...{ device: "cuda:0", seed: 42, dtype: "torch.bfloat16", expansion_factor: 3, bias_init_method: "all_zero" },
        ...{ decoder_exactly_fixed_norm: false, sparsity_include_decoder_norm: true, use_glu_encoder: false, lp: 1 },
        ...{ init_decoder_norm: 0.5, init_encoder_norm: null, init_encoder_with_decoder_transpose: true, top_k: 50 },
        ...{
          l1_coefficient: 8e-5,
          l1_coefficient_warmup_steps: 78125,
          k_warmup_steps: 78125,
          use_batch_norm_mse: true,
        },
        ...{ use_ghost_grads: false, tp_size: 1, ddp_size: 1 },
      },
    ],
  ])("%s", async (_, format, change) => {
    expect(await opened(format, change)).toBeUndefined();
  });
});

describe("files whose names tell what they are:", () => {
  const fixture = (path: string) => readFileSync(`${fixtures}/${path}`);
  const failure = async (files: Record<string, Uint8Array | string>, path: string, folder = "f") => {
    const bytes = Object.entries(files).map(([name, value]) => [name, Buffer.from(value)] as const);
    const opening = openDictionary(memoryFolder(folder, Object.fromEntries(bytes)), path);
    const error = await opening.then(
      (dictionary) => dictionary.close(),
      (e: unknown) => e as Error,
    );
    return error?.message;
  };
  const qwen = fixture("SAE-Res-Qwen3-tiny-L0_4/layer1.sae.pt");
  const tracer = fixture("circuit-tracer/jumprelu/layer_1.safetensors");
  const settings = fixture("circuit-tracer/jumprelu/config.yaml").toString();

  test("an npz or pt with a tensor, a number or a list that nobody reads", async () => {
    expect(await failure({ "layer_0.npz": fixture("refused/skip.npz") }, "layer_0.npz")).toMatch(/^tensor W_skip: /);
    expect(await failure({ "layer_0.pt": fixture("refused/number.pt") }, "layer_0.pt")).toMatch(
      /^tensor input_scale: /,
    );
    expect(await failure({ "layer_0.pt": fixture("refused/list.pt") }, "layer_0.pt")).toMatch(/^tensor groups: /);
  });

  test("dictionary_learning's settings of before it had trainers", async () => {
    const early = {
      activation_dim: 8,
      dictionary_size: 24,
      lr: 1e-4,
      sparsity_penalty: 0.1,
      entropy: false,
      io: "out",
    };
    const open = (change: Change) => {
      const config = JSON.stringify({
        ...early,
        warmup_steps: 1000,
        ghost_threshold: null,
        device: "cuda:0",
        ...change,
      });
      const files = { "ae.pt": fixture("dictionary-learning/standard/ae.pt"), "config.json": config };
      return failure(files, "ae.pt", "mlp_out_layer1");
    };
    expect(await open({})).toBeUndefined();
    expect(await open({ io: "in" })).toMatch(/^io: expected out/);
    expect(await open({ dictionary_size: 32 })).toMatch(/^dictionary_size: expected 24/);
    expect(await open({ scale: 2 })).toMatch(/^scale: expected a field that is known/);
  });

  test("Gemma Scope 2's transcoders, and an SAE without config.json and folders", async () => {
    const params = fixture("gemma-scope-2-tiny-pt/mlp_out/layer_1_width_16k_l0_small/params.safetensors");
    const path = "transcoder_all/layer_1_width_16k_l0_small/params.safetensors";
    expect(await failure({ [path]: params }, path)).toMatch(/got a transcoder .*Transcoders are not supported\.$/);
    expect(await failure({ "a/params.safetensors": params }, "a/params.safetensors")).toMatch(
      /^SAE: expected config\.json/,
    );
  });

  test("Qwen-Scope's without its folder's name, or with one of another width", async () => {
    expect(await failure({ "layer1.sae.pt": qwen }, "layer1.sae.pt", "saes")).toMatch(
      /^k: expected a folder .*got none/,
    );
    expect(await failure({ "layer1.sae.pt": qwen }, "layer1.sae.pt", "SAE-Res-Qwen3-tiny-W32K-L0_4")).toMatch(
      /^SAE width: expected 32768/,
    );
    expect(await failure({ "layer1.sae.pt": qwen }, "layer1.sae.pt", "SAE-Res-Qwen3-tiny-L0_30")).toMatch(
      /^k: expected 1 to 24/,
    );
  });

  test("circuit-tracer's: transcoders by their hooks or folder, unknown settings, other YAML", async () => {
    const withSettings = (text: string, file = tracer) =>
      failure({ "layer_1.safetensors": file, "config.yaml": text }, "layer_1.safetensors");
    expect(await withSettings(settings)).toBeUndefined();
    expect(await withSettings(settings.replace("output_hook: hook_resid_post", "output_hook: hook_mlp_out"))).toMatch(
      /^feature_output_hook: expected hook_resid_post, .*got "hook_mlp_out" .*Transcoders are not supported/,
    );
    expect(await withSettings(settings.replaceAll("hook_resid_post", "hook_resid_mid"))).toMatch(
      /^feature_input_hook: /,
    );
    expect(await withSettings(`${settings}input_scale: 2\n`)).toMatch(/^input_scale: expected a field that is known/);
    expect(await withSettings(`${settings}activation: relu\n`)).toMatch(/^activation: expected jump_relu or jumprelu/);
    expect(await withSettings("model_kind: [")).toMatch(/^config\.yaml: expected a YAML mapping/);
    expect(await withSettings("learning_rate: 0.1\n")).toBeUndefined();
    const skip = Buffer.from(await withTensors(tracer, { W_skip: [D, D] }));
    expect(await withSettings(settings, skip)).toMatch(/^tensor W_skip: /);
    expect(await failure({ "layer_1.safetensors": tracer }, "layer_1.safetensors", "llama-transcoders")).toMatch(
      /got a transcoder .*Transcoders are not supported/,
    );
    const folder = memoryFolder("f", {
      "layer_1.safetensors": tracer,
      "s/layer_1.safetensors": tracer,
      "s/config.yaml": Buffer.from(settings),
    });
    const alone = await openDictionary(folder, "layer_1.safetensors");
    expect(alone.warnings).toEqual([
      expect.stringMatching(
        /^Read as SAEs of resid_post: layer files in f\. .*no config\.yaml that names their hooks\.$/,
      ),
    ]);
    expect((await openDictionary(folder, "s/layer_1.safetensors")).warnings).toBeUndefined();
  });

  test("a layer's file with W_enc[F,D] and no thresholds, as transcoders have it", async () => {
    const topk = fixture("circuit-tracer/topk/layer_0.safetensors");
    expect(await failure({ "layer_0.safetensors": topk }, "layer_0.safetensors")).toMatch(
      /^SAE weight W_dec: expected shape/,
    );
  });
});

describe("what a file says where no format says it is not passed over:", () => {
  test.each<[Format, Record<string, string>, RegExp]>([
    ["layer", { activation: "topk", k: "4" }, /^__metadata__\.activation: expected settings beside the weights/],
    ["standard", { format: "pt", hook_name: "blocks.0.hook_mlp_out" }, /^__metadata__\.hook_name: /],
    ["gemmaScope2", { input_scale: "2" }, /^__metadata__\.input_scale: /],
  ])("%s with metadata %j", async (format, metadata, message) => {
    expect(await opened(format, {}, {}, metadata)).toMatch(message);
  });

  test("a file's own format and date are no settings", async () => {
    expect(await opened("layer", {}, {}, { format: "pt", date: "2026-11-26" })).toBeUndefined();
  });

  test.each<[Format, Change, RegExp]>([
    ["standard", { apply_b_dec_to_input: null }, /^apply_b_dec_to_input: expected true or false, got null/],
    ["standard", { "metadata.hook_name": "vision_tower.encoder.layers.1" }, /^hook_name: .*got "vision_tower/],
    ["standard", { "metadata.hook_name": "model.visual.layers.1" }, /^hook_name: .*got "model\.visual/],
    ["standard", { "metadata.hf_hook_name": "model.layers.0.mlp" }, /^hf_hook_name: expected the place of/],
    ["attention", { "metadata.hf_hook_name": "model.layers.0.self_attn.o_proj" }, /^hf_hook_name: /],
    ["llamaScope", { act_fn: null }, /^act_fn: expected jumprelu, got none/],
    ["llamaScope", { norm_activation: null }, /^norm_activation: expected dataset-wise, got none/],
    [
      "gemmaScope2",
      { hf_hook_point_in: "vision_tower.layers.1.output", hf_hook_point_out: "vision_tower.layers.1.output" },
      /^hf_hook_point_in: .*got "vision_tower/,
    ],
    ["relu", { "trainer.layer": 0.5 }, /^trainer\.layer: expected 1, .*got 0\.5/],
    ["relu", { "trainer.layer": "0" }, /^trainer\.layer: expected 1, .*got "0"/],
  ])("%s with %j", async (format, change, message) => {
    expect(await opened(format, change)).toMatch(message);
  });

  test("the heads' place as transformers names it agrees", async () => {
    expect(await opened("attention", { "metadata.hf_hook_name": "model.layers.1.self_attn.o_proj" })).toBeUndefined();
  });

  test("config.yaml with an activation counts, whatever else is missing", async () => {
    const weights = readFileSync(`${fixtures}/layers/layer_1.safetensors`);
    const held = memoryFolder("f", {
      "a/layer_1.safetensors": weights,
      "a/config.yaml": new TextEncoder().encode("activation: topk\nk: 4\n"),
    });
    await expect(openDictionary(held, "a/layer_1.safetensors")).rejects.toThrow(/^feature_input_hook: expected/);
  });

  test("an array that is none, in an npz file", async () => {
    const params = readFileSync(`${fixtures}/${npzPath()}`);
    const entries = await readZip(memorySource("x", params));
    const kept = [...entries.values()].map(
      ({ name, offset, length }) => [name, params.subarray(offset, offset + length)] as const,
    );
    const held = memoryFolder("f", {
      "layer_1/params.npz": makeZip([...kept, ["cfg.json", new Uint8Array([123, 125])]]),
    });
    await expect(openDictionary(held, "layer_1/params.npz")).rejects.toThrow(
      /^npz file: expected arrays \(\.npy\) alone, got cfg\.json/,
    );
  });
});

function npzPath(): string {
  return readdirSync(fixtures, { recursive: true })
    .map(String)
    .find((path) => /gemma-scope-2b-pt-res.*params\.npz$/.test(path))!;
}

describe("weights of whole numbers are quantised, with a scale that is elsewhere:", () => {
  test.each(["I8", "U8", "I64", "BOOL"])("%s", async (dtype) => {
    const size = { I8: 1, U8: 1, I64: 8, BOOL: 1 }[dtype]!;
    const shapes = { W_dec: [F, D], W_enc: [D, F], b_dec: [D], b_enc: [F] };
    let at = 0;
    const header: Record<string, unknown> = {};
    for (const [name, shape] of Object.entries(shapes)) {
      const isWhole = name === "W_enc";
      const length = shape.reduce((a, b) => a * b, isWhole ? size : 4);
      header[name] = { dtype: isWhole ? dtype : "F32", shape, data_offsets: [at, at + length] };
      at += length;
    }
    const text = new TextEncoder().encode(JSON.stringify(header));
    const bytes = new Uint8Array(8 + text.length + at);
    new DataView(bytes.buffer).setBigUint64(0, BigInt(text.length), true);
    bytes.set(text, 8);
    await expect(
      openDictionary(memoryFolder("f", { "layer_1.safetensors": bytes }), "layer_1.safetensors"),
    ).rejects.toThrow(new RegExp(`^number format of SAE weight W_enc: expected floating point, got ${dtype}`));
  });
});

describe("torch files whose numbers are not what they say:", () => {
  test.each([
    ["neg.pt", /^tensor: expected numbers as they are, got a view that changes them/],
    ["twice.pt", /^torch file: expected one value by the name encoder\.bias, got two/],
  ])("%s", async (file, message) => {
    const bytes = readFileSync(`${fixtures}/refused/${file}`);
    await expect(openTorch(memorySource(file, bytes))).rejects.toThrow(message);
  });
});
