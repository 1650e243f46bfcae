import {
  assemble,
  defineFunction,
  f32,
  f32x4,
  f64,
  f64x2,
  i32,
  i32x4,
  type Local,
  repeatWhile,
  type Statement,
  v128,
  when,
} from "../../wasm/assembler.ts";

/**
 * The loops of `Loops` as a WebAssembly module; it says there what each does.
 *
 * @param relaxed whether `fused` is among them, which not every engine takes
 */
export const loopsModule = (relaxed: boolean) => {
  const loops = [takeOut(), above(), possible(), near(), dots(), addUp(), singleDots(), largest(), round(), inBlocks()];
  return assemble(relaxed ? [...loops, fused()] : loops);
};

/** Moves a pointer on by some bytes, or counts on. */
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

function possible() {
  const parameters = {
    from: "i32",
    base: "i32",
    count: "i32",
    columns: "i32",
    n: "i32",
    first: "i32",
    into: "i32",
    scale: "f32",
    rest: "f32",
    norm: "f32",
    limit: "f32",
  } as const;
  return defineFunction("possible", parameters, (given, local) => {
    const { from, base, count, columns, n, first: index, into, scale, rest, norm, limit } = given;
    const [end, begin, bytes] = [local("i32"), local("i32"), local("i32")];
    const [first, second, third, fourth] = [local("i32"), local("i32"), local("i32"), local("i32")];
    const [byScale, byRest, byNorm, least] = [local("v128"), local("v128"), local("v128"), local("v128")];
    const four = [0, 1, 2, 3] as const;
    const over = four.map(() => local("v128"));
    const mask = local("i32");
    const upper = (k: number) => {
      const approximate = f32x4.mul(
        f32x4.mul(f32x4.convertI32x4(v128.load(from, 16 * k)), v128.load(first, 16 * k)),
        byScale,
      );
      const error = f32x4.add(
        f32x4.mul(v128.load(third, 16 * k), byRest),
        f32x4.mul(v128.load(fourth, 16 * k), byNorm),
      );
      const known = f32x4.add(v128.load(base, 16 * k), v128.load(second, 16 * k));
      return f32x4.add(approximate, f32x4.add(error, known));
    };
    return {
      body: [
        begin.set(into),
        end.set(i32.add(from, i32.shl(count, i32.const(2)))),
        bytes.set(i32.shl(n, i32.const(2))),
        first.set(i32.add(columns, i32.shl(index, i32.const(2)))),
        second.set(i32.add(first, bytes)),
        third.set(i32.add(second, bytes)),
        fourth.set(i32.add(third, bytes)),
        byScale.set(f32x4.splat(scale)),
        byRest.set(f32x4.splat(rest)),
        byNorm.set(f32x4.splat(norm)),
        least.set(f32x4.splat(limit)),
        repeatWhile(i32.ltU(from, end), [
          ...four.map((k) => over[k]!.set(f32x4.gt(upper(k), least))),
          when(v128.anyTrue(v128.or(v128.or(over[0]!, over[1]!), v128.or(over[2]!, over[3]!))), [
            ...four.flatMap((k) => [
              mask.set(i32x4.bitmask(over[k]!)),
              when(mask, [
                ...four.map((lane) =>
                  when(i32.and(mask, i32.const(1 << lane)), [
                    i32.store(into, i32.add(index, i32.const(4 * k + lane))),
                    advance(into, 4),
                  ]),
                ),
              ]),
            ]),
          ]),
          advance(from, 64),
          advance(base, 64),
          advance(index, 16),
          advance(first, 64),
          advance(second, 64),
          advance(third, 64),
          advance(fourth, 64),
        ]),
      ],
      result: i32.shrU(i32.sub(into, begin), i32.const(2)),
    };
  });
}

