import { type Folder, readJson } from "../../bytes/folder.ts";
import { openSafetensors, writeSafetensors } from "../../bytes/safetensors.ts";
import type { TensorFile } from "../../bytes/tensor-file.ts";
import { UserError } from "../../errors.ts";
import { isSiteKind, parseSite, type SiteName } from "../../site.ts";
import type { Dictionary, TrainedOn } from "../dictionary.ts";
import { hookOfSite, siteOfHook, siteOfModule, UnplacedError } from "../hooks.ts";
import { identity } from "../identity.ts";
import { SettingsReader } from "../settings.ts";
import { type ActivationSource, type DictionarySource, dictionaryOf, plainNames } from "../weights.ts";

const configFile = "cfg.json";
const weightsFile = "sae_weights.safetensors";

/** The files that SAELens saves an SAE as. */
export const saeLensFiles = [configFile, weightsFile] as const;

/**
 * Opens an SAE that SAELens saved (any version; architectures standard, jumprelu, gated and topk; those trained as batchtopk and matryoshka are
 * saved as jumprelu).
 *
 * z = (x − apply_b_dec_to_input·b_dec) W_enc + b_enc, where apply_b_dec_to_input is true unless the file says otherwise; codes are max(z, 0), in
 * jumprelu only where z > threshold, in topk only the k largest, in gated 1[x W_enc + b_gate > 0]·max(x(W_enc·e^r_mag) + b_mag, 0). Before version 6
 * settings lay beside `metadata`'s place instead of in it, no architecture meant standard, and an activation_fn_str of topk meant topk. With
 * model_from_pretrained_kwargs.center_writing_weights, x is taken less its mean in models that ignore it (see `modelOptions`).
 *
 * @throws UserError if a file is missing or damaged, or for a setting or tensor that could change the formula in a way not covered here
 */
export async function openSaeLens(folder: Folder): Promise<Dictionary> {
  const fields = await readJson(folder, configFile);
  if (!fields)
    throw new UserError(`SAE: expected a file ${configFile}, got none in ${folder.name}. Name a SAELens folder.`);
  const config = new SettingsReader(fields, `${folder.name}/${configFile}`);
  const settings = readSettings(config, folder.name);

  const source = await folder.open(weightsFile);
  if (!source)
    throw new UserError(`SAE: expected a file ${weightsFile}, got none in ${folder.name}. Fetch it as well.`);
  try {
    const file = await openSafetensors(source);
    const dictionary = dictionaryOf(file, {
      ...settings,
      ...activationIn(file, settings.activation),
      ...(await codeScale(file, config, settings)),
      sha256: () => identity(folder, configFile, weightsFile, source),
    });
    config.size("d_in", dictionary.inputWidth, dictionary.name);
    config.size("d_sae", dictionary.featureCount, dictionary.name);
    config.harmless(...harmless);
    config.inner("metadata").harmless(...harmless);
    config.done();
    return dictionary;
  } catch (error) {
    await source.close();
    throw error;
  }
}

