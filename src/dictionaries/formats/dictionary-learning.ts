import { isWhole } from "../../amounts.ts";
import { type Folder, readJson } from "../../bytes/folder.ts";
import type { ByteSource } from "../../bytes/source.ts";
import type { TensorFile } from "../../bytes/tensor-file.ts";
import { openTorch, type TorchFile } from "../../bytes/torch.ts";
import { UserError } from "../../errors.ts";
import { parseSite, type SiteKind, type SiteName, siteName } from "../../site.ts";
import type { Dictionary, TrainedOn } from "../dictionary.ts";
import { assumedResidPost, siteOfModule, UnplacedError } from "../hooks.ts";
import { identity } from "../identity.ts";
import { SettingsReader } from "../settings.ts";
import { type DictionarySource, dictionaryOf, linearMatrices, numberIn, plainNames } from "../weights.ts";

/**
 * Opens a dictionary of the library dictionary_learning: `ae.pt`, with the `config.json` that its trainers write beside it where there is one. The
 * site is the trainer's submodule_name, or a folder named like one (`resid_out_layer3`), or else, with a warning, the resid_post of the trainer's
 * layer; it reads the output of a module. The source is closed with the dictionary,
 * and when opening fails.
 *
 * @param folder the file's
 * @param path with all that is known of the folders above
 * @throws UserError if the file is damaged, lacks a tensor, or its kind or site is not clear
 */
export async function openDictionaryLearning(source: ByteSource, folder: Folder, path: string): Promise<Dictionary> {
  try {
    const fields = await readJson(folder, "config.json");
    const config = new SettingsReader(fields ?? {}, `${folder.name}/config.json`);
    const trainer = config.inner("trainer");
    const { site, module, ...assumed } = placeOf(trainer, path);
    const trainedOn = { ...(module && { module }), ...textsOf(config) };
    const file = await openTorch(source);
    const described = await describeDictionaryLearning(file, site, trainer);
    const sha256 = () => identity(folder, "config.json", "ae.pt", source);
    const dictionary = dictionaryOf(file, { ...described, ...assumed, trainedOn, ...(fields ? { sha256 } : {}) });
    checkConfig(config, dictionary);
    return dictionary;
  } catch (error) {
    await source.close();
    throw error;
  }
}

/** What trainers and buffers write into config.json about the training alone (all versions of the library; at first, both in one object). */
const harmless = {
  trainer: [
    ...[
      "trainer_class",
      "lr",
      "steps",
      "seed",
      "device",
      "lm_name",
      "layer",
      "wandb_name",
      "warmup_steps",
      "decay_start",
    ],
    ...["resample_steps", "l1_penalty", "sparsity_function", "sparsity_penalty", "sparsity_coefficient"],
    ...[
      "sparsity_warmup_steps",
      "sparsity_queue_length",
      "activation_queue_length",
      "n_sparsity_updates",
      "p_start",
      "p_end",
    ],
    ...[
      "anneal_start",
      "lambda_warm_steps",
      "weights_temperature",
      "steps_before_annealing",
      "entropy",
      "ghost_threshold",
      "save_steps",
      "log_steps",
      "save_dir",
      "auxk_alpha",
      "top_k_aux",
      "threshold_beta",
    ],
    ...["threshold_start_step", "target_l0", "bandwidth", "group_fractions", "group_weights", "group_sizes"],
    // Weights are saved for activations that are not normalised.
    ...["norm_factor"],
  ],
  buffer: [
    ...[
      "n_ctxs",
      "ctx_len",
      "refresh_batch_size",
      "in_batch_size",
      "out_batch_size",
      "device",
      "dtype",
      "data",
      "remove_bos",
    ],
    ...["add_special_tokens", "max_activation_norm_multiple"],
  ],
};

/** @throws UserError for settings of another place or size, or that nobody knows */
function checkConfig(config: SettingsReader, { inputWidth, featureCount: width, name }: Dictionary): void {
  const [trainer, buffer] = [config.inner("trainer"), config.inner("buffer")];
  for (const place of [config, trainer]) {
    place.size("activation_dim", inputWidth, name);
    for (const key of ["dict_size", "dictionary_size"]) place.size(key, width, name);
    place.harmless(...harmless.trainer);
  }
  for (const place of [config, buffer]) {
    place.size("d_submodule", inputWidth, name);
    const io = place.get("io");
    if (io === "in_and_out") place.refuse("io", "out", io, "Transcoders are not supported.");
    if (io !== undefined && io !== "out") place.refuse("io", "out (the module's output)", io);
    place.harmless(...harmless.buffer);
  }
  const head = buffer.get("layer");
  if (head !== undefined) buffer.refuse("layer", "none (all heads together)", head);
  config.done();
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
  file: TensorFile | TorchFile,
  site: SiteName,
  trainer = new SettingsReader({}, file.source.name),
): Promise<DictionarySource> {
  const linear = (decoderBias: string) => ({ ...linearMatrices, encoderBias: "encoder.bias", decoderBias });
  const named = trainer.get("dict_class");
  const className = typeof named === "string" ? named : await classOf(file);
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
      // Its threshold is one that the library's encoding does not use unless asked.
      return { site, names: linear("b_dec"), activation, subtractDecoderBias: true, known: ["k", "threshold"] };
    }
    case "BatchTopKSAE":
      await readK(file, trainer);
      return { site, names: linear("b_dec"), activation: one, subtractDecoderBias: true, known: ["k"] };
    case "MatryoshkaBatchTopKSAE":
      await readK(file, trainer);
      await checkGroups(file);
      return { site, names: plainNames, activation: one, subtractDecoderBias: true, known: ["k", "group_sizes"] };
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

