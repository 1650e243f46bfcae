import { bodyOf } from "./chunks.ts";
import type { Op } from "./ops.ts";
import { topological } from "./reverse.ts";
import { type Shape, withSizes } from "./shape.ts";
import type { Tensor } from "./tensor.ts";

/** What running a graph takes in memory besides its inputs and constants, in bytes. */
export interface RunMemory {
  /** At the peak of a run, results included. */
  readonly peak: number;
  readonly results: number;
  /** The number of operations. */
  readonly operations: number;
}

/** Operations whose result takes the place of an operand of the same size that nothing else needs. */
const inPlace: ReadonlySet<Op> = new Set(
  "Add Sub Mul Div Neg Exp Log Sqrt Tanh Erf Sigmoid Silu Relu Cast".split(" ") as Op[],
);
/** Operations whose result is their operand. */
const sameNumbers: ReadonlySet<Op> = new Set<Op>(["Reshape", "Detach"]);

const numberBytes = {
  float32: 4,
  float64: 8,
  int64: 8,
  bool: 1,
  uint8: 1,
  int8: 1,
  int32: 4,
} as const;

/**
 * Follows a run of a graph as a runtime does it: one operation after another, each result there from its operation to the last one that needs it.
 * Equal operations are computed once; the order is that of a search from the results, latest operand first, as onnxruntime's.
 *
 * @param sizes all sizes that the graph only names
 */
export function runMemory(outputs: readonly Tensor[], sizes: Readonly<Record<string, number>>): RunMemory {
  const canonical = merged(outputs);
  const of = (t: Tensor) => canonical.get(t)!;
  const results = outputs.map(of);
  const order = searchOrder(results, of);
  /** The tensor whose memory a tensor's numbers are in; undefined where they are an input's or a constant's. */
  const home = new Map<Tensor, Tensor | undefined>();
  const uses = new Map<Tensor, number>();
  const use = (t: Tensor | undefined, by: number) => {
    if (t) uses.set(t, (uses.get(t) ?? 0) + by);
  };
  for (const t of order) {
    const { source } = t;
    if (source.kind !== "op") home.set(t, undefined);
    else {
      home.set(t, sameNumbers.has(source.op) ? home.get(of(source.inputs[0]!)) : t);
      for (const x of operandsOf(t, of)) use(home.get(x), 1);
    }
  }
  for (const t of results) use(home.get(t), 1);
  const bytes = (t: Tensor) => bytesOf(t, sizes);
  let [now, peak] = [0, 0];
  for (const t of order) {
    if (t.source.kind !== "op") continue;
    const { op } = t.source;
    const operands = operandsOf(t, of);
    const homes = operands.map((x) => home.get(x));
    const size = bytes(t);
    if (!sameNumbers.has(op)) {
      const replaced = inPlace.has(op) && homes.some((h) => h && uses.get(h) === 1 && bytes(h) === size);
      const extra = replaced ? 0 : size;
      peak = Math.max(peak, now + extra + workOf(t, sizes));
      now += size;
    }
    for (const h of homes) {
      use(h, -1);
      if (h && uses.get(h) === 0) now -= bytes(h);
    }
  }
  const kept = new Set(results.map((t) => home.get(t)));
  const operations = order.filter(({ source }) => source.kind === "op").length;
  return { peak, operations, results: [...kept].reduce((sum, t) => sum + (t ? bytes(t) : 0), 0) };
}

/** Memory that an operation has for itself while it runs: ones where rows are added; a chunk's own results, with the sums before and after it. */
function workOf({ source, shape, dtype }: Tensor, sizes: Readonly<Record<string, number>>): number {
  if (source.kind !== "op") return 0;
  const { op, attributes, inputs } = source;
  if (op === "ScatterAdd") {
    const ones = [shape[0]!, inputs[1]!.shape[0]!];
    return numbersOf(ones, sizes) * (numberBytes[dtype] + numberBytes.bool);
  }
  if (op !== "Scan") return 0;
  const { stacked, summed } = bodyOf(attributes);
  const sums = summed.reduce((sum, t) => sum + bytesOf(t, sizes), 0);
  return runMemory([...summed, ...stacked], sizes).peak + 2 * sums;
}

const operandsOf = (t: Tensor, of: (t: Tensor) => Tensor): Tensor[] =>
  t.source.kind === "op" ? [...new Set(t.source.inputs.map(of))] : [];

const bytesOf = ({ shape, dtype }: Tensor, sizes: Readonly<Record<string, number>>): number =>
  numbersOf(shape, sizes) * numberBytes[dtype];

function numbersOf(shape: Shape, sizes: Readonly<Record<string, number>>): number {
  return withSizes(shape, sizes).reduce<number>((product, dim) => {
    if (typeof dim !== "number") throw new Error(`internal: the size ${dim} is not known`);
    return product * dim;
  }, 1);
}

/** For each tensor of a graph the first that is computed in the same way. */
function merged(outputs: readonly Tensor[]): Map<Tensor, Tensor> {
  const canonical = new Map<Tensor, Tensor>();
  const numbers = new Map<Tensor, number>();
  const known = new Map<string, Tensor>();
  for (const t of topological(outputs)) {
    const key = keyOf(t, (x) => numbers.get(canonical.get(x)!)!);
    const same = key === undefined ? undefined : known.get(key);
    if (same === undefined && key !== undefined) known.set(key, t);
    canonical.set(t, same ?? t);
    if (same === undefined) numbers.set(t, numbers.size);
  }
  return canonical;
}

/** What makes tensors equal; undefined for those that are equal to none. */
function keyOf({ dtype, shape, source }: Tensor, number: (x: Tensor) => number): string | undefined {
  if (source.kind === "constant") return source.data.length === 1 ? `${dtype} ${shape} ${source.data[0]}` : undefined;
  if (source.kind === "input" || source.op === "Scan") return undefined;
  return `${source.op} ${JSON.stringify(source.attributes)} ${source.inputs.map(number)}`;
}

/** The order in which a search in depth from the results leaves tensors: of what is not there yet, the last result and the latest operand first. */
function searchOrder(results: readonly Tensor[], of: (t: Tensor) => Tensor): Tensor[] {
  const place = new Map(topological(results).map((t, i) => [t, i]));
  const order: Tensor[] = [];
  const seen = new Set<Tensor>();
  const stack = results.map((tensor) => ({ tensor, left: false }));
  while (stack.length > 0) {
    const { tensor, left } = stack.pop()!;
    if (left) order.push(tensor);
    else if (!seen.has(tensor)) {
      seen.add(tensor);
      stack.push({ tensor, left: true });
      const operands = operandsOf(tensor, of).sort((a, b) => place.get(a)! - place.get(b)!);
      for (const operand of operands) if (!seen.has(operand)) stack.push({ tensor: operand, left: false });
    }
  }
  return order;
}
