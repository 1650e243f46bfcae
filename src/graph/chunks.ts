import type { Body, OpAttributes } from "./ops.ts";
import { gradients } from "./reverse.ts";
import { apply, input, type Tensor } from "./tensor.ts";

/** The body that the attributes of a Scan hold: its tensors are traced ones, which the table of operations knows by type and shape alone. */
export function bodyOf(attributes: object): Body<Tensor> {
  return (attributes as OpAttributes["Scan"]).body as Body<Tensor>;
}

/**
 * f of one chunk after another, [c, ...f's shape]: chunk i of each of `chunks` [c, ...] with all of each of `whole`.
 *
 * Only what one chunk computes is in memory at a time, and the reverse pass computes it again instead of keeping it (arXiv:1604.06174).
 *
 * @param f traced twice; uses nothing but its arguments and constants
 */
export function overChunks(
  f: (chunks: readonly Tensor[], whole: readonly Tensor[]) => Tensor,
  chunks: readonly Tensor[],
  whole: readonly Tensor[],
): Tensor {
  const inner = chunks.map(chunkOf);
  const outer = whole.map(wholeOf);
  const body: Body<Tensor> = { chunks: inner, whole: outer, stacked: [f(inner, outer)], summed: [] };
  const found = new WeakMap<Tensor, readonly (Tensor | undefined)[]>();
  const pullback = (g: Tensor, operands: readonly Tensor[]): readonly (Tensor | undefined)[] => {
    const known = found.get(g) ?? pulledBack(f, g, operands, chunks.length);
    found.set(g, known);
    return known;
  };
  return apply("Scan", { body, output: 0, pullback }, ...chunks, ...whole);
}

/** The gradients of the operands that have one: chunk by chunk of those that come in chunks, added up over the chunks of the others. */
function pulledBack(
  f: (chunks: readonly Tensor[], whole: readonly Tensor[]) => Tensor,
  g: Tensor,
  operands: readonly Tensor[],
  count: number,
): (Tensor | undefined)[] {
  const cotangent = chunkOf(g);
  const inner = operands.slice(0, count).map(chunkOf);
  const outer = operands.slice(count).map(wholeOf);
  const hasGradient = (t: Tensor) => t.dtype === "float32" || t.dtype === "float64";
  const wrt = [...inner, ...outer].filter(hasGradient);
  const found = gradients(f(inner, outer), wrt, cotangent);
  const stacked = inner.filter(hasGradient).length;
  const body: Body<Tensor> = {
    chunks: [cotangent, ...inner],
    whole: outer,
    stacked: found.slice(0, stacked),
    summed: found.slice(stacked),
  };
  let output = 0;
  return operands.map((t) => (hasGradient(t) ? apply("Scan", { body, output: output++ }, g, ...operands) : undefined));
}

const chunkOf = (t: Tensor) => input("chunk", t.dtype, t.shape.slice(1));
const wholeOf = (t: Tensor) => input("whole", t.dtype, t.shape);
