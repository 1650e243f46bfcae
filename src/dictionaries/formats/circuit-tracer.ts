import type { Folder } from "../../bytes/folder.ts";
import type { TensorFile } from "../../bytes/tensor-file.ts";
import type { TorchFile } from "../../bytes/torch.ts";
import { messageOf, UserError } from "../../errors.ts";
import { parseSite, type SiteName } from "../../site.ts";
import { assumedResidPost, siteOfHook } from "../hooks.ts";
import { SettingsReader } from "../settings.ts";
import { type ActivationSource, type DictionarySource, plainNames } from "../weights.ts";

/** The file by which circuit-tracer knows a set of `layer_<block>.safetensors`. */
export const circuitTracerFile = "config.yaml";

/** The tensor of a JumpReLU's thresholds [F], as circuit-tracer names it. */
export const circuitTracerThreshold = "activation_function.threshold";

/**
 * Refuses files of a folder or repository that is named after transcoders, as circuit-tracer's sets are.
 *
 * @param path of the file, with all that is known of the folders above
 * @throws UserError
 */
export function refuseTranscoders(path: string): void {
  const above = path.split("/").slice(0, -1);
  const near = above.filter((folder, at) => at >= above.length - 2 || folder.startsWith("models--"));
  if (near.some((folder) => /(?:^|[-_])transcoders?(?:[-_]|$)/i.test(folder))) {
    throw new UserError(
      `SAE: expected one that reads and writes one site, got a transcoder in ${path}. Transcoders are not supported.`,
    );
  }
}

/** What to say of files `layer_<block>` without settings. */
export function layerFilesAssumed(path: string) {
  return assumedResidPost("layer files", path, 1, "Do not use them if they are of another place.");
}

/** Fields of which each set of circuit-tracer's has one, or that say what files compute. */
const itsFields = ["model_kind", "feature_input_hook", "feature_output_hook", "transcoders", "activation", "k"];

/**
 * The settings of circuit-tracer's files in a folder, or undefined where there is no config.yaml of its own.
 *
 * @throws UserError if the file is no YAML
 */
export async function circuitTracerSettings(folder: Folder): Promise<SettingsReader | undefined> {
  const source = await folder.open(circuitTracerFile);
  if (!source) return undefined;
  try {
    const text = new TextDecoder().decode(await source.read(0, Math.min(source.size, largestConfig)));
    const { parse } = await import("yaml");
    const value: unknown = parse(text, { maxAliasCount: 0 });
    if (typeof value !== "object" || value === null || Array.isArray(value)) throw new Error("it is not a mapping");
    const isIts = itsFields.some((field) => Object.hasOwn(value, field));
    return isIts ? new SettingsReader(value as Record<string, unknown>, source.name) : undefined;
  } catch (error) {
    if (error instanceof UserError) throw error;
    const [reason] = messageOf(error).split("\n");
    throw new UserError(
      `${circuitTracerFile}: expected a YAML mapping, got other text (${reason}) in ${source.name}. Fetch the file again.`,
    );
  } finally {
    await source.close();
  }
}

const largestConfig = 2 ** 20;

/**
 * An SAE in the layout of circuit-tracer's transcoders, `layer_<block>.safetensors`: W_enc[F,D], W_dec[F,D], b_enc[F], b_dec[D] and, if it is a
 * JumpReLU, activation_function.threshold[F]. z = x W_encᵀ + b_enc, nothing is subtracted from x; without thresholds the activation is config.yaml's,
 * relu or topk. It is an SAE if config.yaml's two hooks are one. Without config.yaml, W_enc may lie the other way round; if it does not, there is a
 * warning.
 *
 * @param site the file's, if there is no config.yaml
 * @param path the file's, with all that is known of the folders above
 * @throws UserError for a transcoder, by its hooks or, without config.yaml, its folders; for an unknown setting
 */
export function describeCircuitTracer(
  file: TensorFile | TorchFile,
  site: SiteName,
  path: string,
  settings: SettingsReader | undefined,
): DictionarySource {
  const threshold = [circuitTracerThreshold, "threshold"].find((name) => file.tensors.has(name));
  if (!settings) refuseTranscoders(path);
  const found = settings
    ? settingsOf(settings, site, threshold !== undefined)
    : { site, activation: undefined, model: undefined };
  const [rows, columns] = file.tensors.get("W_enc")?.shape ?? [];
  const [features] = file.tensors.get("b_enc")?.shape ?? [];
  const transposed = settings !== undefined || (rows === features && columns !== features);
  const isOpen = settings === undefined && transposed;
  const where = path.split("/").slice(0, -1).join("/");
  return {
    site: found.site,
    ...(!settings && layerFilesAssumed(path)),
    ...(isOpen && {
      warnings: [
        `Read as SAEs of resid_post: layer files in ${where || "this folder"}. They lie as circuit-tracer's transcoders do, and there is no ${circuitTracerFile} that names their hooks.`,
      ],
    }),
    ...(typeof found.model === "string" && { trainedOn: { model: found.model } }),
    names: { ...plainNames, encoder: { tensor: "W_enc", transposed } },
    activation: threshold !== undefined ? { kind: "jumprelu", threshold } : (found.activation ?? { kind: "relu" }),
    subtractDecoderBias: false,
  };
}

function settingsOf(
  settings: SettingsReader,
  fileSite: SiteName,
  isJump: boolean,
): { site: SiteName; activation: ActivationSource | undefined; model: unknown } {
  settings.only("model_kind", "transcoder_set");
  settings.harmless("scan", "scan_name", "transcoders");
  const model = settings.get("model_name");
  const [input, output] = [settings.get("feature_input_hook"), settings.get("feature_output_hook")];
  if (typeof input !== "string") settings.refuse("feature_input_hook", "the place that the SAEs read", input);
  if (output !== input) {
    const advice = "Transcoders are not supported.";
    settings.refuse("feature_output_hook", `${input}, the input (no transcoder)`, output, advice);
  }
  const layer = parseSite(fileSite).layer;
  const site = siteOfHook(`blocks.${layer}.${input}`);
  if (!site)
    settings.refuse("feature_input_hook", "a residual stream, attn_out, mlp_out, attn z or mlp post of a block", input);
  const activation = settings.get("activation");
  if (isJump) settings.only("activation", "jump_relu", "jumprelu");
  else settings.only("activation", "relu", "topk");
  const k = activation === "topk" ? settings.get("k") : undefined;
  settings.done();
  return { site, activation: activation === "topk" ? { kind: "topk", k: Number(k) } : undefined, model };
}
