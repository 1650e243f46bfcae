/**
 * A size: a number, or a name for a size known only when the graph runs ("N"), possibly with a factor ("64*B").
 */
export type Dim = number | string;
/** The dimensions of a tensor, numbers or names. */
export type Shape = readonly Dim[];
/** `uint8` and `int8` are multiplied by MatMulInteger alone, which gives `int32`. */
export type DType = "float32" | "float64" | "int64" | "bool" | "uint8" | "int8" | "int32";

/** Whether two shapes have the same axes, named ones by their names. */
export function sameShape(a: Shape, b: Shape): boolean {
  return a.length === b.length && a.every((d, i) => d === b[i]);
}

/** A shape as text: `[N, 192]`. */
export function shapeText(shape: Shape): string {
  return `[${shape.join(", ")}]`;
}

/** Shape of the result of an elementwise operation; axes are aligned at the end and sizes of 1 stretch. */
export function broadcastShapes(a: Shape, b: Shape): Dim[] {
  const rank = Math.max(a.length, b.length);
  return Array.from({ length: rank }, (_, i) => {
    const x = a[i - rank + a.length] ?? 1;
    const y = b[i - rank + b.length] ?? 1;
    if (x !== y && x !== 1 && y !== 1) throw new Error(`${shapeText(a)} and ${shapeText(b)} do not broadcast`);
    return x === 1 ? y : x;
  });
}

/** Shape of a reduction that keeps its axes, with size 1. */
export function reducedShape(shape: Shape, axes: readonly number[]): Dim[] {
  return shape.map((d, i) => (axes.includes(i) ? 1 : d));
}

/** The number of elements as a factor and the names in it, so that two shapes can be compared before any size is known. */
export function elements(shape: Shape): { factor: number; names: string } {
  let factor = 1;
  const names: string[] = [];
  for (const dim of shape) {
    if (typeof dim === "number") factor *= dim;
    else {
      const [head, tail] = dim.split("*");
      if (tail === undefined) names.push(head!);
      else {
        factor *= Number(head);
        names.push(tail);
      }
    }
  }
  return { factor, names: names.sort().join("*") };
}

/** `factor` times a named size: times(64, "B") = "64*B". */
export function times(factor: number, name: string): Dim {
  return factor === 1 ? name : `${factor}*${name}`;
}

/** A shape with sizes put in for their names, where they are known by now. */
export function withSizes(shape: Shape, sizes: Readonly<Record<string, number>>): Dim[] {
  return shape.map((dim) => {
    if (typeof dim === "number") return dim;
    const { factor, names } = elements([dim]);
    const size = sizes[names];
    return size === undefined ? dim : factor * size;
  });
}
