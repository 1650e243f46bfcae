import type { Op, OpAttributes } from "./ops.ts";
import { scalar, type Tensor, where } from "./tensor.ts";

/**
 * The cotangent of one argument of an operation: from g, the cotangent of its result y, and from y and the arguments themselves. Broadcasting is
 * undone by the reverse pass, not here.
 */
export type Pullback<O extends Op> = (g: Tensor, y: Tensor, attributes: OpAttributes[O], ...x: Tensor[]) => Tensor;

/**
 * One pullback per argument of each operation; null where an argument has no gradient (indices, conditions, steps). A function serves operations
 * of any number of arguments. A missing operation does not compile.
 */
export const pullbacks: { readonly [O in Op]: readonly (Pullback<O> | null)[] | ((i: number) => Pullback<O>) } = {
  Add: [(g) => g, (g) => g],
  Sub: [(g) => g, (g) => g.neg()],
  Mul: [(g, _y, _, _a, b) => g.mul(b!), (g, _y, _, a) => g.mul(a!)],
  Div: [(g, _y, _, _a, b) => g.div(b!), (g, y, _, _a, b) => g.mul(y).div(b!).neg()],
  Neg: [(g) => g.neg()],
  Exp: [(g, y) => g.mul(y)],
  Log: [(g, _y, _, a) => g.div(a!)],
  Sqrt: [(g, y) => g.mul(0.5).div(y)],
  Tanh: [(g, y) => g.mul(scalar(1, y.dtype).sub(y.mul(y)))],
  Erf: [(g, _y, _, a) => g.mul(a!.mul(a!).neg().exp()).mul(2 / Math.sqrt(Math.PI))],
  Sigmoid: [(g, y) => g.mul(y.mul(scalar(1, y.dtype).sub(y)))],
  // With s = sigmoid(x), which the runtime computes once: s + y·(1 − s).
  Silu: [(g, y, _, x) => g.mul(x!.sigmoid().add(y.sub(y.mul(x!.sigmoid()))))],
  Relu: [(g, y) => where(y.greater(0), g, scalar(0, g.dtype))],
  Softmax: [(g, y) => y.mul(g.sub(g.mul(y).sum(-1)))],
  LogSoftmax: [(g, y) => g.sub(y.exp().mul(g.sum(-1)))],
  MatMul: [
    (g, _y, { transA, transB }, _a, b) =>
      transA ? b!.matmul(g, { transA: transB, transB: true }) : g.matmul(b!, { transB: !transB }),
    (g, _y, { transA, transB }, a) =>
      transB ? g.matmul(a!, { transA: true, transB: transA }) : a!.matmul(g, { transA: !transA }),
  ],
  Transpose: [(g, _y, { perm }) => g.transpose(...perm.map((_, i) => perm.indexOf(i)))],
  Reshape: [(g, _y, _, a) => g.reshape(...a!.shape)],
  Expand: [(g) => g, null],
  ReduceSum: [(g, _y, _, a) => g.expandLike(a!)],
  Gather: [(g, _y, _, table, indices) => g.scatterAdd(indices!, table!), null],
  ScatterAdd: [(g, _y, _, _updates, indices) => g.gather(indices!), null, null],
  Slice: [(g, _y, { axis, start, end }, a) => g.pad(axis, start, (a!.shape[axis] as number) - end)],
  Pad: [(g, _y, { axis, before }, a) => g.slice(axis, before, before + (a!.shape[axis] as number))],
  Concat:
    (i) =>
    (g, _y, { axis }, ...x) => {
      const start = x.slice(0, i).reduce((sum, part) => sum + (part.shape[axis] as number), 0);
      return g.slice(axis, start, start + (x[i]!.shape[axis] as number));
    },
  Where: [
    null,
    (g, _y, _, condition) => where(condition!, g, scalar(0, g.dtype)),
    (g, _y, _, condition) => where(condition!, scalar(0, g.dtype), g),
  ],
  Greater: [null, null],
  GreaterOrEqual: [null, null],
  KthLargest: [null],
  MatMulInteger: [null, null, null],
  OneHot: [null],
  Cast: [(g, _y, _, a) => g.cast(a!.dtype)],
  Detach: [null],
  Scan:
    (i) =>
    (g, _y, { pullback }, ...x) =>
      // What a traced tensor is differentiated into is traced too.
      pullback!(g, x)[i] as Tensor,
};
