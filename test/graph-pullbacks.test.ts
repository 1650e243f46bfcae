import { describe, expect, it } from "vitest";
import { overChunks } from "../src/graph/chunks.ts";
import type { Op } from "../src/graph/ops.ts";
import { pullbacks } from "../src/graph/pullbacks.ts";
import { gradients } from "../src/graph/reverse.ts";
import { compile, type Value } from "../src/graph/session.ts";
import { concat, constant, input, numbers, type Tensor, where } from "../src/graph/tensor.ts";
import { Random } from "../src/random.ts";

/** One way to use an operation: shapes of its float arguments, and the computation of one result from them. */
interface Case {
  readonly shapes: readonly (readonly number[])[];
  readonly f: (...x: Tensor[]) => Tensor;
  /** Arguments lie in [low, high); away from kinks and poles. */
  readonly range?: readonly [number, number];
}

const indices = constant(numbers([2, 0, 2, 1, 2], "int64"), "int64", [5]);
const table = constant(new Float64Array(12), "float64", [4, 3]);
const mask = constant(numbers([1, 0, 1, 1, 0, 0], "bool"), "bool", [2, 3]);
const positive = [0.4, 2] as const;

/** Cases for every operation: one that is missing does not compile. None for those that have no gradient. */
const cases: Record<Op, readonly Case[]> = {
  Add: [
    {
      shapes: [
        [2, 3],
        [2, 3],
      ],
      f: (a, b) => a!.add(b!),
    },
    {
      shapes: [
        [2, 1, 3],
        [4, 1],
      ],
      f: (a, b) => a!.add(b!),
    },
    { shapes: [[2, 3]], f: (a) => a!.add(1.5).add(a!) },
  ],
  Sub: [{ shapes: [[3], [2, 3]], f: (a, b) => a!.sub(b!) }],
  Mul: [
    {
      shapes: [
        [2, 3],
        [1, 3],
      ],
      f: (a, b) => a!.mul(b!),
    },
    { shapes: [[2, 3]], f: (a) => a!.mul(a!).mul(a!) },
  ],
  Div: [
    {
      shapes: [
        [2, 3],
        [2, 1],
      ],
      f: (a, b) => a!.div(b!),
      range: positive,
    },
  ],
  Neg: [{ shapes: [[4]], f: (a) => a!.neg() }],
  Exp: [{ shapes: [[4]], f: (a) => a!.exp() }],
  Log: [{ shapes: [[4]], f: (a) => a!.log(), range: positive }],
  Sqrt: [{ shapes: [[4]], f: (a) => a!.sqrt(), range: positive }],
  Tanh: [{ shapes: [[4]], f: (a) => a!.tanh() }],
  // No float64 kernel: the test below has it in float32.
  Erf: [],
  Sigmoid: [{ shapes: [[4]], f: (a) => a!.sigmoid() }],
  Silu: [{ shapes: [[4]], f: (a) => a!.silu() }],
  Relu: [
    { shapes: [[4]], f: (a) => a!.relu(), range: positive },
    { shapes: [[4]], f: (a) => a!.neg().relu(), range: positive },
  ],
  Softmax: [{ shapes: [[2, 5]], f: (a) => a!.softmax() }],
  LogSoftmax: [{ shapes: [[2, 5]], f: (a) => a!.logSoftmax() }],
  MatMul: [
    {
      shapes: [
        [3, 4],
        [4, 2],
      ],
      f: (a, b) => a!.matmul(b!),
    },
    {
      shapes: [
        [4, 3],
        [4, 2],
      ],
      f: (a, b) => a!.matmul(b!, { transA: true }),
    },
    {
      shapes: [
        [3, 4],
        [2, 4],
      ],
      f: (a, b) => a!.matmul(b!, { transB: true }),
    },
    {
      shapes: [
        [4, 3],
        [2, 4],
      ],
      f: (a, b) => a!.matmul(b!, { transA: true, transB: true }),
    },
    {
      shapes: [
        [2, 3, 4],
        [2, 4, 2],
      ],
      f: (a, b) => a!.matmul(b!),
    },
    {
      shapes: [
        [2, 3, 4],
        [2, 5, 4],
      ],
      f: (a, b) => a!.matmul(b!, { transB: true }),
    },
    {
      shapes: [
        [2, 1, 4, 3],
        [5, 4, 2],
      ],
      f: (a, b) => a!.matmul(b!, { transA: true }),
    },
    {
      shapes: [
        [2, 3, 4],
        [4, 2],
      ],
      f: (a, b) => a!.matmul(b!),
    },
  ],
  Transpose: [{ shapes: [[2, 3, 4]], f: (a) => a!.transpose(2, 0, 1) }],
  Reshape: [{ shapes: [[2, 6]], f: (a) => a!.reshape(3, 4) }],
  Expand: [
    {
      shapes: [
        [2, 1],
        [2, 3],
      ],
      f: (a, b) => a!.expandLike(b!).transpose(1, 0).add(0),
    },
  ],
  ReduceSum: [
    { shapes: [[2, 3, 4]], f: (a) => a!.sum(1) },
    { shapes: [[2, 3, 4]], f: (a) => a!.sum(-1, 0).transpose(2, 1, 0) },
    { shapes: [[2, 3]], f: (a) => a!.mean(-1) },
    { shapes: [[2, 3]], f: (a) => a!.sum() },
  ],
  Gather: [{ shapes: [[4, 3]], f: (a) => a!.gather(indices) }],
  ScatterAdd: [{ shapes: [[5, 3]], f: (a) => a!.scatterAdd(indices, table) }],
  Slice: [{ shapes: [[2, 5]], f: (a) => a!.slice(-1, 1, 3) }],
  Pad: [{ shapes: [[2, 3]], f: (a) => a!.pad(1, 2, 1) }],
  Concat: [
    {
      shapes: [
        [2, 3],
        [2, 1],
        [2, 2],
      ],
      f: (...x) => concat(1, ...x),
    },
  ],
  Where: [{ shapes: [[2, 3], [3]], f: (a, b) => where(mask, a!, b!) }],
  Greater: [],
  GreaterOrEqual: [],
  KthLargest: [],
  MatMulInteger: [],
  OneHot: [],
  Cast: [{ shapes: [[3]], f: (a) => a!.cast("float64") }],
  Detach: [],
  Scan: [
    // Of what comes in chunks and of what does not, where chunks are used twice and wholes are used in each.
    {
      shapes: [
        [3, 2, 4],
        [4, 5],
        [5, 2],
      ],
      f: (a, b, c) =>
        overChunks(
          ([x], [w, v]) =>
            x!
              .matmul(w!)
              .softmax()
              .matmul(v!)
              .mul(x!.slice(1, 0, 2)),
          [a!],
          [b!, c!],
        ),
    },
    // Within another computation, on both sides.
    {
      shapes: [[4, 3], [4, 3], [3]],
      f: (a, b, c) => overChunks(([x, y], [w]) => x!.mul(y!).add(w!).tanh(), [a!.exp(), b!.mul(2)], [c!.neg()]).mul(a!),
    },
  ],
};

