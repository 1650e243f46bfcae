import type { Folder } from "../../bytes/folder.ts";
import { openNpz } from "../../bytes/npz.ts";
import { openSafetensors } from "../../bytes/safetensors.ts";
import type { ByteSource } from "../../bytes/source.ts";
import type { TensorFile } from "../../bytes/tensor-file.ts";
import { openTorch, type TorchFile } from "../../bytes/torch.ts";
import { UserError } from "../../errors.ts";
import { type SiteName, siteName } from "../../site.ts";
import type { Dictionary } from "../dictionary.ts";
import { identity } from "../identity.ts";
import { type ActivationSource, type DictionarySource, dictionaryOf, numberIn, plainNames } from "../weights.ts";
import {
  circuitTracerFile,
  circuitTracerSettings,
  circuitTracerThreshold,
  describeCircuitTracer,
  layerFilesAssumed,
  refuseTranscoders,
} from "./circuit-tracer.ts";
import { describeDictionaryLearning } from "./dictionary-learning.ts";
import { describeOpenAi } from "./openai.ts";

/** What a file of one layer is called. */
export const layerFile = /(?:^|\/)layer_(\d+)\.(safetensors|npz|pt)$/;

/** The site of a file that is named after its layer. */
export function siteOfLayerFile(path: string): SiteName {
  return siteName({ kind: "resid_post", layer: Number(layerFile.exec(path)?.[1]) });
}

/**
 * The site of a file of that name before it is fetched, or undefined if settings beside it may say another.
 *
 * @param hasSettings whether there is a config.yaml beside it
 * @throws UserError for transcoders of a folder or repository that is named after them
 */
export function listedSite(path: string, hasSettings: boolean): SiteName | undefined {
  if (!path.endsWith(".safetensors")) return siteOfLayerFile(path);
  refuseTranscoders(path);
  return hasSettings ? undefined : siteOfLayerFile(path);
}

/**
 * Opens an SAE of a block's resid_post in one file named `layer_<block>.safetensors`, `.npz` or `.pt`, with Gemma Scope's names (see
 * `describePlain`) or circuit-tracer's (see `describeCircuitTracer`). A `.pt` may also hold dictionary_learning's names (`encoder.weight`, …) or
 * OpenAI's (`latent_bias`, …). The source is closed with the dictionary, and when opening fails.
 *
 * @param folder the file's
 * @param path with all that is known of the folders above; says block and format
 * @throws UserError if the file is damaged, lacks a tensor or has an unknown one
 */
export async function openLayerFile(source: ByteSource, folder: Folder, path: string): Promise<Dictionary> {
  const [, , format] = layerFile.exec(path) ?? [];
  const site = siteOfLayerFile(path);
  const assumed = layerFilesAssumed(path);
  try {
    const torch = format === "pt" ? await openTorch(source) : undefined;
    if (torch?.tensors.has("latent_bias")) return dictionaryOf(torch, { ...describeOpenAi(torch, site), ...assumed });
    if (torch && (!torch.tensors.has("W_enc") || torch.tensors.has("group_sizes"))) {
      return dictionaryOf(torch, { ...(await describeDictionaryLearning(torch, site)), ...assumed });
    }
    const file = torch ?? (format === "npz" ? await openNpz(source) : await openSafetensors(source));
    const settings = format === "safetensors" ? await circuitTracerSettings(folder) : undefined;
    const isTracers = settings !== undefined || file.tensors.has(circuitTracerThreshold);
    if (!isTracers) return dictionaryOf(file, { ...(await describePlain(file, site)), ...assumed });
    return dictionaryOf(file, {
      ...describeCircuitTracer(file, site, path, settings),
      ...(settings && { sha256: () => identity(folder, circuitTracerFile, path.split("/").at(-1)!, source) }),
    });
  } catch (error) {
    await source.close();
    throw error;
  }
}

/**
 * The SAE with Gemma Scope's names (arXiv:2408.05147): W_enc[D,F], W_dec[F,D], b_enc[F], b_dec[D], threshold[F]. z = x W_enc + b_enc, f = z where
 * z > threshold, nothing is subtracted from x. Instead of threshold there may be log_threshold[F] = log θ, as training keeps it, or a number k of a
 * TopK SAE; without any of them it is a ReLU SAE.
 *
 * @throws UserError for two of them
 */
export async function describePlain(file: TensorFile | TorchFile, site: SiteName): Promise<DictionarySource> {
  const k = await numberIn(file, "k");
  const hasOnes = file.tensors.has("scaling_factor") && (await file.read("scaling_factor")).every(isOne);
  const found: ActivationSource[] = [
    ...(file.tensors.has("threshold") ? [{ kind: "jumprelu", threshold: "threshold" } as const] : []),
    ...(file.tensors.has("log_threshold")
      ? [{ kind: "jumprelu", threshold: "log_threshold", isLogarithm: true } as const]
      : []),
    ...(k !== undefined ? [{ kind: "topk", k } as const] : []),
  ];
  if (found.length > 1) {
    const names = ["threshold", "log_threshold", "k"].filter((name) =>
      name === "k" ? k !== undefined : file.tensors.has(name),
    );
    throw new UserError(
      `activation: expected one of threshold, log_threshold and k, got ${names.join(" and ")} in ${file.source.name}. Save the SAE with the one that it uses.`,
    );
  }
  return {
    site,
    names: plainNames,
    activation: found[0] ?? { kind: "relu" },
    subtractDecoderBias: false,
    known: [...(k !== undefined ? ["k"] : []), ...(hasOnes ? ["scaling_factor"] : [])],
  };
}

function isOne(x: number): boolean {
  return Math.abs(x - 1) <= 1e-5;
}
