import { gradients } from "../graph/reverse.ts";
import { compile, float32, int64, type Session, type SessionOptions, type Value } from "../graph/session.ts";
import { input, type Tensor } from "../graph/tensor.ts";
import { contextInputs, forward, type Model, type Weights } from "../models/model.ts";
import { gradientName, type Layout, parameterInputs } from "./parameters.ts";

/** Rows of text as token ids, B rows of T + 1: BOS, then T tokens. The first T are read, the last T are to be predicted. */
export interface Rows {
  readonly count: number;
  /** T. */
  readonly length: number;
  /** [B, T+1] */
  readonly tokens: Int32Array;
}

/**
 * The loss of a language model on rows of T tokens, and its gradient with respect to every parameter, as the outputs of one graph.
 *
 * Inputs: the parameters by name; `tokens`, `positions`, `mask` (models/model.ts, one mask for all rows); `targets` [N], the token after each;
 * `weight` [], what each token's loss is multiplied by: 1/(tokens of the whole batch), so that the losses and gradients of its shards add up to
 * those of their mean. Outputs: `loss` [1,1] in nats, and a gradient per parameter under `gradientName`.
 *
 * BOS is never to be predicted, because rows begin with it and have no other.
 */
export function lossGraph(
  model: Model,
  layout: Layout,
  length: number,
  dtype: "float32" | "float64" = "float32",
): Record<string, Tensor> {
  const weights = parameterInputs(layout, dtype);
  const context = contextInputs(length, dtype, true);
  const w = (name: string) => weights.get(name)!;
  const logits = model.logits(
    w,
    forward(model, w, context, (_, x) => x),
  );
  const loss = crossEntropy(logits, input("targets", "int64", context.tokens.shape))
    .sum()
    .mul(input("weight", dtype, []));
  const found = gradients(loss, [...weights.values()]);
  return { loss, ...Object.fromEntries([...weights.keys()].map((name, i) => [gradientName(name), found[i]!])) };
}

/** −log p of each row's target: logits[N,V], targets[N] → [N,1], in nats. */
export function crossEntropy(logits: Tensor, targets: Tensor): Tensor {
  const V = logits.shape[1] as number;
  // onnxruntime has no OneHot in float64.
  return logits.logSoftmax().mul(targets.oneHot(V, "float32").cast(logits.dtype)).sum(-1).neg();
}

/**
 * −log p of each row's target, as `crossEntropy` of the model's logits, for where no gradient is wanted: x[N,D] after the last block, targets[N] →
 * [N,1], in nats. It needs less than half the passes over the vocabulary: the target's logit on its own, and the normaliser from one column.
 */
export function targetLoss(model: Model, w: Weights, x: Tensor, targets: Tensor): Tensor {
  const logits = model.logits(w, x);
  const column = (t: Tensor) => t.slice(-1, 0, 1);
  const normaliser = column(logits).sub(column(logits.logSoftmax()));
  return normaliser.sub(model.tokenLogits(w, x, targets).reshape(targets.shape[0]!, 1));
}

/** Compiles `lossGraph`. */
export function compileLoss(
  model: Model,
  layout: Layout,
  length: number,
  options: SessionOptions = {},
): Promise<Session> {
  return compile(lossGraph(model, layout, length), options);
}

/** The inputs of a forward pass over rows: `tokens`, `positions`, `mask`. */
export function rowContext(rows: Rows): Record<"tokens" | "positions" | "mask", Value> {
  const { count, length: T } = rows;
  const tokens = new BigInt64Array(count * T);
  const positions = new BigInt64Array(count * T);
  for (let b = 0; b < count; b++) {
    for (let t = 0; t < T; t++) {
      tokens[b * T + t] = BigInt(rows.tokens[b * (T + 1) + t]!);
      positions[b * T + t] = BigInt(t);
    }
  }
  const mask = new Float32Array(T * T);
  for (let t = 0; t < T; t++) mask.fill(Number.NEGATIVE_INFINITY, t * T + t + 1, (t + 1) * T);
  return {
    tokens: { dtype: "int64", data: tokens, shape: [count * T] },
    positions: { dtype: "int64", data: positions, shape: [count * T] },
    mask: float32(mask, 1, T, T),
  };
}

/** The token after each token of rows, [N]. */
export function targetValues({ count, length: T, tokens }: Rows): Value {
  const targets = new Int32Array(count * T);
  for (let b = 0; b < count; b++) targets.set(tokens.subarray(b * (T + 1) + 1, (b + 1) * (T + 1)), b * T);
  return int64(targets, count * T);
}

/** Mean loss of a model on rows of text, in nats per token. */
export async function meanLoss(
  model: Model,
  weights: Weights,
  rows: Rows,
  options: SessionOptions = {},
): Promise<number> {
  const context = contextInputs(rows.length, "float32", true);
  const x = forward(model, weights, context, (_, site) => site);
  const targets = input("targets", "int64", context.tokens.shape);
  const session = await compile({ loss: targetLoss(model, weights, x, targets).sum() }, options);
  const results = await session.run({ ...rowContext(rows), targets: targetValues(rows) });
  await session.release();
  return Number(results.loss!.data[0]) / (rows.count * rows.length);
}
