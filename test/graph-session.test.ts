import { describe, expect, it } from "vitest";
import { writeOnnx } from "../src/graph/onnx.ts";
import { gradients } from "../src/graph/reverse.ts";
import { threadsFor } from "../src/graph/session.node.ts";
import { compile, float32, int64 } from "../src/graph/session.ts";
import { createRuntime as createWeb } from "../src/graph/session.web.ts";
import { input } from "../src/graph/tensor.ts";
import { attention, rmsNorm } from "../src/models/layers.ts";
import { contextInputs } from "../src/models/model.ts";
import { Random } from "../src/random.ts";
import { printGraph } from "./print-graph.ts";

describe("printed graphs", () => {
  it("of a gradient read like mathematics", () => {
    const x = input("x", "float32", ["N", 4]);
    const w = input("w", "float32", [3, 4]);
    const y = x.matmul(w, { transB: true }).tanh();
    const [dx] = gradients(y.mul(y).sum(), [x]);
    expect(printGraph({ dx: dx! })).toMatchInlineSnapshot(`
      "input x float32[N, 4]
      input w float32[3, 4]
      a = MatMul{transA: false, transB: true}(x, w) [N, 3]
      b = Tanh(a) [N, 3]
      c = Mul(1, b) [N, 3]
      d = Mul(1, b) [N, 3]
      e = Add(c, d) [N, 3]
      f = Mul(b, b) [N, 3]
      g = Sub(1, f) [N, 3]
      h = Mul(e, g) [N, 3]
      i = MatMul{transA: false, transB: false}(h, w) [N, 4]
      output dx = i"
    `);
  });

  it("of a mean's gradient repeat nothing: elementwise operations broadcast by themselves", () => {
    const x = input("x", "float32", ["N", 4]);
    const w = input("w", "float32", [4]);
    const [dx] = gradients(rmsNorm(x, w, 1e-5).sum(), [x]);
    expect(printGraph({ dx: dx! })).not.toContain("Expand{}(");
    expect(printGraph({ dx: dx! }).split("\n").length).toBeLessThan(30);
  });
});

describe("files of graphs", () => {
  it("have what is computed twice once, and both results", async () => {
    const x = input("x", "float32", ["N"]);
    const outputs = { a: x.tanh().mul(2), b: x.tanh(), c: x.tanh().mul(2) };
    expect(Buffer.from(writeOnnx(outputs)).toString("latin1").split("Tanh")).toHaveLength(2);
    const session = await compile(outputs);
    const { a, b, c } = await session.run({ x: float32(Float32Array.of(0.5, -3), 2) });
    await session.release();
    expect([...b.data]).toEqual(
      [...Float32Array.from([0.5, -3], Math.tanh)].map((v) => expect.closeTo(v as number, 6)),
    );
    expect([...a.data]).toEqual([...b.data].map((v) => 2 * Number(v)));
    expect(c.data).toEqual(a.data);
  });

  it("give what is detached its own value, an input and a result among them", async () => {
    const x = input("x", "float32", ["N"]);
    const y = x.mul(3);
    const outputs = { w: x.detach(), y, z: y.detach() };
    const session = await compile(outputs);
    const found = await session.run({ x: float32(Float32Array.of(1, 2), 2) });
    await session.release();
    expect([found.w, found.y, found.z].map(({ data }) => [...data])).toEqual([
      [1, 2],
      [3, 6],
      [3, 6],
    ]);
  });
});

describe("the two runtimes", () => {
  it.each(["all at once", "chunk by chunk"])("agree on attention and its gradient, %s", async (way) => {
    const [B, n, H, K, E] = way === "all at once" ? [2, 5, 4, 2, 6] : [2, 640, 4, 2, 6];
    const random = new Random(7);
    const normal = (size: number) => Float32Array.from({ length: size }, () => random.normal());
    const [q, k, v] = [
      input("q", "float32", [`${n}*B`, H * E]),
      input("k", "float32", [`${n}*B`, K * E]),
      input("v", "float32", [`${n}*B`, K * E]),
    ];
    const mask = input("mask", "float32", [1, n, n]);
    const context = contextInputs(n, "float32");
    const seen = way === "all at once" ? { mask } : context.seen;
    const z = attention(q, k, v, { ...context, seen }, { heads: H, keyHeads: K, scale: E ** -0.5 });
    const [dq, dk, dv] = gradients(z.mul(z).sum(), [q, k, v]);
    const outputs = { z, dq: dq!, dk: dk!, dv: dv! };
    const values = {
      q: float32(normal(B * n * H * E), B * n, H * E),
      k: float32(normal(B * n * K * E), B * n, K * E),
      v: float32(normal(B * n * K * E), B * n, K * E),
      mask: float32(
        Float32Array.from({ length: n * n }, (_, i) => (i % n <= Math.floor(i / n) ? 0 : Number.NEGATIVE_INFINITY)),
        1,
        n,
        n,
      ),
      first: int64(
        Array.from({ length: B * n }, (_, i) => i),
        B * n,
      ),
      last: int64(
        Array.from({ length: B * n }, (_, i) => n * Math.ceil((i + 1) / n) - 1),
        B * n,
      ),
      positions: int64(
        Array.from({ length: B * n }, (_, i) => i % n),
        B * n,
      ),
    };
    const native = await (await compile(outputs)).run(values);
    const web = await (await createWeb(writeOnnx(outputs), { fuse: true, threads: 1 })).run(values);
    for (const name of Object.keys(outputs) as (keyof typeof outputs)[]) {
      const [a, b] = [native[name].data as Float32Array, web[name]!.data as Float32Array];
      const scale = a.reduce((m, x) => Math.max(m, Math.abs(x)), 0);
      expect(scale).toBeGreaterThan(0.1);
      expect(Math.max(...a.map((x, i) => Math.abs(x - b[i]!))) / scale, name).toBeLessThan(1e-5);
    }
  });
});

it("rows that several threads add to the same rows are all there", async () => {
  const [N, P, D] = [8, 4096, 96];
  const updates = input("updates", "float32", ["P", D]);
  const outputs = { sums: updates.scatterAdd(input("rows", "int64", ["P"]), input("like", "float32", [N, D])) };
  const session = await compile(outputs, { threads: 4 });
  const inputs = {
    updates: float32(
      Float32Array.from({ length: P * D }, (_, at) => 1 + (at % 7)),
      P,
      D,
    ),
    rows: int64(
      Array.from({ length: P }, (_, p) => p % N),
      P,
    ),
    like: float32(new Float32Array(N * D), N, D),
  };
  const expected = new Float32Array(N * D);
  inputs.updates.data.forEach((value, at) => {
    expected[(Math.floor(at / D) % N) * D + (at % D)]! += Number(value);
  });
  for (let run = 0; run < 20; run++) expect((await session.run(inputs)).sums.data).toEqual(expected);
  await session.release();
});

it("a process that may use some of the cores has a thread for each of those, and otherwise the runtime decides", () => {
  expect([threadsFor(undefined, 2, 8), threadsFor(0, 8, 8), threadsFor(1, 8, 8), threadsFor(3, 2, 8)]).toEqual([
    2, 0, 1, 3,
  ]);
});
