import { type Folder, readJson } from "../bytes/folder.ts";
import { openSafetensors } from "../bytes/safetensors.ts";
import { UserError } from "../errors.ts";
import type { Dictionary } from "./dictionary.ts";
import { siteOfHook } from "./hooks.ts";
import { identity } from "./identity.ts";
import { dictionaryOf, linearMatrices } from "./weights.ts";

const settingsFile = "hyperparams.json";
const weightsFile = "checkpoints/final.safetensors";

/** The files of a Llama Scope SAE. */
export const llamaScopeFiles = [settingsFile, weightsFile] as const;

/**
 * Opens a Llama Scope SAE (arXiv:2410.20526): `hyperparams.json` and `checkpoints/final.safetensors` with encoder and decoder as Linear layers.
 *
 * The SAE is one of c·x with c = √D / dataset_average_activation_norm.in: z = c·x W_enc + b_enc, f = z where z > c·jump_relu_threshold, x̂ = (f W_dec +
 * b_dec)/c. The factor belongs to the threshold too: SAELens' loader, which this follows, multiplies it.
 *
 * @throws UserError if a file is missing or damaged, for a transcoder, or for settings that change the formula
 */
export async function openLlamaScope(folder: Folder): Promise<Dictionary> {
  const where = `${folder.name}/${settingsFile}`;
  const settings = (await readJson(folder, settingsFile)) ?? {};
  const refuse = (key: string, expected: string, got: unknown): never => {
    throw new UserError(
      `${key}: expected ${expected}, got ${JSON.stringify(got)} in ${where}. SAEs of this kind are not supported.`,
    );
  };
  const { hook_point_in: input, hook_point_out: output = input, jump_relu_threshold: threshold, d_model: D } = settings;
  const site = typeof input === "string" ? siteOfHook(input) : undefined;
  if (input !== output) refuse("hook_point_out", `${input}, the input (no transcoder)`, output);
  if (!site) return refuse("hook_point_in", "a residual stream, attn_out or mlp_out of a block", input);
  for (const [key, expected] of Object.entries({
    act_fn: "jumprelu",
    norm_activation: "dataset-wise",
    use_glu_encoder: false,
    apply_decoder_bias_to_pre_encoder: false,
    use_decoder_bias: true,
  })) {
    const got = settings[key] ?? expected;
    if (got !== expected) refuse(key, String(expected), got);
  }
  const norm = (settings.dataset_average_activation_norm as Record<string, unknown> | undefined)?.in;
  if (!isPositive(norm)) return refuse("dataset_average_activation_norm.in", "a positive number", norm ?? null);
  if (!isPositive(D)) return refuse("d_model", "a positive number", D ?? null);
  if (typeof threshold !== "number") return refuse("jump_relu_threshold", "a number", threshold ?? null);

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
    if (dictionary.inputWidth !== D) refuse("d_model", `${dictionary.inputWidth}, as in the weights`, D);
    return dictionary;
  } catch (error) {
    await source.close();
    throw error;
  }
}

function isPositive(value: unknown): value is number {
  return typeof value === "number" && Number.isFinite(value) && value > 0;
}
