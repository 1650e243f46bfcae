import { openNpz } from "../bytes/npz.ts";
import { openSafetensors } from "../bytes/safetensors.ts";
import type { ByteSource } from "../bytes/source.ts";
import type { TensorFile } from "../bytes/tensor-file.ts";
import { openTorch } from "../bytes/torch.ts";
import { type SiteName, siteName } from "../site.ts";
import type { Dictionary } from "./dictionary.ts";
import { describeDictionaryLearning } from "./dictionary-learning.ts";
import { describeOpenAi } from "./openai.ts";
import { type DictionarySource, dictionaryOf, plainNames } from "./weights.ts";

/** What a file of one layer is called. */
export const layerFile = /(?:^|\/)layer_(\d+)\.(safetensors|npz|pt)$/;

/** The site of a file that is named after its layer. */
export function siteOfLayerFile(path: string): SiteName {
  return siteName({ kind: "resid_post", layer: Number(layerFile.exec(path)?.[1]) });
}

/**
 * Opens an SAE of a block's resid_post in one file named `layer_<block>.safetensors`, `.npz` or `.pt`, with Gemma Scope's names (see
 * `describePlain`). A `.pt` may also hold dictionary_learning's names (`encoder.weight`, …) or OpenAI's (`latent_bias`, …). The source is closed with
 * the dictionary, and when opening fails.
 *
 * @param path says block and format
 * @throws UserError if the file is damaged or lacks a tensor
 */
export async function openLayerFile(source: ByteSource, path: string): Promise<Dictionary> {
  const [, , format] = layerFile.exec(path) ?? [];
  const site = siteOfLayerFile(path);
  try {
    if (format === "pt") {
      const file = await openTorch(source);
      if (file.tensors.has("latent_bias")) return dictionaryOf(file, describeOpenAi(file, site));
      const isPlain = file.tensors.has("W_enc") && !file.tensors.has("group_sizes");
      return dictionaryOf(file, isPlain ? describePlain(file, site) : await describeDictionaryLearning(file, site));
    }
    const file = format === "npz" ? await openNpz(source) : await openSafetensors(source);
    return dictionaryOf(file, describePlain(file, site));
  } catch (error) {
    await source.close();
    throw error;
  }
}

/**
 * The SAE with Gemma Scope's names (arXiv:2408.05147): W_enc[D,F], W_dec[F,D], b_enc[F], b_dec[D], threshold[F]. z = x W_enc + b_enc, f = z where
 * z > threshold, nothing is subtracted from x; a file without threshold is a ReLU SAE.
 */
export function describePlain(file: TensorFile, site: SiteName): DictionarySource {
  return {
    site,
    names: plainNames,
    activation: file.tensors.has("threshold") ? { kind: "jumprelu", threshold: "threshold" } : { kind: "relu" },
    subtractDecoderBias: false,
  };
}