function near() {
  const parameters = {
    x: "i32",
    D: "i32",
    rows: "i32",
    n: "i32",
    columns: "i32",
    list: "i32",
    count: "i32",
    into: "i32",
    norm: "f32",
    limit: "f32",
  } as const;
  return defineFunction("near", parameters, ({ x, D, rows, n, columns, list, count, into, norm, limit }, local) => {
    const [end, begin, feature, row, at, xEnd] = [0, 1, 2, 3, 4, 5].map(() => local("i32")) as Local<"i32">[];
    const four = [0, 1, 2, 3] as const;
    const sums = four.map(() => local("v128"));
    const sum = local("f32");
    const column = (of: number) =>
      i32.add(columns!, i32.shl(i32.add(feature!, i32.mul(n, i32.const(of))), i32.const(2)));
    return {
      body: [
        begin!.set(into),
        end!.set(i32.add(list, i32.shl(count, i32.const(2)))),
        xEnd!.set(i32.add(x, i32.shl(D, i32.const(2)))),
        when(i32.ltU(list, end!), [
          repeatWhile(i32.ltU(list, end!), [
            feature!.set(i32.load(list)),
            row!.set(i32.add(rows, i32.mul(feature!, i32.shl(D, i32.const(2))))),
            at!.set(x),
            ...four.map((k) => sums[k]!.set(f32x4.splat(f32.zero))),
            repeatWhile(i32.ltU(at!, xEnd!), [
              ...four.map((k) =>
                sums[k]!.set(f32x4.add(sums[k]!, f32x4.mul(v128.load(at!, 16 * k), v128.load(row!, 16 * k)))),
              ),
              advance(at!, 64),
              advance(row!, 64),
            ]),
            sums[0]!.set(f32x4.add(f32x4.add(sums[0]!, sums[1]!), f32x4.add(sums[2]!, sums[3]!))),
            sum.set(
              f32.add(
                f32.add(f32x4.extractLane(sums[0]!, 0), f32x4.extractLane(sums[0]!, 1)),
                f32.add(f32x4.extractLane(sums[0]!, 2), f32x4.extractLane(sums[0]!, 3)),
              ),
            ),
            sum.set(f32.add(sum, f32.add(f32.load(column(1)), f32.mul(f32.load(column(0)), norm)))),
            when(f32.gt(sum, limit), [i32.store(into, feature!), advance(into, 4)]),
            advance(list, 4),
          ]),
        ]),
      ],
      result: i32.shrU(i32.sub(into, begin!), i32.const(2)),
    };
  });
}

/** Runs `body` for every four entries of a list, whose factors and vectors are at hand, and moves on. */
function byFours(list: Local<"i32">, n: Local<"i32">, end: Local<"i32">, body: readonly Statement[]): Statement[] {
  return [
    end.set(i32.add(list, i32.shl(n, i32.const(4)))),
    repeatWhile(i32.ltU(list, end), [...body, advance(list, 64)]),
  ];
}

const dots = () => dotsOf("dots", 16, (w) => v128.load(w));
const singleDots = () => dotsOf("singleDots", 8, (w) => f64x2.promoteLowF32x4(v128.load64Zero(w)));

/** ⟨g, w⟩ of vectors w of which two numbers take so many bytes. */
function dotsOf(name: string, bytes: number, two: (w: Local<"i32">) => ReturnType<typeof v128.load>) {
  const parameters = { g: "i32", D: "i32", list: "i32", n: "i32" } as const;
  return defineFunction(name, parameters, ({ g, D, list, n }, local) => {
    const [end, gEnd, gAt, gs] = [local("i32"), local("i32"), local("i32"), local("v128")];
    const four = [0, 1, 2, 3] as const;
    const w = four.map(() => local("i32"));
    const sum = four.map(() => local("v128"));
    return {
      body: [
        gEnd.set(i32.add(g, i32.shl(D, i32.const(3)))),
        ...byFours(list, n, end, [
          ...four.flatMap((k) => [w[k]!.set(i32.load(list, 16 * k + 8)), sum[k]!.set(f64x2.splat(f64.zero))]),
          gAt.set(g),
          repeatWhile(i32.ltU(gAt, gEnd), [
            gs.set(v128.load(gAt)),
            ...four.flatMap((k) => [sum[k]!.set(f64x2.add(sum[k]!, f64x2.mul(two(w[k]!), gs))), advance(w[k]!, bytes)]),
            advance(gAt, 16),
          ]),
          ...four.map((k) =>
            f64.store(list, f64.add(f64x2.extractLane(sum[k]!, 0), f64x2.extractLane(sum[k]!, 1)), 16 * k),
          ),
        ]),
      ],
    };
  });
}

