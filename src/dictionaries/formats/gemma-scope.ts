import { openNpz } from "../../bytes/npz.ts";
import type { ByteSource } from "../../bytes/source.ts";
import { UserError } from "../../errors.ts";
import { type SiteKind, type SiteName, siteName } from "../../site.ts";
import type { Dictionary } from "../dictionary.ts";
import { assumedResidPost, UnplacedError } from "../hooks.ts";
import { dictionaryOf } from "../weights.ts";
import { describePlain } from "./layer-files.ts";

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
 * from the path: the layer from its folder, the kind from the release (`gemma-scope-2b-pt-att`) or a folder of that name (`att`, `attn_z`) near the
 * layer's, and resid_post without either, with a warning; `embedding/…` is the model's embedding, which those SAEs read before Gemma multiplies it with √D. The source is closed with the dictionary, and when opening fails.
 *
 * @param path with all that is known of the folders above
 * @throws UserError if the file is damaged or lacks a tensor, or the path names no layer or a transcoder
 */
export async function openGemmaScope(source: ByteSource, path: string): Promise<Dictionary> {
  try {
    const { site, isAssumed, levels, model } = placeOfPath(path);
    const file = await openNpz(source);
    const active = /\/average_l0_(\d+)\//.exec(path)?.[1];
    const [D = 1] = file.tensors.get("W_enc")?.shape ?? [];
    return dictionaryOf(file, {
      ...(await describePlain(file, site)),
      ...(site === "embed" && { inputScale: 1 / Math.sqrt(D) }),
      ...(active !== undefined && { meanActive: Number(active) }),
      ...(model !== undefined && { trainedOn: { model } }),
      ...(isAssumed &&
        assumedResidPost(
          "params.npz files",
          path,
          levels,
          "A folder gemma-scope-2b-pt-mlp or -att, mlp or att would.",
        )),
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
  return placeOfPath(path).site;
}

/** The site, whether its kind is only a guess, how many levels the folder of all layers is up, and the model that the release names. */
function placeOfPath(path: string) {
  const folders = path.split("/").slice(0, -1);
  const model = folders.flatMap((folder) => modelOfRelease(folder) ?? []).at(-1);
  const layerAt = folders.findLastIndex((folder) => /^layer_\d+$/.test(folder));
  const embeddingAt = folders.lastIndexOf("embedding");
  // Farther up, a folder of that name may be anything.
  const first = layerAt < 0 ? Math.max(0, folders.length - depth) : Math.max(0, layerAt - 2);
  const names = folders.map(
    (folder, at) => /gemma-scope-.*-(res|mlp|att|transcoders)$/.exec(folder)?.[1] ?? (at >= first ? folder : ""),
  );
  if (names.includes("transcoders")) {
    throw new UserError(
      `SAE: expected one that reads and writes one site, got a transcoder in ${path}. Transcoders are not supported.`,
    );
  }
  if (embeddingAt > layerAt && embeddingAt >= first) return { site: "embed", isAssumed: false, levels: 0, model };
  if (layerAt < 0) {
    throw new UnplacedError(
      `SAE: expected a folder layer_<block> above params.npz, got none in ${path}. Keep its folders.`,
    );
  }
  const layer = Number(folders[layerAt]!.slice("layer_".length));
  const named = names.findLast((name) => Object.hasOwn(kinds, name));
  const kind = named === undefined ? "resid_post" : kinds[named]!;
  return {
    site: siteName({ kind, layer }),
    isAssumed: named === undefined,
    levels: folders.length - layerAt + 1,
    model,
  };
}

/** Folders from that of an embedding's SAEs, or of a layer's, to the file. */
const depth = 4;

/** `gemma-2-2b-it` of `gemma-scope-2b-it-res`. */
function modelOfRelease(folder: string): string | undefined {
  const [, size, kind] = /gemma-scope-(\d+b)-(pt|it)-/.exec(folder) ?? [];
  return size === undefined ? undefined : `gemma-2-${size}${kind === "it" ? "-it" : ""}`;
}
