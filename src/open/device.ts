import { runtimeName } from "#session";
import { UserError } from "../errors.ts";
import type { Device } from "../graph/runtime.ts";
import { compile } from "../graph/session.ts";
import { input } from "../graph/tensor.ts";
import type { Reporter } from "../progress.ts";

const slowRuntime =
  "The native onnxruntime-node is not installed: its WebAssembly build computes instead, several times slower. If there is one for this system, ONNXRUNTIME_NODE_INSTALL=skip npm install onnxruntime-node gets it.";

/**
 * Looks whether the runtime can do the work before it begins: tells if it is the slow one.
 *
 * @throws UserError if this machine lacks the device
 */
export async function checkRuntime(device: Device, reporter: Pick<Reporter, "line">): Promise<void> {
  if ((await runtimeName()) === "onnxruntime-web") reporter.line(slowRuntime);
  if (device !== "cpu") await checkDevice(device);
}

/** What each device needs. */
const ways: Readonly<Record<Exclude<Device, "cpu">, string>> = {
  cuda: "CUDA needs Linux on x64, an NVIDIA GPU with CUDA 12 and cuDNN 9, and ONNXRUNTIME_NODE_INSTALL=cuda12 npm install onnxruntime-node.",
  webgpu: "WebGPU needs a GPU with a driver for Vulkan, Metal or Direct3D 12.",
  coreml: "CoreML needs macOS.",
  dml: "DirectML needs Windows.",
};

/** Refuses a device that this machine lacks, with the smallest session there is. */
async function checkDevice(device: Exclude<Device, "cpu">): Promise<void> {
  const x = input("x", "float32", [1]);
  try {
    const session = await compile({ y: x.add(x) }, { device });
    await session.release();
  } catch (error) {
    if (error instanceof UserError) throw error;
    throw new UserError(
      `--device: expected one that works here, got ${device}, which the installed onnxruntime cannot use. ${ways[device]} Leave the flag out to use the CPU.`,
      { cause: error },
    );
  }
}
