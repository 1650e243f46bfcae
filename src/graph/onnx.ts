import { bodyOf } from "./chunks.ts";
import type { Body, Op, OpAttributes } from "./ops.ts";
import { Message } from "./protobuf.ts";
import { topological } from "./reverse.ts";
import { type DType, type Shape, sameShape, withSizes } from "./shape.ts";
import { numbers, type Tensor, type TypedData } from "./tensor.ts";

/** Versions of the file's form and of the operations. */
const [ir, opset] = [10, 21];

/** ONNX's numbers for types (TensorProto.DataType). */
const typeNumbers: Record<DType, number> = {
  float32: 1,
  uint8: 2,
  int8: 3,
  int32: 6,
  int64: 7,
  bool: 9,
  float64: 11,
};

/** Numbers from which on a matrix is worth feeding. */
const leastFed = 4096;

interface Node {
  readonly type: string;
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
  readonly attributes: Readonly<Record<string, AttributeValue>>;
}

/** A constant that is given to the runtime with every run. */
export interface FedConstant {
  readonly name: string;
  readonly tensor: Tensor;
}

/** A graph within a node, which sees the names around it. */
interface Subgraph {
  readonly nodes: readonly Node[];
  readonly inputs: readonly Message[];
  readonly outputs: readonly Message[];
}

interface Graph {
  /** Of the graph, or of the subgraph that is being written. */
  nodes: Node[];
  /** Names of their results by what they compute. */
  written: Map<string, string>;
  readonly inputs: Message[];
  readonly initializers: Message[];
  readonly names: Map<Tensor, string>;
  /** Names of small initializers by what they hold. */
  readonly small: Map<string, string>;
  /** Names of the results of bodies: all that are asked for come from one node. */
  readonly bodies: Map<Body, readonly string[]>;
  readonly fed: FedConstant[] | undefined;
  readonly sizes: Readonly<Record<string, number>>;
  next: number;
}

/**
 * The ONNX file of the graph that leads to `outputs`, its inputs named as they were traced and its outputs as the keys.
 *
 * Constants become initializers inside the file, which protobuf limits to 2 GiB.
 *
 * @param fed if given, large matrices become inputs instead and are added to it
 * @param sizes sizes of inputs and outputs that are only named in the graph and are settled in the file
 */
export function writeOnnx(
  outputs: Readonly<Record<string, Tensor>>,
  fed?: FedConstant[],
  sizes: Readonly<Record<string, number>> = {},
): Uint8Array {
  const graph: Graph = {
    nodes: [],
    written: new Map(),
    inputs: [],
    initializers: [],
    names: new Map(),
    small: new Map(),
    bodies: new Map(),
    fed,
    sizes,
    next: 0,
  };
  const { names, inputs } = graph;
  const message = new Message();
  emitAll(graph, Object.values(outputs));
  // A result takes its output's name; one that is asked for twice, an input or a constant is copied.
  const renamed = new Map<string, string>();
  const computed = new Set(graph.nodes.flatMap((node) => node.outputs));
  const results = Object.entries(outputs).map(([name, t]) => {
    const at = names.get(t)!;
    if (computed.has(at) && !renamed.has(at)) renamed.set(at, name);
    else graph.nodes.push({ type: "Identity", inputs: [at], outputs: [name], attributes: {} });
    return valueInfo(name, typeNumbers[t.dtype], withSizes(t.shape, sizes));
  });
  for (const node of graph.nodes)
    message.message(
      1,
      nodeMessage(node, (name) => renamed.get(name) ?? name),
    );
  message.text(2, "sfc");
  for (const i of graph.initializers) message.message(5, i);
  for (const i of inputs) message.message(11, i);
  for (const r of results) message.message(12, r);
  return new Message()
    .int(1, ir)
    .text(2, "analytic-sfc")
    .message(7, message)
    .message(8, new Message().text(1, "").int(2, opset))
    .finish();
}

