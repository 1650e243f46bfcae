import * as ort from "onnxruntime-web";
import { openSession, type RuntimeOptions, type Session } from "./runtime.ts";

/** What computes here: the WebAssembly build, which also drives WebGPU. */
export async function runtimeName(): Promise<"onnxruntime-web"> {
  return "onnxruntime-web";
}

/** Inputs are copied into WebAssembly's memory, or the device's, with every run. */
export async function readsInPlace(): Promise<boolean> {
  return false;
}

/** A session of an ONNX file in the browser: WebAssembly, or WebGPU where it is asked for. */
export function createRuntime(model: Uint8Array, options: RuntimeOptions): Promise<Session> {
  return openSession(ort, options.device === "webgpu" ? "webgpu" : "wasm", model, options);
}
