import { overChunks } from "../graph/chunks.ts";
import { concat, constant, numbers, scalar, type Tensor, where } from "../graph/tensor.ts";
import type { Context, Model, Weights } from "./model.ts";

/** x[N,in] → [N,out] with the weight [out,in] of a checkpoint's `<name>.weight`, and its bias if asked for. */
export function linear(w: Weights, name: string, x: Tensor, { bias = false } = {}): Tensor {
  const y = x.matmul(w(`${name}.weight`), { transB: true });
  return bias ? y.add(w(`${name}.bias`)) : y;
}

/** Root-mean-square normalisation over the last axis (arXiv:1910.07467): x / √(mean x² + ε) · weight. */
export function rmsNorm(x: Tensor, weight: Tensor, epsilon: number): Tensor {
  // The reciprocal is one number per row: a product and its pullback take fewer passes over x than a quotient's.
  const scale = scalar(1, x.dtype).div(x.mul(x).mean(-1).add(epsilon).sqrt());
  normScales.add(scale);
  return x.mul(scale).mul(weight);
}

const normScales = new WeakSet<Tensor>();

/** Whether a tensor is what a norm multiplies its rows by, 1/√(mean x² + ε). */
export const isNormScale = (t: Tensor): boolean => normScales.has(t);

/** Layer normalisation over the last axis (arXiv:1607.06450): (x − mean x) / √(var x + ε) · weight + bias, of a checkpoint's `<name>`. */
export function layerNorm(w: Weights, name: string, x: Tensor, epsilon: number): Tensor {
  const centred = x.sub(x.mean(-1));
  return rmsNorm(centred, w(`${name}.weight`), epsilon).add(w(`${name}.bias`));
}

/** x·Φ(x), Φ the normal distribution (arXiv:1606.08415). In float64 Φ is as exact as in float32. */
export function gelu(x: Tensor): Tensor {
  return x.mul(0.5).mul(x.mul(Math.SQRT1_2).erf().add(1));
}

/** The approximation of `gelu` by a tanh: x/2·(1 + tanh(√(2/π)·(x + .044715·x³))). */
export function geluTanh(x: Tensor): Tensor {
  const inner = x.add(x.mul(x).mul(x).mul(0.044715)).mul(Math.sqrt(2 / Math.PI));
  return x.mul(0.5).mul(inner.tanh().add(1));
}

/** cap·tanh(x/cap): nearly x where it is small, never beyond ±cap (arXiv:2408.00118). Without a cap, x itself. */
export function softCap(x: Tensor, cap: number | undefined): Tensor {
  return cap === undefined ? x : x.div(cap).tanh().mul(cap);
}

/** x·sigmoid(x). */
export function silu(x: Tensor): Tensor {
  return x.silu();
}

/** Activations by transformers' names, for the architectures that leave the choice to the config. Several names mean the same function. */
export const activations: Readonly<Record<string, (x: Tensor) => Tensor>> = {
  gelu,
  gelu_python: gelu,
  gelu_new: geluTanh,
  gelu_fast: geluTanh,
  gelu_accurate: geluTanh,
  gelu_pytorch_tanh: geluTanh,
  gelu_python_tanh: geluTanh,
  relu: (x) => x.relu(),
  silu,
  swish: silu,
};

/** Rotary positions (arXiv:2104.09864) for heads of width E, of which R axes turn, as Hugging Face pairs them: i with i + R/2. */
export interface Rotary {
  /** cos and sin of the angles of the tokens' positions, [N,1,E]. */
  readonly cos: Tensor;
  readonly sin: Tensor;
  /** The signed permutation [E,E] that takes (a, b), the halves of what turns, to (−b, a), and the rest to 0. */
  readonly turn: Tensor;
}

/** How a head's first axes turn with the position. */
export interface Turning {
  /** Angles per position of each pair of axes. */
  readonly frequencies: readonly number[];
  /** What the turned axes of queries and keys are multiplied by. */
  readonly scale: number;
}

/** Angles per position of the pairs of axes that turn, R axes together: base^(−2i/R). An odd R is rounded up, as transformers does. */
export function rotaryFrequencies(R: number, base: number): number[] {
  return Array.from({ length: Math.ceil(R / 2) }, (_, i) => base ** ((-2 * i) / R));
}

