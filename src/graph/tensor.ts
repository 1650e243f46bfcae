import { attributesText, type Op, type OpAttributes, outputType } from "./ops.ts";
import { broadcastShapes, type Dim, type DType, type Shape, sameShape, shapeText } from "./shape.ts";

/** Numbers of a constant or of a session's inputs and outputs; bigint for int64. */
export type TypedData = Float32Array | Float64Array | BigInt64Array | Uint8Array | Int8Array | Int32Array;

/** Where a tensor comes from: an input, a constant, or an operation. */
export type Source =
  | { readonly kind: "input"; readonly name: string }
  | { readonly kind: "constant"; readonly data: TypedData; readonly name?: string }
  | { readonly kind: "op"; readonly op: Op; readonly attributes: OpAttributes[Op]; readonly inputs: readonly Tensor[] };

/**
 * The letters of axes, the same in all shapes: of graphs, of arrays and in doc comments.
 *
 * Rows:
 * - N: of a pack, one for each node and for padding; of any other product of matrices, its rows
 * - B: tiles of a pack; n: rows of a tile, N = n·B
 * - c: chunks of a tile's rows, where attention goes chunk by chunk; r: rows of a chunk
 * - P: rows at which the metric is read
 * - T: tokens of one prompt, of a row of training text, or those of the vocabulary that are at hand
 * - R, or `rows`, `nodes`: what is kept outside of graphs, a row for each forward or backward node or for some of them
 *
 * A model:
 * - L: layers; V: vocabulary
 * - D: width of the site at hand, mostly of the residual stream
 * - H: query heads; K: key heads; G = H/K: query heads of a key head; E: width of a head
 *
 * A dictionary:
 * - F: features
 * - S: columns and rows of some features alone; U: the features of those that a circuit may have (of TopK, S = F)
 *
 * Where no heads are near, K also counts the points between a clean and a patch activation. As indices, i is a feature, d one of D, n a node.
 */

/**
 * A tensor of a traced computation: a type, a shape and where it comes from. Nothing is computed when one is made; the operations below only
 * record. A graph is whatever can be reached from its outputs.
 */
export class Tensor {
  readonly dtype: DType;
  readonly shape: Shape;
  readonly source: Source;

  constructor(dtype: DType, shape: Shape, source: Source) {
    this.dtype = dtype;
    this.shape = shape;
    this.source = source;
  }

  get rank(): number {
    return this.shape.length;
  }