/** Writes all that leads to some tensors and has no name yet. */
function emitAll(graph: Graph, outputs: readonly Tensor[]): void {
  const { names, fed, sizes } = graph;
  for (const t of topological(outputs)) {
    const { source } = t;
    if (names.has(t)) continue;
    if (source.kind === "input") {
      graph.inputs.push(valueInfo(source.name, typeNumbers[t.dtype], withSizes(t.shape, sizes)));
      names.set(t, source.name);
    } else if (source.kind === "constant" && fed && source.data.length >= leastFed && t.rank > 1) {
      const name = `constant${fed.length}`;
      fed.push({ name, tensor: t });
      graph.inputs.push(valueInfo(name, typeNumbers[t.dtype], withSizes(t.shape, sizes)));
      names.set(t, name);
    } else if (source.kind === "constant") {
      names.set(t, initializer(graph, source.data, t.dtype, t.shape as number[]));
    } else {
      const operands = source.inputs.map((x) => names.get(x)!);
      names.set(t, emit(graph, source.op, source.attributes, operands, source.inputs, t));
    }
  }
}

/**
 * Writes a body as ONNX's Scan, whose subgraph it is, and returns the names of its results. What comes in chunks is scanned; a sum is a state that
 * each step adds to; the subgraph sees whole operands under the names that they have around it.
 */
function scan(
  graph: Graph,
  { chunks, whole, stacked, summed }: Body<Tensor>,
  x: string[],
  from: readonly Tensor[],
): string[] {
  const around = { nodes: graph.nodes, written: graph.written };
  const fresh = () => `t${graph.next++}`;
  const info = (name: string, t: Tensor) => valueInfo(name, typeNumbers[t.dtype], withSizes(t.shape, graph.sizes));
  const zeros = summed.map((sum) => {
    const like = from.findIndex((t, i) => i >= chunks.length && sameShape(t.shape, sum.shape));
    if (like < 0) throw new Error(`internal: a sum in the shape of no operand, [${sum.shape}]`);
    const zero = initializer(graph, numbers([0], sum.dtype), sum.dtype, []);
    return add(graph, "Expand", [zero, add(graph, "Shape", [x[like]!])]);
  });
  graph.nodes = [];
  graph.written = new Map();
  const [states, slices] = [summed.map(fresh), chunks.map(fresh)];
  for (const [i, t] of chunks.entries()) graph.names.set(t, slices[i]!);
  for (const [i, t] of whole.entries()) graph.names.set(t, x[chunks.length + i]!);
  emitAll(graph, [...summed, ...stacked]);
  const results = [
    ...summed.map((t, i) => add(graph, "Add", [states[i]!, graph.names.get(t)!])),
    ...stacked.map((t) => addAnew(graph, "Identity", [graph.names.get(t)!])),
  ];
  const body: Subgraph = {
    nodes: graph.nodes,
    inputs: [...summed.map((t, i) => info(states[i]!, t)), ...chunks.map((t, i) => info(slices[i]!, t))],
    outputs: [...summed, ...stacked].map((t, i) => info(results[i]!, t)),
  };
  Object.assign(graph, around);
  const outputs = results.map(fresh);
  const attributes = { body, num_scan_inputs: chunks.length };
  graph.nodes.push({ type: "Scan", inputs: [...zeros, ...x.slice(0, chunks.length)], outputs, attributes });
  return [...outputs.slice(summed.length), ...outputs.slice(0, summed.length)];
}