/** Rotary positions of the context's tokens for heads of width E; axes beyond those that turn stay as they are. */
export function rotary(
  { positions, tileSize: rows, dtype, above }: Context,
  E: number,
  { frequencies, scale }: Turning,
): Rotary {
  const half = frequencies.length;
  const tileSize = above?.tileSize ?? rows;
  const table = (f: (angle: number) => number) => {
    const values = Array.from({ length: tileSize * E }, (_, at) => {
      const axis = at % E;
      return axis < 2 * half ? scale * f(Math.floor(at / E) * frequencies[axis % half]!) : f(0);
    });
    return constant(numbers(values, dtype), dtype, [tileSize, 1, E]);
  };
  const turn = new Float64Array(E * E);
  for (let i = 0; i < half; i++) {
    turn[(i + half) * E + i] = -1;
    turn[i * E + i + half] = 1;
  }
  return {
    cos: table(Math.cos).gather(positions),
    sin: table(Math.sin).gather(positions),
    turn: constant(numbers(turn, dtype), dtype, [E, E], "turn"),
  };
}

/** Rotates x[N,H·E] by its tokens' positions: x·cos + (x·turn)·sin. The product with a constant matrix has a pullback that needs no slices. */
export function rotate(x: Tensor, heads: number, { cos, sin, turn }: Rotary): Tensor {
  const [N, width] = x.shape as [string, number];
  const E = width / heads;
  const byHead = x.reshape(N, heads, E);
  return byHead.mul(cos).add(byHead.matmul(turn).mul(sin)).reshape(N, width);
}

/**
 * The context of a windowed layer (arXiv:2004.05150): a token sees itself and the `window` − 1 before it, so of its ancestors in a prefix forest
 * those whose depth differs by less than `window`.
 */
export function windowed(context: Context, window: number): Context {
  const { tileSize: n, positions, dtype, seen, above } = context;
  if (window >= (above?.tileSize ?? n)) return context;
  if (!("mask" in seen)) return { ...context, seen: { ...seen, window } };
  const depth = positions.cast(dtype).reshape("B", n);
  const depths = above ? concat(1, above.positions.cast(dtype).reshape("B", above.tileSize), depth) : depth;
  const tooFar = differences(depth, depths).greaterOrEqual(window);
  return { ...context, seen: { mask: where(tooFar, unseen(dtype), seen.mask), window } };
}

/** a[B,m], b[B,n] → a − b of each with each, [B,m,n]. */
function differences(a: Tensor, b: Tensor): Tensor {
  return a.reshape("B", a.shape[1]!, 1).sub(b.reshape("B", 1, b.shape[1]!));
}

const unseen = (dtype: Context["dtype"]) => scalar(Number.NEGATIVE_INFINITY, dtype);

export interface AttentionOptions {
  readonly heads: number;
  /** As many as heads by default. */
  readonly keyHeads?: number;
  /** Factor of the products of queries and keys. */
  readonly scale: number;
  /** Soft-cap of the scores; none by default. */
  readonly cap?: number | undefined;
}

/**
 * Attention within tiles of n tokens: q[N,H·E], k[N,K·E], v[N,K·E] → z[N,H·E], the heads side by side. H/K query heads share a key head: they
 * are laid along the rows of one product, so no key is repeated.
 *
 * In long tiles the scores of all rows with all are never there at once: one chunk of the rows is computed after another, and again in reverse.
 */
