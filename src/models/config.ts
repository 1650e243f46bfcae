import { isWhole } from "../amounts.ts";
import { UserError } from "../errors.ts";
import { type Rope, ropeForms, turning } from "./rope.ts";

/**
 * Fields of config.json that say nothing about the logits, in any architecture: those of transformers' PretrainedConfig in all its versions, and what
 * other programs write beside them.
 */
const harmless = new Set(
  [
    "_name_or_path name_or_path _commit_hash architectures model_type transformers_version transformers.js_config",
    "torch_dtype dtype use_bfloat16 torchscript xla_device is_llama_config pretraining_tp license",
    // Training.
    "initializer_range initializer_factor gradient_checkpointing gradient_checkpointing_kwargs tf_legacy_loss loss_type",
    "attention_dropout hidden_dropout classifier_dropout attn_pdrop embd_pdrop resid_pdrop dropout attention_probs_dropout_prob",
    "hidden_dropout_prob embedding_dropout resid_dropout layerdrop neftune_noise_alpha finetuning_task problem_type",
    "num_labels _num_labels id2label label2id task_specific_params",
    "summary_type summary_use_proj summary_activation summary_proj_to_labels summary_first_dropout",
    // How, not what, is computed, and what of it is given back.
    "attn_implementation _attn_implementation _attn_implementation_autoset _attn_implementation_internal use_flash_attention",
    "_flash_attn_2_enabled use_flash_attention_2 use_flash_attn experts_implementation _experts_implementation",
    "_experts_implementation_internal chunk_size_feed_forward model_parallel return_dict use_return_dict output_attentions",
    "output_hidden_states output_past output_router_logits tie_last_hidden_states num_logits_to_keep logits_to_keep is_decoder",
    "cross_attention_hidden_size use_cache cache_implementation cache_config",
    // Tokens and the tokenizer.
    "bos_token_id eos_token_id pad_token_id unk_token_id sep_token_id cls_token_id mask_token_id decoder_start_token_id",
    "bos_token eos_token pad_token unk_token tokenizer_class prefix max_sequence_length model_max_length",
    "tokenizer_model_max_length",
    // Settings of text generation.
    "max_length max_new_tokens min_length min_new_tokens early_stopping max_time stop_strings do_sample num_beams",
    "num_beam_groups diversity_penalty penalty_alpha dola_layers temperature top_k top_p min_p top_h typical_p epsilon_cutoff",
    "eta_cutoff repetition_penalty encoder_repetition_penalty length_penalty no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size bad_words_ids force_words_ids constraints renormalize_logits forced_bos_token_id",
    "forced_eos_token_id remove_invalid_values exponential_decay_length_penalty suppress_tokens begin_suppress_tokens",
    "forced_decoder_ids sequence_bias token_healing guidance_scale watermarking_config num_return_sequences output_scores",
    "output_logits return_dict_in_generate use_mtp max_cache_len is_assistant num_assistant_tokens",
    "num_assistant_tokens_schedule assistant_confidence_threshold prompt_lookup_num_tokens max_matching_ngram_size",
    "assistant_early_exit assistant_lookbehind target_lookbehind assistant_ensemble_weight speculation_type compile_config",
    "disable_compile continuous_batching_config low_memory prefill_chunk_size generation_config",
  ].flatMap((names) => names.split(" ")),
);

/** Names of harmless fields that a program makes up as it likes. */
const harmlessNames = /^_?unsloth_/;

/** Fields that change nothing as long as they have one of these values. */
const neutral: Readonly<Record<string, readonly unknown[]>> = {
  add_cross_attention: [false],
  alibi: [false],
  auto_map: [{}],
  is_encoder_decoder: [false],
  num_experts: [0],
  num_local_experts: [0],
  partial_rotary_factor: [1],
  per_layer_config: [{}],
  pruned_heads: [{}],
  rope_interleaved: [false],
  rotary_pct: [1],
  tie_encoder_decoder: [false],
  use_bidirectional_attention: [false],
  use_mrope: [false],
  use_qk_norm: [false],
  use_sliding_window: [false],
};

/** Fields that say that the weights are not numbers by themselves. */
const quantised = new Set(["quantization_config", "compression_config"]);

/** No model has more layers, more of anything else that is counted, or turns faster: a larger number is damage, and would be allocated for. */
const most = { layers: 10_000, count: 2 ** 24, frequency: 1e6 };

export interface RopeOptions {
  /** The old field of the base. */
  readonly field?: string;
  /** Where a config describes one form for each kind of layer: the kind. */
  readonly kind?: "full_attention" | "sliding_attention";
  /** Where a share of a head's axes turns: its old field, and its default. */
  readonly share?: { readonly field: string; readonly byDefault: number };
}

type Fields = Readonly<Record<string, unknown>>;