/** Writes one traced operation as ONNX nodes and returns the name of its result. */
function emit<O extends Op>(
  graph: Graph,
  op: O,
  attributes: OpAttributes[O],
  x: string[],
  from: readonly Tensor[],
  y: Tensor,
): string {
  const int64s = (values: ArrayLike<number>) => initializer(graph, numbers(values, "int64"), "int64", [values.length]);
  const a = attributes as OpAttributes[Op] & Record<string, never>;
  switch (op as Op) {
    case "MatMul": {
      const { transA, transB } = a as OpAttributes["MatMul"];
      if (from.every((t) => t.rank === 2)) {
        return add(graph, "Gemm", x, { transA: Number(transA), transB: Number(transB) });
      }
      const turned = (name: string, t: Tensor, yes: boolean) =>
        yes ? add(graph, "Transpose", [name], { perm: swapLastTwo(t.rank) }) : name;
      return add(graph, "MatMul", [turned(x[0]!, from[0]!, transA), turned(x[1]!, from[1]!, transB)]);
    }
    case "Silu":
      return add(graph, "Mul", [x[0]!, add(graph, "Sigmoid", x)]);
    case "Erf":
      // There is no kernel for float64.
      if (y.dtype !== "float64") return add(graph, op, x);
      return add(graph, "Cast", [add(graph, op, [add(graph, "Cast", x, { to: typeNumbers.float32 })])], {
        to: typeNumbers.float64,
      });
    case "Transpose":
      return add(graph, "Transpose", x, { perm: (a as OpAttributes["Transpose"]).perm });
    case "Softmax":
    case "LogSoftmax":
      return add(graph, op, x, { axis: -1 });
    case "Reshape":
      return add(graph, "Reshape", [x[0]!, int64s(runtimeShape(from[0]!.shape, y.shape))]);
    case "Expand":
      return add(graph, "Expand", [x[0]!, add(graph, "Shape", [x[1]!])]);
    case "ReduceSum":
      return add(graph, "ReduceSum", [x[0]!, int64s((a as OpAttributes["ReduceSum"]).axes)], { keepdims: 1 });
    case "Gather":
      return add(graph, "Gather", x, { axis: 0 });
    case "ScatterAdd": {
      // A product with ones where a row's index is: ScatterND has several threads add to one place, and loses some of what they add.
      const int = (value: number) => initializer(graph, numbers([value], "int64"), "int64", []);
      const size = add(graph, "Gather", [add(graph, "Shape", [x[2]!]), int(0)], { axis: 0 });
      const places = add(graph, "Unsqueeze", [add(graph, "Range", [int(0), size, int(1)]), int64s([-1])]);
      const isAt = add(graph, "Equal", [places, add(graph, "Unsqueeze", [x[1]!, int64s([0])])]);
      return add(graph, "MatMul", [add(graph, "Cast", [isAt], { to: typeNumbers[y.dtype] }), x[0]!]);
    }
    case "Slice": {
      const { axis, start, end } = a as OpAttributes["Slice"];
      return add(graph, "Slice", [x[0]!, int64s([start]), int64s([end]), int64s([axis])]);
    }
    case "Pad": {
      const { axis, before, after } = a as OpAttributes["Pad"];
      return add(graph, "Pad", [x[0]!, int64s([before, after]), "", int64s([axis])]);
    }
    case "Concat":
      return add(graph, "Concat", x, { axis: (a as OpAttributes["Concat"]).axis });
    case "KthLargest": {
      const { k } = a as OpAttributes["KthLargest"];
      const [values, places] = [`t${graph.next++}`, `t${graph.next++}`];
      const inputs = [x[0]!, int64s([k])];
      graph.nodes.push({ type: "TopK", inputs, outputs: [values, places], attributes: { axis: -1 } });
      return add(graph, "Slice", [values, int64s([k - 1]), int64s([k]), int64s([-1])]);
    }
    case "OneHot": {
      const { depth, dtype } = a as OpAttributes["OneHot"];
      const offOn = initializer(graph, numbers([0, 1], dtype), dtype, [2]);
      return add(graph, "OneHot", [x[0]!, int64s([depth]), offOn], { axis: -1 });
    }
    case "Scan": {
      const { body, output } = a as OpAttributes["Scan"];
      const results = graph.bodies.get(body) ?? scan(graph, bodyOf(a), x, from);
      graph.bodies.set(body, results);
      return results[output]!;
    }
    case "Detach":
      return x[0]!;
    case "Cast":
      return add(graph, "Cast", x, { to: typeNumbers[(a as OpAttributes["Cast"]).dtype] });
    default:
      return add(graph, op, x);
  }
}

