import { type Folder, readJson } from "../../bytes/folder.ts";
import { openSafetensors } from "../../bytes/safetensors.ts";
import { UserError } from "../../errors.ts";
import type { Dictionary } from "../dictionary.ts";
import { siteOfModule, UnplacedError } from "../hooks.ts";
import { identity } from "../identity.ts";
import { SettingsReader } from "../settings.ts";
import { dictionaryOf, linearMatrices, plainNames } from "../weights.ts";

const settingsFile = "cfg.json";
const weightsFile = "sae.safetensors";

/** The files of an SAE of sparsify. */
export const sparsifyFiles = [settingsFile, weightsFile] as const;

/**
 * Opens an SAE of EleutherAI's sparsify: a folder named after the module that it reads (`layers.5`, `layers.5.mlp`), with encoder.weight[F,D],
 * encoder.bias[F], W_dec[F,D], b_dec[D]. f = the k largest of max((x − b_dec) W_enc + b, 0).
 *
 * @throws UserError if a file is missing or damaged, for a transcoder, another activation, or a folder that names no site
 */
export async function openSparsify(folder: Folder): Promise<Dictionary> {
  const fields = await readJson(folder, settingsFile);
  if (!fields)
    throw new UserError(`SAE: expected a file ${settingsFile}, got none in ${folder.name}. Fetch it as well.`);
  const settings = new SettingsReader(fields, `${folder.name}/${settingsFile}`);
  settings.only("activation", "topk");
  for (const key of ["signed", "transcode", "skip_connection"]) settings.only(key, false);
  // Of the training: weights are saved as they are used.
  settings.harmless("normalize_decoder", "multi_topk", "expansion_factor");
  const module = folder.name.replace(/\/+$/, "").split("/").at(-1) ?? "";
  const site = siteOfModule(module);
  if (!site) {
    throw new UnplacedError(
      `SAE: expected a folder named like the module it reads (layers.5), got ${folder.name}. Give it its name back.`,
    );
  }
  const source = await folder.open(weightsFile);
  if (!source)
    throw new UserError(`SAE: expected a file ${weightsFile}, got none in ${folder.name}. Fetch it as well.`);
  try {
    const file = await openSafetensors(source);
    const { decoder, decoderBias } = plainNames;
    const dictionary = dictionaryOf(file, {
      site,
      names: { encoder: linearMatrices.encoder, decoder, encoderBias: "encoder.bias", decoderBias },
      activation: { kind: "topk", k: Number(settings.get("k")) },
      subtractDecoderBias: true,
      trainedOn: { module: { name: module, isSure: true } },
      sha256: () => identity(folder, settingsFile, weightsFile, source),
    });
    settings.size("d_in", dictionary.inputWidth, dictionary.name);
    // 0 means that expansion_factor tells.
    if (settings.get("num_latents") !== 0) settings.size("num_latents", dictionary.featureCount, dictionary.name);
    settings.done();
    return dictionary;
  } catch (error) {
    await source.close();
    throw error;
  }
}
