import { compile, int64, type Session, type SessionOptions } from "../graph/session.ts";
import { input } from "../graph/tensor.ts";
import { contextInputs, forward, type Model, type Weights } from "../models/model.ts";
import type { TokenPair } from "../prompts/pairs.ts";
import { rowContext } from "./loss.ts";

export interface CaseAccuracy {
  readonly case: string;
  readonly pairs: number;
  /** Pairs whose clean answer has the larger logit after the clean prompt. */
  readonly correct: number;
}

/** How often a model prefers the clean answer after the clean prompt, by case, in the order in which cases come. */
export async function accuracyByCase(
  model: Model,
  weights: Weights,
  pairs: readonly TokenPair[],
  options: SessionOptions = {},
): Promise<CaseAccuracy[]> {
  const tally = new Map<string, { pairs: number; correct: number }>();
  for (const { pair } of pairs) tally.set(pair.case, { pairs: 0, correct: 0 });
  const lengths = [...new Set(pairs.map((pair) => pair.clean.length))];
  for (const length of lengths) {
    const session = await compile(answerGraph(model, weights, length), options);
    const same = pairs.filter((pair) => pair.clean.length === length);
    for (let at = 0; at < same.length; at += 64) {
      const some = same.slice(at, at + 64);
      const margins = await answerMargins(session, some, length);
      some.forEach(({ pair }, i) => {
        const entry = tally.get(pair.case)!;
        entry.pairs++;
        if (margins[i]! > 0) entry.correct++;
      });
    }
    await session.release();
  }
  return [...tally].map(([name, counts]) => ({ case: name, ...counts }));
}

/** logit(clean answer) − logit(patch answer) at the last position of prompts of one length. */
function answerGraph(model: Model, w: Weights, length: number) {
  const context = contextInputs(length, "float32", true);
  const x = forward(model, w, context, (_, site) => site).gather(input("ends", "int64", ["P"]));
  const logit = (name: string) => model.tokenLogits(w, x, input(name, "int64", ["P"]));
  return { margin: logit("clean").sub(logit("patch")) };
}

async function answerMargins(session: Session, pairs: readonly TokenPair[], length: number): Promise<Float32Array> {
  const tokens = new Int32Array(pairs.length * (length + 1));
  pairs.forEach(({ clean, cleanAnswer }, i) => {
    tokens.set([...clean, cleanAnswer], i * (length + 1));
  });
  const results = await session.run({
    ...rowContext({ count: pairs.length, length, tokens }),
    ends: int64(
      pairs.map((_, i) => (i + 1) * length - 1),
      pairs.length,
    ),
    clean: int64(
      pairs.map((pair) => pair.cleanAnswer),
      pairs.length,
    ),
    patch: int64(
      pairs.map((pair) => pair.patchAnswer),
      pairs.length,
    ),
  });
  return results.margin!.data as Float32Array;
}
