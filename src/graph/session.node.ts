import { availableParallelism, cpus } from "node:os";
import { setFlagsFromString } from "node:v8";
import { UserError } from "../errors.ts";
import {
  type Device,
  type Onnxruntime,
  openSender,
  openSession,
  type RuntimeOptions,
  type Sender,
  type Session,
} from "./runtime.ts";

/** Keeps onnxruntime from reporting its use to its makers, and from the device ID that it stores for that. ORT_DISABLE_TELEMETRY=0 lets it. */
export function withoutTelemetry(): void {
  process.env.ORT_DISABLE_TELEMETRY ??= "1";
}

let loaded: Promise<{ readonly ort: Onnxruntime; readonly native: boolean }> | undefined;

/**
 * onnxruntime for Node. Where its native package could not be installed (no binary for this system, or an install without the network it wants), the
 * WebAssembly build does the same work several times slower.
 */
function load() {
  withoutTelemetry();
  loaded ??= import("onnxruntime-node").then(
    (ort) => ({ ort, native: true }),
    async () => ({ ort: await import("onnxruntime-web"), native: false }),
  );
  return loaded;
}

/** What computes here: the native runtime or the WebAssembly build. */
export async function runtimeName(): Promise<"onnxruntime-node" | "onnxruntime-web"> {
  return (await load()).native ? "onnxruntime-node" : "onnxruntime-web";
}

/** Whether sessions read the values of their inputs where they lie, without a copy. */
export async function readsInPlace(device: Device = "cpu"): Promise<boolean> {
  return device === "cpu" && (await load()).native;
}

/** The runtime that has a device. @throws UserError if that needs the native one and there is none */
async function runtimeWith(device: Device) {
  const { ort, native } = await load();
  if (device === "cpu") return { ort, native };
  if (!native) {
    throw new UserError(
      `--device ${device}: expected the native onnxruntime-node, got the WebAssembly build alone. Install it with ONNXRUNTIME_NODE_INSTALL=skip npm install onnxruntime-node, or use --device cpu.`,
    );
  }
  // A device that is missing is told in our words, not in the runtime's log.
  ort.env.logLevel = "fatal";
  return { ort, native };
}

/** A session of an ONNX file. @throws UserError if the device needs the native runtime and there is none */
export async function createRuntime(model: Uint8Array, options: RuntimeOptions): Promise<Session> {
  const { device = "cpu" } = options;
  const { ort, native } = await runtimeWith(device);
  if (!native) return openSession(ort, "wasm", model, options);
  return openSession(ort, device, model, { ...options, threads: threadsFor(options.threads) }, device === "cpu");
}

const senders = new Map<Device, Sender>();

/** Sends float32 numbers to a device on which they stay. @throws UserError if there is no native runtime */
export async function sender(device: Device): Promise<Sender> {
  const { ort } = await runtimeWith(device);
  const known = senders.get(device) ?? openSender(ort, device);
  senders.set(device, known);
  return known;
}

/** Lets WebAssembly have relaxed vector instructions, which Node 20 keeps behind a flag; versions that do not know the flag say nothing. */
export function allowRelaxedSimd(): void {
  setFlagsFromString("--experimental-wasm-relaxed-simd");
}

/** The threads that a session takes. */
export const threadCount = (asked = 0): number => threadsFor(asked) || cpus().length;

/**
 * Threads of a session for which none are asked for: 0, the runtime's own choice, unless this process may use only some of the machine's cores, as a
 * task of a batch system. The runtime would begin a thread for every core, and complain of those to which it cannot bind one.
 */
export function threadsFor(asked = 0, allowed = availableParallelism(), cores = cpus().length): number {
  return asked === 0 && allowed < cores ? allowed : asked;
}
