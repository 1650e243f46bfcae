import { type Folder, readJson } from "../../bytes/folder.ts";
import { type GgufFile, openGguf } from "../../bytes/gguf.ts";
import { checkFinite } from "../../bytes/tensor-file.ts";
import { UserError } from "../../errors.ts";
import { modelFromConfig } from "../architectures.ts";
import { rotaryFrequencies } from "../layers.ts";
import { architectureOf, configFromMetadata } from "./config.ts";
import { ggufWeights, ropeFactors, type WeightFile } from "./names.ts";
import { tokenizerFromMetadata } from "./tokenizer.ts";

type Json = Readonly<Record<string, unknown>>;

/** A model in a GGUF file, in the terms of a folder in Hugging Face layout. */
export interface GgufModel {
  readonly config: Json;
  readonly tokenizer: Json;
  readonly tokenizerConfig: Json;
  readonly weights: WeightFile;
  /** The JSON files of the folder that were used. */
  readonly texts: readonly string[];
}

/**
 * Opens a GGUF file of a folder. A config.json, a tokenizer.json and a tokenizer_config.json beside it win over what its metadata say.
 *
 * @param allowedFields unknown fields of config.json to go on with
 * @throws UserError if it is damaged or not a model that can be run
 */
export async function openGgufModel(
  folder: Folder,
  path: string,
  allowedFields: readonly string[] = [],
): Promise<GgufModel> {
  const source = await folder.open(path);
  if (!source) throw new UserError(`model: expected a file ${path}, got none in ${folder.name}. Check the path.`);
  try {
    const file = await openGguf(source);
    const architecture = architectureOf(file.values, source.name);
    const [ownConfig, ownTokenizer] = [await readJson(folder, "config.json"), await readJson(folder, "tokenizer.json")];
    const config = ownConfig ?? (await withRopeFactors(file, configFromMetadata(file)));
    const model = modelFromConfig(config, ownConfig ? folder.name : source.name, allowedFields);
    if (!(typesOf[architecture] ?? [architecture]).includes(model.modelType)) {
      throw new UserError(
        `model_type: expected ${architecture} as in ${path}, got ${model.modelType} in config.json of ${folder.name}. ` +
          "Keep the files of one model in a folder.",
      );
    }
    return {
      config,
      tokenizer: ownTokenizer ?? tokenizerFromMetadata(file),
      tokenizerConfig: (ownTokenizer && (await readJson(folder, "tokenizer_config.json"))) ?? {},
      weights: ggufWeights(file, model, config),
      texts: [...(ownConfig ? ["config.json"] : []), ...(ownTokenizer ? ["tokenizer.json"] : [])],
    };
  } catch (error) {
    await source.close();
    throw error;
  }
}

/** Hugging Face's `model_type`s of what llama.cpp calls otherwise: to it Mistral is a Llama, and Gemma 3 its text model. */
const typesOf: Readonly<Record<string, readonly string[]>> = {
  llama: ["llama", "mistral"],
  gemma3: ["gemma3_text", "gemma3"],
  gptneox: ["gpt_neox"],
};

/**
 * A Llama's config with the rope scaling that the factors of its frequencies come from, if the file has any: Llama 3.1's, whose share of a
 * frequency that stays grows linearly with it. A line through two frequencies between the extremes gives its numbers; of the original context, which
 * only sets the scale of the other two, Llama 3's is taken.
 *
 * @throws UserError if the factors are of another kind
 */
async function withRopeFactors(file: GgufFile, config: Json): Promise<Json> {
  if (config.model_type !== "llama" || !file.tensors.has(ropeFactors)) return config;
  const factors = await file.read(ropeFactors);
  checkFinite(factors, ropeFactors, file.source.name);
  const frequencies = rotaryFrequencies(Number(config.head_dim), Number(config.rope_theta));
  const scaling = llama3Scaling(factors, frequencies);
  if (scaling === null) return config;
  if (scaling === undefined || config.rope_scaling !== undefined) {
    throw new UserError(
      `tensor ${ropeFactors}: expected factors as Llama 3.1 scales its ${frequencies.length} frequencies, got others in ${file.source.name}. ` +
        "This model would not be computed correctly; put its config.json beside the file.",
    );
  }
  return { ...config, rope_scaling: { rope_type: "llama3", ...scaling } };
}

const originalContext = 8192;

/** The numbers of a `llama3` rope scaling from the factors that divide the frequencies; null if they change nothing, undefined if there are none. */
function llama3Scaling(factors: Float32Array, frequencies: readonly number[]) {
  if (factors.length !== frequencies.length) return undefined;
  if (factors.every((factor) => factor === 1)) return null;
  const factor = factors.reduce((a, b) => Math.max(a, b));
  const points = Array.from(factors, (f, i) => ({
    turns: (originalContext * frequencies[i]!) / (2 * Math.PI),
    stays: (1 / f - 1 / factor) / (1 - 1 / factor),
  }));
  const between = points.filter(({ stays }) => stays > 1e-6 && stays < 1 - 1e-6);
  const [first, last] = [between[0], between.at(-1)];
  if (!first || !last || first === last) return undefined;
  const slope = (first.stays - last.stays) / (first.turns - last.turns);
  const low = first.turns - first.stays / slope;
  const fits = points.every(({ turns, stays }) => {
    return Math.abs(Math.min(1, Math.max(0, slope * (turns - low))) - stays) < 1e-4;
  });
  if (!fits || !(slope > 0 && low > 0)) return undefined;
  return {
    factor,
    low_freq_factor: low,
    high_freq_factor: low + 1 / slope,
    original_max_position_embeddings: originalContext,
  };
}