/** Fields of cfg.json, of any version, that say how an SAE was trained or what to call it, and nothing about what it computes. */
const harmless = [
  ...["dtype", "device", "seed", "model_kwargs", "neuronpedia_id", "sae_lens_version"],
  ...["sae_lens_training_version", "training_architecture", "training_architecture_details", "run_name", "verbose"],
  ...["hook_eval", "hook_point_eval"],
  ...["seqpos_slice", "exclude_special_tokens", "sequence_separator_token", "disable_concat_sequences", "streaming"],
  ...["dataset_path", "dataset_name", "dataset_trust_remote_code", "is_dataset_tokenized", "use_cached_activations"],
  ...[
    "cached_activations_path",
    "new_cached_activations_path",
    "expansion_factor",
    "b_dec_init_method",
    "decoder_init_norm",
  ],
  ...[
    "from_pretrained_path",
    "resume",
    "resume_from_checkpoint",
    "n_batches_in_buffer",
    "buffer_size_gb",
    "store_batch_size",
  ],
  ...["store_batch_size_prompts", "train_batch_size", "train_batch_size_tokens", "train_batch_size_samples"],
  ...["training_tokens", "total_training_tokens", "total_training_steps", "total_training_samples", "training_samples"],
  ...[
    "tokens_per_buffer",
    "effective_batch_size",
    "act_store_device",
    "activations_mixing_fraction",
    "finetuning_tokens",
  ],
  ...["finetuning_method", "shuffle_every_n_buffers", "n_shuffles_with_last_section", "n_shuffles_in_entire_dir"],
  ...[
    "n_shuffles_final",
    "model_batch_size",
    "autocast",
    "autocast_lm",
    "autocast_sae",
    "autocast_data",
    "compile_llm",
  ],
  ...["compile_sae", "llm_compilation_mode", "sae_compilation_mode", "adam_beta1", "adam_beta2", "lr", "lr_end"],
  ...[
    "lr_scheduler_name",
    "lr_warm_up_steps",
    "lr_decay_steps",
    "n_restart_cycles",
    "l1_coefficient",
    "l1_warm_up_steps",
  ],
  ...[
    "lp_norm",
    "l0_coefficient",
    "l0_warm_up_steps",
    "l0_lambda",
    "mse_loss_normalization",
    "noise_scale",
    "use_ghost_grads",
  ],
  ...[
    "normalize_sae_decoder",
    "scale_sparsity_penalty_by_decoder_norm",
    "decoder_orthogonal_init",
    "decoder_heuristic_init",
  ],
  ...[
    "decoder_heuristic_init_norm",
    "init_encoder_as_decoder_transpose",
    "jumprelu_init_threshold",
    "jumprelu_bandwidth",
  ],
  ...[
    "jumprelu_sparsity_loss_mode",
    "jumprelu_tanh_scale",
    "jumprelu_ste_to_input",
    "pre_act_loss_coefficient",
    "target_l0",
  ],
  ...[
    "aux_loss_coefficient",
    "topk_threshold_lr",
    "use_sparse_activations",
    "matryoshka_widths",
    "use_matryoshka_aux_loss",
  ],
  ...[
    "feature_sampling_window",
    "feature_sampling_method",
    "feature_reinit_scale",
    "resample_batches",
    "dead_feature_window",
  ],
  ...[
    "dead_feature_threshold",
    "dead_feature_estimation_method",
    "n_eval_batches",
    "n_eval_seqs",
    "eval_batch_size_prompts",
  ],
  ...["eval_every_n_wandb_logs", "log_to_wandb", "log_activations_store_to_wandb", "logger"],
  ...["log_optimizer_state_to_wandb", "log_weights_to_wandb", "wandb_project", "wandb_entity", "wandb_id"],
  ...[
    "wandb_log_frequency",
    "n_checkpoints",
    "checkpoint_path",
    "save_final_checkpoint",
    "output_path",
    "begin_batch_token",
  ],
  ...["begin_sequence_token", "git_hash"],
];

/** Options with which TransformerLens loads a model that leave our sites' activations as they are. */
const harmlessOptions = [
  ...[
    "fold_ln",
    "center_unembed",
    "first_n_layers",
    "n_devices",
    "device",
    "dtype",
    "torch_dtype",
    "device_map",
    "n_ctx",
  ],
  ...["default_prepend_bos", "default_padding_side", "trust_remote_code", "local_files_only", "token", "cache_dir"],
  ...["attn_implementation", "low_cpu_mem_usage"],
];

type Settings = Omit<DictionarySource, "sha256" | "codeScale" | "known">;

/** What the settings mean for the formula; refuses by name every one that would change it in a way that is not known here. */
function readSettings(config: SettingsReader, folder: string): Settings {
  const reshape = config.get("reshape_activations") ?? "none";
  if (reshape !== "none" && reshape !== "hook_z") config.refuse("reshape_activations", "none or hook_z", reshape);
  for (const key of ["hook_head_index", "hook_point_head_index"]) {
    const head = setting(config, key);
    if (head !== undefined) config.refuse(key, "none (all heads together)", head);
  }
  for (const key of ["hook_name_out", "hook_head_index_out", "hf_hook_name_out", "d_out"]) {
    const output = setting(config, key);
    const expected = "none (transcoders read one site and write another)";
    if (output !== undefined) config.refuse(key, expected, output, "Transcoders are not supported.");
  }
  const { site, module } = placeOf(config, folder);
  const activation = activationOf(config);
  const { encoderBias, ...names } = plainNames;
  const unitDecoder = config.flag("rescale_acts_by_decoder_norm", false);
  if (unitDecoder && activation.kind !== "topk") {
    config.refuse("rescale_acts_by_decoder_norm", "false but for topk", true);
  }
  return {
    site,
    names: activation.kind === "gated" ? names : { ...names, encoderBias },
    activation,
    subtractDecoderBias: config.flag("apply_b_dec_to_input", true),
    unitDecoder,
    trainedOn: { ...(module !== undefined && { module }), ...trainedOn(config, site) },
    ...normalizationOf(config),
  };
}