function addUp() {
  const parameters = { to: "i32", D: "i32", list: "i32", n: "i32" } as const;
  return defineFunction("addUp", parameters, ({ to, D, list, n }, local) => {
    const [end, toEnd, at, sum] = [local("i32"), local("i32"), local("i32"), local("v128")];
    const four = [0, 1, 2, 3] as const;
    const w = four.map(() => local("i32"));
    const factor = four.map(() => local("v128"));
    return {
      body: [
        toEnd.set(i32.add(to, i32.shl(D, i32.const(3)))),
        ...byFours(list, n, end, [
          ...four.flatMap((k) => [
            w[k]!.set(i32.load(list, 16 * k + 8)),
            factor[k]!.set(f64x2.splat(f64.load(list, 16 * k))),
          ]),
          at.set(to),
          repeatWhile(i32.ltU(at, toEnd), [
            sum.set(v128.load(at)),
            ...four.flatMap((k) => [
              sum.set(f64x2.add(sum, f64x2.mul(v128.load(w[k]!), factor[k]!))),
              advance(w[k]!, 16),
            ]),
            v128.store(at, sum),
            advance(at, 16),
          ]),
        ]),
      ],
    };
  });
}

function largest() {
  return defineFunction("largest", { v: "i32", D: "i32" }, ({ v, D }, local) => {
    const end = local("i32");
    const four = [0, 1, 2, 3] as const;
    const most = four.map(() => local("v128"));
    const all = most[0]!;
    const lane = (k: 0 | 1 | 2 | 3) => f32x4.extractLane(all, k);
    return {
      body: [
        end.set(i32.add(v, i32.shl(D, i32.const(2)))),
        repeatWhile(i32.ltU(v, end), [
          ...four.map((k) => most[k]!.set(f32x4.max(most[k]!, f32x4.abs(v128.load(v, 16 * k))))),
          advance(v, 64),
        ]),
        all.set(f32x4.max(f32x4.max(all, most[1]!), f32x4.max(most[2]!, most[3]!))),
      ],
      result: f32.max(f32.max(lane(0), lane(1)), f32.max(lane(2), lane(3))),
    };
  });
}

function round() {
  const parameters = {
    v: "i32",
    D: "i32",
    g: "i32",
    scale: "f64",
    inverse: "f64",
    zero: "i32",
    q: "i32",
    sums: "i32",
  } as const;
  return defineFunction("round", parameters, ({ v, D, g, scale, inverse, zero, q, sums }, local) => {
    const [end, byScale, byInverse] = [local("i32"), local("v128"), local("v128")];
    // Two pairs of numbers side by side, so that none waits for the sums of the one before.
    const two = [0, 1] as const;
    const [pair, whole, bytes] = [0, 1, 2].map(() => two.map(() => local("v128"))) as Local<"v128">[][];
    const [rest, norm, product] = [0, 1, 2].map(() => two.map(() => local("v128"))) as Local<"v128">[][];
    const byte = (k: 0 | 1, lane: 0 | 1) => i32.add(i32x4.extractLane(bytes![k]!, lane), zero);
    const total = (sum: readonly Local<"v128">[]) => {
      const both = f64x2.add(sum[0]!, sum[1]!);
      return f64.add(f64x2.extractLane(both, 0), f64x2.extractLane(both, 1));
    };
    return {
      body: [
        end.set(i32.add(v, i32.shl(D, i32.const(2)))),
        byScale.set(f64x2.splat(scale)),
        byInverse.set(f64x2.splat(inverse)),
        repeatWhile(i32.ltU(v, end), [
          ...two.flatMap((k) => {
            const [value, n, left, squares, ofG] = [pair![k]!, whole![k]!, rest![k]!, norm![k]!, product![k]!];
            return [
              value.set(f64x2.promoteLowF32x4(v128.load64Zero(v, 8 * k))),
              n.set(f64x2.nearest(f64x2.mul(value, byInverse))),
              bytes![k]!.set(i32x4.truncSatF64x2Zero(n)),
              i32.store8(q, byte(k, 0), 2 * k),
              i32.store8(q, byte(k, 1), 2 * k + 1),
              squares.set(f64x2.add(squares, f64x2.mul(value, value))),
              ofG.set(f64x2.add(ofG, f64x2.mul(value, f64x2.promoteLowF32x4(v128.load64Zero(g, 8 * k))))),
              value.set(f64x2.sub(value, f64x2.mul(n, byScale))),
              left.set(f64x2.add(left, f64x2.mul(value, value))),
            ];
          }),
          advance(v, 16),
          advance(g, 16),
          advance(q, 4),
        ]),
        f64.store(sums, total(rest!)),
        f64.store(sums, total(norm!), 8),
        f64.store(sums, total(product!), 16),
      ],
    };
  });
}