/**
 * Reads a config.json and refuses what it does not understand: a field that no one asked for would change the numbers without a word.
 */
export class ConfigReader {
  readonly #config: Fields;
  readonly #asked = new Set<string>();
  readonly #ignored = new Set<string>();
  readonly #allowed: ReadonlySet<string>;
  readonly #where: string;
  /** What stands in front of its fields' names in messages. */
  readonly #path: string;
  readonly #parts = new Map<string, ConfigReader>();

  /**
   * @param where the folder, for messages
   * @param allowed unknown fields to go on with, those within others with their path (`text_config.field`)
   */
  constructor(config: Fields, where: string, allowed: ReadonlySet<string> = new Set(), path = "") {
    this.#config = config;
    this.#where = where;
    this.#allowed = allowed;
    this.#path = path;
  }

  /** A whole number above 0, no larger than any model has. @throws UserError if it is missing (and there is no default) or something else */
  count(field: string, byDefault?: number): number {
    return this.#whole(field, this.#value(field) ?? byDefault, most.count);
  }

  /** A number of layers, as `count`. */
  layers(field: string, byDefault?: number): number {
    return this.#whole(field, this.#value(field) ?? byDefault, most.layers);
  }

  /** A number of tokens, as `count`, but of any size: nothing is allocated for them. Null is none. */
  length(field: string, byDefault?: number): number {
    const value = this.#value(field) ?? (this.isNone(field) ? null : byDefault);
    return this.#whole(field, value, Number.POSITIVE_INFINITY);
  }

  /** A whole even number above 0. */
  even(field: string, byDefault: number): number {
    const value = this.count(field, byDefault);
    return value % 2 === 0 ? value : this.#refuse(field, "an even number", value, damaged);
  }

  /** A whole number above 0 that divides another one. */
  divisor(field: string, of: number, byDefault?: number): number {
    const value = this.count(field, byDefault);
    return of % value === 0 ? value : this.#refuse(field, `a number that divides ${of}`, value, damaged);
  }

  /** A number above 0. */
  positive(field: string, byDefault?: number): number {
    return this.#positiveNumber(field, this.#value(field) ?? byDefault);
  }

  /** True or false. Null is false in Python, so it stands for a default of false alone. */
  flag(field: string, byDefault: boolean): boolean {
    const value = this.#value(field) ?? (this.isNone(field) && byDefault ? null : byDefault);
    if (typeof value !== "boolean") this.#refuse(field, "true or false", value, damaged);
    return value as boolean;
  }

  /** Whether a field is null: not missing, but none. */
  isNone(field: string): boolean {
    return this.#config[field] === null;
  }