/** A setting, from where this or an earlier version of SAELens keeps it. @throws UserError if it is in both places and differs */
function setting(config: SettingsReader, key: string): unknown {
  const [inner, outer] = [config.inner("metadata").get(key), config.get(key)];
  if (inner !== undefined && outer !== undefined && JSON.stringify(inner) !== JSON.stringify(outer)) {
    config.refuse(key, `${JSON.stringify(inner)}, as in metadata`, outer, "Keep the one that is right.");
  }
  return inner ?? outer;
}

/** What the settings say of the model and of the texts. @throws UserError as `modelOptions` */
function trainedOn(config: SettingsReader, site: SiteName): TrainedOn {
  const [model, bos, length] = ["model_name", "prepend_bos", "context_size"].map((key) => setting(config, key));
  const className = setting(config, "model_class_name") ?? "HookedTransformer";
  return {
    ...(typeof model === "string" && { model }),
    // Before there was a choice, it was there.
    ...((typeof bos === "boolean" || isEarlyTraining(config)) && { bos: bos !== false }),
    ...(typeof length === "number" && { contextSize: length }),
    ...modelOptions(config, site, className === "HookedTransformer"),
  };
}

/**
 * Whether it was trained on TransformerLens' model whose weights write vectors of mean 0 to the residual stream, and in which values have no biases.
 * Until version 3.19.1 SAELens loaded models with TransformerLens' own defaults, both of them; since then with neither, and it writes down the first.
 * Of releases from before, its list of pretrained SAEs says the same.
 *
 * @param isLens whether the model was TransformerLens'
 * @throws UserError for an option that changes the site's activations in another way
 */
function modelOptions(config: SettingsReader, site: SiteName, isLens: boolean): TrainedOn {
  const isHeads = parseSite(site).kind === "attn_z";
  let centred: boolean | undefined;
  let folded: boolean | undefined;
  for (const place of [config.inner("metadata"), config]) {
    const options = place.inner("model_from_pretrained_kwargs");
    options.harmless(...harmlessOptions);
    options.only("revision", "main");
    // Both change what a head's z is: values lose their bias, or heads take another basis.
    for (const key of ["fold_value_biases", "refactor_factored_attn_matrices"]) {
      const isOn = options.flag(key, false);
      if (isOn && isHeads) options.refuse(key, `false for SAEs of ${site}`, true);
    }
    folded ??= options.get("fold_value_biases") === undefined ? undefined : false;
    if (options.get("center_writing_weights") !== undefined) {
      const isHere = options.flag("center_writing_weights", false);
      if (centred !== undefined && centred !== isHere) {
        options.refuse("center_writing_weights", `${centred}, as in metadata`, isHere, "Keep the one that is right.");
      }
      centred = isHere;
    }
  }
  const byDefault = isLens && isEarlyTraining(config);
  if (isHeads) return byDefault && folded === undefined ? { foldedValueBiases: "byDefault" } : {};
  // Neurons are the same whether what they read lost its mean.
  if (parseSite(site).kind === "mlp_act") return {};
  if (centred ?? byDefault) return { centredWeights: centred ? "asked" : "byDefault" };
  return {};
}

/** Whether cfg.json holds all settings of a training by SAELens 3.19.1 or earlier; before its first versions they had no version. */
function isEarlyTraining(config: SettingsReader): boolean {
  const has = (...keys: readonly string[]) => keys.some((key) => setting(config, key) !== undefined);
  if (!has("lr") || !has("train_batch_size", "train_batch_size_tokens")) return false;
  const version = setting(config, "sae_lens_training_version") ?? setting(config, "sae_lens_version");
  if (typeof version !== "string") return true;
  const [major = 0, minor = 0, patch = 0] = version.split(".").map((part) => Number.parseInt(part, 10));
  return major !== 3 ? major < 3 : minor !== 19 ? minor < 19 : patch < 2;
}

