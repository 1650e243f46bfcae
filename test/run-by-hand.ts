import { floatValue } from "../src/capture/hooks.ts";
import { compile, int64, type Session, type Value } from "../src/graph/session.ts";
import { input, type Tensor } from "../src/graph/tensor.ts";
import { contextInputs, forward, type Model, type Weights } from "../src/models/model.ts";
import type { SiteName } from "../src/site.ts";

/** x[T,D] of every site before anything is put in its place, and the logits at the last token. */
export interface ByHand {
  readonly x: Map<SiteName, Float64Array>;
  readonly logits: Float64Array;
}

/** Runs a model on one prompt at a time, without packs and hooks: activations are put in place as they are given. */
export interface HandRunner {
  run(tokens: readonly number[], replaced?: ReadonlyMap<SiteName, Float64Array>): Promise<ByHand>;
  release(): Promise<void>;
}

/** @param weights held, in float64 */
export function handRunner(model: Model, weights: Weights): HandRunner {
  const sessions = new Map<string, Promise<Session>>();
  const open = (T: number, replaced: readonly SiteName[]) => {
    const key = JSON.stringify([T, replaced]);
    const seen: Record<string, Tensor> = {};
    const trace = () =>
      forward(model, weights, contextInputs(T, "float64"), (site, x) => {
        seen[site] = x;
        return replaced.includes(site) ? input(`y/${site}`, "float64", x.shape) : x;
      });
    const session =
      sessions.get(key) ??
      compile({ logits: model.logits(weights, trace()), ...seen } as Readonly<Record<string, Tensor>>);
    sessions.set(key, session);
    return session;
  };
  return {
    async run(tokens, replaced = new Map()) {
      const T = tokens.length;
      const session = await open(T, [...replaced.keys()]);
      const mask = Float64Array.from({ length: T * T }, (_, i) => (i % T <= Math.floor(i / T) ? 0 : -Infinity));
      const given = [...replaced].map(([site, y]): [string, Value] => [`y/${site}`, floatValue(y, T, y.length / T)]);
      const { logits, ...x } = await session.run({
        tokens: int64(tokens, T),
        positions: int64([...tokens.keys()], T),
        mask: { dtype: "float64", data: mask, shape: [1, T, T] },
        ...Object.fromEntries(given),
      });
      return {
        x: new Map(Object.entries(x).map(([site, { data }]) => [site, data as Float64Array])),
        logits: (logits!.data as Float64Array).slice((T - 1) * model.vocabulary),
      };
    },
    async release() {
      for (const session of sessions.values()) await (await session).release();
    },
  };
}
