import {
  assemble,
  defineFunction,
  f32,
  f32x4,
  f64,
  f64x2,
  i32,
  type Local,
  repeatWhile,
  type Statement,
  v128,
  when,
} from "./assembler.ts";

/** The loops of `Loops` as a WebAssembly module; it says there what each does. */
export const loopsModule = () => assemble([takeOut(), above()]);

/** Moves a pointer on by some bytes. */
const advance = (pointer: Local<"i32">, bytes: number): Statement => pointer.set(i32.add(pointer, i32.const(bytes)));

function takeOut() {
  const parameters = { error: "i32", g: "i32", D: "i32", list: "i32", n: "i32" } as const;
  return defineFunction("takeOut", parameters, ({ error, g, D, list, n }, local) => {
    const [end, errorEnd, errorAt, gAt] = [local("i32"), local("i32"), local("i32"), local("i32")];
    // Four directions side by side: they come from far off in memory, and waiting for four takes as long as waiting for one.
    const four = [0, 1, 2, 3] as const;
    const w = four.map(() => local("i32"));
    const delta = four.map(() => local("v128"));
    const sum = four.map(() => local("v128"));
    const [pair, gs, errors] = [local("v128"), local("v128"), local("v128")];
    return {
      body: [
        end.set(i32.add(list, i32.shl(n, i32.const(4)))),
        errorEnd.set(i32.add(error, i32.shl(D, i32.const(3)))),
        repeatWhile(i32.ltU(list, end), [
          ...four.flatMap((k) => [
            delta[k]!.set(f64x2.splat(f64.load(list, 16 * k))),
            w[k]!.set(i32.load(list, 16 * k + 8)),
            sum[k]!.set(f64x2.splat(f64.zero)),
          ]),
          errorAt.set(error),
          gAt.set(g),
          repeatWhile(i32.ltU(errorAt, errorEnd), [
            gs.set(v128.load(gAt)),
            errors.set(v128.load(errorAt)),
            ...four.flatMap((k) => [
              pair.set(f64x2.promoteLowF32x4(v128.load64Zero(w[k]!))),
              sum[k]!.set(f64x2.add(sum[k]!, f64x2.mul(pair, gs))),
              errors.set(f64x2.sub(errors, f64x2.mul(pair, delta[k]!))),
              advance(w[k]!, 8),
            ]),
            v128.store(errorAt, errors),
            advance(gAt, 16),
            advance(errorAt, 16),
          ]),
          ...four.map((k) =>
            f64.store(list, f64.add(f64x2.extractLane(sum[k]!, 0), f64x2.extractLane(sum[k]!, 1)), 16 * k),
          ),
          advance(list, 64),
        ]),
      ],
    };
  });
}

function above() {
  const parameters = { from: "i32", n: "i32", thresholds: "i32", indices: "i32", values: "i32" } as const;
  return defineFunction("above", parameters, ({ from, n, thresholds, indices, values }, local) => {
    const [begin, end, first] = [local("i32"), local("i32"), local("i32")];
    const [at, limit, stop, value] = [local("i32"), local("i32"), local("i32"), local("f32")];
    const larger = (k: number) => f32x4.gt(v128.load(from, 16 * k), v128.load(thresholds, 16 * k));
    return {
      body: [
        begin.set(from),
        end.set(i32.add(from, i32.shl(n, i32.const(2)))),
        first.set(indices),
        repeatWhile(i32.ltU(from, end), [
          // In nearly all groups of sixteen there is none.
          when(v128.anyTrue(v128.or(v128.or(larger(0), larger(1)), v128.or(larger(2), larger(3)))), [
            at.set(from),
            limit.set(thresholds),
            stop.set(i32.add(from, i32.const(64))),
            repeatWhile(i32.ltU(at, stop), [
              value.set(f32.load(at)),
              when(f32.gt(value, f32.load(limit)), [
                i32.store(indices, i32.shrU(i32.sub(at, begin), i32.const(2))),
                f32.store(values, value),
                advance(indices, 4),
                advance(values, 4),
              ]),
              advance(at, 4),
              advance(limit, 4),
            ]),
          ]),
          advance(from, 64),
          advance(thresholds, 64),
        ]),
      ],
      result: i32.shrU(i32.sub(indices, first), i32.const(2)),
    };
  });
}
