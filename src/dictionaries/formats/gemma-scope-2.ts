import { type Folder, readJson } from "../../bytes/folder.ts";
import { openSafetensors } from "../../bytes/safetensors.ts";
import type { ByteSource } from "../../bytes/source.ts";
import { UserError } from "../../errors.ts";
import { type SiteKind, type SiteName, siteName } from "../../site.ts";
import type { Dictionary } from "../dictionary.ts";
import { otherTower, UnplacedError } from "../hooks.ts";
import { identity } from "../identity.ts";
import { SettingsReader } from "../settings.ts";
import { dictionaryOf } from "../weights.ts";

const settingsFile = "config.json";
const weightsFile = "params.safetensors";

/** The files of a Gemma Scope 2 SAE; some are published without the first. */
export const gemmaScope2Files = [settingsFile, weightsFile] as const;

/** Folders of a repository, with the sites they mean: attn_out SAEs read what goes into the output projection. */
const folders: Readonly<Record<string, SiteKind>> = {
  resid_post: "resid_post",
  attn_out: "attn_z",
  mlp_out: "mlp_out",
};

/** Places in a Hugging Face model, behind its layers' path, with the sites they are. */
const points: Readonly<Record<string, SiteKind>> = {
  output: "resid_post",
  "self_attn.o_proj.input": "attn_z",
  "post_feedforward_layernorm.output": "mlp_out",
};

const names = {
  encoder: { tensor: "w_enc", transposed: false },
  decoder: { tensor: "w_dec", transposed: false },
  encoderBias: "b_enc",
  decoderBias: "b_dec",
};

/**
 * Opens a Gemma Scope 2 SAE (of Gemma 3), `resid_post/layer_12_width_16k_l0_medium/params.safetensors` with its config.json: w_enc[D,F], w_dec[F,D],
 * b_enc[F], b_dec[D], threshold[F]. z = x w_enc + b_enc, f = z where z > threshold, nothing is subtracted from x. The site is that of
 * hf_hook_point_in; without config.json, or where its folders are kept, that of the folders. The source is closed with the dictionary, and when
 * opening fails.
 *
 * @param folder the file's
 * @param path with all that is known of the folders above
 * @throws UserError if the file is damaged, for a transcoder, for an unknown tensor or setting, or if nothing tells the site
 */
export async function openGemmaScope2(source: ByteSource, folder: Folder, path: string): Promise<Dictionary> {
  try {
    const named = siteOfGemmaScope2(path);
    const fields = await readJson(folder, settingsFile);
    const settings = new SettingsReader(fields ?? {}, `${folder.name}/${settingsFile}`);
    const site = fields ? siteOfSettings(settings, named) : named;
    if (!site) {
      throw new UnplacedError(
        `SAE: expected config.json, or folders such as resid_post/layer_12_width_16k_l0_medium, got neither for ${path}. Fetch config.json as well.`,
      );
    }
    const l0 = settings.get("l0");
    settings.only("architecture", "jump_relu");
    const model = settings.get("model_name");
    const sha256 = () => identity(folder, settingsFile, weightsFile, source);
    const dictionary = dictionaryOf(await openSafetensors(source), {
      site,
      names,
      activation: { kind: "jumprelu", threshold: "threshold" },
      subtractDecoderBias: false,
      trainedOn: { ...(typeof model === "string" && { model }) },
      ...(typeof l0 === "number" ? { meanActive: l0 } : {}),
      ...(fields ? { sha256 } : {}),
    });
    settings.size("width", dictionary.featureCount, dictionary.name);
    settings.done();
    return dictionary;
  } catch (error) {
    await source.close();
    throw error;
  }
}

/**
 * The site that the folders of a `params.safetensors` tell, or undefined.
 *
 * @throws UserError for a transcoder
 */
export function siteOfGemmaScope2(path: string): SiteName | undefined {
  const above = path.split("/").slice(0, -1);
  const layer = /^layer_(\d+)_width_/.exec(above.at(-1) ?? "")?.[1];
  const kind = above.at(-2)?.replace(/_all$/, "") ?? "";
  if (layer !== undefined && /^(transcoder|crosscoder|clt)$/.test(kind)) {
    throw new UserError(
      `SAE: expected one that reads and writes one site, got a transcoder in ${path}. Transcoders are not supported.`,
    );
  }
  if (layer === undefined || !Object.hasOwn(folders, kind)) return undefined;
  return siteName({ kind: folders[kind]!, layer: Number(layer) });
}

function siteOfSettings(settings: SettingsReader, named: SiteName | undefined): SiteName {
  const transcoders = "Transcoders are not supported.";
  const input = settings.get("hf_hook_point_in");
  const output = settings.get("hf_hook_point_out") ?? input;
  if (output !== input) settings.refuse("hf_hook_point_out", `${input}, the input`, output, transcoders);
  const type = settings.get("type") ?? "sae";
  if (type !== "sae") settings.refuse("type", "sae", type, transcoders);
  settings.only("affine_connection", false);
  const [, layer, point] = /^(?:[a-z_]+\.)*layers\.(\d+)\.(.+)$/.exec(String(input)) ?? [];
  if (point === undefined || !Object.hasOwn(points, point) || otherTower.test(String(input))) {
    const known = Object.keys(points).join(", ");
    return settings.refuse("hf_hook_point_in", `model.layers.<block>. and one of ${known}`, input);
  }
  const site = siteName({ kind: points[point]!, layer: Number(layer) });
  if (named !== undefined && named !== site) {
    settings.refuse("hf_hook_point_in", `${named}, as the folders say`, input, "Rename the folders.");
  }
  return site;
}
