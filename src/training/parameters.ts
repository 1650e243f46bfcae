import type { Session, Value } from "../graph/session.ts";
import { input, type Tensor } from "../graph/tensor.ts";
import type { Random } from "../random.ts";

/** Where each parameter lies in one flat array: `size` numbers from `offset`, in row-major order. */
export interface Layout {
  readonly entries: readonly {
    readonly name: string;
    readonly shape: readonly number[];
    readonly offset: number;
    readonly size: number;
  }[];
  /** Length of the flat array. */
  readonly size: number;
}

/** The flat layout of parameters, one after another in the order given. */
export function layoutOf(parameters: Iterable<readonly [string, readonly number[]]>): Layout {
  let offset = 0;
  const entries = [...parameters].map(([name, shape]) => {
    const entry = { name, shape, offset, size: shape.reduce((product, n) => product * n, 1) };
    offset += entry.size;
    return entry;
  });
  return { entries, size: offset };
}

/** Each parameter as an input of a graph, under its own name. */
export function parameterInputs(layout: Layout, dtype: "float32" | "float64"): ReadonlyMap<string, Tensor> {
  return new Map(layout.entries.map(({ name, shape }) => [name, input(name, dtype, shape)]));
}

/** The name of the output that holds a parameter's gradient. */
export function gradientName(parameter: string): string {
  return `gradient of ${parameter}`;
}

/** The parameters in a flat array as values for a session: views where the runtime takes them, copies of memory that threads share. */
export function parameterValues(layout: Layout, flat: Float32Array): Record<string, Value> {
  // onnxruntime refuses memory that threads share.
  const own = flat.buffer instanceof ArrayBuffer ? flat : Float32Array.from(flat);
  return Object.fromEntries(
    layout.entries.map(({ name, shape, offset, size }) => [
      name,
      { dtype: "float32", data: own.subarray(offset, offset + size), shape },
    ]),
  );
}

/** Writes a session's gradients into a flat array of the same layout. */
export function copyGradients(layout: Layout, results: Awaited<ReturnType<Session["run"]>>, flat: Float32Array): void {
  for (const { name, offset } of layout.entries) {
    flat.set(results[gradientName(name)]!.data as Float32Array, offset);
  }
}

/** The parameters in a flat array by name, as views; what `writeSafetensors` takes. */
export function namedParameters(
  layout: Layout,
  flat: Float32Array,
): Map<string, { shape: readonly number[]; data: Float32Array }> {
  return new Map(
    layout.entries.map(({ name, shape, offset, size }) => [
      name,
      { shape, data: flat.subarray(offset, offset + size) },
    ]),
  );
}

/** Which numbers of a flat array belong to matrices, as [from, to) ranges: the ones that weight decay acts on. */
export function matrixRanges(layout: Layout): (readonly [number, number])[] {
  return layout.entries
    .filter(({ shape }) => shape.length > 1)
    .map(({ offset, size }) => [offset, offset + size] as const);
}

/**
 * First values of a language model's parameters: vectors (the scales of norms) are 1, matrices normal with the given standard deviation, the two
 * that write into the residual stream divided by √(2·layers) as in GPT-2.
 */
export function initialise(layout: Layout, layers: number, deviation: number, random: Random): Float32Array {
  const flat = new Float32Array(layout.size);
  for (const { name, shape, offset, size } of layout.entries) {
    const values = flat.subarray(offset, offset + size);
    if (shape.length === 1) values.fill(1);
    else {
      const writes = /\.(o_proj|down_proj)\.weight$/.test(name);
      const scale = writes ? deviation / Math.sqrt(2 * layers) : deviation;
      for (let i = 0; i < size; i++) values[i] = scale * random.normal();
    }
  }
  return flat;
}
