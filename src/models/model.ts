import { type Dim, times } from "../graph/shape.ts";
import { input, type Tensor } from "../graph/tensor.ts";
import { type SiteKind, type SiteName, siteName } from "../site.ts";
import { sum } from "../stats.ts";

/**
 * A language model as traced computation; the letters of its axes are in graph/tensor.ts.
 *
 * Tokens come in B tiles of n each, N = n·B, flattened to one axis for every matrix product; attention stays within a tile.
 */
export interface Model {
  /** Hugging Face's `model_type`. */
  readonly modelType: string;
  readonly layers: number;
  readonly width: number;
  readonly vocabulary: number;
  /** The longest prompt, in tokens. */
  readonly maxLength: number;
  /** Kinds of sites that the model has, with their widths. */
  readonly sites: Readonly<Partial<Record<SiteKind, number>>>;
  /**
   * Kinds of sites that are a module's whole output in transformers, in all its versions: no norm, scale or position comes between the module and the
   * residual stream.
   */
  readonly moduleSites: readonly SiteKind[];
  /** Whether all that reads the residual stream takes its mean over D out first, as LayerNorm does and RMSNorm does not. */
  readonly ignoresMean: boolean;
  /** Whether attention's values have a bias. */
  readonly valueBias: boolean;
  /** Names and shapes of the parameters that a checkpoint has to hold, as the checkpoint spells them. */
  readonly parameters: ReadonlyMap<string, readonly number[]>;
  /** How names of tensors begin that a checkpoint holds beside the parameters and that text has no use for. */
  readonly unused?: readonly string[];
  /** Fields of config.json that are not understood, and were allowed. */
  readonly ignoredFields?: readonly string[];
  /** Those of the parameters that have a row per token of the vocabulary, of which only the rows of the tokens at hand are used. */
  readonly tokenTables: readonly string[];
  /** Floating-point operations of the matrix products of one token's forward pass, attention and unembedding left out. */
  readonly flopsPerToken: number;
  /** H: query heads of a block. */
  readonly heads: number;
  /** Floating-point operations of all attention layers per token and token attended to: 4·L·H·E. */
  readonly attentionFlops: number;

  /** tokens[N] → x[N,D], the input of block 0. */
  embed(w: Weights, context: Context): Tensor;
  /** x[N,D] → x[N,D] through one block; `tap` sees every site where it arises and may replace it. */
  block(w: Weights, layer: number, x: Tensor, context: Context, tap: Tap): Tensor;
  /** x[P,D] after the last block → logits[P,V]. */
  logits(w: Weights, x: Tensor): Tensor;
  /**
   * x[P,D], directions of the residual stream → what they add to the logits [P,V] in proportion: the part of the final norm that is odd in x, so
   * without its bias, then the unembedding, without soft-cap. The norm divides by the direction's own scale here.
   */
  directionLogits(w: Weights, x: Tensor): Tensor;
  /** x[P,D] after the last block, tokens[P] → the logit of one token for each row, [P]: only these rows of the unembedding are used. */
  tokenLogits(w: Weights, x: Tensor, tokens: Tensor): Tensor;
}

/** Gives the tensor of a parameter: a constant, an input or whatever the caller holds. */
export type Weights = (name: string) => Tensor;

/** Called with every activation at the place where it arises; what it returns is what the model goes on with. */
export type Tap = (site: SiteName, x: Tensor) => Tensor;

/** The tap of one block's sites, by their kind. */
export function blockTap(tap: Tap, layer: number): (kind: SiteKind, x: Tensor) => Tensor {
  return (kind, x) => tap(siteName({ kind, layer }), x);
}

/** What a forward pass is told about its tokens. */
export interface Context {
  /** n: tokens per tile. */
  readonly tileSize: number;
  /** Token ids [N]. */
  readonly tokens: Tensor;
  /** 0-based positions [N], below n: a token's depth in its prefix tree. */
  readonly positions: Tensor;
  /** The type of what is computed. */
  readonly dtype: "float32" | "float64";
  readonly seen: Sight;
  /** Where attention leaves its keys and values for rows beside these. */
  readonly leaves?: TileKeys;
  /** Of rows beside others: those of their tile, which they see besides their own; left there by the same layer just before. */
  readonly above?: TileKeys;
  /** Computes what attention gives, z[N,H·E], where that is to be done in another way than `attention` does it. */
  readonly attend?: (parts: AttentionParts) => Tensor;
}

