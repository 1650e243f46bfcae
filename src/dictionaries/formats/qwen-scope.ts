import type { ByteSource } from "../../bytes/source.ts";
import { openTorch } from "../../bytes/torch.ts";
import { UserError } from "../../errors.ts";
import { type SiteName, siteName } from "../../site.ts";
import type { Dictionary } from "../dictionary.ts";
import { UnplacedError } from "../hooks.ts";
import { dictionaryOf, numberIn } from "../weights.ts";

/** What a file is called: `layer<block>.sae.pt`. */
export const qwenScopeFile = /(?:^|\/)layer(\d+)\.sae\.pt$/;

/** The site of a file of that name. */
export function siteOfQwenScope(path: string): SiteName {
  return siteName({ kind: "resid_post", layer: Number(qwenScopeFile.exec(path)?.[1]) });
}

/**
 * Opens a Qwen-Scope SAE (of Qwen3 and Qwen3.5), `SAE-Res-Qwen3-1.7B-Base-W32K-L0_50/layer7.sae.pt`: W_enc[F,D], W_dec[D,F], b_enc[F], b_dec[D].
 * f = max(z, 0) of the k largest z = x W_encᵀ + b_enc of a token, nothing is subtracted from x. k is the number behind L0_ in a folder's name. The
 * source is closed with the dictionary, and when opening fails.
 *
 * @param path with all that is known of the folders above
 * @throws UserError if the file is damaged, has unknown tensors, or nothing tells k
 */
export async function openQwenScope(source: ByteSource, path: string): Promise<Dictionary> {
  try {
    const file = await openTorch(source);
    const folders = path.split("/").slice(0, -1);
    const named = folders.map((folder) => /-(?:W(\d+)K-)?L0_(\d+)$/.exec(folder)).findLast((match) => match !== null);
    const model = folders.map((folder) => /SAE-Res-(.+?)-W\d+K-/.exec(folder)?.[1]).findLast((m) => m !== undefined);
    const held = await numberIn(file, "k");
    const k = held ?? (named ? Number(named[2]) : undefined);
    if (k === undefined || (named && Number(named[2]) !== k)) {
      const got = k === undefined ? "none" : `L0_${named![2]}, but k = ${k} in the file,`;
      throw new (k === undefined ? UnplacedError : UserError)(
        `k: expected a folder whose name ends with L0_<k>, as SAE-Res-Qwen3-1.7B-Base-W32K-L0_50, got ${got} for ${path}. Give it its name back.`,
      );
    }
    const dictionary = dictionaryOf(file, {
      site: siteOfQwenScope(path),
      names: {
        encoder: { tensor: "W_enc", transposed: true },
        decoder: { tensor: "W_dec", transposed: true },
        encoderBias: "b_enc",
        decoderBias: "b_dec",
      },
      activation: { kind: "topk", k },
      subtractDecoderBias: false,
      trainedOn: { ...(model !== undefined && { model }) },
      known: held === undefined ? [] : ["k"],
    });
    if (named?.[1] !== undefined && Number(named[1]) * 1024 !== dictionary.featureCount) {
      throw new UserError(
        `SAE width: expected ${Number(named[1]) * 1024}, as the folder's name says, got ${dictionary.featureCount} in ${path}. Give it its name back.`,
      );
    }
    return dictionary;
  } catch (error) {
    await source.close();
    throw error;
  }
}
