import { runtimeName } from "#session";
import { UserError } from "../errors.ts";
import { deviceProblem } from "../graph/device.node.ts";
import type { Device } from "../graph/runtime.ts";
import type { Reporter } from "../progress.ts";

const slowRuntime =
  "The native onnxruntime-node is not installed: its WebAssembly build computes instead, several times slower. If there is one for this system, ONNXRUNTIME_NODE_INSTALL=skip npm install onnxruntime-node gets it.";

/**
 * Looks whether the runtime can do the work before it begins: tells if it is the slow one.
 *
 * @throws UserError if this machine lacks the device
 */
export async function checkRuntime(device: Device, reporter: Pick<Reporter, "line">): Promise<void> {
  const isNative = (await runtimeName()) === "onnxruntime-node";
  if (device === "cpu") {
    if (!isNative) reporter.line(slowRuntime);
    return;
  }
  if (!isNative) {
    throw new UserError(
      `--device ${device}: expected the native onnxruntime-node, got the WebAssembly build alone. ${ways[device]} Or use --device cpu.`,
    );
  }
  const problem = await deviceProblem(device);
  if (problem === undefined) return;
  throw new UserError(
    `--device ${device}: expected one that works here, got one that onnxruntime cannot use (${problem}). ${ways[device]} Or use --device cpu.`,
  );
}

/** What each device needs. */
const ways: Readonly<Record<Exclude<Device, "cpu">, string>> = {
  cuda: "CUDA needs Linux on x64, an NVIDIA GPU, CUDA 12 and cuDNN 9, and the libraries that ONNXRUNTIME_NODE_INSTALL=cuda12 npm install onnxruntime-node fetches.",
  webgpu:
    "WebGPU needs a graphics card with a driver for Vulkan (on Linux with libvulkan.so.1: apt install libvulkan1 mesa-vulkan-drivers), Metal or Direct3D 12, and ONNXRUNTIME_NODE_INSTALL=skip npm install onnxruntime-node.",
  coreml: "CoreML needs macOS on Apple silicon and ONNXRUNTIME_NODE_INSTALL=skip npm install onnxruntime-node.",
  dml: "DirectML needs Windows and ONNXRUNTIME_NODE_INSTALL=skip npm install onnxruntime-node.",
};
