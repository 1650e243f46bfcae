import { type Folder, readJson } from "../bytes/folder.ts";
import { openSafetensors, writeSafetensors } from "../bytes/safetensors.ts";
import type { TensorFile } from "../bytes/tensor-file.ts";
import { UserError } from "../errors.ts";
import { isSiteKind, type SiteName } from "../site.ts";
import type { Dictionary } from "./dictionary.ts";
import { hookOfSite, siteOfHook } from "./hooks.ts";
import { identity } from "./identity.ts";
import { type ActivationSource, type DictionarySource, dictionaryOf, plainNames } from "./weights.ts";

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
 * model_from_pretrained_kwargs.center_writing_weights, x is taken less its mean.
 *
 * @throws UserError if a file is missing or damaged, or for settings that change the formula in a way not covered here
 */
export async function openSaeLens(folder: Folder): Promise<Dictionary> {
  const where = `${folder.name}/${configFile}`;
  const config = await readJson(folder, configFile);
  if (!config)
    throw new UserError(`SAE: expected a file ${configFile}, got none in ${folder.name}. Name a SAELens folder.`);
  const settings = readSettings(config, where);
  const site = siteOf(config, folder.name, where);

  const source = await folder.open(weightsFile);
  if (!source)
    throw new UserError(`SAE: expected a file ${weightsFile}, got none in ${folder.name}. Fetch it as well.`);
  try {
    const file = await openSafetensors(source);
    const dictionary = dictionaryOf(file, {
      ...settings,
      ...(await codeScale(file, config)),
      site,
      sha256: () => identity(folder, configFile, weightsFile, source),
    });
    checkSize(config, dictionary, where);
    return dictionary;
  } catch (error) {
    await source.close();
    throw error;
  }
}

/** A setting, from where this or an earlier version of SAELens keeps it. */
function setting(config: Record<string, unknown>, key: string): unknown {
  const metadata = config.metadata as Record<string, unknown> | undefined;
  return metadata?.[key] ?? config[key];
}

type Config = Readonly<Record<string, unknown>>;
type Settings = Omit<DictionarySource, "site" | "sha256" | "codeScale">;

/** What the settings mean for the formula; refuses by name every one that would change it in a way that is not known here. */
function readSettings(config: Config, where: string): Settings {
  const refuse: Refuse = (key, expected, got) => {
    throw new UserError(
      `${key}: expected ${expected}, got ${JSON.stringify(got)} in ${where}. SAEs of this kind are not supported.`,
    );
  };
  const reshape = config.reshape_activations ?? "none";
  if (reshape !== "none" && reshape !== "hook_z") refuse("reshape_activations", "none or hook_z", reshape);
  const head = setting(config, "hook_head_index") ?? setting(config, "hook_point_head_index") ?? null;
  if (head !== null) refuse("hook_head_index", "none (all heads together)", head);
  const output = setting(config, "hook_name_out") ?? null;
  if (output !== null) refuse("hook_name_out", "none (transcoders read one site and write another)", output);

  const activation = activationOf(config, refuse);
  const { encoderBias, ...names } = plainNames;
  const unitDecoder = config.rescale_acts_by_decoder_norm === true;
  if (unitDecoder && activation.kind !== "topk") refuse("rescale_acts_by_decoder_norm", "false but for topk", true);
  return {
    names: activation.kind === "gated" ? names : { ...names, encoderBias },
    activation,
    subtractDecoderBias: config.apply_b_dec_to_input !== false,
    unitDecoder,
    centred: isCentred(config),
    ...normalizationOf(config, refuse),
  };
}

/** Whether it was trained on TransformerLens' model whose weights write vectors of mean 0 to the residual stream. */
function isCentred(config: Config): boolean {
  const options = setting(config, "model_from_pretrained_kwargs") as Config | null | undefined;
  return options?.center_writing_weights === true;
}

type Refuse = (key: string, expected: string, got: unknown) => never;

function activationOf(config: Config, refuse: Refuse): ActivationSource {
  const activation = config.activation_fn ?? config.activation_fn_str ?? "relu";
  const options = config.activation_fn_kwargs as Config | undefined;
  const isTopK = activation === "topk" && config.architecture !== "topk";
  const architecture = isTopK && (config.architecture ?? "standard") === "standard" ? "topk" : config.architecture;
  if (activation !== "relu" && !(activation === "topk" && architecture === "topk")) {
    return refuse("activation_fn", "relu or topk", activation);
  }
  switch (architecture ?? "standard") {
    case "standard":
      return { kind: "relu" };
    case "jumprelu":
      return { kind: "jumprelu", threshold: "threshold" };
    case "topk":
      return { kind: "topk", k: Number(config.k ?? options?.k) };
    case "gated":
      return { kind: "gated", gateBias: "b_gate", logScale: "r_mag", magnitudeBias: "b_mag" };
    default:
      return refuse("architecture", "standard, jumprelu, gated or topk", architecture);
  }
}

/** The average scale of the activations is a number that SAELens keeps in its list of releases, not in the file. */
function normalizationOf(config: Config, refuse: Refuse): Pick<Settings, "inputScale" | "normalization"> {
  switch (config.normalize_activations ?? "none") {
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
        return refuse("normalize_activations", expected, config.normalize_activations);
      }
      return { inputScale: factor };
    }
    default:
      return refuse(
        "normalize_activations",
        "none, expected_average_only_in, constant_norm_rescale or layer_norm",
        config.normalize_activations,
      );
  }
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

/** Factors of finetuned SAEs, by which codes are multiplied. They were written as ones for a time. */
async function codeScale(file: TensorFile, config: Config): Promise<Pick<DictionarySource, "codeScale">> {
  const tensor = ["scaling_factor", "finetuning_scaling_factor"].find((name) => file.tensors.has(name));
  if (tensor === undefined || (await file.read(tensor)).every((x) => Math.abs(x - 1) <= 1e-5)) return {};
  const isTopK = (config.activation_fn ?? config.activation_fn_str) === "topk" || config.architecture === "topk";
  if (isTopK || config.finetuning_scaling_factor === false) {
    throw new UserError(
      `${tensor}: expected ones, got other factors in ${file.source.name}. Such SAEs need finetuning_scaling_factor true and no topk.`,
    );
  }
  return { codeScale: tensor };
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
