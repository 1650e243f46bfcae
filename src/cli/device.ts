import { type Device, runtimeName } from "#session";
import { messageOf, UserError } from "../errors.ts";
import { compile } from "../graph/session.ts";
import { input } from "../graph/tensor.ts";
import type { Reporter } from "./reporter.ts";

const slowRuntime =
  "The native onnxruntime-node is not installed: its WebAssembly build computes instead, several times slower. If there is one for this system, npm install --no-save onnxruntime-node gets it.";

/**
 * Looks whether the runtime can do the work before it begins: tells if it is the slow one.
 *
 * @throws UserError if this machine lacks the device
 */
export async function checkRuntime(device: Device, reporter: Pick<Reporter, "line">): Promise<void> {
  if ((await runtimeName()) === "onnxruntime-web") reporter.line(slowRuntime);
  if (device !== "cpu") await checkDevice(device);
}

/** Refuses a device that this machine lacks, with the smallest session there is. */
async function checkDevice(device: Device): Promise<void> {
  const x = input("x", "float32", [1]);
  try {
    const session = await compile({ y: x.add(x) }, { device });
    await session.release();
  } catch (error) {
    if (error instanceof UserError) throw error;
    throw new UserError(
      `--device: expected one that works here, got ${device} (${messageOf(error).split("\n")[0]}). Leave the flag out to use the CPU.`,
      { cause: error },
    );
  }
}