  /**
   * A reader of a config within this one. Its fields that are not understood are refused, or were allowed, with this one's.
   *
   * @param inherited what counts in place of its own fields
   */
  within(field: string, inherited: Fields = {}): ConfigReader {
    const own = this.#fields(field, this.#value(field));
    if (own === undefined) this.#refuse(field, "fields of its own", own);
    const within = new ConfigReader({ ...own, ...inherited }, this.#where, this.#allowed, `${this.#path}${field}.`);
    this.#parts.set(field, within);
    return within;
  }

  /** One of several named things. */
  choice<T>(field: string, byDefault: string, things: Readonly<Record<string, T>>): T {
    const name = this.#value(field) ?? byDefault;
    return typeof name === "string" && Object.hasOwn(things, name)
      ? things[name]!
      : this.#refuse(field, `"${Object.keys(things).join('" or "')}"`, name);
  }

  /** A field that may be absent or null, but nothing else than these values. */
  only(field: string, ...values: unknown[]): void {
    const value = this.#value(field);
    if (value !== undefined && !values.includes(value))
      this.#refuse(field, values.map((v) => JSON.stringify(v)).join(" or "), value);
  }

  /** The number format of the weights, in its own field. */
  format(): Fields {
    const dtype = this.#value("dtype") ?? this.#value("torch_dtype");
    return dtype === undefined ? {} : { dtype };
  }

  /** A number above 0; null says that there is none. */
  positiveOrNone(field: string, byDefault: number): number | undefined {
    return this.isNone(field) ? undefined : this.positive(field, byDefault);
  }

  /** Marks fields as understood that have no effect as long as the fields asked for have the values that they have. */
  without(...fields: string[]): void {
    for (const field of fields) this.#asked.add(field);
  }

  /** For each of L layers whether its attention is windowed, from `layer_types` or by default. */
  windowed(L: number, byDefault: (layer: number) => boolean): readonly boolean[] {
    const kinds = ["full_attention", "sliding_attention"];
    const types = this.#value("layer_types") ?? Array.from({ length: L }, (_, l) => kinds[Number(byDefault(l))]);
    if (!Array.isArray(types) || types.length !== L || types.some((type) => !kinds.includes(type)))
      this.#refuse("layer_types", `${L} times "${kinds.join('" or "')}"`, types);
    return (types as string[]).map((type) => type === "sliding_attention");
  }

  /**
   * A number as the checkpoint's format (`dtype`) holds it, float32 where none is named: a model that is loaded in that format has its constants
   * rounded so.
   */
  rounded(x: number): number {
    const format = String(this.#value("dtype") ?? this.#value("torch_dtype"));
    const bits = format === "bfloat16" ? 8 : format === "float16" ? 11 : 24;
    const unit = 2 ** (Math.floor(Math.log2(x)) - bits + 1);
    return Math.round(x / unit) * unit;
  }

  /**
   * Rotary positions: `rope_theta` and `rope_scaling`, or transformers 5's `rope_parameters`. Where there are two kinds of layers, `rope_scaling` is
   * that of full attention.
   *
   * transformers 5 takes `rope_scaling` before `rope_parameters`, and these before the fields beside them. A config that says two things at once is
   * refused: whichever counts, someone meant the other.
   *
   * @param maxLength `max_position_embeddings`
   * @throws UserError by name for a form (dynamic, longrope, …), a number that is not understood, or a contradiction
   */
  rope(byDefault: number, maxLength: number, { field = "rope_theta", kind, share }: RopeOptions = {}): Rope {
    const scaling = this.#form("rope_scaling", this.#value("rope_scaling"));
    let parameters = this.#form("rope_parameters", this.#value("rope_parameters"));
    if (kind !== undefined && parameters !== undefined) {
      const other = Object.keys(parameters).find((key) => key !== "full_attention" && key !== "sliding_attention");
      if (other !== undefined) this.#refuse(`rope_parameters.${other}`, "one form for each kind of layer", parameters);
      parameters = this.#form(`rope_parameters.${kind}`, parameters[kind]);
    }
    const inParameters = kind === undefined ? "rope_parameters" : `rope_parameters.${kind}`;
    const read = (name: string, form: Fields | undefined) => {
      const turned = share && this.#beside(`${name}.partial_rotary_factor`, form?.partial_rotary_factor, share.field);
      const base = this.#beside(`${name}.rope_theta`, form?.rope_theta, field);
      return this.#rope(name, form ?? {}, {
        maxLength,
        base: base ?? byDefault,
        share: share && (turned ?? share.byDefault),
        truncates: kind === undefined,
      });
    };
    if (scaling === undefined || kind === "sliding_attention") return read(inParameters, parameters);
    if (parameters === undefined) return read("rope_scaling", scaling);
    // Of two kinds of layers, transformers changes the one's parameters by the scaling.
    const rope = read("rope_scaling", kind === undefined ? scaling : { ...parameters, ...scaling });
    if (!isSame(rope, read(inParameters, parameters))) {
      this.#refuse("rope_scaling", `the same as ${inParameters}`, scaling, contradiction);
    }
    return rope;
  }