export function attention(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  { tileSize: n, positions, dtype, seen, attend: elsewhere, leaves, above }: Context,
  { heads: H, keyHeads: K = H, scale, cap }: AttentionOptions,
): Tensor {
  if (elsewhere) return elsewhere({ q, k, v, heads: H, keyHeads: K, scale, cap, window: seen.window });
  const [N, width] = q.shape as [string, number];
  const E = width / H;
  const G = H / K;
  // There are never more keys than queries to scale.
  const own = {
    keys: k.mul(scale).reshape("B", n, K, E).transpose(0, 2, 3, 1),
    values: v.reshape("B", n, K, E).transpose(0, 2, 1, 3),
  };
  if (leaves) Object.assign(leaves, { keys: own.keys.detach(), values: own.values.detach() });
  const keys = above ? concat(3, above.keys!, own.keys) : own.keys;
  const values = above ? concat(2, above.values!, own.values) : own.values;
  /** Rows that are seen or masked. */
  const c = n + (above?.tileSize ?? 0);
  /** rows[B,K,G·r,E], mask[B or 1,r,c] → [B,K,G·r,E] */
  const attend = (rows: Tensor, keys: Tensor, values: Tensor, mask: Tensor, r: number) => {
    const scores = softCap(rows.matmul(keys), cap).reshape("B", K, G, r, c);
    const weights = scores.add(mask.reshape(mask.shape[0]!, 1, 1, r, c)).softmax();
    return weights.reshape("B", K, G * r, c).matmul(values);
  };
  if ("mask" in seen) {
    const rows = q
      .reshape("B", n, K, G, E)
      .transpose(0, 2, 3, 1, 4)
      .reshape("B", K, G * n, E);
    const z = attend(rows, keys, values, seen.mask, n);
    return z.reshape("B", K, G, n, E).transpose(0, 3, 1, 2, 4).reshape(N, width);
  }
  const r = rowsPerChunk(n, H);
  const chunks = n / r;
  const rows = q
    .reshape("B", chunks, r, K, G, E)
    .transpose(1, 0, 3, 4, 2, 5)
    .reshape(chunks, "B", K, G * r, E);
  const [first, last, depths] = [seen.first, seen.last, positions].map((t) => t.reshape("B", n));
  const byChunk = (t: Tensor) => t.reshape("B", chunks, r).transpose(1, 0, 2);
  const z = overChunks(
    ([rows, ...chunk], [keys, values, ...whole]) => {
      const [place, depth, first, last, depths] = [...chunk, ...whole].map((t) => t.cast(dtype));
      // Where the token does not see the other, one of the two differences is negative; never both.
      const between = differences(place!, first!).mul(differences(place!, last!).neg());
      let mask = where(between.greaterOrEqual(0), scalar(0, dtype), unseen(dtype));
      if (seen.window !== undefined) {
        mask = where(differences(depth!, depths!).greaterOrEqual(seen.window), unseen(dtype), mask);
      }
      return attend(rows!, keys!, values!, mask, r);
    },
    [rows, byChunk(first!), byChunk(depths!)],
    [keys, values, first!, last!, depths!],
  );
  return z.reshape(chunks, "B", K, G, r, E).transpose(1, 0, 4, 2, 3, 5).reshape(N, width);
}

/** Scores that are in memory at a time where attention is computed chunk by chunk. */
const scoresPerChunk = 2 ** 20;

/** Rows of a tile of n whose scores are in memory at a time: a divisor of n. */
export function rowsPerChunk(n: number, heads: number): number {
  let rows = Math.max(1, Math.min(n, Math.floor(scoresPerChunk / (n * heads))));
  while (n % rows !== 0) rows--;
  return rows;
}

/**
 * The end of a model: normalisation after the last block, unembedding W[V,D] without bias, and a soft-cap of the logits where there is one.
 *
 * @param weight the unembedding's name in the checkpoint
 */
export function unembedding(
  weight: string,
  normalise: (w: Weights, x: Tensor) => Tensor,
  cap?: number,
): Pick<Model, "logits" | "tokenLogits" | "directionLogits"> {
  return {
    directionLogits: (w, x) => normalise(w, x).sub(normalise(w, x.neg())).mul(0.5).matmul(w(weight), { transB: true }),
    logits: (w, x) => softCap(normalise(w, x).matmul(w(weight), { transB: true }), cap),
    tokenLogits: (w, x, tokens) =>
      softCap(normalise(w, x).mul(w(weight).gather(tokens)).sum(-1).reshape(tokens.shape[0]!), cap),
  };
}

/** What `make` gives for a context, made once however many blocks ask for it. */
export function oncePerContext<T>(make: (context: Context) => T): (context: Context) => T {
  const made = new WeakMap<Context, T>();
  return (context) => {
    const value = made.get(context) ?? make(context);
    made.set(context, value);
    return value;
  };
}
