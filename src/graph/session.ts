import { createRuntime, type Device } from "#session";
import { writeOnnx } from "./onnx.ts";
import { topological } from "./reverse.ts";
import type { DType } from "./shape.ts";
import type { Tensor, TypedData } from "./tensor.ts";

/** Values that go into a session or come out of it, with their shapes at run time. */
export interface Value {
  readonly dtype: DType;
  readonly data: TypedData;
  readonly shape: readonly number[];
}

/** A compiled graph. */
export interface Session<I extends string = string, O extends string = string> {
  /** Runs the graph once. Every input has to be given; the outputs are new arrays. */
  run(inputs: Readonly<Record<I, Value>>): Promise<Record<O, Value>>;
  /** Gives its memory back; the session cannot be used afterwards. */
  release(): Promise<void>;
}

export interface SessionOptions {
  /** Threads within one operation; 0 leaves the choice to the runtime (all cores). */
  readonly threads?: number;
  /** Where to run: the runtime's name of an execution provider, "cpu" by default. */
  readonly device?: Device;
}

/** What a runtime is told besides. */
export interface RuntimeOptions extends SessionOptions {
  /** Whether the runtime may replace patterns of operations by fused ones. */
  readonly fuse: boolean;
}

/** Compiles the graph that leads to `outputs` for onnxruntime. */
export async function compile<O extends string>(
  outputs: Readonly<Record<O, Tensor>>,
  options: SessionOptions = {},
): Promise<Session<string, O>> {
  const graph = Object.values<Tensor>(outputs);
  // onnxruntime replaces patterns by fused operations, of which some have no float64 kernel.
  const fuse = !topological(graph).some((t) => t.dtype === "float64");
  return createRuntime(writeOnnx(outputs), { ...options, fuse }) as Promise<Session<string, O>>;
}

export function float32(data: Float32Array, ...shape: number[]): Value {
  return { dtype: "float32", data, shape };
}

/** Whole numbers as ONNX's int64. */
export function int64(data: ArrayLike<number>, ...shape: number[]): Value {
  const out = new BigInt64Array(data.length);
  for (let i = 0; i < data.length; i++) out[i] = BigInt(data[i]!);
  return { dtype: "int64", data: out, shape };
}
