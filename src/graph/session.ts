import { createRuntime, readsInPlace } from "#session";
import { sameBytes } from "./kept-sessions.ts";
import { constantValue } from "./on-device.ts";
import { type FedConstant, writeOnnx } from "./onnx.ts";
import { topological } from "./reverse.ts";
import { type Device, keepsNumbers, type Session, type SessionOptions, type Value } from "./runtime.ts";
import { sameGraph } from "./same-graph.ts";
import type { Tensor } from "./tensor.ts";

export type { Session, SessionOptions, Value } from "./runtime.ts";

/** How sessions get held weights: they read them in place, or the one copy that the device keeps for all of them, or each has them in its graph. */
export type WeightsWay = "in place" | "on device" | "in graphs";

/** How sessions on a device get held weights. */
export async function weightsWay(device: Device = "cpu"): Promise<WeightsWay> {
  if (keepsNumbers(device)) return "on device";
  return (await readsInPlace(device)) ? "in place" : "in graphs";
}

/**
 * Sizes by the names that a graph has for them. A graph whose sizes are known opens several times faster, the larger the more: otherwise the runtime
 * reasons about names at every one of its nodes.
 */
export type Sizes = Readonly<Record<string, number>>;

/**
 * Compiles the graph that leads to `outputs` for onnxruntime.
 *
 * Where the runtime reads inputs in place, or the device can keep them, large matrices are fed to it with every run: it then makes no copies of a
 * model's weights, of which it would keep three for each graph, and a graph is ready at once. The price on a CPU is that products pack their right side
 * anew, a few percent of a run. They are fed as well where sessions are kept: a file with the weights in it would be kept a second time, and opening it
 * takes longer than copying them.
 *
 * @param sizes sizes that the graph only names and that all runs of this session have
 * @param options embedConstants puts constants into the graph, so that the runtime packs them ahead of time (for benchmarks only)
 */
export async function compile<O extends string>(
  outputs: Readonly<Record<O, Tensor>>,
  options: SessionOptions = {},
  { sizes = {}, embedConstants = false }: { readonly sizes?: Sizes; readonly embedConstants?: boolean } = {},
): Promise<Session<string, O>> {
  const feeds = !embedConstants && (options.kept !== undefined || (await weightsWay(options.device)) !== "in graphs");
  const fed: FedConstant[] | undefined = feeds ? [] : undefined;
  const file = writeOnnx(outputs, fed, sizes);
  // Before the session, which would stay open where a device has no room for them.
  const constants: Record<string, Value> = {};
  for (const { name, tensor } of fed ?? []) constants[name] = await constantValue(tensor, options);
  const open = () => createRuntime(file, { ...options, fuse: mayFuse(outputs) });
  const session = (await (fed && options.kept ? options.kept.lend(file, open) : open())) as Session<string, O>;
  if (!fed || fed.length === 0) return session;
  return { run: (inputs, into) => session.run({ ...inputs, ...constants }, into), release: () => session.release() };
}

/** onnxruntime replaces patterns by fused operations, of which some have no float64 kernel. */
function mayFuse(outputs: Readonly<Record<string, Tensor>>): boolean {
  return !topological(Object.values(outputs)).some((t) => t.dtype === "float64");
}

/** Compiles graphs, and equal ones once: layers of a model that differ only in their weights, which are inputs then, share a session. */
export interface SessionPool {
  compile<O extends string>(outputs: Readonly<Record<O, Tensor>>): Promise<Session<string, O>>;
  release(): Promise<void>;
}

/** A pool in which graphs that are equal share a session. */
export function sessionPool(options: SessionOptions = {}): SessionPool {
  interface Made {
    readonly outputs: Readonly<Record<string, Tensor>>;
    readonly file: Uint8Array;
    readonly session: Promise<Session>;
  }
  const made: Made[] = [];
  return {
    async compile<O extends string>(outputs: Readonly<Record<O, Tensor>>) {
      const alike = made.find((one) => sameGraph(one.outputs, outputs));
      if (alike) return (await alike.session) as Session<string, O>;
      const file = writeOnnx(outputs);
      const known = made.find((one) => sameBytes(one.file, file));
      const open = () => createRuntime(file, { ...options, fuse: mayFuse(outputs) });
      const session = known?.session ?? (options.kept ? options.kept.lend(file, open) : open());
      if (!known) made.push({ outputs, file, session });
      return (await session) as Session<string, O>;
    },
    async release() {
      await releaseAll(made.splice(0).map(({ session }) => session));
    },
  };
}

/** Releases sessions. One that could not be made has nothing to release; whoever asked for it has the error. */
export async function releaseAll(sessions: Iterable<Promise<Session>>): Promise<void> {
  for (const session of sessions) await (await session.catch(() => undefined))?.release();
}

/** Numbers as a session's float32 input or output. */
export function float32(data: Float32Array, ...shape: number[]): Value {
  return { dtype: "float32", data, shape };
}

/** Whole numbers as ONNX's int64. */
export function int64(data: ArrayLike<number>, ...shape: number[]): Value {
  const out = new BigInt64Array(data.length);
  for (let i = 0; i < data.length; i++) out[i] = BigInt(data[i]!);
  return { dtype: "int64", data: out, shape };
}