/** What attention is computed from, and how. */
export interface AttentionParts {
  /** q[N,H·E], k[N,K·E], v[N,K·E] */
  readonly q: Tensor;
  readonly k: Tensor;
  readonly v: Tensor;
  readonly heads: number;
  readonly keyHeads: number;
  /** Factor of the products of queries and keys. */
  readonly scale: number;
  /** Soft-cap of the scores. */
  readonly cap?: number | undefined;
  /** A token sees itself and the window − 1 before it. */
  readonly window?: number | undefined;
}

/** Keys and values of the n rows of each tile in one layer, through which no gradient passes. */
export interface TileKeys {
  readonly tileSize: number;
  /** [n·B] */
  readonly positions: Tensor;
  /** [B,K,E,n] and [B,K,n,E] */
  keys?: Tensor;
  values?: Tensor;
}

/** Which tokens a token sees: itself and its ancestors. */
export type Sight =
  /** [B,n,n], or [1,n,n] for all tiles alike: 0 where the row's token sees the column's, −∞ where not; the window is in it. */
  | { readonly mask: Tensor; readonly window?: number }
  /**
   * Of long tiles, whose masks are made chunk by chunk: places [N] in depth-first order, `first` a token's own and `last` that of the last token below
   * it. A token sees those between whose two places its own lies; with a window those alone whose depth differs by less.
   */
  | { readonly first: Tensor; readonly last: Tensor; readonly window?: number };

/** Tokens per tile beyond which attention is computed chunk by chunk. */
export const longestDense = 512;

/** Names of parameters and their shapes. */
export type Shapes = Readonly<Record<string, readonly number[]>>;

/**
 * The parameters of a model of L like blocks: those before the blocks, each block's with `<prefix>.<layer>.` in front of their names, those after
 * them; and the work of the blocks' matrices, each of which takes part in one product per token.
 */
export function blockParameters(
  { before, prefix, block, after }: { before: Shapes; prefix: string; block: Shapes; after: Shapes },
  L: number,
): Pick<Model, "layers" | "parameters" | "flopsPerToken"> {
  const blocks = Array.from({ length: L }, (_, l) =>
    Object.entries(block).map(([name, shape]) => [`${prefix}.${l}.${name}`, shape] as const),
  );
  const matrices = Object.values(block).filter((shape) => shape.length === 2);
  return {
    layers: L,
    parameters: new Map([...Object.entries(before), ...blocks.flat(), ...Object.entries(after)]),
    flopsPerToken: 2 * L * matrices.reduce((sum, [rows, columns]) => sum + rows! * columns!, 0),
  };
}

/** The number of a model's parameters. */
export function parameterCount(model: Model): number {
  return sum(parameterSizes(model));
}

/** Numbers of the largest parameter. */
export function largestParameter(model: Model): number {
  return Math.max(...parameterSizes(model));
}

const parameterSizes = ({ parameters }: Model) =>
  [...parameters.values()].map((shape) => shape.reduce((a, b) => a * b, 1));

/**
 * The inputs of a forward pass over tiles of n tokens: `tokens`, `positions`, and `mask`, or `first` and `last` where tiles are long.
 *
 * @param oneMask one mask for all tiles, however long they are
 */
export function contextInputs(n: number, dtype: "float32" | "float64", oneMask = false): Context {
  const N: Dim = times(n, "B");
  const seen =
    oneMask || n <= longestDense
      ? { mask: input("mask", dtype, [oneMask ? 1 : "B", n, n]) }
      : { first: input("first", "int64", [N]), last: input("last", "int64", [N]) };
  return {
    tileSize: n,
    tokens: input("tokens", "int64", [N]),
    positions: input("positions", "int64", [N]),
    dtype,
    seen,
  };
}

/**
 * Two contexts: that of tiles of n tokens, and that of m tokens beside each tile, which see those above them and themselves: `beside/tokens`,
 * `beside/positions` and `beside/mask`[B,m,n + m]. Each layer is traced for the former, then for the latter.
 */
export function contextsBeside(
  n: number,
  m: number,
  dtype: "float32" | "float64",
): { readonly tile: Context; readonly beside: Context } {
  const tile = contextInputs(n, dtype);
  const keys: TileKeys = { tileSize: n, positions: tile.positions };
  const N: Dim = times(m, "B");
  const beside: Context = {
    tileSize: m,
    tokens: input("beside/tokens", "int64", [N]),
    positions: input("beside/positions", "int64", [N]),
    dtype,
    seen: { mask: input("beside/mask", dtype, ["B", m, n + m]) },
    above: keys,
  };
  return { tile: { ...tile, leaves: keys }, beside };
}

/** The whole model up to the last block: x[N,D]. */
export function forward(model: Model, w: Weights, context: Context, tap: Tap): Tensor {
  let x = tap("embed", model.embed(w, context));
  for (let layer = 0; layer < model.layers; layer++) x = model.block(w, layer, x, context, tap);
  return x;
}
