import { gradients } from "../graph/reverse.ts";
import { times } from "../graph/shape.ts";
import { input, type Tensor } from "../graph/tensor.ts";
import type { StoredType } from "../models/checkpoint.ts";
import { contextInputs, type Model, type Tap, type Weights } from "../models/model.ts";
import { parseSite, type SiteKind, type SiteName, siteName } from "../site.ts";
import type { PassOptions } from "./passes.ts";

/** A traced piece of a model whose weights are inputs. */
export interface PieceGraph {
  readonly outputs: Readonly<Record<string, Tensor>>;
  /** Weights in the order of the inputs w0, w1, … */
  readonly names: readonly string[];
  /** Matrices with a row per token of the vocabulary, in the order of the inputs table0, table1, … [U,D]: the rows of the U tokens at hand. */
  readonly tables: readonly string[];
}

/** The graph of a block, forward or backward, with the sites inside it that are wanted; their outputs are called by their kind. */
export interface BlockGraph extends PieceGraph {
  readonly inner: readonly SiteName[];
}

/** The graphs of a model's pieces. Those of blocks that differ in their weights alone are equal. */
export interface PieceGraphs {
  /** `rows`[N], places of the tokens in the tables, and the context → y[N,D], the input of block 0. */
  embed(): PieceGraph;
  /** x[N,D] and the context → y[N,D] and the sites in the block. */
  forward(layer: number): BlockGraph;
  /** x[N,D], `cotangent`[N,D] of y and the context → g[N,D] = the gradient at x, and those at the sites in the block. What the block computes is computed again. */
  backward(layer: number): BlockGraph;
  /** x[P,D] after the last block, `clean_answer`, `patch_answer`[P] as places in the tables, `weight`[P] → metric[P] and g[P,D] = ∂(Σ weight·metric)/∂x. */
  ends(): PieceGraph;
}

/** What a block's site is called among the outputs. */
export const outputName = (site: SiteName): SiteKind => parseSite(site).kind;

/** The site of the residual stream at the input of a block, or after the last one. */
export function streamSite(layer: number): SiteName {
  return layer === 0 ? "embed" : siteName({ kind: "resid_post", layer: layer - 1 });
}

/** Traces the pieces of a model for blocks of n nodes, see `PassOptions`. */
export function pieceGraphs(
  model: Model,
  typeOf: (name: string) => StoredType,
  { block: n, sites, dtype = "float32", splice = (_, x) => x }: PassOptions,
): PieceGraphs {
  // One context for all blocks: what models make once for a context, as tables of rotary positions, serves all of them.
  const context = contextInputs(n, dtype);
  const traceBlock = (layer: number) => {
    const { weights, ...asked } = weightInputs(model, typeOf, dtype);
    const x = input("x", dtype, [times(n, "B"), model.width]);
    const seen = new Map<SiteName, Tensor>();
    const tap: Tap = (site, value) => {
      const y = splice(site, value, context);
      seen.set(site, y);
      return y;
    };
    const y = model.block(weights, layer, x, context, tap);
    // The stream itself is the next block's input, and not given twice.
    const inner = sites.filter((site) => {
      return site !== "embed" && site !== streamSite(layer + 1) && parseSite(site).layer === layer;
    });
    const taps = inner.map((site) => {
      const value = seen.get(site);
      if (!value) throw new Error(`internal: the model has no site ${site}`);
      return value;
    });
    const named = (values: readonly Tensor[]) =>
      Object.fromEntries(inner.map((site, i) => [outputName(site), values[i]!]));
    return { x, y, inner, taps, named, asked };
  };
  return {
    embed() {
      const { weights, ...asked } = weightInputs(model, typeOf, dtype);
      const tokens = input("rows", "int64", context.tokens.shape);
      return { outputs: { y: splice("embed", model.embed(weights, { ...context, tokens }), context) }, ...asked };
    },
    forward(layer) {
      const { y, inner, taps, named, asked } = traceBlock(layer);
      return { outputs: { ...named(taps), y }, inner, ...asked };
    },
    backward(layer) {
      const { x, y, inner, taps, named, asked } = traceBlock(layer);
      const [g, ...inside] = gradients(y, [x, ...taps], input("cotangent", dtype, y.shape));
      return { outputs: { ...named(inside), g: g! }, inner, ...asked };
    },
    ends() {
      const { weights, ...asked } = weightInputs(model, typeOf, dtype);
      const x = input("x", dtype, ["P", model.width]);
      const logit = (name: string) => model.tokenLogits(weights, x, input(name, "int64", ["P"]));
      const metric = logit("patch_answer").sub(logit("clean_answer"));
      const [g] = gradients(metric.mul(input("weight", dtype, ["P"])).sum(), [x]);
      return { outputs: { metric, g: g! }, ...asked };
    },
  };
}

/** Weights as inputs of the type in which they lie in the file, cast to the one that is computed in; see `PieceGraph` for their names. */
function weightInputs(model: Model, typeOf: (name: string) => StoredType, dtype: "float32" | "float64") {
  const names: string[] = [];
  const tables: string[] = [];
  const made = new Map<string, Tensor>();
  const weights: Weights = (name) => {
    const known = made.get(name);
    if (known) return known;
    const shape = model.parameters.get(name);
    if (!shape) throw new Error(`internal: ${model.modelType} asks for ${name}, which is not among its parameters`);
    const t = model.tokenTables.includes(name)
      ? input(`table${tables.push(name) - 1}`, "float32", ["U", shape[1]!])
      : input(`w${names.push(name) - 1}`, typeOf(name), shape);
    const cast = t.cast(dtype);
    made.set(name, cast);
    return cast;
  };
  return { weights, names, tables };
}