const seed = 20261122;

describe(`every pullback agrees with central differences in float64 (seed ${seed})`, () => {
  for (const [op, ways] of Object.entries(cases)) {
    ways.forEach((way, i) => {
      it(`${op} ${i + 1}`, async () => {
        expect(await worstError(way, `${seed}/${op}/${i}`)).toBeLessThan(1e-6);
      });
    });
  }

  it("has a case for every operation that has a pullback, save Erf", () => {
    for (const [op, rules] of Object.entries(pullbacks)) {
      const differentiable = typeof rules === "function" || rules.some((rule) => rule !== null);
      expect(cases[op as Op].length > 0 || op === "Erf", op).toBe(differentiable);
    }
  });

  it("Erf, in float32, has the derivative 2/√π·exp(−x²)", async () => {
    const x = input("x", "float32", [5]);
    const values = new Float32Array([-1.5, -0.2, 0, 0.7, 2]);
    const [g] = gradients(x.erf().sum(), [x]);
    const { g: got } = await (await compile({ g: g! })).run({ x: { dtype: "float32", data: values, shape: [5] } });
    values.forEach((v, i) => {
      expect(Number(got.data[i])).toBeCloseTo((2 / Math.sqrt(Math.PI)) * Math.exp(-v * v), 6);
    });
  });
});

/** Largest |gradient − central difference| over all arguments, relative to the largest gradient of that argument. */
async function worstError({ shapes, f, range = [-1.5, 1.5] }: Case, stream: string): Promise<number> {
  const random = new Random(stream);
  const draw = (n: number, [low, high]: readonly [number, number]) =>
    Float64Array.from({ length: n }, () => low + (high - low) * random.uniform());
  const inputs = shapes.map((shape, i) => input(`x${i}`, "float64", shape));
  const size = (shape: readonly number[]) => shape.reduce((a, b) => a * b, 1);
  const y = f(...inputs);
  const v = constant(draw(size(y.shape as number[]), [-1, 1]), "float64", y.shape);
  const projected = y.mul(v).sum();
  const session = await compile({
    m: projected,
    ...Object.fromEntries(gradients(y, inputs, v).map((g, i) => [`g${i}`, g])),
  });
  const at = shapes.map((shape) => draw(size(shape), range));
  const run = async () => {
    const feeds: Record<string, Value> = {};
    shapes.forEach((shape, i) => {
      feeds[`x${i}`] = { dtype: "float64", data: at[i]!, shape };
    });
    return session.run(feeds);
  };
  const analytic = (await run()) as Record<string, Value>;
  const h = 1e-5;
  let worst = 0;
  for (let i = 0; i < shapes.length; i++) {
    const gradient = Array.from(analytic[`g${i}`]!.data, Number);
    expect(analytic[`g${i}`]!.shape).toEqual(shapes[i]);
    const scale = Math.max(...gradient.map(Math.abs), 1e-3);
    for (let j = 0; j < gradient.length; j++) {
      const keep = at[i]![j]!;
      at[i]![j] = keep + h;
      const up = Number((await run()).m!.data[0]);
      at[i]![j] = keep - h;
      const down = Number((await run()).m!.data[0]);
      at[i]![j] = keep;
      worst = Math.max(worst, Math.abs((up - down) / (2 * h) - gradient[j]!) / scale);
    }
  }
  return worst;
}
