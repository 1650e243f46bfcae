import { spawn } from "node:child_process";
import { createRequire } from "node:module";
import { writeOnnx } from "./onnx.ts";
import type { Device } from "./runtime.ts";
import { withoutTelemetry } from "./session.node.ts";
import { input } from "./tensor.ts";

/** Milliseconds that a device may take for the smallest graph: a driver may hang. */
const patience = 60_000;

/** Takes the runtime's module, a graph x[1] → y[1] in base 64 and a device; ends with 0 if the device runs it, else says why not. */
const script = `
const [path, graph, device] = process.argv.slice(1);
const ort = require(path);
ort.env.logLevel = "fatal";
ort.InferenceSession.create(Buffer.from(graph, "base64"), { executionProviders: [device], logSeverityLevel: 4 })
  .then((session) => session.run({ x: new ort.Tensor("float32", [1], [1]) }))
  .then(
    ({ y }) => process.stdout.write(y.data[0] === 2 ? "" : "1 + 1 = " + y.data[0], () => process.exit(y.data[0] === 2 ? 0 : 1)),
    (error) => process.stdout.write(String(error.message), () => process.exit(1)),
  );
`;

/**
 * Tries a device with the smallest graph there is, in a process of its own: what drivers write to standard error stays out of sight, and one that
 * crashes takes nothing with it.
 *
 * @returns why the native runtime cannot use it, in a line; undefined if it can
 */
export async function deviceProblem(device: Device): Promise<string | undefined> {
  withoutTelemetry();
  const runtime = createRequire(import.meta.url).resolve("onnxruntime-node");
  const x = input("x", "float32", [1]);
  const graph = Buffer.from(writeOnnx({ y: x.add(x) })).toString("base64");
  const child = spawn(process.execPath, ["-e", script, runtime, graph, device], {
    stdio: ["ignore", "pipe", "ignore"],
    timeout: patience,
    killSignal: "SIGKILL",
  });
  let said = "";
  child.stdout.setEncoding("utf8").on("data", (text: string) => {
    said += text;
  });
  return new Promise((resolve, reject) => {
    child.on("error", reject);
    child.on("close", (code, signal) => {
      if (code === 0) resolve(undefined);
      else resolve(reasonOf(said) || `it ended with ${signal ?? code}`);
    });
  });
}

/** What onnxruntime says of a problem, without the places in its sources. */
function reasonOf(message: string): string {
  const [first = ""] = message.trim().split("\n");
  return first.replace(/^.* was false\. /, "").replace(/\.$/, "");
}
