import { openNpz } from "../bytes/npz.ts";
import type { ByteSource } from "../bytes/source.ts";
import { UserError } from "../errors.ts";
import { type SiteKind, type SiteName, siteName } from "../site.ts";
import type { Dictionary } from "./dictionary.ts";
import { describePlain } from "./layer-files.ts";
import { dictionaryOf } from "./weights.ts";

/** Names of the releases' parts, and of folders, with the sites they mean (attention SAEs read the heads before the output projection). */
const kinds: Readonly<Record<string, SiteKind>> = {
  res: "resid_post",
  mlp: "mlp_out",
  att: "attn_z",
  resid_post: "resid_post",
  mlp_out: "mlp_out",
  attn_z: "attn_z",
};

/**
 * Opens a Gemma Scope SAE (arXiv:2408.05147), `…/layer_20/width_16k/average_l0_71/params.npz`; see `describePlain` for the formula. The site comes
 * from the path: the layer from its folder, the kind from the release (`gemma-scope-2b-pt-att`) or a folder of that name (`att`, `attn_z`), and
 * resid_post without either; `embedding/…` is the model's embedding, which those SAEs read before Gemma multiplies it with √D. The source is closed with the dictionary, and when opening fails.
 *
 * @param path with all that is known of the folders above
 * @throws UserError if the file is damaged or lacks a tensor, or the path names no layer or a transcoder
 */
export async function openGemmaScope(source: ByteSource, path: string): Promise<Dictionary> {
  try {
    const site = siteOfPath(path);
    const file = await openNpz(source);
    const active = /\/average_l0_(\d+)\//.exec(path)?.[1];
    const [D = 1] = file.tensors.get("W_enc")?.shape ?? [];
    return dictionaryOf(file, {
      ...(await describePlain(file, site)),
      ...(site === "embed" && { inputScale: 1 / Math.sqrt(D) }),
      ...(active !== undefined && { meanActive: Number(active) }),
    });
  } catch (error) {
    await source.close();
    throw error;
  }
}

/**
 * The site of a `params.npz`, as `openGemmaScope` finds it.
 *
 * @throws UserError if the path names no layer or a transcoder
 */
export function siteOfPath(path: string): SiteName {
  const folders = path.split("/").slice(0, -1);
  const releases = folders.map((folder) => /gemma-scope-.*-(res|mlp|att|transcoders)$/.exec(folder)?.[1] ?? folder);
  if (releases.includes("transcoders")) {
    throw new UserError(
      `SAE: expected one that reads and writes one site, got a transcoder in ${path}. Transcoders are not supported.`,
    );
  }
  if (folders.includes("embedding")) return "embed";
  const layer = folders.map((folder) => /^layer_(\d+)$/.exec(folder)?.[1]).findLast((text) => text !== undefined);
  if (layer === undefined) {
    throw new UserError(
      `SAE: expected a folder layer_<block> above params.npz, got none in ${path}. Keep its folders.`,
    );
  }
  const named = releases.findLast((folder) => Object.hasOwn(kinds, folder));
  return siteName({ kind: named === undefined ? "resid_post" : kinds[named]!, layer: Number(layer) });
}