type AttributeValue = number | string | readonly number[] | Subgraph;

/** Writes a node, and an equal one only once. @returns the name of its result */
function add(graph: Graph, type: string, inputs: string[], attributes: Record<string, AttributeValue> = {}): string {
  const key = JSON.stringify([type, inputs, attributes]);
  const name = graph.written.get(key) ?? addAnew(graph, type, inputs, attributes);
  graph.written.set(key, name);
  return name;
}

function addAnew(graph: Graph, type: string, inputs: string[], attributes: Node["attributes"] = {}): string {
  const name = `t${graph.next++}`;
  graph.nodes.push({ type, inputs, outputs: [name], attributes });
  return name;
}

function nodeMessage({ type, inputs, outputs, attributes }: Node, rename: (name: string) => string): Message {
  const message = new Message();
  for (const i of inputs) message.text(1, rename(i));
  for (const o of outputs) message.text(2, rename(o));
  message.text(3, outputs[0]!).text(4, type);
  for (const [name, value] of Object.entries(attributes)) {
    const attribute = new Message().text(1, name);
    if (typeof value === "number") attribute.int(3, value).int(20, 2);
    else if (typeof value === "string") attribute.text(4, value).int(20, 3);
    else if ("nodes" in value) attribute.message(6, subgraphMessage(value, rename)).int(20, 5);
    else attribute.ints(8, value).int(20, 7);
    message.message(5, attribute);
  }
  return message;
}

function subgraphMessage({ nodes, inputs, outputs }: Subgraph, rename: (name: string) => string): Message {
  const message = new Message();
  for (const node of nodes) message.message(1, nodeMessage(node, rename));
  message.text(2, "part");
  for (const input of inputs) message.message(11, input);
  for (const output of outputs) message.message(12, output);
  return message;
}

function initializer(graph: Graph, data: TypedData, dtype: DType, shape: readonly number[]): string {
  const raw = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  // The same few axes and numbers come again and again, and the time to open a graph grows with the square of its constants.
  const key = raw.length <= 64 ? `${dtype} ${shape} ${raw}` : undefined;
  const known = key === undefined ? undefined : graph.small.get(key);
  if (known !== undefined) return known;
  const name = `c${graph.next++}`;
  if (key !== undefined) graph.small.set(key, name);
  graph.initializers.push(new Message().ints(1, shape).int(2, typeNumbers[dtype]).text(8, name).bytes(9, raw));
  return name;
}

function valueInfo(name: string, type: number, shape: Shape): Message {
  const dims = new Message();
  for (const dim of shape) {
    dims.message(1, typeof dim === "number" ? new Message().int(1, dim) : new Message().text(2, dim));
  }
  return new Message().text(1, name).message(2, new Message().message(1, new Message().int(1, type).message(2, dims)));
}

/** ONNX's target of a Reshape: 0 keeps the size at that place, one −1 stands for what is left. */
function runtimeShape(from: Shape, to: Shape): number[] {
  let open = 0;
  const shape = to.map((dim, i) => {
    if (typeof dim === "number") return dim;
    if (from[i] === dim) return 0;
    open++;
    return -1;
  });
  if (open > 1) throw new Error(`internal: two unknown sizes move in one Reshape, [${from}] to [${to}]`);
  return shape;
}

function swapLastTwo(rank: number): number[] {
  const perm = Array.from({ length: rank }, (_, i) => i);
  [perm[rank - 1], perm[rank - 2]] = [rank - 2, rank - 1];
  return perm;
}
