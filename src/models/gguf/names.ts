import type { GgufFile } from "../../bytes/gguf.ts";
import { type TensorFile, type TensorInfo, tensorFile } from "../../bytes/tensor-file.ts";
import { UserError } from "../../errors.ts";
import type { Model } from "../model.ts";

/** Names of tensors in Hugging Face's spelling and llama.cpp's (gguf-py's tensor_mapping.py), without `.weight` and `.bias`. */
interface Names {
  /** What blocks are called: `<blocks>.<layer>.` for `blk.<layer>.`. */
  readonly blocks: string;
  /** Before and after the blocks. */
  readonly aroundBlocks: Readonly<Record<string, string>>;
  readonly inBlocks: Readonly<Record<string, string>>;
}

const decoder = {
  "self_attn.q_proj": "attn_q",
  "self_attn.k_proj": "attn_k",
  "self_attn.v_proj": "attn_v",
  "self_attn.o_proj": "attn_output",
  "mlp.gate_proj": "ffn_gate",
  "mlp.up_proj": "ffn_up",
  "mlp.down_proj": "ffn_down",
  input_layernorm: "attn_norm",
};
const llama: Names = {
  blocks: "model.layers",
  aroundBlocks: { "model.embed_tokens": "token_embd", "model.norm": "output_norm", lm_head: "output" },
  inBlocks: { ...decoder, post_attention_layernorm: "ffn_norm" },
};
const perHead = { "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm" };
const gemma2: Names = {
  ...llama,
  inBlocks: {
    ...decoder,
    ...perHead,
    post_attention_layernorm: "post_attention_norm",
    pre_feedforward_layernorm: "ffn_norm",
    post_feedforward_layernorm: "post_ffw_norm",
  },
};

/** By Hugging Face's `model_type`. */
const names: Readonly<Record<string, Names>> = {
  llama,
  mistral: llama,
  qwen2: llama,
  qwen3: { ...llama, inBlocks: { ...llama.inBlocks, ...perHead } },
  gemma: llama,
  gemma2,
  gemma3_text: gemma2,
  gemma3: gemma2,
  gpt2: {
    blocks: "transformer.h",
    aroundBlocks: {
      "transformer.wte": "token_embd",
      "transformer.wpe": "position_embd",
      "transformer.ln_f": "output_norm",
      lm_head: "output",
    },
    inBlocks: {
      ln_1: "attn_norm",
      "attn.c_attn": "attn_qkv",
      "attn.c_proj": "attn_output",
      ln_2: "ffn_norm",
      "mlp.c_fc": "ffn_up",
      "mlp.c_proj": "ffn_down",
    },
  },
  gpt_neox: {
    blocks: "gpt_neox.layers",
    aroundBlocks: {
      "gpt_neox.embed_in": "token_embd",
      "gpt_neox.final_layer_norm": "output_norm",
      embed_out: "output",
    },
    inBlocks: {
      input_layernorm: "attn_norm",
      "attention.query_key_value": "attn_qkv",
      "attention.dense": "attn_output",
      post_attention_layernorm: "ffn_norm",
      "mlp.dense_h_to_4h": "ffn_up",
      "mlp.dense_4h_to_h": "ffn_down",
    },
  },
};

/** Factors of the rotary frequencies, for which a config has a field. */
export const ropeFactors = "rope_freqs.weight";

/** A tensor in a GGUF file, and what llama.cpp's converter did to it. */
interface Place {
  readonly name: string;
  /** The matrix was turned round. */
  readonly transposed?: boolean;
  /** Where it put each row. */
  readonly row?: ((row: number) => number) | undefined;
  /** What it added to every number. */
  readonly added?: number;
}

/** A file of weights under Hugging Face's names. */
export interface WeightFile extends Pick<TensorFile, "source" | "tensors"> {
  /** All numbers of a weight, in row-major order. */
  read(name: string): Promise<Float32Array>;
  /** Some rows of a matrix, [indices.length, row length], in the order of the indices, read by offset. */
  rows(name: string, indices: ArrayLike<number>): Promise<Float32Array>;
  /** Whether the numbers in the file are not the weight's own: rows in another order, or something added. */
  corrected?(name: string): boolean;
}

/**
 * The weights of a model in a GGUF file as its checkpoint spells and orders them: what llama.cpp's converter changed is undone.
 *
 * @param config the model's config.json
 * @throws UserError if the file has a tensor that the model does not have
 */
