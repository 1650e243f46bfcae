import { gradients } from "../graph/reverse.ts";
import { times } from "../graph/shape.ts";
import { input, type Tensor } from "../graph/tensor.ts";
import { contextInputs, type Model, type Tap, type Weights } from "../models/model.ts";
import { parseSite, type SiteName } from "../site.ts";
import { enter, type Traced, traceMetricOf } from "./held.ts";
import { applyHook, type Found, type Hooked } from "./hooks.ts";
import { streamLayer } from "./stream-sites.ts";

/** A traced piece of a model whose weights are inputs. */
export interface PieceGraph {
  readonly outputs: Readonly<Record<string, Tensor>>;
  /** Weights in the order of the inputs w0, w1, … */
  readonly names: readonly string[];
  /** Matrices with a row per token of the vocabulary, in the order of the inputs table0, table1, … [T,D]: the rows of the T tokens at hand. */
  readonly tables: readonly string[];
  /** What hooks give: by which names of theirs, among which outputs. */
  readonly finds: readonly Find[];
  /** The sites of the hooks, and of the entry, in this piece. */
  readonly sites: readonly SiteName[];
}

/** The graphs of a model's pieces. Those of blocks that differ in their weights alone are equal: what belongs to a site is called by its kind. */
export interface PieceGraphs {
  /**
   * What comes before the first block. Forward: `rows`[N], places of the tokens in the tables, or the entry's inputs → y[N,D], the stream. Backward:
   * with its `cotangent`[N,D] → the gradients of the hook there.
   */
  start(direction: Direction): PieceGraph;
  /**
   * A block. Forward: x[N,D] → y[N,D], and what hooks give of values. Backward: x[N,D], `cotangent`[N,D] of y → g[N,D] = the gradient at x, and what
   * hooks give of gradients; what the block computes is computed again.
   */
  block(layer: number, direction: Direction): PieceGraph;
  /** x[P,D] after the last block, `clean_answer`, `patch_answer`[P] as places in the tables, `weight`[P] (and `target`[P]) → metric[P] and g[P,D] = ∂M/∂x. */
  ends(): PieceGraph;
}

/** What a hook gives in a piece: its tensors' names, and what they are called among the outputs. */
export interface Find extends Omit<Found, "tensors"> {
  readonly outputs: Readonly<Record<string, string>>;
}

export type Direction = "forward" | "backward";

/** What an input of a hook is called in the graph of a piece. */
export const namedByKind = (site: SiteName) => (name: string) => `${name}/${parseSite(site).kind}`;

/** Traces the pieces of a model for tiles of n nodes. */
export function pieceGraphs(
  model: Model,
  n: number,
  dtype: "float32" | "float64",
  { hooks, from, objective }: Traced,
): PieceGraphs {
  // One context for all blocks: what models make once for a context, as tables of rotary positions, serves all of them.
  const context = contextInputs(n, dtype);

  /** Traces a piece from the stream, or whatever comes in, to the stream that goes on. */
  const trace = (
    direction: Direction,
    piece: (weights: Weights, take: (site: SiteName, hooked: Hooked) => Tensor, tap: Tap) => { x?: Tensor; y: Tensor },
  ): PieceGraph => {
    const { weights, ...asked } = weightInputs(model, "float32", dtype);
    const finds: Find[] = [];
    const given = new Map<string, Tensor>();
    const sites: SiteName[] = [];
    const targets: NonNullable<Hooked["targets"]>[number][] = [];
    const take = (site: SiteName, hooked: Hooked): Tensor => {
      sites.push(site);
      targets.push(...(hooked.targets ?? []));
      const kind = direction === "forward" ? "value" : "gradient";
      const tensors = Object.entries((direction === "forward" ? hooked.values : hooked.wrt) ?? {});
      const called = (name: string) => `${kind}/${name}/${parseSite(site).kind}`;
      for (const [name, tensor] of tensors) given.set(called(name), tensor);
      const outputs = Object.fromEntries(tensors.map(([name]) => [name, called(name)]));
      if (tensors.length > 0) finds.push({ site, kind, outputs });
      return direction === "forward" ? (hooked.known ?? hooked.y) : hooked.y;
    };
    const tap: Tap = (site, x) => {
      const hook = hooks.get(site);
      // The stream itself comes out anyway, and is not given twice.
      if (!hook || (!hook.trace && streamLayer(site) !== undefined)) return x;
      return take(site, applyHook(hook, x, { context, named: namedByKind(site) }));
    };
    const { x, y } = piece(weights, take, tap);
    const outputs: Record<string, Tensor> = {};
    if (direction === "forward") {
      for (const [output, tensor] of given) outputs[output] = tensor;
      outputs.y = y;
    } else {
      const cotangent = input("cotangent", dtype, y.shape);
      const wrt = [...given.values(), ...(x ? [x] : [])];
      const found =
        targets.length === 0
          ? gradients(y, wrt, cotangent)
          : gradients(
              targets.reduce((sum, of) => sum.add(of.tensor.mul(of.cotangent).sum()), y.mul(cotangent).sum()),
              wrt,
            );
      for (const [i, output] of [...given.keys()].entries()) outputs[output] = found[i]!;
      if (x) outputs.g = found.at(-1)!;
    }
    return { outputs, ...asked, finds, sites };
  };

  return {
    start(direction) {
      return trace(direction, (weights, take, tap) => {
        if (from) return { y: take(from.site, enter(model, from, context, namedByKind(from.site))) };
        const tokens = input("rows", "int64", context.tokens.shape);
        return { y: tap("embed", model.embed(weights, { ...context, tokens })) };
      });
    },
    block(layer, direction) {
      return trace(direction, (weights, take, tap) => {
        const x = input("x", dtype, [times(n, "B"), model.width]);
        const isHere = (site: SiteName) => site === from?.site;
        const enters = from && streamLayer(from.site) === undefined && parseSite(from.site).layer === layer;
        const y = model.block(weights, layer, x, context, (site, value) =>
          isHere(site) ? take(site, enter(model, from!, context, namedByKind(site))) : tap(site, value),
        );
        // Nothing lies before an entry.
        return enters ? { y } : { x, y };
      });
    },
    ends() {
      const { weights, ...asked } = weightInputs(model, "float32", dtype);
      const x = input("x", dtype, ["P", model.width]);
      const { metric, total } = traceMetricOf(model, weights, x, objective);
      const [g] = gradients(total, [x]);
      return { outputs: { metric, g: g! }, ...asked, finds: [], sites: [] };
    },
  };
}

/** Weights as inputs of the type in which sessions are given them (`given`), cast to the one that is computed in; see `PieceGraph` for their names. */
export function weightInputs(model: Model, given: "float32" | "float64", dtype: "float32" | "float64") {
  const names: string[] = [];
  const tables: string[] = [];
  const made = new Map<string, Tensor>();
  const weights: Weights = (name) => {
    const known = made.get(name);
    if (known) return known;
    const shape = model.parameters.get(name);
    if (!shape) throw new Error(`internal: ${model.modelType} asks for ${name}, which is not among its parameters`);
    const t = model.tokenTables.includes(name)
      ? input(`table${tables.push(name) - 1}`, "float32", ["T", shape[1]!])
      : input(`w${names.push(name) - 1}`, given, shape);
    const cast = t.cast(dtype);
    made.set(name, cast);
    return cast;
  };
  return { weights, names, tables };
}
