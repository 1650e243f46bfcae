import { attributesText } from "../src/graph/ops.ts";
import { topological } from "../src/graph/reverse.ts";
import { shapeText } from "../src/graph/shape.ts";
import type { Tensor } from "../src/graph/tensor.ts";

/** A graph as text, one operation a line in the order of computation, for people and for snapshots: `b = Mul(a, x) [N, 4]`. */
export function printGraph(outputs: Readonly<Record<string, Tensor>>): string {
  const names = new Map<Tensor, string>();
  const lines: string[] = [];
  let next = 0;
  for (const t of topological(Object.values(outputs))) {
    const { source } = t;
    if (source.kind === "input") {
      names.set(t, source.name);
      lines.push(`input ${source.name} ${t.dtype}${shapeText(t.shape)}`);
    } else if (source.kind === "constant") {
      names.set(t, source.name ?? (source.data.length === 1 ? String(Number(source.data[0]!.toString())) : "constant"));
    } else {
      const name = letters(next++);
      names.set(t, name);
      const inputs = source.inputs.map((x) => names.get(x)).join(", ");
      lines.push(`${name} = ${source.op}${attributesText(source.attributes)}(${inputs}) ${shapeText(t.shape)}`);
    }
  }
  for (const [name, t] of Object.entries(outputs)) lines.push(`output ${name} = ${names.get(t)}`);
  return lines.join("\n");
}

function letters(n: number): string {
  const last = String.fromCharCode(97 + (n % 26));
  return n < 26 ? last : letters(Math.floor(n / 26) - 1) + last;
}
