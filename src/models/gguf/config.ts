import { isWhole } from "../../amounts.ts";
import type { GgufFile, GgufValue } from "../../bytes/gguf.ts";
import { UserError } from "../../errors.ts";

/** Fields of a config.json. */
type Config = Record<string, unknown>;

/** The architectures by `general.architecture`, each with the config.json of a model of it. */
const architectures: Readonly<Record<string, (m: MetadataReader) => Config>> = {
  llama: (m) => ({
    model_type: "llama",
    ...decoder(m),
    attention_bias: m.hasTensor("blk.0.attn_q.bias"),
    mlp_bias: m.hasTensor("blk.0.ffn_up.bias"),
  }),
  qwen2: (m) => ({ model_type: "qwen2", ...decoder(m), use_sliding_window: false }),
  qwen3: (m) => ({
    model_type: "qwen3",
    ...decoder(m),
    attention_bias: m.hasTensor("blk.0.attn_q.bias"),
    use_sliding_window: false,
  }),
  gemma: (m) => ({ model_type: "gemma", ...decoder(m), ...gegluTanh }),
  gemma2,
  gemma3,
  gpt2,
  gptneox,
};

/**
 * The config.json of the model in a GGUF file, in Hugging Face's terms. What the file leaves out is what llama.cpp takes for it.
 *
 * @throws UserError if the architecture is unknown, or a key of it is not understood
 */
export function configFromMetadata({ values, tensors, source }: GgufFile): Config {
  const architecture = architectureOf(values, source.name);
  const m = new MetadataReader(values, architecture, source.name, tensors);
  m.atMost("block_count", tensors.size);
  const config = architectures[architecture]!(m);
  m.done();
  const [vocabulary] = tensors.get("token_embd.weight")?.shape ?? [];
  const id = (token: string) => values.get(`tokenizer.ggml.${token}_token_id`) ?? null;
  return {
    ...config,
    // Rows that pad the vocabulary count too, so this is not the number of tokens.
    ...(vocabulary === undefined ? {} : { vocab_size: vocabulary }),
    tie_word_embeddings: !tensors.has("output.weight"),
    bos_token_id: id("bos"),
    eos_token_id: id("eos"),
    pad_token_id: id("padding"),
  };
}

/**
 * `general.architecture` of a file that holds a whole model.
 *
 * @throws UserError if it is none that can be read, or the file is a part of a model
 */
export function architectureOf(values: ReadonlyMap<string, GgufValue>, where: string): string {
  const refuse = (key: string, expected: string, advice: string): never => {
    const got = values.has(key) ? shown(values.get(key)) : "nothing";
    throw new UserError(`${key}: expected ${expected}, got ${got} in ${where}. ${advice}`);
  };
  if ((values.get("general.type") ?? "model") !== "model") refuse("general.type", '"model"', "Name the model's file.");
  if (Number(values.get("split.count") ?? 1) > 1) {
    refuse("split.count", "a model in one file", "Join its parts with llama-gguf-split --merge.");
  }
  const architecture = values.get("general.architecture");
  if (typeof architecture !== "string" || !Object.hasOwn(architectures, architecture)) {
    const known = Object.keys(architectures).join(", ");
    return refuse("general.architecture", `one of ${known}`, "Choose a model of a supported architecture.");
  }
  return architecture;
}

/** What is alike in Llama and its likes. */
function decoder(m: MetadataReader): Config {
  const D = m.count("embedding_length");
  const H = m.count("attention.head_count");
  const E = m.count("attention.key_length", D / H);
  m.only("attention.value_length", E);
  m.only("rope.dimension_count", E);
  m.only("attention.causal", true);
  m.only("expert_count", 0);
  m.only("expert_used_count", 0);
  m.only("tensor_data_layout", "Meta AI original pth");
  m.without("vocab_size");
  return {
    hidden_size: D,
    intermediate_size: m.count("feed_forward_length"),
    num_hidden_layers: m.count("block_count"),
    num_attention_heads: H,
    num_key_value_heads: m.count("attention.head_count_kv", H),
    head_dim: E,
    max_position_embeddings: m.count("context_length"),
    rms_norm_eps: m.number("attention.layer_norm_rms_epsilon"),
    rope_theta: m.number("rope.freq_base", 10_000),
    ...ropeScaling(m),
  };
}

