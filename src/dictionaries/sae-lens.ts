import { type Folder, readJson } from "../bytes/folder.ts";
import { openSafetensors, type TensorFile, writeSafetensors } from "../bytes/safetensors.ts";
import { sha256OfFiles } from "../bytes/sha256.ts";
import type { ByteSource } from "../bytes/source.ts";
import { UserError } from "../errors.ts";
import { isSiteKind, type SiteName } from "../site.ts";
import type { Dictionary } from "./dictionary.ts";
import { hookOfSite, siteOfHook } from "./hooks.ts";
import { dictionaryOf } from "./weights.ts";

const configFile = "cfg.json";
const weightsFile = "sae_weights.safetensors";

/** The files that SAELens saves an SAE as. */
export const saeLensFiles = [configFile, weightsFile] as const;

const kinds = { standard: "relu", jumprelu: "jumprelu" } as const;

/**
 * Opens an SAE that SAELens saved (any version; architectures standard and jumprelu).
 *
 * z = (x − apply_b_dec_to_input·b_dec) W_enc + b_enc for both architectures, where apply_b_dec_to_input is true unless the file says otherwise;
 * codes are max(z, 0), in jumprelu only where z > threshold. Before version 6 settings lay beside `metadata`'s place instead of in it, and no
 * architecture meant standard.
 *
 * @throws UserError if a file is missing or damaged, or for settings that change the formula in a way not covered here
 */
export async function openSaeLens(folder: Folder): Promise<Dictionary> {
  const where = `${folder.name}/${configFile}`;
  const config = await readJson(folder, configFile);
  if (!config)
    throw new UserError(`SAE: expected a file ${configFile}, got none in ${folder.name}. Name a SAELens folder.`);
  const kind = checkConfig(config, where);
  const site = siteOf(config, folder.name, where);

  const source = await folder.open(weightsFile);
  if (!source)
    throw new UserError(`SAE: expected a file ${weightsFile}, got none in ${folder.name}. Fetch it as well.`);
  try {
    const file = await openSafetensors(source);
    await checkScalingFactor(file);
    const subtractDecoderBias = config.apply_b_dec_to_input !== false;
    const dictionary = dictionaryOf(file, site, kind, subtractDecoderBias, () => identity(folder, source));
    checkSize(config, dictionary, where);
    return dictionary;
  } catch (error) {
    await source.close();
    throw error;
  }
}

async function identity(folder: Folder, weights: ByteSource): Promise<string> {
  const config = await folder.open(configFile);
  if (!config) throw new UserError(`SAE: expected a file ${configFile}, got none any more in ${folder.name}.`);
  try {
    return await sha256OfFiles(
      new Map([
        [configFile, config],
        [weightsFile, weights],
      ]),
    );
  } finally {
    await config.close();
  }
}

/** A setting, from where this or an earlier version of SAELens keeps it. */
function setting(config: Record<string, unknown>, key: string): unknown {
  const metadata = config.metadata as Record<string, unknown> | undefined;
  return metadata?.[key] ?? config[key];
}

/** The kind of dictionary; refuses by name every setting that would change the formula. */
function checkConfig(config: Record<string, unknown>, where: string): "relu" | "jumprelu" {
  const refuse = (key: string, expected: string, got: unknown): never => {
    throw new UserError(
      `${key}: expected ${expected}, got ${JSON.stringify(got)} in ${where}. SAEs of this kind are not supported yet.`,
    );
  };
  const architecture = config.architecture ?? "standard";
  const kind = Object.hasOwn(kinds, String(architecture)) ? kinds[architecture as keyof typeof kinds] : undefined;
  if (!kind) return refuse("architecture", Object.keys(kinds).join(" or "), architecture);

  const activation = config.activation_fn ?? config.activation_fn_str ?? "relu";
  if (activation !== "relu") refuse("activation_fn", "relu", activation);
  const normalize = config.normalize_activations ?? "none";
  if (normalize !== "none" && normalize !== false) refuse("normalize_activations", "none", normalize);
  const reshape = config.reshape_activations ?? "none";
  if (reshape !== "none" && reshape !== "hook_z") refuse("reshape_activations", "none or hook_z", reshape);
  const head = setting(config, "hook_head_index") ?? setting(config, "hook_point_head_index") ?? null;
  if (head !== null) refuse("hook_head_index", "none (all heads together)", head);
  const output = setting(config, "hook_name_out") ?? null;
  if (output !== null) refuse("hook_name_out", "none (transcoders read one site and write another)", output);
  return kind;
}

/** From the hook's name, which must not contradict a folder that is named like a site. */
function siteOf(config: Record<string, unknown>, folder: string, where: string): SiteName {
  const hook = setting(config, "hook_name") ?? config.hook_point;
  const site = typeof hook === "string" ? siteOfHook(hook) : undefined;
  const named = folder.split("/").at(-1) ?? "";
  if (typeof hook === "string" && !site) {
    throw new UserError(
      `hook_name: expected a residual stream, attn_out, mlp_out or attn z of a block, got "${hook}" in ${where}. SAEs of that place are not supported.`,
    );
  }
  const isSite = named === "embed" || (isSiteKind(named.split(".")[0] ?? "") && /^[a-z_]+\.\d+$/.test(named));
  if (!site && !isSite) {
    throw new UserError(`hook_name: expected the place that the SAE was trained on, got none in ${where}. Add it.`);
  }
  if (site && isSite && site !== named) {
    throw new UserError(
      `hook_name: expected ${hookOfSite(named)}, as the folder's name says, got "${hook}" in ${where}. Rename the folder.`,
    );
  }
  return site ?? named;
}

/** A factor for each code was written as ones for a time; others belong to a kind of SAE that SAELens no longer loads either. */
async function checkScalingFactor(file: TensorFile): Promise<void> {
  if (!file.tensors.has("scaling_factor")) return;
  if ((await file.read("scaling_factor")).some((x) => Math.abs(x - 1) > 1e-5)) {
    throw new UserError(
      `scaling_factor: expected ones, got other factors in ${file.source.name}. SAEs with finetuned scaling factors are not supported.`,
    );
  }
}

function checkSize(config: Record<string, unknown>, { inputWidth, width, name }: Dictionary, where: string): void {
  for (const [key, held] of [
    ["d_in", inputWidth],
    ["d_sae", width],
  ] as const) {
    if (config[key] !== undefined && config[key] !== held) {
      throw new UserError(
        `${key}: expected ${held}, as in ${name}, got ${config[key]} in ${where}. The files do not belong together.`,
      );
    }
  }
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
