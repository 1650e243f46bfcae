// Loaded before a command (node --import): a device that computes on the CPU stands for one that is not here, and a fault can be planted in what it computes.
//
// SFC_TEST_DEVICE=cpu: sessions on any device run on the CPU.
// SFC_TEST_FAULT=Sub:Add:2: the second Sub of a device's graphs computes a sum instead of a difference.
import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";

const require = createRequire(fileURLToPath(new URL("../package.json", import.meta.url)));
const { InferenceSession } = require("onnxruntime-node");
const create = InferenceSession.create.bind(InferenceSession);
const { SFC_TEST_DEVICE, SFC_TEST_FAULT } = process.env;

/** An operation's type among the fields of an ONNX node: number 4, as text of three letters. */
const opType = (name) => Buffer.concat([Buffer.of(0x22, name.length), Buffer.from(name)]);

function withFault(model, [from, to, place = "1"]) {
  const bytes = Buffer.from(model);
  let at = -1;
  for (let i = 0; i < Number(place); i++) {
    at = bytes.indexOf(opType(from), at + 1);
    if (at < 0) return model;
  }
  opType(to).copy(bytes, at);
  return new Uint8Array(bytes);
}

InferenceSession.create = (model, options) => {
  const [device] = options.executionProviders;
  if (device === "cpu") return create(model, options);
  const graph = SFC_TEST_FAULT ? withFault(model, SFC_TEST_FAULT.split(":")) : model;
  if (!SFC_TEST_DEVICE) return create(graph, options);
  // Graphs of a device are rewritten by the runtime, those of the CPU are not: without that, the bits are the same.
  const pretended = { executionProviders: [SFC_TEST_DEVICE], graphOptimizationLevel: "disabled" };
  return create(graph, { ...options, ...pretended });
};
