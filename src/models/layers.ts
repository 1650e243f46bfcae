import { constant, numbers, type Tensor } from "../graph/tensor.ts";
import type { Context, Weights } from "./model.ts";

/** x[N,in] → [N,out] with the weight [out,in] of a checkpoint's `<name>.weight`, and its bias if asked for. */
export function linear(w: Weights, name: string, x: Tensor, { bias = false } = {}): Tensor {
  const y = x.matmul(w(`${name}.weight`), { transB: true });
  return bias ? y.add(w(`${name}.bias`)) : y;
}

/** Root-mean-square normalisation over the last axis (arXiv:1910.07467): x / √(mean x² + ε) · weight. */
export function rmsNorm(x: Tensor, weight: Tensor, epsilon: number): Tensor {
  return x.div(x.mul(x).mean(-1).add(epsilon).sqrt()).mul(weight);
}

/** x·sigmoid(x). */
export function silu(x: Tensor): Tensor {
  return x.mul(x.sigmoid());
}

/** Rotary positions (arXiv:2104.09864) for heads of width E, as Hugging Face pairs the axes: i with i + E/2. */
export interface Rotary {
  /** cos and sin of the angles of the tokens' positions, [N,1,E]. */
  readonly cos: Tensor;
  readonly sin: Tensor;
  /** The signed permutation [E,E] that takes (a, b), the halves of a head, to (−b, a). */
  readonly turn: Tensor;
}

/** Rotary positions of the context's tokens; angle of axis i at position t: t·base^(−2i/E), i < E/2. */
export function rotary({ positions, block, mask }: Context, E: number, base: number): Rotary {
  const { dtype } = mask;
  const angles = Array.from({ length: block * E }, (_, at) => {
    const i = (at % E) % (E / 2);
    return Math.floor(at / E) * base ** ((-2 * i) / E);
  });
  const table = (f: (angle: number) => number) => constant(numbers(angles.map(f), dtype), dtype, [block, 1, E]);
  const turn = new Float64Array(E * E);
  for (let i = 0; i < E / 2; i++) {
    turn[(i + E / 2) * E + i] = -1;
    turn[i * E + i + E / 2] = 1;
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
 * Attention within blocks of n tokens: q[N,H·E], k[N,K·E], v[N,K·E] → z[N,H·E], the heads side by side. H/K query heads share a key head: they
 * are laid along the rows of one product, so no key is repeated.
 */
export function attention(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  { block: n, mask }: Context,
  { heads: H, keyHeads: K, scale }: { readonly heads: number; readonly keyHeads: number; readonly scale: number },
): Tensor {
  const [N, width] = q.shape as [string, number];
  const E = width / H;
  const G = H / K;
  const rows = q
    .mul(scale)
    .reshape("B", n, K, G, E)
    .transpose(0, 2, 3, 1, 4)
    .reshape("B", K, G * n, E);
  const keys = k.reshape("B", n, K, E).transpose(0, 2, 3, 1);
  const values = v.reshape("B", n, K, E).transpose(0, 2, 1, 3);
  const scores = rows.matmul(keys).reshape("B", K, G, n, n);
  const seen = scores
    .add(mask.reshape(mask.shape[0]!, 1, 1, n, n))
    .softmax()
    .reshape("B", K, G * n, n);
  return seen.matmul(values).reshape("B", K, G, n, E).transpose(0, 3, 1, 2, 4).reshape(N, width);
}
