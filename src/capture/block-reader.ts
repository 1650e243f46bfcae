import { decodeFloat32 } from "../bytes/dtype.ts";
import { constantValue, putValue } from "../graph/on-device.ts";
import { keepsNumbers } from "../graph/runtime.ts";
import { float32, type SessionOptions, type Value } from "../graph/session.ts";
import type { DType } from "../graph/shape.ts";
import { constantData } from "../graph/tensor.ts";
import { type Checkpoint, type StoredType, storedBytes } from "../models/checkpoint.ts";
import type { Model, Weights } from "../models/model.ts";

/** Weights of one block after another. */
export interface BlockWeights {
  /** The type in which a weight is given. */
  typeOf(name: string): DType;
  /** Weights by name, as a session's inputs w0, w1, …, valid until the slot is read into again. */
  read(names: readonly string[], slot: 0 | 1): Promise<Record<string, Value>>;
  /** Rows of matrices with a row per token, in float32, as table0, table1, … */
  readTables(names: readonly string[], rows: Int32Array): Promise<Record<string, Value>>;
  release(): void;
}

/** Weights as a session's inputs w0, w1, …; a device that can keep them gets them once. */
export async function heldInputs(
  weights: Weights,
  names: readonly string[],
  options: SessionOptions,
): Promise<Record<string, Value>> {
  const inputs: Record<string, Value> = {};
  for (const [i, name] of names.entries()) inputs[`w${i}`] = await constantValue(weights(name), options);
  return inputs;
}

/** Weights that are held in memory, in float32. */
export function heldBlocks(weights: Weights, options: SessionOptions): BlockWeights {
  return {
    typeOf: (name) => weights(name).dtype,
    read: (names) => heldInputs(weights, names, options),
    async readTables(names, rows) {
      const tables = names.map((name, i) => {
        const table = weights(name);
        const data = constantData(table);
        const D = table.shape[1] as number;
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
 * block's weights lie in the one while the next block's are read into the other. A device that can keep numbers gets them in float32, and keeps them
 * for as long.
 */
export class BlockReader implements BlockWeights {
  readonly #model: Model;
  readonly #checkpoint: Checkpoint;
  /** Where weights stay; undefined where sessions take them as they are read. */
  readonly #device: SessionOptions | undefined;
  readonly #slots: [ArrayBuffer, ArrayBuffer] = [new ArrayBuffer(0), new ArrayBuffer(0)];
  /** What each slot has on the device. */
  readonly #sent: [Value[], Value[]] = [[], []];
  #floats: Floats = nothing;

  /** @param dtype what the sessions compute in, which is the CPU's work in float64 */
  constructor(
    model: Model,
    checkpoint: Checkpoint,
    { dtype = "float32", ...options }: SessionOptions & { readonly dtype?: "float32" | "float64" } = {},
  ) {
    this.#model = model;
    this.#checkpoint = checkpoint;
    this.#device = keepsNumbers(options.device) && dtype === "float32" ? options : undefined;
  }

  typeOf(name: string): StoredType {
    return this.#device ? "float32" : this.#checkpoint.storedType(name);
  }

  /**
   * Weights by name, valid until the slot is read into again.
   *
   * @throws UserError if one is missing, has another shape or is not finite
   */
  async read(names: readonly string[], slot: 0 | 1): Promise<Record<string, Value>> {
    const stored = await this.#stored(names, slot);
    const values: Record<string, Value> = {};
    this.#empty(slot);
    for (const [i, value] of stored.entries()) {
      const sent = this.#device ? await putValue(value, this.#device) : value;
      if (sent !== value) this.#sent[slot].push(sent);
      values[`w${i}`] = sent;
    }
    return values;
  }

  /** Weights as they lie in the file, read into a slot. */
  async #stored(names: readonly string[], slot: 0 | 1): Promise<Value[]> {
    const places = names.map((name) => {
      const shape = this.#model.parameters.get(name)!;
      const type = this.#checkpoint.storedType(name);
      return { name, shape, type, bytes: storedBytes[type] * shape.reduce((a, b) => a * b, 1), offset: 0 };
    });
    let size = 0;
    for (const place of places) {
      place.offset = size;
      size += Math.ceil(place.bytes / 64) * 64;
    }
    if (this.#slots[slot].byteLength < size) this.#slots[slot] = new ArrayBuffer(size);
    const memory = this.#slots[slot];
    return Promise.all(
      places.map(async ({ name, shape, type, bytes, offset }): Promise<Value> => {
        const data = await this.#checkpoint.stored(name, shape, new Uint8Array(memory, offset, bytes));
        return { dtype: type, data, shape };
      }),
    );
  }

  /** Ends what a slot has on the device. */
  #empty(slot: 0 | 1): void {
    const sent = this.#sent[slot].splice(0);
    for (const { onDevice } of sent) onDevice!.dispose();
    // They may be those that were asked for as float32.
    if (sent.length > 0) this.#floats = nothing;
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
    if (this.#device) {
      const values = await this.read(names, 0);
      this.#floats = { ...nothing, key, values };
      return values;
    }
    this.#floats = { ...this.#floats, key: "", values: {} };
    const shapes = names.map((name) => this.#model.parameters.get(name)!);
    const sizes = shapes.map((shape) => shape.reduce((a, b) => a * b, 1));
    const size = sizes.reduce((sum, one) => sum + one, 0);
    if (this.#floats.memory.length < size) this.#floats = { key: "", values: {}, memory: new Float32Array(size) };
    const { memory } = this.#floats;
    const values: Record<string, Value> = {};
    let at = 0;
    for (const [i, name] of names.entries()) {
      const [stored] = await this.#stored([name], 0);
      const { buffer, byteOffset, byteLength } = stored!.data as Float32Array | Uint16Array;
      const format = ({ float32: "F32", bfloat16: "BF16", float16: "F16" } as const)[stored!.dtype as StoredType];
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
    this.#empty(0);
    this.#empty(1);
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