/**
 * Scaled rotary positions as `rope_scaling`, if they are. A scaling without a type is linear; a factor of 0 says that there is none. What llama.cpp's
 * converter writes as `yarn_attn_factor` is transformers' `attention_factor`.
 */
function ropeScaling(m: MetadataReader): Config {
  m.only("rope.scaling.type", "none", "linear", "yarn");
  const type = m.value("rope.scaling.type") ?? "linear";
  const factor = m.number("rope.scaling.factor", m.number("rope.scale_linear", 0));
  m.without("rope.scaling.original_context_length", "rope.scaling.finetuned");
  if (type === "linear") return factor === 0 || factor === 1 ? {} : { rope_scaling: { rope_type: type, factor } };
  if (type === "none") return {};
  m.only("rope.scaling.attn_factor", 1);
  m.only("rope.scaling.yarn_ext_factor", 1);
  m.only("rope.scaling.yarn_log_multiplier", 0);
  return {
    rope_scaling: {
      rope_type: type,
      factor: factor === 0 ? 1 : factor,
      original_max_position_embeddings: m.count("rope.scaling.original_context_length", m.count("context_length")),
      attention_factor: m.value("rope.scaling.yarn_attn_factor") ?? null,
      beta_fast: m.number("rope.scaling.yarn_beta_fast", 32),
      beta_slow: m.number("rope.scaling.yarn_beta_slow", 1),
    },
  };
}

const gegluTanh = { hidden_activation: "gelu_pytorch_tanh" };

function gemma2(m: MetadataReader): Config {
  const config = decoder(m);
  m.only("attention.sliding_window_pattern", 2);
  return {
    model_type: "gemma2",
    ...config,
    ...gegluTanh,
    query_pre_attn_scalar: queryScale(config, 46),
    sliding_window: m.count("attention.sliding_window", 4096),
    attn_logit_softcapping: m.number("attn_logit_softcapping", 50),
    final_logit_softcapping: m.number("final_logit_softcapping", 30),
  };
}

function gemma3(m: MetadataReader): Config {
  const config = decoder(m);
  const L = m.count("block_count");
  const window = m.number("attention.sliding_window", 0);
  const period = window > 0 ? m.count("attention.sliding_window_pattern", 6) : 1;
  m.without("attention.sliding_window_pattern", "rope.freq_base_swa");
  m.only("final_logit_softcapping", 0);
  const kinds = Array.from({ length: L }, (_, l) => ((l + 1) % period === 0 ? "full_attention" : "sliding_attention"));
  return {
    model_type: "gemma3_text",
    ...config,
    ...gegluTanh,
    query_pre_attn_scalar: queryScale(config, 62),
    ...(window > 0 ? { sliding_window: window } : {}),
    layer_types: kinds,
    rope_local_base_freq: m.number("rope.freq_base_swa", 10_000),
  };
}

/** The number whose root divides the scores. No key names it; llama.cpp tells the 27B models, which alone differ, by their blocks. */
function queryScale({ num_hidden_layers, hidden_size, num_attention_heads, head_dim }: Config, blocksOf27B: number) {
  return num_hidden_layers === blocksOf27B ? Number(hidden_size) / Number(num_attention_heads) : head_dim;
}

function gpt2(m: MetadataReader): Config {
  const D = m.count("embedding_length");
  const H = m.count("attention.head_count");
  m.only("attention.head_count_kv", H);
  m.without("vocab_size");
  return {
    model_type: "gpt2",
    n_embd: D,
    n_inner: m.count("feed_forward_length"),
    n_layer: m.count("block_count"),
    n_head: H,
    n_positions: m.count("context_length"),
    layer_norm_epsilon: m.number("attention.layer_norm_epsilon"),
  };
}