function activationOf(config: SettingsReader): ActivationSource {
  const activation = config.get("activation_fn") ?? config.get("activation_fn_str") ?? "relu";
  config.only("activation_fn_str", activation);
  const named = config.get("architecture");
  const isTopK = activation === "topk" && named !== "topk";
  const architecture = isTopK && (named ?? "standard") === "standard" ? "topk" : (named ?? "standard");
  if (activation !== "relu" && !(activation === "topk" && architecture === "topk")) {
    return config.refuse("activation_fn", "relu or topk", activation);
  }
  const options = config.inner("activation_fn_kwargs");
  switch (architecture) {
    case "standard":
      return { kind: "relu" };
    case "jumprelu":
      return { kind: "jumprelu", threshold: "threshold" };
    case "topk": {
      options.only("signed", false);
      options.harmless("use_sparse_activations");
      const k = options.get("k");
      if (k !== undefined) config.only("k", k);
      return { kind: "topk", k: Number(config.get("k") ?? k) };
    }
    case "gated":
      return { kind: "gated", gateBias: "b_gate", logScale: "r_mag", magnitudeBias: "b_mag" };
    default:
      return config.refuse("architecture", "standard, jumprelu, gated or topk", architecture);
  }
}

/** The average scale of the activations is a number that SAELens keeps in its list of releases, not in the file. */
function normalizationOf(config: SettingsReader): Pick<Settings, "inputScale" | "normalization"> {
  const kind = config.get("normalize_activations") ?? "none";
  switch (kind) {
    case "none":
    case false:
      return {};
    case "layer_norm":
      return { normalization: "layer_norm" };
    case "constant_norm_rescale":
      return { normalization: "constant_norm_rescale" };
    case "expected_average_only_in":
    case true: {
      const factor = setting(config, "norm_scaling_factor");
      if (typeof factor !== "number" || !(factor > 0) || !Number.isFinite(factor)) {
        const expected = "none, or a positive norm_scaling_factor beside it (SAELens lists it with the release)";
        return config.refuse("normalize_activations", expected, kind);
      }
      return { inputScale: factor };
    }
    default:
      return config.refuse(
        "normalize_activations",
        "none, expected_average_only_in, constant_norm_rescale or layer_norm",
        kind,
      );
  }
}

/** From the hook's name, which neither a folder that is named like a site nor the hook's number may contradict. */
function placeOf(config: SettingsReader, folder: string): { site: SiteName; module?: TrainedOn["module"] } {
  const { where } = config;
  const hook = setting(config, "hook_name") ?? config.get("hook_point");
  const known = typeof hook === "string" ? siteOfHook(hook) : undefined;
  const ofModule = typeof hook === "string" && known === undefined ? siteOfModule(hook) : undefined;
  const site = known ?? ofModule;
  const named = folder.split("/").at(-1) ?? "";
  if (typeof hook === "string" && !site) {
    throw new UserError(
      `hook_name: expected a residual stream, attn_out, mlp_out, attn z or mlp post of a block, got "${hook}" in ${where}. SAEs of that place are not supported.`,
    );
  }
  const isSite = named === "embed" || (isSiteKind(named.split(".")[0] ?? "") && /^[a-z_]+\.\d+$/.test(named));
  if (!site && !isSite) {
    throw new UnplacedError(`hook_name: expected the place that the SAE was trained on, got none in ${where}. Add it.`);
  }
  if (site && isSite && site !== named) {
    throw new UserError(
      `hook_name: expected ${hookOfSite(named)}, as the folder's name says, got "${hook}" in ${where}. Rename the folder.`,
    );
  }
  const layer = Number(/\.(\d+)(?:\.|$)/.exec(String(hook))?.[1] ?? parseSite(site ?? named).layer);
  for (const key of ["hook_layer", "hook_point_layer"]) {
    const given = setting(config, key);
    if (given === undefined || given === layer) continue;
    config.refuse(key, `${layer}, as ${hook ?? named} says`, given, "Keep the one that is right.");
  }
  const other = setting(config, "hf_hook_name");
  const otherSite = typeof other === "string" ? siteOfHook(other) : undefined;
  // Farther inside a block, only the block is compared: heads are the input of self_attn.o_proj.
  const otherLayer =
    typeof other === "string" ? /(?:^|\.)(?:layers|h|blocks)\.(\d+)(?:\.|$)/.exec(other)?.[1] : undefined;
  const isElsewhere = otherLayer !== undefined && Number(otherLayer) !== layer;
  if ((otherSite !== undefined && otherSite !== (site ?? named)) || (otherSite === undefined && isElsewhere)) {
    config.refuse("hf_hook_name", `the place of ${hook ?? named}`, other, "Keep the one that is right.");
  }
  return ofModule ? { site: ofModule, module: { name: String(hook), isSure: true } } : { site: site ?? named };
}

