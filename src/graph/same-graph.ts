import { sameShape } from "./shape.ts";
import type { Tensor } from "./tensor.ts";

type Outputs = Readonly<Record<string, Tensor>>;

/**
 * Whether two graphs compute the same by the same operations, from inputs of the same names: their files are then equal, and neither has to be written
 * to see that. Graphs with bodies of loops, or with large constants of their own, count as different.
 */
export function sameGraph(a: Outputs, b: Outputs): boolean {
  const [names, others] = [Object.keys(a), Object.keys(b)];
  if (names.length !== others.length || names.some((name, i) => name !== others[i])) return false;
  const partner = new Map<Tensor, Tensor>();
  const partnerBack = new Map<Tensor, Tensor>();
  const stack: [Tensor, Tensor][] = names.map((name) => [a[name]!, b[name]!]);
  while (stack.length > 0) {
    const [x, y] = stack.pop()!;
    if (partner.has(x) || partnerBack.has(y)) {
      // What one graph computes once, the other does too.
      if (partner.get(x) !== y || partnerBack.get(y) !== x) return false;
      continue;
    }
    if (!isAlike(x, y)) return false;
    partner.set(x, y);
    partnerBack.set(y, x);
    if (x.source.kind !== "op" || y.source.kind !== "op") continue;
    for (const [i, input] of x.source.inputs.entries()) stack.push([input, y.source.inputs[i]!]);
  }
  return true;
}

/** Constants that are compared number by number. */
const mostCompared = 256;

function isAlike(x: Tensor, y: Tensor): boolean {
  if (x === y) return true;
  if (x.dtype !== y.dtype || !sameShape(x.shape, y.shape)) return false;
  const [p, q] = [x.source, y.source];
  if (p.kind === "input") return q.kind === "input" && p.name === q.name;
  if (p.kind === "constant") {
    if (q.kind !== "constant" || p.name !== q.name || p.data.length !== q.data.length) return false;
    if (p.data === q.data) return true;
    // Object.is: a zero's sign counts.
    return p.data.length <= mostCompared && p.data.every((value, i) => Object.is(value, q.data[i]));
  }
  return (
    q.kind === "op" &&
    p.op === q.op &&
    p.inputs.length === q.inputs.length &&
    sameAttributes(p.attributes as Attributes, q.attributes as Attributes)
  );
}

type Attributes = Readonly<Record<string, unknown>>;

function sameAttributes(a: Attributes, b: Attributes): boolean {
  const names = Object.keys(a);
  return names.length === Object.keys(b).length && names.every((name) => sameValue(a[name], b[name]));
}

function sameValue(a: unknown, b: unknown): boolean {
  if (Array.isArray(a) && Array.isArray(b)) {
    return a.length === b.length && a.every((value, i) => sameValue(value, b[i]));
  }
  return typeof a !== "object" && Object.is(a, b);
}
