import { float32, type Value } from "../graph/session.ts";
import { type Checkpoint, type StoredType, storedBytes } from "../models/checkpoint.ts";
import type { Model } from "../models/model.ts";

/**
 * Reads weights as a session's inputs w0, w1, …, in the form in which they lie in the file. Two pieces of memory serve all blocks in turn: one
 * block's weights lie in the one while the next block's are read into the other.
 */
export class BlockReader {
  readonly #model: Model;
  readonly #checkpoint: Checkpoint;
  readonly #slots: [ArrayBuffer, ArrayBuffer] = [new ArrayBuffer(0), new ArrayBuffer(0)];

  constructor(model: Model, checkpoint: Checkpoint) {
    this.#model = model;
    this.#checkpoint = checkpoint;
  }

  #typeOf(name: string): StoredType {
    return this.#checkpoint.storedType(name);
  }

  /**
   * Weights by name, valid until the slot is read into again.
   *
   * @throws UserError if one is missing, has another shape or is not finite
   */
  async read(names: readonly string[], slot: number): Promise<Record<string, Value>> {
    const places = names.map((name) => {
      const shape = this.#model.parameters.get(name)!;
      return { name, shape, bytes: storedBytes[this.#typeOf(name)] * shape.reduce((a, b) => a * b, 1), offset: 0 };
    });
    let size = 0;
    for (const place of places) {
      place.offset = size;
      size += Math.ceil(place.bytes / 64) * 64;
    }
    if (this.#slots[slot]!.byteLength < size) this.#slots[slot] = new ArrayBuffer(size);
    const memory = this.#slots[slot]!;
    const values = await Promise.all(
      places.map(async ({ name, shape, bytes, offset }): Promise<Value> => {
        const data = await this.#checkpoint.stored(name, shape, new Uint8Array(memory, offset, bytes));
        return { dtype: this.#typeOf(name), data, shape };
      }),
    );
    return Object.fromEntries(values.map((value, i) => [`w${i}`, value]));
  }

  /** Rows of matrices with a row per token, as table0, table1, … */
  async readTables(names: readonly string[], rows: Int32Array): Promise<Record<string, Value>> {
    const values: Record<string, Value> = {};
    for (const [i, name] of names.entries()) {
      const shape = this.#model.parameters.get(name)!;
      values[`table${i}`] = float32(await this.#checkpoint.rows(name, shape, rows), rows.length, shape[1]!);
    }
    return values;
  }

  release(): void {
    this.#slots.fill(new ArrayBuffer(0));
  }
}