  /** A form of rotary positions; undefined if there is none, or nothing in it. */
  #form(name: string, value: unknown): Fields | undefined {
    const form = this.#fields(name, value);
    return form && Object.keys(form).length > 0 ? form : undefined;
  }

  /** A number of a form, which a field beside it may say too. @throws UserError if they are not the same */
  #beside(name: string, own: unknown, field: string): number | undefined {
    const beside = this.#value(field);
    const numbers = [own ?? undefined, beside].filter((value) => value !== undefined);
    const [first, second] = numbers.map((value) => this.#positiveNumber(value === beside ? field : name, value));
    if (second !== undefined && second !== first) this.#refuse(field, `${first} as ${name}`, second, contradiction);
    return first;
  }

  #rope(
    name: string,
    { rope_type, type: oldType, rope_theta: _, truncate, finetuned, ...given }: Fields,
    {
      maxLength,
      base,
      share,
      truncates,
    }: { maxLength: number; base: number; share: number | undefined; truncates: boolean },
  ): Rope {
    const type = rope_type ?? oldType ?? "default";
    const forms = ropeForms(maxLength);
    if (typeof type !== "string" || !Object.hasOwn(forms, type)) {
      return this.#refuse(`${name}.rope_type`, `"${Object.keys(forms).join('" or "')}"`, type);
    }
    if ((oldType ?? type) !== type) this.#refuse(`${name}.type`, `"${type}" as rope_type`, oldType, contradiction);
    const form = forms[type]!;
    // transformers itself overlooks `truncate` where there is a form for each kind of layer.
    const truncations = type === "yarn" && truncates ? [true, false] : [true];
    if (!truncations.includes((truncate ?? true) as boolean)) {
      this.#refuse(`${name}.truncate`, truncations.join(" or "), truncate);
    }
    // Says how a model came to be.
    if (typeof (finetuned ?? true) !== "boolean") this.#refuse(`${name}.finetuned`, "true or false", finetuned);
    for (const [key, value] of Object.entries(given)) {
      const known = Object.hasOwn(form, key) || (share !== undefined && key === "partial_rotary_factor");
      if (known || value === null || (noScaling.has(key) && value === 1)) continue;
      if (this.#allowed.has(`${this.#path}${name}.${key}`)) this.#ignored.add(`${name}.${key}`);
      else this.#refuse(`${name}.${key}`, "no such field", value);
    }
    const numbers: Record<string, number> = share === undefined ? {} : { partial_rotary_factor: share };
    for (const [key, standard] of Object.entries(form)) {
      const value = given[key] ?? (typeof standard === "number" ? standard : undefined);
      if (standard === "optional" && !value) continue;
      numbers[key] = this.#positiveNumber(`${name}.${key}`, value);
    }
    if (type === "yarn" && base <= 1) this.#refuse(`${name}.rope_theta`, "a number above 1", base);
    const rope = { type, base, numbers, truncate: truncate !== false };
    const { frequencies, scale } = turning(rope, comparedAxes);
    if (![...frequencies, scale].every((x) => x <= most.frequency)) {
      this.#refuse(name, `numbers by which no axis turns more than ${most.frequency} per token`, given, damaged);
    }
    return rope;
  }

  /**
   * The unknown fields that were allowed.
   *
   * @throws UserError for the first field that nobody asked for, that is not known to be harmless and that was not allowed
   */
  done(): readonly string[] {
    for (const [field, value] of Object.entries(this.#config)) {
      const known = this.#asked.has(field) || harmless.has(field) || harmlessNames.test(field) || value === null;
      if (known || isNeutral(field, value)) continue;
      if (quantised.has(field)) {
        this.#refuse(
          field,
          "weights that are not quantised",
          value,
          "Name the model that it was made from, or a GGUF file.",
        );
      }
      const name = this.#path + field;
      if (this.#allowed.has(name)) this.#ignored.add(field);
      else {
        this.#refuse(
          field,
          "a field that this architecture is known to have",
          value,
          `Where it changes nothing that the model computes, --allow_config_field ${name} goes on without it.`,
        );
      }
    }
    return [
      ...[...this.#ignored].map((field) => this.#path + field),
      ...[...this.#parts.values()].flatMap((part) => part.done()),
    ];
  }

  #whole(field: string, value: unknown, limit: number): number {
    if (!isWhole(value) || value === 0) return this.#refuse(field, "a whole number above 0", value, damaged);
    return value <= limit ? value : this.#refuse(field, `at most ${limit}`, value, damaged);
  }

  #positiveNumber(field: string, value: unknown): number {
    // What float32 makes 0 or infinite would make NaN of the activations.
    return typeof value === "number" && Math.fround(value) > 0 && Number.isFinite(Math.fround(value))
      ? value
      : this.#refuse(field, "a number above 0", value, damaged);
  }

  #fields(field: string, value: unknown): Fields | undefined {
    if (value === undefined || value === null) return undefined;
    if (typeof value !== "object" || Array.isArray(value)) this.#refuse(field, "fields of its own", value, damaged);
    return value as Fields;
  }

  #value(field: string): unknown {
    this.#asked.add(field);
    return this.#config[field] ?? undefined;
  }

  #refuse(field: string, expected: string, got: unknown, advice = unsupported): never {
    throw new UserError(
      `${this.#path}${field}: expected ${expected}, got ${shown(got)} in config.json of ${this.#where}. ${advice}`,
    );
  }
}

const unsupported = "This model would not be computed correctly; use one whose architecture is supported (sfc models).";
const damaged = "Fetch config.json again, or correct it.";
const contradiction = "Leave out the one that is wrong: it is not clear which of them the model was trained with.";

/** Numbers of a form that change nothing where they are 1. */
const noScaling = new Set(["factor", "partial_rotary_factor"]);

/** A head's width for which frequencies are looked at. */
const comparedAxes = 128;

function isNeutral(field: string, value: unknown): boolean {
  return Object.hasOwn(neutral, field) && neutral[field]!.some((one) => textOf(one) === textOf(value));
}

function textOf(value: unknown): string {
  try {
    return JSON.stringify(value) ?? "nothing";
  } catch {
    return "something nested too deeply";
  }
}

/** Whether two descriptions of positions come to the same numbers. */
function isSame(a: Rope, b: Rope): boolean {
  const text = (rope: Rope) => JSON.stringify([rope.numbers.partial_rotary_factor, turning(rope, comparedAxes)]);
  return text(a) === text(b);
}

/** A value of config.json, fit for a message. */
export function shown(value: unknown): string {
  const text = textOf(value);
  return text.length > 100 ? `${text.slice(0, 100)}…` : text;
}
