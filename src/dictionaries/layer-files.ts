import { openSafetensors } from "../bytes/safetensors.ts";
import { sha256 } from "../bytes/sha256.ts";
import type { ByteSource } from "../bytes/source.ts";
import { siteName } from "../site.ts";
import type { Dictionary } from "./dictionary.ts";
import { dictionaryOf } from "./weights.ts";

/** The block that a file name like `layer_3.safetensors` means, or undefined for other names. */
export function layerOfFile(path: string): number | undefined {
  const match = /(?:^|\/)layer_(\d+)\.safetensors$/.exec(path);
  return match ? Number(match[1]) : undefined;
}

/**
 * Opens an SAE of a block's resid_post in one safetensors file with Gemma Scope's names (arXiv:2408.05147): W_enc[D,F], W_dec[F,D], b_enc[F],
 * b_dec[D], threshold[F]. z = x W_enc + b_enc, nothing is subtracted from x; a file without threshold is a ReLU SAE. The source is closed with
 * the dictionary, and when opening fails.
 *
 * @throws UserError if the file is damaged or lacks a tensor
 */
export async function openLayerFile(source: ByteSource, layer: number): Promise<Dictionary> {
  try {
    const file = await openSafetensors(source);
    const kind = file.tensors.has("threshold") ? "jumprelu" : "relu";
    return dictionaryOf(file, siteName({ kind: "resid_post", layer }), kind, false, () => sha256(source));
  } catch (error) {
    await source.close();
    throw error;
  }
}
