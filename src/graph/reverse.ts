import type { Op } from "./ops.ts";
import { type Pullback, pullbacks } from "./pullbacks.ts";
import { shapeText } from "./shape.ts";
import { constant, numbers, scalar, type Tensor, unbroadcast } from "./tensor.ts";

/**
 * Gradients of a scalar with respect to tensors anywhere in its graph, in reverse mode.
 *
 * Each of `wrt` may be an input, a constant or the result of an operation; its gradient has its shape, and is 0 where nothing leads from it to
 * `output`. Only the part of the graph between `wrt` and `output` is differentiated.
 *
 * @param output a single number, of any rank; or a tensor of any shape together with `cotangent` of the same shape
 */
export function gradients(output: Tensor, wrt: readonly Tensor[], cotangent?: Tensor): Tensor[] {
  if (cotangent === undefined && output.shape.some((d) => d !== 1)) {
    throw new Error(`internal: gradient of ${shapeText(output.shape)} needs a cotangent`);
  }
  const order = topological([output]);
  const leadsFrom = new Set<Tensor>(wrt);
  for (const t of order) {
    if (t.source.kind === "op" && t.source.inputs.some((x) => leadsFrom.has(x))) leadsFrom.add(t);
  }
  const cotangents = new Map<Tensor, Tensor>();
  if (leadsFrom.has(output))
    cotangents.set(output, cotangent ?? constant(numbers([1], output.dtype), output.dtype, output.shape));
  for (const y of order.reverse()) {
    const g = cotangents.get(y);
    if (g === undefined || y.source.kind !== "op") continue;
    const { op, attributes, inputs } = y.source;
    const rules = pullbacks[op];
    inputs.forEach((x, i) => {
      if (!leadsFrom.has(x)) return;
      const pullback = (typeof rules === "function" ? rules(i) : rules[i]) as Pullback<Op> | null | undefined;
      if (!pullback || !isFloat(x)) return;
      const part = unbroadcast(pullback(g, y, attributes, ...inputs), x.shape);
      const sum = cotangents.get(x);
      cotangents.set(x, sum === undefined ? part : sum.add(part));
    });
  }
  return wrt.map((x) => cotangents.get(x) ?? scalar(0, x.dtype).expandLike(x));
}

/** Every tensor that `outputs` are computed from, and they themselves, each after all that it is computed from. */
export function topological(outputs: readonly Tensor[]): Tensor[] {
  const order: Tensor[] = [];
  const seen = new Set<Tensor>();
  const stack: { readonly tensor: Tensor; next: number }[] = [];
  const visit = (tensor: Tensor) => {
    if (seen.has(tensor)) return;
    seen.add(tensor);
    stack.push({ tensor, next: 0 });
  };
  for (const output of outputs) {
    visit(output);
    while (stack.length > 0) {
      const top = stack[stack.length - 1]!;
      const inputs = top.tensor.source.kind === "op" ? top.tensor.source.inputs : [];
      if (top.next < inputs.length) visit(inputs[top.next++]!);
      else {
        order.push(top.tensor);
        stack.pop();
      }
    }
  }
  return order;
}

function isFloat(t: Tensor): boolean {
  return t.dtype === "float32" || t.dtype === "float64";
}
