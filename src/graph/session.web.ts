import { UserError } from "../errors.ts";
import { type Device, openSender, openSession, type RuntimeOptions, type Sender, type Session } from "./runtime.ts";

/** What computes here: the WebAssembly builds, of which one also drives WebGPU. */
export async function runtimeName(): Promise<"onnxruntime-web"> {
  return "onnxruntime-web";
}

/** Inputs are copied into WebAssembly's memory, or the device's, with every run. */
export async function readsInPlace(_device?: Device): Promise<boolean> {
  return false;
}

/** The devices of a page. */
export type WebDevice = Extract<Device, "cpu" | "webgpu">;

/** Each device has a build of its own. A site may put onnxruntime-web/wasm, half as large, in the place of the first one, which knows WebGL too. */
const builds = { cpu: () => import("onnxruntime-web"), webgpu: () => import("onnxruntime-web/webgpu") } as const;

/** A device's build, and what it may use. */
export interface WebRuntime {
  /** The address of its script. */
  readonly mjs: string;
  /** Its WebAssembly. */
  readonly wasm: Uint8Array;
  /** Threads within one operation. More than one needs a page that is isolated from other origins. */
  readonly threads: number;
}

/** Gives a device its build, before its first session. Without it, the runtime looks for the files beside the script. */
export async function prepareRuntime(device: WebDevice, { mjs, wasm, threads }: WebRuntime): Promise<void> {
  const { env } = await builds[device]();
  env.wasm.wasmPaths = { mjs };
  env.wasm.wasmBinary = wasm;
  env.wasm.numThreads = threads;
}

/** A session of an ONNX file in the browser: WebAssembly, or WebGPU where it is asked for. @throws UserError for another device */
export async function createRuntime(model: Uint8Array, options: RuntimeOptions): Promise<Session> {
  const { device = "cpu" } = options;
  if (device === "cpu") return openSession(await builds.cpu(), "wasm", model, options);
  if (device !== "webgpu") throw new UserError(`device: expected cpu or webgpu in a browser, got ${device}.`);
  const ort = await builds.webgpu();
  const session = await inTurn(() => openSession(ort, "webgpu", model, options));
  return {
    run: (inputs, into) => inTurn(() => session.run(inputs, into)),
    release: () => inTurn(() => session.release()),
  };
}

let sends: Sender | undefined;

/** Sends float32 numbers to WebGPU's device, on which they stay. */
export async function sender(_device: Device): Promise<Sender> {
  const ort = await builds.webgpu();
  sends ??= openSender(ort, "webgpu");
  const open = sends;
  return async (rank) => {
    const send = await inTurn(() => open(rank));
    return (value) => inTurn(() => send(value));
  };
}

let last: Promise<unknown> = Promise.resolve();

/** Does one thing after another: the build for WebGPU can wait for the device in one call at a time. */
function inTurn<T>(work: () => Promise<T>): Promise<T> {
  const turn = last.then(work);
  last = turn.catch(() => {});
  return turn;
}

/** Browsers have relaxed vector instructions, or have not. */
export function allowRelaxedSimd(): void {}

/** The threads that a session takes. */
export const threadCount = (asked = 0): number => asked || navigator.hardwareConcurrency;