/** Thresholds of a training checkpoint are kept as their logarithms. */
function activationIn(file: TensorFile, activation: ActivationSource): Pick<DictionarySource, "activation"> {
  const isLogarithm =
    activation.kind === "jumprelu" && file.tensors.has("log_threshold") && !file.tensors.has("threshold");
  return { activation: isLogarithm ? { kind: "jumprelu", threshold: "log_threshold", isLogarithm } : activation };
}

/** Factors of finetuned SAEs, by which codes are multiplied. They were written as ones for a time. */
async function codeScale(
  file: TensorFile,
  config: SettingsReader,
  { activation }: Settings,
): Promise<Pick<DictionarySource, "codeScale" | "known">> {
  const isFinetuned = config.get("finetuning_scaling_factor");
  config.only("finetuning_scaling_factor", true, false);
  const found = ["scaling_factor", "finetuning_scaling_factor"].filter((name) => file.tensors.has(name));
  const [tensor] = found;
  if (tensor === undefined) return {};
  if ((await file.read(tensor)).every((x) => Math.abs(x - 1) <= 1e-5)) return { known: [tensor] };
  if (activation.kind === "topk" || isFinetuned === false) {
    throw new UserError(
      `${tensor}: expected ones, got other factors in ${file.source.name}. Such SAEs need finetuning_scaling_factor true and no topk.`,
    );
  }
  return { codeScale: tensor };
}

/** The weights of a JumpReLU SAE to be saved, with D the input's width and F the number of features. */
export interface JumpReluWeights {
  readonly site: SiteName;
  /** W_enc[D,F] */
  readonly encoder: Float32Array;
  /** b_enc[F] */
  readonly encoderBias: Float32Array;
  /** W_dec[F,D] */
  readonly decoder: Float32Array;
  /** b_dec[D] */
  readonly decoderBias: Float32Array;
  /** θ[F] */
  readonly threshold: Float32Array;
  /** Whether the encoder was trained on x − b_dec. */
  readonly subtractDecoderBias: boolean;
}

/**
 * The two files of a SAELens folder (version 6 layout), by name. `SAE.load_from_disk` reads them; float16 weights too, which it turns into the
 * float32 that cfg.json's dtype asks for.
 * `sae_lens_version` tells it which layout this is.
 *
 * @param metadata further facts for cfg.json, e.g. model_name, context_size, dataset_path
 * @throws UserError if a weight is not finite, or too large for float16
 */
export function saveSaeLens(
  sae: JumpReluWeights,
  { dtype, metadata }: { dtype: "float16" | "float32"; metadata: Readonly<Record<string, unknown>> },
): Record<(typeof saeLensFiles)[number], Uint8Array> {
  const [D, F] = [sae.decoderBias.length, sae.encoderBias.length];
  const hook = hookOfSite(sae.site);
  const config = {
    d_in: D,
    d_sae: F,
    dtype: "float32",
    device: "cpu",
    apply_b_dec_to_input: sae.subtractDecoderBias,
    normalize_activations: "none",
    reshape_activations: hook.endsWith("hook_z") ? "hook_z" : "none",
    metadata: {
      sae_lens_version: "6.0.0",
      sae_lens_training_version: null,
      hook_name: hook,
      hook_head_index: null,
      ...metadata,
    },
    architecture: "jumprelu",
  };
  const weights = writeSafetensors(
    new Map([
      ["W_enc", { shape: [D, F], data: sae.encoder }],
      ["W_dec", { shape: [F, D], data: sae.decoder }],
      ["b_enc", { shape: [F], data: sae.encoderBias }],
      ["b_dec", { shape: [D], data: sae.decoderBias }],
      ["threshold", { shape: [F], data: sae.threshold }],
    ]),
    { dtype: dtype === "float16" ? "F16" : "F32" },
  );
  return { [configFile]: new TextEncoder().encode(`${JSON.stringify(config, null, 2)}\n`), [weightsFile]: weights };
}
