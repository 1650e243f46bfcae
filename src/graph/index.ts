/**
 * Experimental: traced tensors, their gradients, and sessions of onnxruntime that compute them.
 *
 * @module
 */

export type { Body, Op, OpAttributes, Typed } from "./ops.ts";
export { gradients } from "./reverse.ts";
export type { Device, RuntimeOptions, SessionOptions } from "./runtime.ts";
export { compile, type Session, type Sizes, type Value } from "./session.ts";
export type { Dim, DType, Shape } from "./shape.ts";
export { constant, input, type Source, type Tensor, type TypedData } from "./tensor.ts";
