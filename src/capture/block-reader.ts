import { decodeFloat32 } from "../bytes/dtype.ts";
import { constantValue, putValue } from "../graph/on-device.ts";
import { type KeptSessions, keepsNumbers } from "../graph/runtime.ts";
import { float32, type SessionOptions, type Value } from "../graph/session.ts";
import { constantData } from "../graph/tensor.ts";
import { type Checkpoint, storedBytes } from "../models/checkpoint.ts";
import type { Model, Weights } from "../models/model.ts";

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
 * next block's can be read behind them; those in float32 are given as they were read, and the next ones are read beside them. A device that can keep
 * numbers gets them, and has one block's at a time.
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
    const key = names.join();
    const places = names.map((name) => {
      const shape = this.#model.parameters.get(name)!;
      const type = this.#checkpoint.storedType(name);
      const size = shape.reduce((a, b) => a * b, 1);
      return { name, shape, type, size, bytes: storedBytes[type] * size, offset: 0 };
    });
    let size = 0;
    for (const place of places) {
      place.offset = size;
      size += Math.ceil(place.bytes / 64) * 64;
    }
    const slot = this.#given?.slot === 0 ? 1 : 0;
    const { stored: slots } = this.#memory;
    if (slots[slot].byteLength < size) slots[slot] = new ArrayBuffer(size);
    const memory = slots[slot];
    this.#reading++;
    const all = await Promise.allSettled(
      places.map(({ name, shape, bytes, offset }) =>
        this.#checkpoint.stored(name, shape, new Uint8Array(memory, offset, bytes)),
      ),
    );
    this.#reading--;
    const stored = all.map((one) => {
      if (one.status === "rejected") throw one.reason;
      return one.value;
    });
    return async () => {
      this.#end();
      const widened = places.reduce((sum, { type, size }) => sum + (type === "float32" ? 0 : size), 0);
      if (this.#memory.floats.length < widened) this.#memory.floats = new Float32Array(widened);
      const values: Record<string, Value> = {};
      const isAsRead = places.some(({ type }) => type === "float32");
      this.#given = { key, values, slot: isAsRead ? slot : undefined };
      let at = 0;
      for (const [i, { shape, type, size }] of places.entries()) {
        let numbers = stored[i]!;
        if (numbers instanceof Uint16Array) {
          const bytes = new Uint8Array(numbers.buffer, numbers.byteOffset, numbers.byteLength);
          numbers = this.#memory.floats.subarray(at, at + size);
          decodeFloat32(bytes, type === "bfloat16" ? "BF16" : "F16", numbers);
          at += size;
        }
        values[`w${i}`] = await this.#put(float32(numbers, ...shape));
      }
      return values;
    };
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

/** The weights that a session may be using. */
interface Given {
  /** Their names. */
  readonly key: string;
  readonly values: Readonly<Record<string, Value>>;
  /** Where some of them lie as they were read. */
  readonly slot: 0 | 1 | undefined;
}

/** Where a reader puts weights. */
interface Memory {
  /** What is read, and beside it what was read before where some of that is given as it is. */
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