async function readK(file: TensorFile | TorchFile, trainer: SettingsReader): Promise<number> {
  const held = await numberIn(file, "k");
  if (held !== undefined) trainer.size("k", held, file.source.name);
  return held ?? Number(trainer.get("k"));
}

/** The library sets features behind the groups to 0. @throws UserError if there are any */
async function checkGroups(file: TensorFile): Promise<void> {
  const sizes = file.tensors.has("group_sizes") ? await file.read("group_sizes") : undefined;
  const [features] = file.tensors.get("b_enc")?.shape ?? [];
  const sum = sizes?.reduce((total, size) => total + size, 0);
  if (sum === undefined || sum === features) return;
  throw new UserError(
    `group_sizes: expected groups of ${features} features together, got ${sum} in ${file.source.name}. The files do not belong together.`,
  );
}

type Place = Pick<DictionarySource, "site" | "isSiteAssumed" | "warnings"> & { readonly module?: TrainedOn["module"] };

function placeOf(trainer: SettingsReader, path: string): Place {
  const name = trainer.get("submodule_name");
  const layer = trainer.get("layer");
  if (name !== undefined) {
    const place = placeOfName(String(name));
    if (place) return checkLayer(place, String(name), trainer);
    throw new UserError(
      `submodule_name: expected a site such as resid_post_layer_3, got ${JSON.stringify(name)} in the config.json of ${path}. Dictionaries of that place are not supported.`,
    );
  }
  // Farther up, a folder of such a name may be anything.
  const folders = path.split("/").slice(0, -1).slice(-4);
  const folder = folders.findLast((one) => placeOfName(one) !== undefined);
  if (folder !== undefined) return checkLayer(placeOfName(folder)!, folder, trainer);
  if (isWhole(layer)) {
    const site = siteName({ kind: "resid_post", layer });
    return { site, ...assumedResidPost("ae.pt files", path, 1, "A folder such as mlp_out_layer3 would.") };
  }
  throw new UnplacedError(
    `SAE: expected config.json with a layer, or a folder such as resid_out_layer3, got neither for ${path}. Add one of them.`,
  );
}

function checkLayer(place: Place, name: string, trainer: SettingsReader): Place {
  const layer = trainer.get("layer");
  const expected = parseSite(place.site).layer;
  if (layer !== undefined && layer !== expected && place.site !== "embed") {
    trainer.refuse("layer", `${expected}, as ${name} says`, layer, "Keep the one that is right.");
  }
  return place;
}

/** What config.json says of the texts whose activations were recorded. */
function textsOf(config: SettingsReader): TrainedOn {
  const places = [config, config.inner("trainer"), config.inner("buffer")];
  const [model, length, special] = ["lm_name", "ctx_len", "add_special_tokens"].map((field) =>
    places.map((place) => place.get(field)).find((value) => value !== undefined),
  );
  return {
    ...(typeof model === "string" && { model }),
    ...(typeof length === "number" && { contextSize: length }),
    // With them it is the tokenizer that decides.
    ...(special === false && { bos: false }),
  };
}

const kinds: Readonly<Record<string, SiteKind>> = {
  resid: "resid_post",
  attn: "attn_out",
  attention: "attn_out",
  mlp: "mlp_out",
};

/** The site of a submodule by the names that trainers and their users give it; `mlp_out_…` may also mean what the model adds to the stream. */
function placeOfName(name: string): Place | undefined {
  const [, kind, what, layer] = /^(resid|attn|attention|mlp)(_out|_post)?_layer_?(\d+)$/.exec(name) ?? [];
  const module = { name, isSure: what === undefined };
  if (kind !== undefined) return { site: siteName({ kind: kinds[kind]!, layer: Number(layer) }), module };
  const site = name === "embed" ? "embed" : siteOfModule(name);
  return site === undefined ? undefined : { site, module };
}
