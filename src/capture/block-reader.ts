import { decodeFloat32 } from "../bytes/dtype.ts";
import { constantValue, putValue } from "../graph/on-device.ts";
import { type KeptSessions, keepsNumbers } from "../graph/runtime.ts";
import { float32, type SessionOptions, type Value } from "../graph/session.ts";
import { constantData } from "../graph/tensor.ts";
import { type Checkpoint, type StoredType, storedBytes } from "../models/checkpoint.ts";
import type { Model, Weights } from "../models/model.ts";
import { sum } from "../stats.ts";

/** Weights of one block after another, as a session's inputs w0, w1, … in float32. */
export interface BlockWeights {
  /**
   * Begins to read weights by name, once the last ones that were read have been taken.
   *
   * @returns gives them, in place of those that were given before
   */
  read(names: readonly string[]): Promise<() => Promise<Record<string, Value>>>;
  /** The same at once; the last ones that were given are not read again. */
  inputs(names: readonly string[]): Promise<Record<string, Value>>;
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
    read: async (names) => () => heldInputs(weights, names, options),
    inputs: (names) => heldInputs(weights, names, options),
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
 * Reads weights from their files. Numbers of 16 bits are widened once for all runs of a block, into memory that serves all blocks in turn, so that the
 * next block's can be read behind them; what is in float32 is copied there where there is room, as norms are. Where all are in float32 they are given as
 * they were read, and the next ones are read beside them. A device that can keep numbers gets them, and has one block's at a time.
 */
export class BlockReader implements BlockWeights {
  readonly #model: Model;
  readonly #checkpoint: Checkpoint;
  /** Where weights stay; undefined where sessions take them from here. */
  readonly #device: SessionOptions | undefined;
  readonly #kept: KeptSessions | undefined;
  #memory: Memory;
  /** Reads under way, which may write into the memory. */
  #reading = 0;
  /** What was read last: of what was read before, nothing can be taken. */
  #last: readonly Place[] = [];
  #given: Given | undefined;

  /** @param dtype what the sessions compute in, which is the CPU's work in float64 */
  constructor(
    model: Model,
    checkpoint: Checkpoint,
    { dtype = "float32", ...options }: SessionOptions & { readonly dtype?: "float32" | "float64" } = {},
  ) {
    this.#model = model;
    this.#checkpoint = checkpoint;
    this.#kept = options.kept;
    this.#memory = takeMemory(options.kept);
    this.#device = keepsNumbers(options.device) && dtype === "float32" ? options : undefined;
  }

  /** @throws UserError if one is missing, has another shape or is not finite */
  async read(names: readonly string[]): Promise<() => Promise<Record<string, Value>>> {
    if (this.#reading > 0) throw new Error("internal: blocks are read one after another");
    const places = this.#placesOf(names);
    this.#last = places;
    const slot = this.#given?.slot === 0 ? 1 : 0;
    const { stored: slots } = this.#memory;
    const size = sum(places.map(paddedBytes));
    if (slots[slot].byteLength < size) slots[slot] = new ArrayBuffer(size);
    let offset = 0;
    this.#reading++;
    const all = await Promise.allSettled(
      places.map((place) => {
        const into = new Uint8Array(slots[slot], offset, place.bytes);
        offset += paddedBytes(place);
        return this.#checkpoint.stored(place.name, place.shape, into);
      }),
    );
    this.#reading--;
    const stored = all.map((one) => {
      if (one.status === "rejected") throw one.reason;
      return one.value;
    });
    return () => {
      if (this.#last !== places) throw new Error("internal: another block was read since");
      return this.#give(places, stored, slot);
    };
  }

  #placesOf(names: readonly string[]): readonly Place[] {
    return names.map((name) => {
      const shape = this.#model.parameters.get(name)!;
      const type = this.#checkpoint.storedType(name);
      const size = shape.reduce((a, b) => a * b, 1);
      return { name, shape, type, size, bytes: storedBytes[type] * size };
    });
  }

  async #give(
    places: readonly Place[],
    stored: readonly (Uint16Array | Float32Array)[],
    slot: 0 | 1,
  ): Promise<Record<string, Value>> {
    this.#end();
    const key = places.map(({ name }) => name).join();
    const size = sum(places.map(({ size }) => size));
    const room = this.#memory.floats.length;
    const isAsRead = size > room && places.every(({ type }) => type === "float32");
    if (size > room && !isAsRead) this.#memory.floats = new Float32Array(size);
    const values: Record<string, Value> = {};
    this.#given = { key, values, slot: isAsRead ? slot : undefined };
    let at = 0;
    for (const [i, { shape, type, size }] of places.entries()) {
      const numbers = stored[i]!;
      const floats = isAsRead ? (numbers as Float32Array) : this.#memory.floats.subarray(at, at + size);
      at += size;
      if (numbers instanceof Uint16Array) {
        const bytes = new Uint8Array(numbers.buffer, numbers.byteOffset, numbers.byteLength);
        decodeFloat32(bytes, type === "bfloat16" ? "BF16" : "F16", floats);
      } else if (!isAsRead) floats.set(numbers);
      values[`w${i}`] = await this.#put(float32(floats, ...shape));
    }
    return values;
  }

  /** @throws UserError if a device has no room, which then has nothing of what was given */
  async #put(value: Value): Promise<Value> {
    if (!this.#device) return value;
    try {
      return await putValue(value, this.#device);
    } catch (error) {
      this.#end();
      throw error;
    }
  }

  async inputs(names: readonly string[]): Promise<Record<string, Value>> {
    return this.#given?.key === names.join() ? this.#given.values : await (await this.read(names))();
  }

  /** Ends what was given. */
  #end(): void {
    for (const { onDevice } of Object.values(this.#given?.values ?? {})) onDevice?.dispose();
    this.#given = undefined;
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
    this.#end();
    if (this.#kept && this.#reading === 0) spare.set(this.#kept, this.#memory);
    this.#memory = newMemory();
  }
}

/** Weights that are read. */
interface Place {
  readonly name: string;
  readonly shape: readonly number[];
  readonly type: StoredType;
  /** Numbers. */
  readonly size: number;
  readonly bytes: number;
}

/** Bytes of the memory that they take. */
const paddedBytes = ({ bytes }: Place) => Math.ceil(bytes / 64) * 64;

/** The weights that a session may be using. */
interface Given {
  /** Their names. */
  readonly key: string;
  readonly values: Readonly<Record<string, Value>>;
  /** Where they lie as they were read. */
  readonly slot: 0 | 1 | undefined;
}

/** Where a reader puts weights. */
interface Memory {
  /** What is read, and beside it what was read before where that is given as it is. */
  readonly stored: [ArrayBuffer, ArrayBuffer];
  /** What was widened. */
  floats: Float32Array<ArrayBuffer>;
}

const newMemory = (): Memory => ({
  stored: [new ArrayBuffer(0), new ArrayBuffer(0)],
  floats: new Float32Array(0),
});

/** Memory of the last reader that was released: those that share kept sessions follow each other, and new memory takes as long as reading into it. */
const spare = new WeakMap<KeptSessions, Memory>();

function takeMemory(kept: KeptSessions | undefined): Memory {
  const memory = kept && spare.get(kept);
  if (memory) spare.delete(kept);
  return memory ?? newMemory();
}