function gptneox(m: MetadataReader): Config {
  const D = m.count("embedding_length");
  const H = m.count("attention.head_count");
  m.only("attention.head_count_kv", H);
  m.without("vocab_size");
  return {
    model_type: "gpt_neox",
    hidden_size: D,
    intermediate_size: m.count("feed_forward_length"),
    num_hidden_layers: m.count("block_count"),
    num_attention_heads: H,
    max_position_embeddings: m.count("context_length"),
    layer_norm_eps: m.number("attention.layer_norm_epsilon"),
    use_parallel_residual: m.value("use_parallel_residual") ?? true,
    rotary_pct: m.count("rope.dimension_count", D / H) / (D / H),
    rotary_emb_base: m.number("rope.freq_base", 10_000),
    ...ropeScaling(m),
    // No key names it. Pythia's is the exact one; llama.cpp computes the approximation by a tanh.
    hidden_act: "gelu",
  };
}

/** No model has more of anything that is counted: a larger number is damage, and would be allocated for. */
const largestCount = 2 ** 24;

/** Reads the keys of an architecture and refuses those that nobody asked for: they would change the numbers without a word. */
class MetadataReader {
  readonly #values: ReadonlyMap<string, GgufValue>;
  readonly #prefix: string;
  readonly #where: string;
  readonly #tensors: GgufFile["tensors"];
  readonly #asked = new Set<string>();

  constructor(
    values: ReadonlyMap<string, GgufValue>,
    architecture: string,
    where: string,
    tensors: GgufFile["tensors"],
  ) {
    this.#tensors = tensors;
    this.#values = values;
    this.#prefix = `${architecture}.`;
    this.#where = where;
  }

  /** Whether the file has a tensor of that name: options that no key names are told by them. */
  hasTensor(name: string): boolean {
    return this.#tensors.has(name);
  }

  /** A value as it is; where a list has one number for each block and all are the same, that number. */
  value(key: string): GgufValue | undefined {
    this.#asked.add(key);
    const value = this.#values.get(this.#prefix + key);
    if (typeof value !== "object" || value.length === 0) return value;
    const [first] = value;
    return typeof first === "number" && value.every((one: unknown) => one === first) ? first : value;
  }

  /** A whole number above 0. @throws UserError if it is too large, or missing (and there is no default) or something else */
  count(key: string, byDefault?: number): number {
    const value = this.value(key) ?? byDefault;
    return isWhole(value) && value > 0 && value <= largestCount
      ? value
      : this.#refuse(key, `a whole number from 1 to ${largestCount}`, value);
  }

  /** Refuses a count of things of which the file has fewer. */
  atMost(key: string, most: number): void {
    const value = this.value(key);
    if (typeof value === "number" && value > most) this.#refuse(key, `at most ${most}`, value);
  }

  /** A number from 0 up. */
  number(key: string, byDefault?: number): number {
    const value = this.value(key) ?? byDefault;
    return typeof value === "number" && value >= 0 && Number.isFinite(value)
      ? value
      : this.#refuse(key, "a number from 0 up", value);
  }

  /** A value that may be missing, but nothing else than these. */
  only(key: string, ...wanted: GgufValue[]): void {
    const value = this.value(key);
    if (value !== undefined && !wanted.includes(value)) this.#refuse(key, wanted.map(shown).join(" or "), value);
  }

  /** Marks keys as understood that have no effect as long as the others have the values that they have. */
  without(...keys: string[]): void {
    for (const key of keys) this.#asked.add(key);
  }

  /** @throws UserError for the first key of the architecture that nobody asked for */
  done(): void {
    for (const [key, value] of this.#values) {
      const known = !key.startsWith(this.#prefix) || this.#asked.has(key.slice(this.#prefix.length));
      if (!known) this.#refuse(key.slice(this.#prefix.length), "a key that this architecture is known to have", value);
    }
  }

  #refuse(key: string, expected: string, got: GgufValue | undefined): never {
    throw new UserError(
      `${this.#prefix}${key}: expected ${expected}, got ${shown(got)} in ${this.#where}. ` +
        "This model would not be computed correctly; put its config.json beside the file, or use another.",
    );
  }
}

function shown(value: GgufValue | undefined): string {
  if (value === undefined) return "nothing";
  return typeof value === "object" ? `a list of ${value.length}` : JSON.stringify(value).slice(0, 60);
}
