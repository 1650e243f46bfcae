import { compile, type Value } from "../graph/session.ts";
import { input } from "../graph/tensor.ts";
import { isStreamed, type LoadedModel } from "../models/weights.ts";
import { BlockReader } from "./block-reader.ts";
import { type Floats, floatValue, newFloats } from "./hooks.ts";
import { weightInputs } from "./piece-graphs.ts";

/** The logits of some of the rows that were asked for. */
export interface LogitRows {
  /** The first of the rows. */
  readonly from: number;
  /** [n,V] */
  readonly logits: Floats;
}

export interface LogitOptions {
  /** Rows that stay together: each part has a multiple of so many, the last one perhaps fewer. 1 by default. */
  readonly together?: number;
  /** Logits that are in memory at a time; by default 2²⁶, which are 256 MB in float32. */
  readonly numbers?: number;
  /** `direction`: `directionLogits` of x in place of logits. */
  readonly of?: "state" | "direction";
  /** Of streamed weights: tokens whose rows of the unembedding are read at a time; 2¹⁴ by default. */
  readonly tokens?: number;
}

/** The logits of some tokens at some of the rows that were asked for. */
export interface LogitPiece extends LogitRows {
  /** The first of the tokens, and T, how many there are; `logits` is [n,T]. */
  readonly first: number;
  readonly tokens: number;
}

/**
 * The logits of the whole vocabulary at x[P,D], the residual stream after the last layer: final norm, unembedding, and soft-cap where there is one. They
 * come for some rows at a time; streamed weights are read once for each of these parts.
 *
 * @throws UserError if weights cannot be read
 */
export async function* logitsOf(
  loaded: LoadedModel,
  x: Floats,
  { together = 1, numbers = 2 ** 26, tokens = 2 ** 14, of = "state" }: LogitOptions = {},
): AsyncGenerator<LogitRows> {
  const { model } = loaded;
  const [D, V] = [model.width, model.vocabulary];
  const size = together * Math.max(1, Math.floor(numbers / (V * together)));
  const unembed = await openUnembedding(loaded, tokens, of);
  try {
    for (let from = 0; from * D < x.length; from += size) {
      const part = x.subarray(from * D, (from + size) * D);
      const n = part.length / D;
      let whole: Floats | undefined;
      for await (const { first, tokens: T, logits } of unembed.pieces(part)) {
        if (T === V) whole = logits;
        else {
          whole ??= newFloats(loaded.dtype, n * V);
          for (let row = 0; row < n; row++) whole.set(logits.subarray(row * T, (row + 1) * T), row * V + first);
        }
      }
      yield { from, logits: whole! };
    }
  } finally {
    await unembed.release();
  }
}

/**
 * The same numbers in pieces, for whoever needs no row as a whole: streamed weights are read once for many more rows. Of each row tokens come in
 * ascending order.
 *
 * @throws UserError if weights cannot be read
 */
export async function* logitPieces(
  loaded: LoadedModel,
  x: Floats,
  { numbers = 2 ** 26, tokens = 2 ** 14, of = "state" }: Omit<LogitOptions, "together"> = {},
): AsyncGenerator<LogitPiece> {
  const { width: D, vocabulary: V } = loaded.model;
  const T = isStreamed(loaded.weights) ? Math.min(V, tokens) : V;
  const size = Math.max(1, Math.floor(numbers / T));
  const unembed = await openUnembedding(loaded, tokens, of);
  try {
    for (let from = 0; from * D < x.length; from += size) {
      for await (const piece of unembed.pieces(x.subarray(from * D, (from + size) * D))) yield { from, ...piece };
    }
  } finally {
    await unembed.release();
  }
}

interface Unembedding {
  /** x[n,D] → logits[n,T] of the tokens from `first` on, for all tokens in turn. */
  pieces(x: Floats): AsyncGenerator<Omit<LogitPiece, "from">>;
  release(): Promise<void>;
}

async function openUnembedding(
  loaded: LoadedModel,
  tokens: number,
  of: NonNullable<LogitOptions["of"]>,
): Promise<Unembedding> {
  const { model, weights, dtype } = loaded;
  const trace = of === "state" ? model.logits : model.directionLogits;
  const { width: D, vocabulary: V } = model;
  const x = input("x", dtype, ["P", D]);
  const asValue = (rows: Floats): Value => floatValue(rows, rows.length / D, D);
  if (!isStreamed(weights)) {
    const session = await compile({ logits: trace(weights, x) }, loaded);
    return {
      async *pieces(rows) {
        yield { first: 0, tokens: V, logits: (await session.run({ x: asValue(rows) })).logits.data as Floats };
      },
      release: () => session.release(),
    };
  }
  const { checkpoint } = weights;
  const asked = weightInputs(model, "float32", dtype);
  const session = await compile({ logits: trace(asked.weights, x) }, loaded);
  const reader = new BlockReader(model, checkpoint);
  return {
    async *pieces(rows) {
      const norm = await reader.inputs(asked.names);
      for (let first = 0; first < V; first += tokens) {
        const T = Math.min(tokens, V - first);
        const tables = await reader.readTables(
          asked.tables,
          Int32Array.from({ length: T }, (_, i) => first + i),
        );
        const { logits } = await session.run({ ...norm, ...tables, x: asValue(rows) });
        yield { first, tokens: T, logits: logits.data as Floats };
      }
    },
    async release() {
      await session.release();
      reader.release();
    },
  };
}
