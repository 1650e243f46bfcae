import * as ort from "onnxruntime-node";
import type { RuntimeOptions, Session, Value } from "./session.ts";

export type Device = "cpu" | "webgpu" | "cuda" | "coreml" | "dml";

/** onnxruntime-node's session of an ONNX file. */
export async function createRuntime(
  model: Uint8Array,
  { threads = 0, device = "cpu", fuse }: RuntimeOptions,
): Promise<Session> {
  const session = await ort.InferenceSession.create(model, {
    executionProviders: [device],
    intraOpNumThreads: threads,
    interOpNumThreads: 1,
    graphOptimizationLevel: fuse ? "all" : "basic",
    logSeverityLevel: 3,
    // Threads that spin after a run slow down whatever runs next, most of all other sessions.
    extra: { session: { force_spinning_stop: "1" } },
  });
  return {
    async run(inputs) {
      const feeds: Record<string, ort.Tensor> = {};
      for (const name of session.inputNames) {
        const value = inputs[name];
        if (value === undefined) throw new Error(`internal: no value for the input ${name}`);
        feeds[name] = new ort.Tensor(value.dtype, value.data as Float32Array, value.shape);
      }
      const results = await session.run(feeds);
      const values: Record<string, Value> = {};
      for (const [name, t] of Object.entries(results)) {
        values[name] = { dtype: t.type as Value["dtype"], data: t.data as Value["data"], shape: t.dims };
      }
      return values;
    },
    release: () => session.release(),
  };
}
