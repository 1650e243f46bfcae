import { UserError } from "../errors.ts";

/** Fields of config.json that say nothing about the computation, in any architecture. */
const harmless = new Set([
  ...["_name_or_path", "architectures", "model_type", "transformers_version", "torch_dtype", "dtype", "use_cache"],
  ...["bos_token_id", "eos_token_id", "pad_token_id", "initializer_range", "pretraining_tp", "tokenizer_class"],
  ...["return_dict", "output_attentions", "output_hidden_states", "attention_dropout", "is_decoder"],
]);

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

  /** A number above 0. */
  positive(field: string, byDefault?: number): number {
    const value = this.#value(field) ?? byDefault;
    if (typeof value !== "number" || !(value > 0)) this.#refuse(field, "a number above 0", value);
    return value as number;
  }

  flag(field: string, byDefault: boolean): boolean {
    const value = this.#value(field) ?? byDefault;
    if (typeof value !== "boolean") this.#refuse(field, "true or false", value);
    return value as boolean;
  }

  /** A field that may be absent or null, but nothing else than these values. */
  only(field: string, ...values: unknown[]): void {
    const value = this.#value(field);
    if (value !== undefined && !values.includes(value))
      this.#refuse(field, values.map((v) => JSON.stringify(v)).join(" or "), value);
  }

  /**
   * RoPE's base: `rope_theta`, or transformers 5's `rope_parameters`. Scaled or dynamic forms are refused by name.
   */
  ropeBase(byDefault: number): number {
    const nested = (this.#value("rope_parameters") ?? {}) as Record<string, unknown>;
    const scaling = (this.#value("rope_scaling") ?? {}) as Record<string, unknown>;
    for (const [field, form] of [
      ["rope_parameters", nested],
      ["rope_scaling", scaling],
    ] as const) {
      const type = form.rope_type ?? form.type ?? "default";
      const unknown = Object.keys(form).find((k) => !["rope_type", "type", "rope_theta"].includes(k));
      if (type !== "default") this.#refuse(`${field}.rope_type`, '"default"', type);
      if (unknown !== undefined) this.#refuse(`${field}.${unknown}`, "no such field", form[unknown]);
    }
    const base = nested.rope_theta ?? scaling.rope_theta ?? this.#value("rope_theta") ?? byDefault;
    this.#asked.add("rope_theta");
    if (typeof base !== "number" || !(base > 0)) this.#refuse("rope_theta", "a number above 0", base);
    return base as number;
  }

  /** @throws UserError for the first field that nobody asked for and that is not known to be harmless */
  done(): void {
    for (const [field, value] of Object.entries(this.#config)) {
      if (!this.#asked.has(field) && !harmless.has(field) && value !== null) {
        this.#refuse(field, "a field that this architecture is known to have", value);
      }
    }
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
