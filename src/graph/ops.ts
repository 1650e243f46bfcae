import {
  broadcastShapes,
  type Dim,
  type DType,
  elements,
  reducedShape,
  type Shape,
  sameShape,
  shapeText,
} from "./shape.ts";

/** What operations are told of tensors: a tensor of `tensor.ts`, which itself says by which operation it came about. */
export interface Typed {
  readonly dtype: DType;
  readonly shape: Shape;
}

/** A computation within a graph that is run for one chunk of its operands after another. It uses nothing else but constants. */
export interface Body<T extends Typed = Typed> {
  /** Inputs that are a chunk of an operand each, without the operand's first axis. */
  readonly chunks: readonly T[];
  /** Inputs that are an operand as a whole. */
  readonly whole: readonly T[];
  /** Results of each chunk, which are stacked along a new first axis. */
  readonly stacked: readonly T[];
  /** Results that are added up over the chunks, each in the shape of one of the `whole` inputs. */
  readonly summed: readonly T[];
}

type None = Record<never, never>;

/**
 * Every operation that can be traced, with its attributes. The names are ONNX's, but for Silu, ScatterAdd and KthLargest, which are written as several
 * nodes, and Detach, ONNX's Identity.
 */
export interface OpAttributes {
  Add: None;
  Sub: None;
  Mul: None;
  Div: None;
  Neg: None;
  Exp: None;
  Log: None;
  Sqrt: None;
  Tanh: None;
  Erf: None;
  Sigmoid: None;
  Silu: None;
  Relu: None;
  Softmax: None;
  LogSoftmax: None;
  MatMul: { readonly transA: boolean; readonly transB: boolean };
  MatMulInteger: None;
  Transpose: { readonly perm: readonly number[] };
  Reshape: { readonly shape: Shape };
  Expand: None;
  ReduceSum: { readonly axes: readonly number[] };
  Gather: None;
  ScatterAdd: None;
  Slice: { readonly axis: number; readonly start: number; readonly end: number };
  Pad: { readonly axis: number; readonly before: number; readonly after: number };
  Concat: { readonly axis: number };
  Where: None;
  Greater: None;
  GreaterOrEqual: None;
  KthLargest: { readonly k: number };
  OneHot: { readonly depth: number; readonly dtype: DType };
  Cast: { readonly dtype: DType };
  Detach: None;
  /** One result of a body that is run for one chunk of its operands after another (graph/chunks.ts), by its place among them. */
  Scan: {
    readonly body: Body;
    readonly output: number;
    /** The gradients of all operands; undefined for those that have none. */
    pullback?(g: Typed, operands: readonly Typed[]): readonly (Typed | undefined)[];
  };
}

/** The name of an operation. */
export type Op = keyof OpAttributes;

type Rule<O extends Op> = (attributes: OpAttributes[O], ...inputs: Typed[]) => Typed;

const same: Rule<Op> = (_, a) => a!;
const elementwise = (_: unknown, a?: Typed, b?: Typed): Typed => {
  if (a!.dtype !== b!.dtype) throw new Error("types differ");
  return { dtype: a!.dtype, shape: broadcastShapes(a!.shape, b!.shape) };
};
const comparison = (_: unknown, a?: Typed, b?: Typed): Typed => ({ ...elementwise(_, a, b), dtype: "bool" });

