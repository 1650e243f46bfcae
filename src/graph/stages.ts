import { topological } from "./reverse.ts";
import type { Session, SessionPool, Value } from "./session.ts";
import { apply, input, type Tensor } from "./tensor.ts";

/** A computation cut where what comes from different groups of inputs meets, so that each group can have rows of its own. */
export interface Stages {
  /**
   * What is computed of one group's inputs alone, as inputs of `last`: it has as many rows as they have.
   *
   * @param inputs the group's, and weights
   */
  of(group: string, inputs: Readonly<Record<string, Value>>): Promise<Record<string, Value>>;
  /**
   * The result.
   *
   * @param inputs what `of` gave; for each group `<group>_row`, int64[N], which of its rows takes part in each row of the result; and the other inputs
   */
  last(inputs: Readonly<Record<string, Value>>): Promise<Value>;
}

/**
 * Compiles a computation of N rows in stages: what depends on one group of inputs alone is computed by itself, and gathered row by row where it meets
 * what depends on others. All that depends on inputs with rows has rows as its first axis; other inputs are weights.
 *
 * @param groups inputs by group
 * @param own inputs that have the N rows of the result
 * @param finish what is made of the result at the end
 */
export async function openStages(
  pool: SessionPool,
  output: Tensor,
  groups: Readonly<Record<string, readonly Tensor[]>>,
  own: readonly Tensor[],
  finish: (output: Tensor) => Tensor,
): Promise<Stages> {
  const cuts = cutsOf(output, groups, own);
  const rows = output.shape[0]!;
  const gathered = new Map<Tensor, Tensor>();
  for (const [group, tensors] of cuts) {
    const row = input(`${group}_row`, "int64", [rows]);
    for (const [i, t] of tensors.entries()) {
      gathered.set(t, input(`${group}${i}`, t.dtype, [group, ...t.shape.slice(1)]).gather(row));
    }
  }
  const sessions = new Map<string, Session>();
  for (const [group, tensors] of cuts) {
    const made = tensors.flatMap((t, i) => (t.source.kind === "op" ? [[`${group}${i}`, t] as const] : []));
    if (made.length > 0) sessions.set(group, await pool.compile(Object.fromEntries(made)));
  }
  const last = await pool.compile({ result: finish(substitute(output, gathered)) });
  return {
    async of(group, inputs) {
      const found: Record<string, Value> = { ...(await sessions.get(group)?.run(inputs)) };
      // An input that is met as it is needs no computation.
      for (const [i, { source }] of (cuts.get(group) ?? []).entries()) {
        if (source.kind === "input") found[`${group}${i}`] = inputs[source.name]!;
      }
      return found;
    },
    last: async (inputs) => (await last.run(inputs)).result,
  };
}

/** Of each group the tensors that depend on it alone and meet others, or are the output. */
function cutsOf(
  output: Tensor,
  groups: Readonly<Record<string, readonly Tensor[]>>,
  own: readonly Tensor[],
): Map<string, Tensor[]> {
  const groupOf = new Map(Object.entries(groups).flatMap(([name, leaves]) => leaves.map((t) => [t, name] as const)));
  for (const t of own) groupOf.set(t, "");
  const cuts = new Map(Object.keys(groups).map((name) => [name, new Set<Tensor>()]));
  const from = new Map<Tensor, ReadonlySet<string>>();
  const cut = (t: Tensor) => {
    const [name, ...others] = from.get(t)!;
    if (others.length === 0) cuts.get(name!)?.add(t);
  };
  for (const t of topological([output])) {
    const inputs = t.source.kind === "op" ? t.source.inputs : [];
    const group = groupOf.get(t);
    from.set(t, new Set(group === undefined ? inputs.flatMap((x) => [...from.get(x)!]) : [group]));
    if (from.get(t)!.size > 1) for (const x of inputs) if (from.get(x)!.size > 0) cut(x);
  }
  cut(output);
  return new Map([...cuts].map(([name, tensors]) => [name, [...tensors]]));
}

/** The same computation with other tensors of the same types and shapes in place of some. */
export function substitute(output: Tensor, others: ReadonlyMap<Tensor, Tensor>): Tensor {
  const made = new Map(others);
  const of = (t: Tensor) => made.get(t) ?? t;
  for (const t of topological([output])) {
    if (made.has(t) || t.source.kind !== "op") continue;
    const { op, attributes, inputs } = t.source;
    if (inputs.some((x) => of(x) !== x)) made.set(t, apply(op, attributes, ...inputs.map(of)));
  }
  return of(output);
}
