import { decodeFloat32 } from "../bytes/dtype.ts";
import { constantValue, float32, type Value } from "../graph/session.ts";
import type { DType } from "../graph/shape.ts";
import { type Checkpoint, type StoredType, storedBytes } from "../models/checkpoint.ts";
import type { Model, Weights } from "../models/model.ts";

/** Weights of one block after another. */
export interface BlockWeights {
  /** The type in which a weight is given. */
  typeOf(name: string): DType;
  /**
   * Weights by name, as a session's inputs w0, w1, …, valid until the slot is read into again.
   *
   * @param slot 0 or 1
   */
  read(names: readonly string[], slot: number): Promise<Record<string, Value>>;
  /** Rows of matrices with a row per token, in float32, as table0, table1, … */
  readTables(names: readonly string[], rows: Int32Array): Promise<Record<string, Value>>;
  release(): void;
}

/** Weights that are held in memory, in float32. */
export function heldBlocks(weights: Weights): BlockWeights {
  return {
    typeOf: (name) => weights(name).dtype,
    read: async (names) => Object.fromEntries(names.map((name, i) => [`w${i}`, constantValue(weights(name))])),
    async readTables(names, rows) {
      const tables = names.map((name, i) => {
        const { data, shape } = constantValue(weights(name));
        const D = shape[1]!;
        const gathered = new Float32Array(rows.length * D);
        for (const [r, row] of rows.entries()) {
          gathered.set((data as Float32Array).subarray(row * D, (row + 1) * D), r * D);
        }
        return [`table${i}`, float32(gathered, rows.length, D)] as const;
      });
      return Object.fromEntries(tables);
    },
    release() {},
  };
}

/**
 * Reads weights as a session's inputs w0, w1, …, in the form in which they lie in the file. Two pieces of memory serve all blocks in turn: one
 * block's weights lie in the one while the next block's are read into the other.
 */
export class BlockReader implements BlockWeights {
  readonly #model: Model;
  readonly #checkpoint: Checkpoint;
  readonly #slots: [ArrayBuffer, ArrayBuffer] = [new ArrayBuffer(0), new ArrayBuffer(0)];
  #floats: Floats = nothing;

  constructor(model: Model, checkpoint: Checkpoint) {
    this.#model = model;
    this.#checkpoint = checkpoint;
  }

  typeOf(name: string): StoredType {
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
      return { name, shape, bytes: storedBytes[this.typeOf(name)] * shape.reduce((a, b) => a * b, 1), offset: 0 };
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
        return { dtype: this.typeOf(name), data, shape };
      }),
    );
    return Object.fromEntries(values.map((value, i) => [`w${i}`, value]));
  }

  /**
   * The same as float32, for sessions that run many times with few rows each, in which every run would convert them anew. Valid until other weights are
   * asked for so; those that were asked for last are not read again.
   *
   * @throws UserError as `read`
   */
  async readFloats(names: readonly string[]): Promise<Record<string, Value>> {
    const key = names.join();
    if (this.#floats.key === key) return this.#floats.values;
    this.#floats = { ...this.#floats, key: "", values: {} };
    const shapes = names.map((name) => this.#model.parameters.get(name)!);
    const sizes = shapes.map((shape) => shape.reduce((a, b) => a * b, 1));
    const size = sizes.reduce((sum, one) => sum + one, 0);
    if (this.#floats.memory.length < size) this.#floats = { key: "", values: {}, memory: new Float32Array(size) };
    const { memory } = this.#floats;
    const values: Record<string, Value> = {};
    let at = 0;
    for (const [i, name] of names.entries()) {
      const { w0 } = await this.read([name], 0);
      const { buffer, byteOffset, byteLength } = w0!.data as Float32Array | Uint16Array;
      const format = ({ float32: "F32", bfloat16: "BF16", float16: "F16" } as const)[this.typeOf(name)];
      decodeFloat32(new Uint8Array(buffer as ArrayBuffer, byteOffset, byteLength), format, memory, at);
      values[`w${i}`] = float32(memory.subarray(at, at + sizes[i]!), ...shapes[i]!);
      at += sizes[i]!;
    }
    this.#floats = { key, values, memory };
    return values;
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
    this.#floats = nothing;
  }
}

/** Weights as float32, and which they are. */
interface Floats {
  readonly key: string;
  readonly values: Record<string, Value>;
  readonly memory: Float32Array;
}

const nothing: Floats = { key: "", values: {}, memory: new Float32Array(0) };
