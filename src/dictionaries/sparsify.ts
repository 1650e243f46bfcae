import { type Folder, readJson } from "../bytes/folder.ts";
import { openSafetensors } from "../bytes/safetensors.ts";
import { UserError } from "../errors.ts";
import type { Dictionary } from "./dictionary.ts";
import { siteOfModule } from "./hooks.ts";
import { identity } from "./identity.ts";
import { dictionaryOf, linearMatrices, plainNames } from "./weights.ts";

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
  const where = `${folder.name}/${settingsFile}`;
  const settings = await readJson(folder, settingsFile);
  if (!settings)
    throw new UserError(`SAE: expected a file ${settingsFile}, got none in ${folder.name}. Fetch it as well.`);
  for (const [key, expected] of Object.entries({
    activation: "topk",
    signed: false,
    transcode: false,
    skip_connection: false,
  })) {
    const got = settings[key] ?? expected;
    if (got !== expected) {
      throw new UserError(
        `${key}: expected ${expected}, got ${JSON.stringify(got)} in ${where}. SAEs of this kind are not supported.`,
      );
    }
  }
  const site = siteOfModule(folder.name.replace(/\/+$/, "").split("/").at(-1) ?? "");
  if (!site) {
    throw new UserError(
      `SAE: expected a folder named like the module it reads (layers.5), got ${folder.name}. Give it its name back.`,
    );
  }
  const source = await folder.open(weightsFile);
  if (!source)
    throw new UserError(`SAE: expected a file ${weightsFile}, got none in ${folder.name}. Fetch it as well.`);
  try {
    const file = await openSafetensors(source);
    if (file.tensors.has("W_skip")) {
      throw new UserError(`tensor W_skip: expected none, got one in ${source.name}. Transcoders are not supported.`);
    }
    const { decoder, decoderBias } = plainNames;
    return dictionaryOf(file, {
      site,
      names: { encoder: linearMatrices.encoder, decoder, encoderBias: "encoder.bias", decoderBias },
      activation: { kind: "topk", k: Number(settings.k) },
      subtractDecoderBias: true,
      sha256: () => identity(folder, settingsFile, weightsFile, source),
    });
  } catch (error) {
    await source.close();
    throw error;
  }
}