export function ggufWeights(file: GgufFile, model: Model, config: Readonly<Record<string, unknown>>): WeightFile {
  const tensors = new Map<string, TensorInfo>();
  const places = new Map<string, Place>();
  // An unembedding may be there that the config does not announce.
  for (const name of new Set([...model.parameters.keys(), ...model.tokenTables])) {
    const place = placeOf(name, model.modelType, config);
    const info = file.tensors.get(place.name);
    if (!info) continue;
    places.set(name, place);
    tensors.set(name, place.transposed ? { ...info, shape: [...info.shape].reverse(), byColumns: true } : info);
  }
  const known = new Set([...places.values()].map((place) => place.name));
  // They are in the config already.
  if (model.modelType === "llama" || model.modelType === "mistral") known.add(ropeFactors);
  const other = [...file.tensors.keys()].find((name) => !known.has(name));
  if (other !== undefined) {
    throw new UserError(
      `tensor ${other}: expected one that ${model.modelType} is known to have, got another in ${file.source.name}. ` +
        "This model would not be computed correctly; use one whose architecture is supported (sfc models).",
    );
  }
  return corrected(tensorFile(file.source, tensors), places);
}

/** A file whose numbers are read with the converter's changes undone. */
function corrected(file: TensorFile, places: ReadonlyMap<string, Place>): WeightFile {
  const without = (name: string, values: Float32Array) => {
    const added = places.get(name)?.added ?? 0;
    if (added !== 0) for (let i = 0; i < values.length; i++) values[i] = values[i]! - added;
    return values;
  };
  return {
    source: file.source,
    tensors: file.tensors,
    async read(name) {
      const [rows, columns] = file.tensors.get(name)?.shape ?? [];
      const row = places.get(name)?.row;
      if (row === undefined || rows === undefined) return without(name, await file.read(name));
      const order = Int32Array.from({ length: rows }, (_, r) => row(r));
      if (columns !== undefined) return without(name, await file.rows(name, order));
      const values = await file.read(name);
      return without(
        name,
        Float32Array.from(order, (r) => values[r]!),
      );
    },
    async rows(name, indices) {
      const row = places.get(name)?.row;
      const order = row === undefined ? indices : Array.from(indices, row);
      return without(name, await file.rows(name, order));
    },
    corrected: (name) => places.get(name)?.row !== undefined || (places.get(name)?.added ?? 0) !== 0,
  };
}

/** Where a parameter lies, by its name in Hugging Face's spelling. */
function placeOf(name: string, modelType: string, config: Readonly<Record<string, unknown>>): Place {
  const { blocks, aroundBlocks, inBlocks } = names[modelType]!;
  const [, start, kind] = /^(.*)\.(weight|bias)$/.exec(name)!;
  const parts = start!.startsWith(`${blocks}.`) ? start!.slice(blocks.length + 1).split(".") : undefined;
  const module = parts === undefined ? start! : parts.slice(1).join(".");
  const spelled = parts === undefined ? aroundBlocks[module] : `blk.${parts[0]}.${inBlocks[module]}`;
  const place = `${spelled}.${kind}`;
  switch (modelType) {
    case "llama":
    case "mistral":
      return { name: place, row: interleaved(module, config) };
    case "gemma":
    case "gemma2":
    case "gemma3_text":
    case "gemma3":
      return { name: place, added: module.endsWith("norm") ? 1 : 0 };
    case "gpt2":
      return { name: place, transposed: kind === "weight" && /\.c_\w+$/.test(module) };
    case "gpt_neox":
      return { name: place, row: module === "attention.query_key_value" ? besideEachOther(config) : undefined };
    default:
      return { name: place };
  }
}

/**
 * Llama's rotary positions turn axis i together with i + E/2; llama.cpp's, as the authors', with the one beside it. So in a head of queries or
 * keys row i went to 2i, and i + E/2 to 2i + 1.
 */
function interleaved(module: string, config: Readonly<Record<string, unknown>>): Place["row"] {
  if (module !== "self_attn.q_proj" && module !== "self_attn.k_proj") return undefined;
  const E = Number(config.head_dim ?? Number(config.hidden_size) / Number(config.num_attention_heads));
  return (row) => {
    const axis = row % E;
    return row - axis + (axis < E / 2 ? 2 * axis : 2 * axis - E + 1);
  };
}

/** Queries, keys and values head by head [H,3,E] went to all queries, all keys, all values [3,H,E]. */
function besideEachOther(config: Readonly<Record<string, unknown>>): Place["row"] {
  const D = Number(config.hidden_size);
  const E = D / Number(config.num_attention_heads);
  return (row) => {
    const slice = Math.floor(row / E);
    return (slice % 3) * D + Math.floor(slice / 3) * E + (row % E);
  };
}