/** Type and shape of each operation's result. Throws a plain sentence if the operands do not fit. */
const rules: { readonly [O in Op]: Rule<O> } = {
  Add: elementwise,
  Sub: elementwise,
  Mul: elementwise,
  Div: elementwise,
  Neg: same,
  Exp: same,
  Log: same,
  Sqrt: same,
  Tanh: same,
  Erf: same,
  Sigmoid: same,
  Silu: same,
  Relu: same,
  Softmax: same,
  LogSoftmax: same,
  MatMul: ({ transA, transB }, a, b) => {
    const [m, k1] = lastTwo(a!.shape, transA);
    const [k2, n] = lastTwo(b!.shape, transB);
    if (k1 !== k2 || a!.dtype !== b!.dtype) throw new Error(`inner sizes ${k1} and ${k2} differ`);
    return { dtype: a!.dtype, shape: [...broadcastShapes(a!.shape.slice(0, -2), b!.shape.slice(0, -2)), m, n] };
  },
  MatMulInteger: (_, x, w) => {
    const [m, k1] = lastTwo(x!.shape, false);
    const [k2, n] = lastTwo(w!.shape, false);
    if (k1 !== k2 || x!.dtype !== "uint8" || w!.dtype !== "int8")
      throw new Error(`inner sizes ${k1} and ${k2} or types`);
    return { dtype: "int32", shape: [m, n] };
  },
  Transpose: ({ perm }, a) => {
    if ([...perm].sort((x, y) => x - y).some((p, i) => p !== i) || perm.length !== a!.shape.length) {
      throw new Error("not a permutation of the axes");
    }
    return { dtype: a!.dtype, shape: perm.map((p) => a!.shape[p]!) };
  },
  Reshape: ({ shape }, a) => {
    const [from, to] = [elements(a!.shape), elements(shape)];
    if (from.factor !== to.factor || from.names !== to.names) throw new Error("another number of elements");
    return { dtype: a!.dtype, shape };
  },
  Expand: (_, a, like) => {
    if (shapeText(broadcastShapes(a!.shape, like!.shape)) !== shapeText(like!.shape)) {
      throw new Error("does not stretch to that");
    }
    return { dtype: a!.dtype, shape: like!.shape };
  },
  ReduceSum: ({ axes }, a) => {
    if (axes.some((i) => i < 0 || i >= a!.shape.length)) throw new Error("no such axis");
    return { dtype: a!.dtype, shape: reducedShape(a!.shape, axes) };
  },
  Gather: (_, table, indices) => ({ dtype: table!.dtype, shape: [...indices!.shape, ...table!.shape.slice(1)] }),
  ScatterAdd: (_, updates, indices, like) => {
    if (indices!.shape.length !== 1 || like!.shape.length !== 2)
      throw new Error("not a matrix and a row for each index");
    const [row, expected] = [updates!.shape.slice(1), like!.shape.slice(1)];
    if (shapeText(row) !== shapeText(expected)) throw new Error("rows differ in shape");
    return { dtype: updates!.dtype, shape: like!.shape };
  },
  Slice: ({ axis, start, end }, a) => {
    const size = sized(a!.shape, axis);
    if (start < 0 || end > size || start >= end) throw new Error(`no entries ${start} to ${end} of ${size}`);
    return { dtype: a!.dtype, shape: a!.shape.with(axis, end - start) };
  },
  Pad: ({ axis, before, after }, a) => ({
    dtype: a!.dtype,
    shape: a!.shape.with(axis, before + sized(a!.shape, axis) + after),
  }),
  Concat: ({ axis }, ...parts) => {
    const size = parts.reduce((sum, p) => sum + sized(p.shape, axis), 0);
    const shape = parts[0]!.shape.with(axis, size);
    if (parts.some((p) => shapeText(p.shape.with(axis, size)) !== shapeText(shape))) throw new Error("shapes differ");
    return { dtype: parts[0]!.dtype, shape };
  },
  Where: (_, condition, a, b) => {
    const { dtype, shape } = elementwise(_, a, b);
    return { dtype, shape: broadcastShapes(condition!.shape, shape) };
  },
  Greater: comparison,
  GreaterOrEqual: comparison,
  KthLargest: ({ k }, a) => {
    if (k < 1 || k > sized(a!.shape, a!.shape.length - 1)) throw new Error("k is not within the last axis");
    return { dtype: a!.dtype, shape: a!.shape.with(-1, 1) };
  },
  OneHot: ({ depth, dtype }, indices) => ({ dtype, shape: [...indices!.shape, depth] }),
  Cast: ({ dtype }, a) => ({ dtype, shape: a!.shape }),
  Detach: same,
  Scan: ({ body, output }, ...operands) => {
    const { chunks, whole, stacked, summed } = body;
    const expected = [...chunks.map((t) => [operands[0]!.shape[0]!, ...t.shape]), ...whole.map((t) => t.shape)];
    if (expected.length !== operands.length || !expected.every((shape, i) => sameShape(shape, operands[i]!.shape))) {
      throw new Error("the body takes operands of other shapes");
    }
    const chunk = stacked[output];
    if (!chunk) return summed[output - stacked.length]!;
    return { dtype: chunk.dtype, shape: [operands[0]!.shape[0]!, ...chunk.shape] };
  },
};

/**
 * Type and shape of an operation's result.
 *
 * @throws an error if the inputs do not fit it
 */
export function outputType<O extends Op>(op: O, attributes: OpAttributes[O], inputs: readonly Typed[]): Typed {
  return rules[op](attributes, ...inputs);
}

/** `{transA: false, transB: true}` for prints; nothing where there are none. */
export function attributesText(attributes: object): string {
  const parts = Object.entries(attributes)
    .filter(([, v]) => typeof v !== "function" && (typeof v !== "object" || Array.isArray(v)))
    .map(([k, v]) => `${k}: ${Array.isArray(v) ? shapeText(v) : v}`);
  return parts.length === 0 ? "" : `{${parts.join(", ")}}`;
}

function lastTwo(shape: Shape, transposed: boolean): [Dim, Dim] {
  const [a, b] = [shape.at(-2), shape.at(-1)];
  if (a === undefined || b === undefined) throw new Error("a matrix has two axes");
  return transposed ? [b, a] : [a, b];
}

function sized(shape: Shape, axis: number): number {
  const dim = shape[axis];
  if (typeof dim !== "number") throw new Error(`axis ${axis} has no size that is known yet`);
  return dim;
}
