import { type Folder, readJson } from "../bytes/folder.ts";
import type { ByteSource } from "../bytes/source.ts";
import type { TensorFile } from "../bytes/tensor-file.ts";
import { openTorch } from "../bytes/torch.ts";
import { UserError } from "../errors.ts";
import { type SiteKind, type SiteName, siteName } from "../site.ts";
import type { Dictionary } from "./dictionary.ts";
import { siteOfModule } from "./hooks.ts";
import { identity } from "./identity.ts";
import { type DictionarySource, dictionaryOf, linearMatrices, plainNames } from "./weights.ts";

type Config = Readonly<Record<string, unknown>>;

/**
 * Opens a dictionary of the library dictionary_learning: `ae.pt`, with the `config.json` that its trainers write beside it where there is one. The
 * site is the trainer's submodule_name, or a folder named like one (`resid_out_layer3`), or else the resid_post of the trainer's layer. The source is closed with the dictionary,
 * and when opening fails.
 *
 * @param folder the file's
 * @param path with all that is known of the folders above
 * @throws UserError if the file is damaged, lacks a tensor, or its kind or site is not clear
 */
export async function openDictionaryLearning(source: ByteSource, folder: Folder, path: string): Promise<Dictionary> {
  try {
    const config = await readJson(folder, "config.json");
    const trainer = (config?.trainer ?? {}) as Config;
    const file = await openTorch(source);
    const described = await describeDictionaryLearning(file, siteOf(trainer, path), trainer);
    const sha256 = () => identity(folder, "config.json", "ae.pt", source);
    return dictionaryOf(file, { ...described, ...(config ? { sha256 } : {}) });
  } catch (error) {
    await source.close();
    throw error;
  }
}

/**
 * The dictionary by its class, which the trainer's settings name, or else its tensors tell:
 *
 * - AutoEncoder: f = max((x − bias) W_enc + b, 0), then decoder columns are made unit vectors, as the library's loader does
 * - AutoEncoderNew: f = max(x W_enc + b, 0)
 * - GatedAutoEncoder: 1[z + gate_bias > 0]·max(e^r_mag·z + mag_bias, 0) of z = (x − decoder_bias) W_enc
 * - AutoEncoderTopK: the k largest of max((x − b_dec) W_enc + b, 0) of each token
 * - BatchTopKSAE, MatryoshkaBatchTopKSAE: those above one threshold, as the library encodes after training
 * - JumpReluAutoEncoder: z = x W_enc + b_enc where z > threshold
 *
 * @throws UserError if the class is not known or not clear
 */
export async function describeDictionaryLearning(
  file: TensorFile,
  site: SiteName,
  trainer: Config = {},
): Promise<DictionarySource> {
  const linear = (decoderBias: string) => ({ ...linearMatrices, encoderBias: "encoder.bias", decoderBias });
  const className = typeof trainer.dict_class === "string" ? trainer.dict_class : await classOf(file);
  const one = { kind: "jumprelu", threshold: "threshold" } as const;
  switch (className) {
    case "AutoEncoder":
      return {
        site,
        names: linear("bias"),
        activation: { kind: "relu" },
        subtractDecoderBias: true,
        unitDecoder: true,
      };
    case "AutoEncoderNew":
      return { site, names: linear("decoder.bias"), activation: { kind: "relu" }, subtractDecoderBias: false };
    case "GatedAutoEncoder":
      return {
        site,
        names: { ...linearMatrices, decoderBias: "decoder_bias" },
        activation: { kind: "gated", gateBias: "gate_bias", logScale: "r_mag", magnitudeBias: "mag_bias" },
        subtractDecoderBias: true,
      };
    case "AutoEncoderTopK": {
      const activation = { kind: "topk", k: await readK(file, trainer) } as const;
      return { site, names: linear("b_dec"), activation, subtractDecoderBias: true };
    }
    case "BatchTopKSAE":
      return { site, names: linear("b_dec"), activation: one, subtractDecoderBias: true };
    case "MatryoshkaBatchTopKSAE":
      return { site, names: plainNames, activation: one, subtractDecoderBias: true };
    case "JumpReluAutoEncoder":
      return { site, names: plainNames, activation: one, subtractDecoderBias: false };
    default:
      throw new UserError(
        `dict_class: expected a class of dictionary_learning, got ${className} in ${file.source.name}'s config.json. Dictionaries of this kind are not supported.`,
      );
  }
}

async function classOf(file: TensorFile): Promise<string> {
  const has = (name: string) => file.tensors.has(name);
  if (has("group_sizes")) return "MatryoshkaBatchTopKSAE";
  if (has("W_enc")) return "JumpReluAutoEncoder";
  if (has("gate_bias")) return "GatedAutoEncoder";
  if (has("decoder.bias")) return "AutoEncoderNew";
  if (!has("k")) return "AutoEncoder";
  // Both classes have the same tensors; the threshold is negative until training has found one.
  const [threshold = -1] = has("threshold") ? await file.read("threshold") : [];
  if (threshold < 0) return "AutoEncoderTopK";
  throw new UserError(
    `dict_class: expected AutoEncoderTopK or BatchTopKSAE in a config.json, got none beside ${file.source.name}. Their tensors are alike; fetch config.json as well.`,
  );
}

async function readK(file: TensorFile, trainer: Config): Promise<number> {
  const held = file.tensors.has("k") ? (await file.read("k"))[0] : undefined;
  if (held !== undefined && trainer.k !== undefined && held !== trainer.k) {
    throw new UserError(
      `k: expected ${held}, as in ${file.source.name}, got ${trainer.k} in its config.json. The files do not belong together.`,
    );
  }
  return held ?? Number(trainer.k);
}

function siteOf(trainer: Config, path: string): SiteName {
  const name = trainer.submodule_name ?? null;
  if (name !== null) {
    const site = siteOfName(String(name));
    if (site) return site;
    throw new UserError(
      `submodule_name: expected a site such as resid_post_layer_3, got ${JSON.stringify(name)} in the config.json of ${path}. Dictionaries of that place are not supported.`,
    );
  }
  const folders = path.split("/").slice(0, -1);
  const site = folders.map(siteOfName).findLast((found) => found !== undefined);
  if (site) return site;
  if (typeof trainer.layer === "number" && trainer.layer >= 0) {
    return siteName({ kind: "resid_post", layer: trainer.layer });
  }
  throw new UserError(
    `SAE: expected config.json with a layer, or a folder such as resid_out_layer3, got neither for ${path}. Add one of them.`,
  );
}

const kinds: Readonly<Record<string, SiteKind>> = {
  resid: "resid_post",
  attn: "attn_out",
  attention: "attn_out",
  mlp: "mlp_out",
};

/** `resid_post_layer_3`, `attn_out_layer3`, `embed`, or a module's path. */
function siteOfName(name: string): SiteName | undefined {
  const [, kind, layer] = /^(resid|attn|attention|mlp)(?:_out|_post)?_layer_?(\d+)$/.exec(name) ?? [];
  if (kind !== undefined) return siteName({ kind: kinds[kind]!, layer: Number(layer) });
  return name === "embed" ? "embed" : siteOfModule(name);
}
