import { UserError } from "../errors.ts";

type Fields = Readonly<Record<string, unknown>>;

/**
 * Reads the settings beside an SAE's weights and refuses what it does not understand: a field that no one asked for could change the codes without
 * a word. A field that is null counts as absent.
 */
export class SettingsReader {
  /** The file, for messages. */
  readonly where: string;
  readonly #fields: Fields;
  readonly #prefix: string;
  readonly #known = new Set<string>();
  readonly #inner = new Map<string, SettingsReader>();

  /** @param prefix of the fields' names in messages, for an object within the file's */
  constructor(fields: Fields, where: string, prefix = "") {
    this.#fields = fields;
    this.where = where;
    this.#prefix = prefix;
  }

  /** The value of a field that the caller understands, or undefined. */
  get(field: string): unknown {
    this.#known.add(field);
    return this.#fields[field] ?? undefined;
  }

  /** An object among the fields; an empty one if it is absent. @throws UserError if it is something else */
  inner(field: string): SettingsReader {
    const value = this.get(field) ?? {};
    if (typeof value !== "object" || Array.isArray(value)) this.refuse(field, "an object", value);
    const reader =
      this.#inner.get(field) ?? new SettingsReader(value as Fields, this.where, `${this.#prefix}${field}.`);
    this.#inner.set(field, reader);
    return reader;
  }

  /** A field that may be absent, but nothing else than these values. @throws UserError */
  only(field: string, ...values: readonly unknown[]): void {
    const value = this.get(field);
    if (value !== undefined && !values.includes(value)) this.refuse(field, values.map(String).join(" or "), value);
  }

  /** Null is false in Python, so it stands for a default of false alone. @throws UserError if it is neither true nor false */
  flag(field: string, byDefault: boolean): boolean {
    if (byDefault && this.#fields[field] === null)
      this.refuse(field, "true or false", null, "Write the one that is right.");
    this.only(field, true, false);
    return (this.get(field) ?? byDefault) === true;
  }

  /** A number that must be the weights' own, if it is given. @throws UserError */
  size(field: string, held: number, weights: string): void {
    const value = this.get(field);
    if (value !== undefined && value !== held) {
      throw new UserError(
        `${this.#prefix}${field}: expected ${held}, as in ${weights}, got ${shown(value)} in ${this.where}. The files do not belong together.`,
      );
    }
  }

  /** Marks fields that are known to have no effect on what a saved SAE computes. */
  harmless(...fields: readonly string[]): void {
    for (const field of fields) this.#known.add(field);
  }

  refuse(field: string, expected: string, got: unknown, advice = "SAEs of this kind are not supported."): never {
    throw new UserError(`${this.#prefix}${field}: expected ${expected}, got ${shown(got)} in ${this.where}. ${advice}`);
  }

  /** @throws UserError for the first field that no one asked for, of these and of the objects asked for among them */
  done(): void {
    for (const [field, value] of Object.entries(this.#fields)) {
      if (value === null || this.#known.has(field)) continue;
      const advice = "It could change what the SAE computes; remove it from the file if it does not.";
      this.refuse(field, "a field that is known for this format", value, advice);
    }
    for (const inner of this.#inner.values()) inner.done();
  }
}

function shown(value: unknown): string {
  const text = JSON.stringify(value) ?? "none";
  return text.length > 80 ? `${text.slice(0, 80)}…` : text;
}