function inBlocks() {
  return defineFunction("inBlocks", { v: "i32", groups: "i32", to: "i32" }, ({ v, groups, to }, local) => {
    const [end, blockEnd] = [local("i32"), local("i32")];
    const four = [0, 1, 2, 3] as const;
    const [block, half] = [four.map(() => local("v128")), four.map(() => local("v128"))];
    const [a, b, c, d] = block as [Local<"v128">, Local<"v128">, Local<"v128">, Local<"v128">];
    const [ab, abHigh, cd, cdHigh] = half as [Local<"v128">, Local<"v128">, Local<"v128">, Local<"v128">];
    return {
      body: [
        end.set(i32.add(v, i32.shl(groups, i32.const(11)))),
        repeatWhile(i32.ltU(v, end), [
          blockEnd.set(i32.add(v, i32.const(512))),
          repeatWhile(i32.ltU(v, blockEnd), [
            ...four.map((k) => block[k]!.set(v128.load(v, 512 * k))),
            ab.set(i32x4.shuffle(a, b, 0, 4, 1, 5)),
            abHigh.set(i32x4.shuffle(a, b, 2, 6, 3, 7)),
            cd.set(i32x4.shuffle(c, d, 0, 4, 1, 5)),
            cdHigh.set(i32x4.shuffle(c, d, 2, 6, 3, 7)),
            v128.store(to, i32x4.shuffle(ab, cd, 0, 1, 4, 5)),
            v128.store(to, i32x4.shuffle(ab, cd, 2, 3, 6, 7), 16),
            v128.store(to, i32x4.shuffle(abHigh, cdHigh, 0, 1, 4, 5), 32),
            v128.store(to, i32x4.shuffle(abHigh, cdHigh, 2, 3, 6, 7), 48),
            advance(v, 16),
            advance(to, 64),
          ]),
          advance(v, 3 * 512),
        ]),
      ],
    };
  });
}

function fused() {
  return defineFunction("fused", { list: "i32", n: "i32", groups: "i32" }, ({ list, n, groups }, local) => {
    const [end, xEnd, groupEnd] = [local("i32"), local("i32"), local("i32")];
    const four = [0, 1, 2, 3] as const;
    const xAt = four.map(() => local("i32"));
    const eAt = four.map(() => local("i32"));
    const sum = four.map(() => local("v128"));
    const z = four.map(() => local("f32"));
    const steps = [0, 1, 2, 3];
    return {
      body: [
        end.set(i32.add(list, i32.mul(n, i32.const(12)))),
        repeatWhile(i32.ltU(list, end), [
          ...four.flatMap((k) => [
            xAt[k]!.set(i32.load(list, 12 * k)),
            eAt[k]!.set(i32.load(list, 12 * k + 4)),
            z[k]!.set(f32.zero),
          ]),
          xEnd.set(i32.add(xAt[0]!, i32.shl(groups, i32.const(11)))),
          repeatWhile(i32.ltU(xAt[0]!, xEnd), [
            ...four.map((k) => sum[k]!.set(f32x4.splat(f32.zero))),
            groupEnd.set(i32.add(xAt[0]!, i32.const(2048))),
            repeatWhile(i32.ltU(xAt[0]!, groupEnd), [
              ...steps.flatMap((step) =>
                four.map((k) =>
                  sum[k]!.set(f32x4.relaxedMadd(v128.load(xAt[k]!, 16 * step), v128.load(eAt[k]!, 16 * step), sum[k]!)),
                ),
              ),
              ...four.flatMap((k) => [advance(xAt[k]!, 16 * steps.length), advance(eAt[k]!, 16 * steps.length)]),
            ]),
            ...four.flatMap((k) => four.map((lane) => z[k]!.set(f32.add(z[k]!, f32x4.extractLane(sum[k]!, lane))))),
          ]),
          ...four.map((k) => f32.store(i32.load(list, 12 * k + 8), z[k]!)),
          advance(list, 48),
        ]),
      ],
    };
  });
}
