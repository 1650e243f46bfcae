import { UserError } from "../errors.ts";
import { type Rope, ropeForms } from "./rope.ts";

/** Fields of config.json that say nothing about the computation, in any architecture. */
const harmless = new Set([
  ...["_name_or_path", "architectures", "model_type", "transformers_version", "torch_dtype", "dtype", "use_cache"],
  ...[
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "unk_token_id",
    "initializer_range",
    "pretraining_tp",
    "tokenizer_class",
  ],
  ...["return_dict", "output_attentions", "output_hidden_states", "is_decoder", "cache_implementation"],
  ...["attention_dropout", "hidden_dropout", "classifier_dropout", "attn_pdrop", "embd_pdrop", "resid_pdrop"],
  ...["summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels", "summary_first_dropout"],
  ...["task_specific_params", "id2label", "label2id", "_num_labels", "is_llama_config", "transformers.js_config"],
]);

export interface RopeOptions {
  /** The old field of the base. */
  readonly field?: string;
  /** Where a config describes one form for each kind of layer: the kind. */
  readonly kind?: "full_attention" | "sliding_attention";
  /** Where the config says which part of a head's axes turns: its default. */
  readonly part?: number;
}

/**
 * Reads a config.json and refuses what it does not understand: a field that no one asked for would change the numbers without a word.
 */
export class ConfigReader {
  readonly #config: Readonly<Record<string, unknown>>;
  readonly #asked = new Set<string>();
  readonly #where: string;

  constructor(config: Readonly<Record<string, unknown>>, where: string) {
    this.#config = config;
    this.#where = where;
  }

  /** A whole number above 0. @throws UserError if it is missing (and there is no default) or something else */
  count(field: string, byDefault?: number): number {
    const value = this.#value(field) ?? byDefault;
    if (typeof value !== "number" || !Number.isInteger(value) || value < 1)
      this.#refuse(field, "a whole number above 0", value);
    return value as number;
  }

  /** A whole even number above 0. */
  even(field: string, byDefault: number): number {
    const value = this.count(field, byDefault);
    return value % 2 === 0 ? value : this.#refuse(field, "an even number", value);
  }

  /** A number above 0. */
  positive(field: string, byDefault?: number): number {
    return this.#positiveNumber(field, this.#value(field) ?? byDefault);
  }

  flag(field: string, byDefault: boolean): boolean {
    const value = this.#value(field) ?? byDefault;
    if (typeof value !== "boolean") this.#refuse(field, "true or false", value);
    return value as boolean;
  }

  /** The fields of a config within this one. */
  fields(field: string): Readonly<Record<string, unknown>> {
    const value = this.#value(field);
    if (typeof value !== "object" || Array.isArray(value)) this.#refuse(field, "fields of its own", value);
    return value as Record<string, unknown>;
  }

  /** One of several named things. */
  choice<T>(field: string, byDefault: string, things: Readonly<Record<string, T>>): T {
    const name = String(this.#value(field) ?? byDefault);
    return Object.hasOwn(things, name)
      ? things[name]!
      : this.#refuse(field, `"${Object.keys(things).join('" or "')}"`, name);
  }

  /** A field that may be absent or null, but nothing else than these values. */
  only(field: string, ...values: unknown[]): void {
    const value = this.#value(field);
    if (value !== undefined && !values.includes(value))
      this.#refuse(field, values.map((v) => JSON.stringify(v)).join(" or "), value);
  }

  /** A number above 0; null says that there is none. */
  positiveOrNone(field: string, byDefault: number): number | undefined {
    return this.#config[field] === null ? undefined : this.positive(field, byDefault);
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
   * @param maxLength `max_position_embeddings`
   * @throws UserError by name for a form (dynamic, longrope, …) or a number that is not understood
   */
  rope(byDefault: number, maxLength: number, { field = "rope_theta", kind, part }: RopeOptions = {}): Rope {
    const both = this.#value("rope_scaling") as Record<string, unknown> | undefined;
    const scaling = kind === "sliding_attention" ? undefined : both;
    let parameters = this.#value("rope_parameters") as Record<string, unknown> | undefined;
    if (kind !== undefined && parameters !== undefined) {
      const other = Object.keys(parameters).find((key) => key !== "full_attention" && key !== "sliding_attention");
      if (other !== undefined) this.#refuse(`rope_parameters.${other}`, "one form for each kind of layer", parameters);
      parameters = (parameters[kind] ?? {}) as Record<string, unknown>;
    }
    const name = scaling === undefined ? "rope_parameters" : "rope_scaling";
    const { rope_type, type: oldType, rope_theta, truncate, finetuned, ...given } = scaling ?? parameters ?? {};
    const type = String(rope_type ?? oldType ?? "default");
    const forms = ropeForms(maxLength);
    if (!Object.hasOwn(forms, type)) {
      return this.#refuse(`${name}.rope_type`, `"${Object.keys(forms).join('" or "')}"`, type);
    }
    const form = part === undefined ? forms[type]! : { ...forms[type], partial_rotary_factor: part };
    // transformers itself overlooks `truncate` where there is a form for each kind of layer.
    const truncates = type === "yarn" && kind === undefined ? [true, false] : [true];
    if (!truncates.includes((truncate ?? true) as boolean)) {
      this.#refuse(`${name}.truncate`, truncates.join(" or "), truncate);
    }
    // Says how a model came to be.
    if (typeof (finetuned ?? true) !== "boolean") this.#refuse(`${name}.finetuned`, "true or false", finetuned);
    const unknown = Object.keys(given).find((key) => !Object.hasOwn(form, key) && given[key] !== null);
    if (unknown !== undefined) this.#refuse(`${name}.${unknown}`, "no such field", given[unknown]);
    const numbers: Record<string, number> = {};
    for (const [key, standard] of Object.entries(form)) {
      const value = given[key] ?? (typeof standard === "number" ? standard : undefined);
      if (standard === "optional" && !value) continue;
      numbers[key] = this.#positiveNumber(`${name}.${key}`, value);
    }
    const base = this.#positiveNumber(field, rope_theta ?? parameters?.rope_theta ?? this.#value(field) ?? byDefault);
    return { type, base, numbers, truncate: truncate !== false };
  }

  /** @throws UserError for the first field that nobody asked for and that is not known to be harmless */
  done(): void {
    for (const [field, value] of Object.entries(this.#config)) {
      if (!this.#asked.has(field) && !harmless.has(field) && value !== null) {
        this.#refuse(field, "a field that this architecture is known to have", value);
      }
    }
  }

  #positiveNumber(field: string, value: unknown): number {
    return typeof value === "number" && value > 0 ? value : this.#refuse(field, "a number above 0", value);
  }

  #value(field: string): unknown {
    this.#asked.add(field);
    return this.#config[field] ?? undefined;
  }

  #refuse(field: string, expected: string, got: unknown): never {
    throw new UserError(
      `${field}: expected ${expected}, got ${JSON.stringify(got) ?? "nothing"} in config.json of ${this.#where}. ` +
        "This model would not be computed correctly; use one whose architecture is supported (sfc models).",
    );
  }
}
