import { isWhole } from "../../amounts.ts";
import { UserError } from "../../errors.ts";
import { excerpt } from "../excerpt.ts";

const advice = "Take tokenizer.json from the model's own folder.";

/** Parts that lie deeper are taken for damage. */
const longestPlace = 1000;

/** A JSON object of a tokenizer.json, with its place there: reads its fields and refuses what they may not be, by name. */
export class Part {
  readonly #fields: Readonly<Record<string, unknown>>;

  /**
   * @param place where it stands, e.g. `pre_tokenizer.pretokenizers[1]`; empty for the whole file
   * @param file names the file in errors
   * @throws UserError if it is no object
   */
  constructor(
    fields: unknown,
    readonly place: string,
    readonly file: string,
  ) {
    if (typeof fields !== "object" || fields === null || Array.isArray(fields)) {
      refuse(place, place === "" ? "an object with a model" : "an object", shown(fields), file);
    }
    if (place.length > longestPlace) refuse(excerpt(place, 60), "parts within a few others", "more", file);
    this.#fields = fields as Readonly<Record<string, unknown>>;
  }

  /** A field as it stands; undefined where it is missing or null. */
  get(key: string): unknown {
    return (Object.hasOwn(this.#fields, key) ? this.#fields[key] : undefined) ?? undefined;
  }

  has(key: string): boolean {
    return this.get(key) !== undefined;
  }

  /** The names of the fields. */
  keys(): string[] {
    return Object.keys(this.#fields);
  }

  /** The part in a field; undefined where it is missing or null. */
  part(key: string): Part | undefined {
    return this.has(key) ? new Part(this.get(key), this.#name(key), this.file) : undefined;
  }

  list(key: string): readonly unknown[] {
    const list = this.get(key);
    return Array.isArray(list) ? list : this.fail("a list", key);
  }

  /** The parts of a list. */
  parts(key: string): Part[] {
    return this.list(key).map((fields, i) => new Part(fields, this.#name(`${key}[${i}]`), this.file));
  }

  text(key: string, fallback?: string): string {
    const value = this.get(key) ?? fallback;
    return typeof value === "string" ? value : this.fail("text", key);
  }

  /** One character. */
  character(key: string): string {
    const value = this.text(key);
    return [...value].length === 1 ? value : this.fail("one character", key);
  }

  flag(key: string, fallback?: boolean): boolean {
    const value = this.get(key) ?? fallback;
    return typeof value === "boolean" ? value : this.fail("true or false", key);
  }

  /** A whole number of at least `least`. */
  count(key: string, least: number, fallback?: number): number {
    const value = this.get(key) ?? fallback;
    return isWhole(value) && value >= least ? value : this.fail(`a whole number of at least ${least}`, key);
  }

  /** One of some texts. */
  oneOf<T extends string>(key: string, values: readonly T[], fallback?: T): T {
    const value = this.get(key) ?? fallback;
    return values.includes(value as T) ? (value as T) : this.fail(`one of ${values.join(", ")}`, key);
  }

  /** @throws UserError that says what was expected of a field, or of the part itself, and what it is */
  fail(expected: string, key?: string, what?: string, todo = advice): never {
    const got = what ?? shown(key === undefined ? this.#fields : this.get(key));
    return refuse(key === undefined ? this.place : this.#name(key), expected, got, this.file, todo);
  }

  #name(key: string): string {
    return this.place === "" ? key : `${this.place}.${key}`;
  }
}

function refuse(place: string, expected: string, got: string, file: string, todo = advice): never {
  throw new UserError(
    `tokenizer${place === "" ? "" : ` ${place}`}: expected ${expected}, got ${got} in ${file}. ${todo}`,
  );
}

/** A text from the file as an error quotes it. */
export function quoted(text: string): string {
  return `"${excerpt(text, 60)}"`;
}

function shown(value: unknown): string {
  if (value === undefined || value === null) return "nothing";
  if (Array.isArray(value)) return "a list";
  if (typeof value === "string") return quoted(value);
  return typeof value === "object" ? "an object" : String(value);
}

/**
 * What one of several kinds makes of a part.
 *
 * @param kinds by type
 * @param type of the part, if it does not say it itself
 * @throws UserError naming the type if it is none of these
 */
export function byType<T>(
  part: Part,
  kinds: Readonly<Record<string, (part: Part) => T>>,
  type: unknown = part.get("type"),
): T {
  if (typeof type === "string" && Object.hasOwn(kinds, type)) return kinds[type]!(part);
  return part.fail(
    `one of ${Object.keys(kinds).join(", ")}`,
    "type",
    undefined,
    "This part of the tokenizer is not understood: use a model whose tokenizer lacks it.",
  );
}
