import { writeOnnx } from "./onnx.ts";
import type { DType } from "./shape.ts";
import { input } from "./tensor.ts";

/** The ONNX file that copies x, of a type and of any sizes, to y in float32. */
export function copyGraph(dtype: DType, rank: number): Uint8Array {
  const sizes = Array.from({ length: rank }, (_, i) => `n${i}`);
  return writeOnnx({ y: input("x", dtype, sizes).cast("float32") });
}