  add(other: Tensor | number): Tensor {
    return elementwise("Add", this, this.#like(other));
  }
  sub(other: Tensor | number): Tensor {
    return elementwise("Sub", this, this.#like(other));
  }
  mul(other: Tensor | number): Tensor {
    return elementwise("Mul", this, this.#like(other));
  }
  div(other: Tensor | number): Tensor {
    return elementwise("Div", this, this.#like(other));
  }
  neg(): Tensor {
    return apply("Neg", {}, this);
  }
  exp(): Tensor {
    return apply("Exp", {}, this);
  }
  log(): Tensor {
    return apply("Log", {}, this);
  }
  sqrt(): Tensor {
    return apply("Sqrt", {}, this);
  }
  tanh(): Tensor {
    return apply("Tanh", {}, this);
  }
  /** The error function. onnxruntime has no float64 kernel for it: in float64 it is computed in float32. */
  erf(): Tensor {
    return apply("Erf", {}, this);
  }
  sigmoid(): Tensor {
    return apply("Sigmoid", {}, this);
  }
  /** x·sigmoid(x). */
  silu(): Tensor {
    return apply("Silu", {}, this);
  }
  relu(): Tensor {
    return apply("Relu", {}, this);
  }
  /** Softmax over the last axis. */
  softmax(): Tensor {
    return apply("Softmax", {}, this);
  }
  /** Logarithm of the softmax over the last axis. */
  logSoftmax(): Tensor {
    return apply("LogSoftmax", {}, this);
  }

  /**
   * Product of matrices in the last two axes, transposed first where asked; leading axes broadcast.
   *
   * [..., m, k] × [..., k, n] → [..., m, n]
   */
  matmul(other: Tensor, { transA = false, transB = false } = {}): Tensor {
    return apply("MatMul", { transA, transB }, this, other);
  }

  /** Axes in a new order: axis i of the result is axis perm[i] of this. */
  transpose(...perm: number[]): Tensor {
    return apply("Transpose", { perm }, this);
  }

  /** The same numbers in another shape. At most one size that is known only at run time may move. */
  reshape(...shape: Dim[]): Tensor {
    return sameShape(this.shape, shape) ? this : apply("Reshape", { shape }, this);
  }

  /** Repeats axes of size 1 to the shape of another tensor, of which only the shape is used. */
  expandLike(like: Tensor): Tensor {
    return sameShape(this.shape, like.shape) ? this : apply("Expand", {}, this, like);
  }

  /** Sum over the given axes (negative ones count from the end; none given: all), which stay with size 1. */
  sum(...axes: number[]): Tensor {
    const all = axes.length === 0 ? this.shape.map((_, i) => i) : axes.map((a) => (a < 0 ? a + this.rank : a));
    return all.length === 0 ? this : apply("ReduceSum", { axes: all.sort((a, b) => a - b) }, this);
  }

  /** Mean over axes of known size, which stay with size 1. */
  mean(...axes: number[]): Tensor {
    let count = 1;
    for (const axis of axes) {
      const dim = this.shape.at(axis);
      if (typeof dim !== "number") throw new Error(`internal: mean over axis ${axis} of ${shapeText(this.shape)}`);
      count *= dim;
    }
    return this.sum(...axes).mul(1 / count);
  }

  /** Rows: result[i..., :] = this[indices[i...], :]. */
  gather(indices: Tensor): Tensor {
    return apply("Gather", {}, this, indices);
  }

  /**
   * The transpose of `gather` from a matrix, rows added up: result[r] = Σ this[i] over all i with indices[i] = r, in the shape of `like`, of which only
   * the shape is used. Computed as a product: infinite numbers make all of their column NaN.
   */
  scatterAdd(indices: Tensor, like: Tensor): Tensor {
    return apply("ScatterAdd", {}, this, indices, like);
  }

  /** Entries start ≤ i < end of one axis of known size. */
  slice(axis: number, start: number, end: number): Tensor {
    return apply("Slice", { axis: axis < 0 ? axis + this.rank : axis, start, end }, this);
  }

  /** Zeros before and after along one axis. */
  pad(axis: number, before: number, after: number): Tensor {
    return apply("Pad", { axis: axis < 0 ? axis + this.rank : axis, before, after }, this);
  }

  greater(other: Tensor | number): Tensor {
    return apply("Greater", {}, this, this.#like(other));
  }
  greaterOrEqual(other: Tensor | number): Tensor {
    return apply("GreaterOrEqual", {}, this, this.#like(other));
  }

  /** The k-th largest number along the last axis, which stays with size 1. No gradient. */
  kthLargest(k: number): Tensor {
    return apply("KthLargest", { k }, this);
  }

  /** Class numbers [...] → [..., depth] with 1 at the class and 0 elsewhere. No gradient. */
  oneHot(depth: number, dtype: DType): Tensor {
    return apply("OneHot", { depth, dtype }, this);
  }

  /** The same values, through which no gradient passes. */
  detach(): Tensor {
    return apply("Detach", {}, this);
  }

  cast(dtype: DType): Tensor {
    return dtype === this.dtype ? this : apply("Cast", { dtype }, this);
  }

  #like(other: Tensor | number): Tensor {
    return typeof other === "number" ? scalar(other, this.dtype) : other;
  }
}

/**
 * The product of whole numbers of one byte, exact on machines whose byte products do not saturate: uint8 x[N,K] less its zero point 128, times
 * int8 w[K,F] → int32 [N,F]. No gradient.
 */
export function matmulInteger(x: Tensor, w: Tensor): Tensor {
  return apply("MatMulInteger", {}, x, w, constant(Uint8Array.of(byteZero), "uint8", []));
}

/** What stands for 0 in the uint8 numbers of `matmulInteger`. */
export const byteZero = 128;

/** A value given when the graph runs. Sizes known only then are named: "N", or "64*B" for 64 times one. */
export function input(name: string, dtype: DType, shape: Shape): Tensor {
  return new Tensor(dtype, shape, { kind: "input", name });
}

/** A value written into the graph. `name` only makes prints and errors readable. */
export function constant(data: TypedData, dtype: DType, shape: Shape, name?: string): Tensor {
  return new Tensor(dtype, shape, { kind: "constant", data, ...(name === undefined ? {} : { name }) });
}

/** A single number, shape []. */
export function scalar(value: number, dtype: DType): Tensor {
  return constant(numbers([value], dtype), dtype, []);
}

/** The numbers of a constant. */
export function constantData({ source }: Tensor): TypedData {
  if (source.kind !== "constant") throw new Error("internal: the numbers of something that is no constant");
  return source.data;
}

/** condition ? a : b, element by element, with broadcasting. */
export function where(condition: Tensor, a: Tensor, b: Tensor): Tensor {
  return apply("Where", {}, condition, a, b);
}

/** Tensors one after another along an axis. */
export function concat(axis: number, ...parts: Tensor[]): Tensor {
  const first = parts[0]!;
  return parts.length === 1 ? first : apply("Concat", { axis: axis < 0 ? axis + first.rank : axis }, ...parts);
}

/** Numbers in the typed array of a type. */
export function numbers(values: ArrayLike<number>, dtype: DType): TypedData {
  switch (dtype) {
    case "float32":
      return Float32Array.from(values);
    case "float64":
      return Float64Array.from(values);
    case "int64":
      return BigInt64Array.from(Array.from(values), BigInt);
    case "bool":
      return Uint8Array.from(values);
    default:
      throw new Error(`internal: no numbers are made in ${dtype}`);
  }
}

/** Records one operation. Its type and shape follow from the operation's entry in the table of ops. */
export function apply<O extends Op>(op: O, attributes: OpAttributes[O], ...inputs: Tensor[]): Tensor {
  try {
    const { dtype, shape } = outputType(op, attributes, inputs);
    return new Tensor(dtype, shape, { kind: "op", op, attributes, inputs });
  } catch (error) {
    const shapes = inputs.map((t) => `${t.dtype}${shapeText(t.shape)}`).join(", ");
    throw new Error(`internal: ${op}${attributesText(attributes)} of ${shapes}: ${(error as Error).message}`);
  }
}

/** An operation that broadcasts by itself needs no operand that was repeated before: the repeat is skipped. */
function elementwise(op: "Add" | "Sub" | "Mul" | "Div", a: Tensor, b: Tensor): Tensor {
  const unrepeated = (t: Tensor) => (t.source.kind === "op" && t.source.op === "Expand" ? t.source.inputs[0]! : t);
  const shape = broadcastShapes(a.shape, b.shape);
  const [x, y] = [unrepeated(a), unrepeated(b)];
  if (sameShape(broadcastShapes(x.shape, b.shape), shape)) return apply(op, {}, x, b);
  if (sameShape(broadcastShapes(a.shape, y.shape), shape)) return apply(op, {}, a, y);
  return apply(op, {}, a, b);
}

/**
 * Undoes broadcasting: sums the cotangent of a broadcast result back to the shape of the operand. The only place that does so.
 */
export function unbroadcast(g: Tensor, shape: Shape): Tensor {
  if (sameShape(g.shape, shape)) return g;
  const lead = g.rank - shape.length;
  const axes = g.shape.map((_, i) => i).filter((i) => i < lead || (shape[i - lead] === 1 && g.shape[i] !== 1));
  return g.sum(...axes).reshape(...shape);
}
