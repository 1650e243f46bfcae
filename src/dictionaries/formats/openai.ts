import type { ByteSource } from "../../bytes/source.ts";
import { openTorch, type TorchFile } from "../../bytes/torch.ts";
import { UserError } from "../../errors.ts";
import { type SiteKind, type SiteName, siteName } from "../../site.ts";
import type { Dictionary } from "../dictionary.ts";
import { UnplacedError } from "../hooks.ts";
import { type ActivationSource, type DictionarySource, dictionaryOf, linearMatrices } from "../weights.ts";

/** What a file is called: `<location>/autoencoders/<block>.pt`. */
export const openAiFile = /(?:^|\/)autoencoders\/(\d+)\.pt$/;

const locations: Readonly<Record<string, SiteKind>> = {
  resid_delta_attn: "attn_out",
  resid_delta_mlp: "mlp_out",
  resid_post_mlp: "resid_post",
};

/**
 * Opens an SAE of OpenAI's for GPT-2 (openai/sparse_autoencoder), `resid_post_mlp_v5_32k/autoencoders/<block>.pt`. The source is closed with the
 * dictionary, and when opening fails.
 *
 * @param path with all that is known of the folders above
 * @throws UserError if the file is damaged, lacks a tensor or has another activation, or the place is no site
 */
export async function openOpenAi(source: ByteSource, path: string): Promise<Dictionary> {
  try {
    const [, layer] = openAiFile.exec(path) ?? [];
    const location = path.split("/").at(-3) ?? "";
    const kind = locations[location.replace(/_v\d+(_\w+)?$/, "")];
    if (!kind) {
      const known = Object.keys(locations).join(", ");
      throw new UnplacedError(
        `SAE: expected a folder ${known} above autoencoders, got "${location}" in ${path}. SAEs of that place are not supported.`,
      );
    }
    const file = await openTorch(source);
    return dictionaryOf(file, describeOpenAi(file, siteName({ kind, layer: Number(layer) })));
  } catch (error) {
    await source.close();
    throw error;
  }
}

/** What training counts about latents. */
const statistics = ["stats_last_nonzero", "latents_activation_frequency", "latents_mean_square"];

/**
 * The SAE with OpenAI's names: pre_bias[D], encoder.weight[F,D], latent_bias[F], decoder.weight[D,F] and the activation's name.
 * z = (x − pre_bias) W_enc + latent_bias, f = max(z, 0); with TopK only the k largest, and then x is normalised per token first.
 *
 * @throws UserError for another activation
 */
export function describeOpenAi({ source, values }: TorchFile, site: SiteName): DictionarySource {
  const activation = activationOf(values, source.name);
  return {
    site,
    names: { ...linearMatrices, encoderBias: "latent_bias", decoderBias: "pre_bias" },
    activation,
    subtractDecoderBias: true,
    ...(activation.kind === "topk" ? { normalization: "layer_norm" } : {}),
    known: [...statistics, "activation", "activation_state_dict.k", "activation_state_dict.postact_fn"],
  };
}

function activationOf(values: TorchFile["values"], file: string): ActivationSource {
  const name = values.has("activation") ? values.get("activation") : "ReLU";
  if (name === "ReLU" || name === null) return { kind: "relu" };
  const after = values.get("activation_state_dict.postact_fn");
  if (name !== "TopK" || after !== "ReLU") {
    const got = name === "TopK" ? `TopK, then ${after},` : (name ?? "another value");
    throw new UserError(
      `activation: expected ReLU or TopK, got ${got} in ${file}. SAEs of this kind are not supported.`,
    );
  }
  return { kind: "topk", k: Number(values.get("activation_state_dict.k")) };
}
