import { type Folder, readJson } from "../../bytes/folder.ts";
import { openSafetensors } from "../../bytes/safetensors.ts";
import { UserError } from "../../errors.ts";
import type { Dictionary } from "../dictionary.ts";
import { siteOfHook } from "../hooks.ts";
import { identity } from "../identity.ts";
import { SettingsReader } from "../settings.ts";
import { dictionaryOf, linearMatrices } from "../weights.ts";

const settingsFile = "hyperparams.json";
const weightsFile = "checkpoints/final.safetensors";

/** The files of a Llama Scope SAE. */
export const llamaScopeFiles = [settingsFile, weightsFile] as const;

/**
 * Settings of the training. TopK chose by codes times decoder norms (sparsity_include_decoder_norm), but columns of published decoders are unit
 * vectors, and their JumpReLU compares codes alone.
 */
const harmless = [
  ...["device", "seed", "dtype", "exp_name", "expansion_factor", "bias_init_method", "decoder_exactly_fixed_norm"],
  ...["encoder_exactly_fixed_norm", "sparsity_include_decoder_norm", "init_decoder_norm", "init_encoder_norm"],
  ...["init_encoder_with_decoder_transpose", "lp", "l1_coefficient", "l1_coefficient_warmup_steps", "top_k"],
  ...["k_warmup_steps", "use_batch_norm_mse", "use_ghost_grads", "tp_size", "ddp_size", "sae_pretrained_name_or_path"],
  ...["strict_loading", "remove_gradient_parallel_to_decoder_directions"],
];

/**
 * Opens a Llama Scope SAE (arXiv:2410.20526): `hyperparams.json` and `checkpoints/final.safetensors` with encoder and decoder as Linear layers.
 *
 * The SAE is one of c·x with c = √D / dataset_average_activation_norm.in: z = c·x W_enc + b_enc, f = z where z > c·jump_relu_threshold, x̂ = (f W_dec +
 * b_dec)/c. The factor belongs to the threshold too: SAELens' loader, which this follows, multiplies it.
 *
 * @throws UserError if a file is missing or damaged, for a transcoder, or for settings that change the formula
 */
export async function openLlamaScope(folder: Folder): Promise<Dictionary> {
  const settings = new SettingsReader((await readJson(folder, settingsFile)) ?? {}, `${folder.name}/${settingsFile}`);
  const input = settings.get("hook_point_in");
  const output = settings.get("hook_point_out") ?? input;
  const site = typeof input === "string" ? siteOfHook(input) : undefined;
  if (input !== output) settings.refuse("hook_point_out", `${input}, the input (no transcoder)`, output);
  if (!site) return settings.refuse("hook_point_in", "a residual stream, attn_out or mlp_out of a block", input);
  // Where they lack, its library means others.
  for (const [field, wanted] of [
    ["act_fn", "jumprelu"],
    ["norm_activation", "dataset-wise"],
  ] as const) {
    const value = settings.get(field);
    if (value !== wanted) settings.refuse(field, wanted, value);
  }
  settings.only("use_glu_encoder", false);
  settings.only("apply_decoder_bias_to_pre_encoder", false);
  settings.only("use_decoder_bias", true);
  const norms = settings.inner("dataset_average_activation_norm");
  const norm = norms.get("in");
  if (!isPositive(norm)) return norms.refuse("in", "a positive number", norm);
  norms.only("out", norm);
  const D = settings.get("d_model");
  if (!isPositive(D)) return settings.refuse("d_model", "a positive number", D);
  const threshold = settings.get("jump_relu_threshold");
  if (typeof threshold !== "number" || !Number.isFinite(threshold)) {
    return settings.refuse("jump_relu_threshold", "a finite number", threshold);
  }
  settings.harmless(...harmless);

  const source = await folder.open(weightsFile);
  if (!source)
    throw new UserError(`SAE: expected a file ${weightsFile}, got none in ${folder.name}. Fetch it as well.`);
  try {
    const inputScale = Math.sqrt(D) / norm;
    const dictionary = dictionaryOf(await openSafetensors(source), {
      site,
      names: { ...linearMatrices, encoderBias: "encoder.bias", decoderBias: "decoder.bias" },
      activation: { kind: "jumprelu", threshold: threshold * inputScale },
      subtractDecoderBias: false,
      inputScale,
      sha256: () => identity(folder, settingsFile, weightsFile, source),
    });
    settings.size("d_model", dictionary.inputWidth, dictionary.name);
    settings.size("d_sae", dictionary.featureCount, dictionary.name);
    settings.done();
    return dictionary;
  } catch (error) {
    await source.close();
    throw error;
  }
}

function isPositive(value: unknown): value is number {
  return typeof value === "number" && Number.isFinite(value) && value > 0;
}
