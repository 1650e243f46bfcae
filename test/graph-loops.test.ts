import { describe, expect, it } from "vitest";
import { openLoops as fastLoops, slowLoops } from "../src/graph/loops/loops.ts";
import { Random } from "../src/random.ts";
import { assemble, defineFunction, i32 } from "../src/wasm/assembler.ts";

const seed = "20261124/loops";

describe.each([
  ["WebAssembly", fastLoops],
  ["JavaScript", slowLoops],
])(`loops in %s do what they say (seed ${seed})`, (_, openLoops) => {
  it.each([
    [4, 4],
    [12, 8],
    [192, 20],
  ])("takeOut with %i numbers, %i directions", (D, n) => {
    const random = new Random(`${seed}/${D}`);
    const loops = openLoops();
    const [error, g, list, directions] = [0, 8 * D, 16 * D, 16 * D + 16 * n];
    loops.reserve(directions + 4 * D * n);
    const { buffer } = loops.memory;
    const [errors, gs] = [new Float64Array(buffer, error, D), new Float64Array(buffer, g, D)];
    const ws = new Float32Array(buffer, directions, D * n);
    for (const array of [errors, gs, ws]) for (let i = 0; i < array.length; i++) array[i] = random.normal();
    const [deltas, places] = [new Float64Array(buffer, list, 2 * n), new Int32Array(buffer, list, 4 * n)];
    // Directions in another order than they lie in.
    const order = Array.from({ length: n }, (_, k) => (7 * k + 3) % n);
    order.forEach((from, k) => {
      deltas[2 * k] = random.normal();
      places[4 * k + 2] = directions + 4 * D * from;
    });
    const w = (k: number, d: number) => ws[order[k]! * D + d]!;
    const expected = Array.from(errors, (e, d) => order.reduce((left, _, k) => left - w(k, d) * deltas[2 * k]!, e));
    const gradients = order.map((_, k) => gs.reduce((sum, value, d) => sum + value * w(k, d), 0));
    loops.takeOut(error, g, D, list, n);
    expect([...errors]).toEqual(expected);
    gradients.forEach((gradient, k) => {
      expect(deltas[2 * k]).toBeCloseTo(gradient, 11);
    });
  });

  it.each([
    [2, 4],
    [34, 12],
  ])("dots and addUp with %i numbers, %i vectors", (D, n) => {
    const random = new Random(`${seed}/${D}`);
    const loops = openLoops();
    const [g, list, vectors] = [0, 8 * D, 8 * D + 16 * n];
    loops.reserve(vectors + 8 * D * n);
    const { buffer } = loops.memory;
    const gs = new Float64Array(buffer, g, D);
    const w = Array.from({ length: n }, (_, k) => new Float64Array(buffer, vectors + 8 * D * ((5 * k + 1) % n), D));
    for (const array of [gs, ...w]) for (let d = 0; d < D; d++) array[d] = random.normal();
    const [factors, places] = [new Float64Array(buffer, list, 2 * n), new Int32Array(buffer, list, 4 * n)];
    w.forEach(({ byteOffset }, k) => {
      places[4 * k + 2] = byteOffset;
    });
    const products = w.map((one) => one.reduce((sum, value, d) => sum + value * gs[d]!, 0));
    loops.dots(g, D, list, n);
    products.forEach((product, k) => {
      expect(factors[2 * k]).toBeCloseTo(product, 11);
    });
    const sums = Array.from(gs, (sum, d) => w.reduce((all, one, k) => all + one[d]! * products[k]!, sum));
    loops.addUp(g, D, list, n);
    sums.forEach((sum, d) => {
      expect(gs[d]).toBeCloseTo(sum, 9);
    });
  });

  it.each([
    [2, 4],
    [36, 12],
  ])("singleDots with %i numbers, %i vectors", (D, n) => {
    const random = new Random(`${seed}/${D}/single`);
    const loops = openLoops();
    const [g, list, vectors] = [0, 8 * D, 8 * D + 16 * n];
    loops.reserve(vectors + 4 * D * n);
    const { buffer } = loops.memory;
    const gs = new Float64Array(buffer, g, D);
    const w = Array.from({ length: n }, (_, k) => new Float32Array(buffer, vectors + 4 * D * ((5 * k + 1) % n), D));
    for (const array of [gs, ...w]) for (let d = 0; d < D; d++) array[d] = random.normal();
    const [found, places] = [new Float64Array(buffer, list, 2 * n), new Int32Array(buffer, list, 4 * n)];
    w.forEach(({ byteOffset }, k) => {
      places[4 * k + 2] = byteOffset;
    });
    loops.singleDots(g, D, list, n);
    w.forEach((one, k) => {
      expect(found[2 * k]).toBeCloseTo(
        one.reduce((sum, value, d) => sum + value * gs[d]!, 0),
        11,
      );
    });
  });

  it.each([0, 0.01, 0.3, 1])("above where a share of %d is", (share) => {
    const random = new Random(`${seed}/${share}`);
    const loops = openLoops();
    const n = 16 * 40;
    const [from, thresholds, indices, values] = [16, 16 + 4 * n, 16 + 8 * n, 16 + 12 * n];
    loops.reserve(16 + 16 * n);
    const [numbers, limits] = [from, thresholds].map((at) => new Float32Array(loops.memory.buffer, at, n)) as [
      Float32Array,
      Float32Array,
    ];
    for (let i = 0; i < n; i++) {
      limits[i] = i % 3 === 0 ? 0 : random.uniform();
      // Below, above, or just the same, which is not above.
      const low = i % 7 === 0 ? limits[i]! : -random.uniform();
      numbers[i] = random.uniform() < share ? limits[i]! + random.uniform() + 1e-3 : low;
    }
    const expected = [...numbers.keys()].filter((i) => numbers[i]! > limits[i]!);
    const found = loops.above(from, n, thresholds, indices, values);
    expect([...new Int32Array(loops.memory.buffer, indices, found)]).toEqual(expected);
    expect([...new Float32Array(loops.memory.buffer, values, found)]).toEqual(expected.map((i) => numbers[i]));
  });

  it("largest, round and inBlocks, of numbers that are halves too", () => {
    const random = new Random(`${seed}/round`);
    const loops = openLoops();
    const D = 1024;
    const [v, g, q, sums, to] = [16, 16 + 4 * D, 16 + 8 * D, 16 + 9 * D, 48 + 9 * D];
    loops.reserve(to + 4 * D);
    const [values, gs] = [v, g].map((at) => new Float32Array(loops.memory.buffer, at, D)) as [
      Float32Array,
      Float32Array,
    ];
    for (let d = 0; d < D; d++) {
      values[d] = d % 5 === 0 ? Math.round(20 * random.normal()) / 2 : 10 * random.normal();
      gs[d] = random.normal();
    }
    for (const at of [0, 7, 500, 1023]) {
      values[at] = -500 - at;
      expect(loops.largest(v, D)).toBe(500 + at);
    }
    const [inverse, zero] = [127 / 1523, 128];
    const scale = Math.fround(1 / inverse);
    loops.round(v, D, g, scale, inverse, zero, q, sums);
    const whole = Array.from(new Uint8Array(loops.memory.buffer, q, D), (byte) => byte - zero);
    // Halves may go either way.
    for (const [d, n] of whole.entries()) expect(Math.abs(n - values[d]! * inverse)).toBeLessThanOrEqual(0.5);
    const total = (of: (d: number) => number) => whole.reduce((sum, _, d) => sum + of(d), 0);
    const found = new Float64Array(loops.memory.buffer, sums, 3);
    expect(found[0]).toBeCloseTo(
      total((d) => (values[d]! - scale * whole[d]!) ** 2),
      6,
    );
    expect(found[1]! / total((d) => values[d]! ** 2)).toBeCloseTo(1, 12);
    expect(found[2]).toBeCloseTo(
      total((d) => values[d]! * gs[d]!),
      8,
    );
    loops.inBlocks(v, 2, to);
    const laid = new Float32Array(loops.memory.buffer, to, D);
    for (let d = 0; d < D; d++) {
      const [group, block, place] = [Math.floor(d / 512), Math.floor(d / 128) % 4, d % 128];
      expect(laid[512 * group + 4 * place + block]).toBe(values[d]);
    }
  });

  it("possible and near find what their sums say, from any feature on", () => {
    const random = new Random(`${seed}/near`);
    const loops = openLoops();
    const [n, D, first, count] = [96, 48, 32, 64];
    const [columns, x, rows, from, into] = [16, 16 + 16 * n, 4096, 4096 + 4 * n * D, 8192 + 4 * n * D];
    const base = into + 4 * n;
    loops.reserve(base + 4 * count);
    const floats = (at: number, length: number) => new Float32Array(loops.memory.buffer, at, length);
    for (const array of [floats(columns, 4 * n), floats(x, D), floats(rows, n * D), floats(base, count)]) {
      for (let i = 0; i < array.length; i++) array[i] = random.normal();
    }
    const products = new Int32Array(loops.memory.buffer, from, count);
    for (let k = 0; k < count; k++) products[k] = Math.round(1e4 * random.normal());
    const column = (k: number, i: number) => floats(columns + 4 * n * k, n)[i]!;
    const [scale, rest, norm, limit] = [2 ** -13, 0.5, 0.25, 0.75];
    const above = [...products.keys()]
      .map((k) => first + k)
      .filter((i) => {
        const sum = products[i - first]! * scale * column(0, i) + floats(base, count)[i - first]! + column(1, i);
        return sum + rest * column(2, i) + norm * column(3, i) > limit;
      });
    const found = loops.possible(from, base, count, columns, n, first, into, scale, rest, norm, limit);
    expect([...new Int32Array(loops.memory.buffer, into, found)]).toEqual(above);
    expect(found).toBeGreaterThan(5);
    const close = above.filter((i) => {
      const sum = floats(x, D).reduce((sum, value, d) => sum + value * floats(rows + 4 * D * i, D)[d]!, 0);
      return sum + column(1, i) + norm * column(0, i) > limit;
    });
    const kept = loops.near(x, D, rows, n, columns, into, found, into, norm, limit);
    expect([...new Int32Array(loops.memory.buffer, into, kept)]).toEqual(close);
    expect(kept).toBeLessThan(found);
    expect(loops.near(x, D, rows, n, columns, into, 0, into, norm, limit)).toBe(0);
  });

  it("above finds nothing beyond its row", () => {
    const loops = openLoops();
    const numbers = new Float32Array(loops.memory.buffer, 0, 48).fill(0);
    numbers[3] = numbers[40] = 1;
    expect(loops.above(0, 32, 512, 1024, 2048)).toBe(1);
    expect(new Int32Array(loops.memory.buffer, 1024, 1)[0]).toBe(3);
  });
});

it("the assembler writes numbers of 32 bits as WebAssembly reads them", () => {
  const numbers = [0, 1, 63, 64, 127, 128, 8191, 8192, 65_536, 2 ** 31 - 1, -1, -64, -65, -(2 ** 31)];
  const functions = numbers.map((n, i) =>
    defineFunction(`f${i}`, { x: "i32" }, ({ x }) => ({ body: [], result: i32.sub(i32.const(n), x) })),
  );
  const { exports } = new WebAssembly.Instance(new WebAssembly.Module(assemble(functions)));
  const values = numbers.map((_, i) => (exports[`f${i}`] as (x: number) => number)(0));
  expect(values).toEqual(numbers);
  expect((exports.f3 as (x: number) => number)(60)).toBe(4);
});

/** a·b + c rounded once to float32. In float64 the product is exact; where the sum then lies half-way, what was cut off it decides. */
function fusedOf(a: number, b: number, c: number): number {
  const product = a * b;
  const sum = product + c;
  const ofC = sum - product;
  const left = product - (sum - ofC) + (c - ofC);
  const rounded = Math.fround(sum);
  if (left === 0 || rounded === sum) return rounded;
  const step = Math.abs(sum) * 2 ** -40;
  const [low, high] = [Math.fround(sum - step), Math.fround(sum + step)];
  return low === high || sum - low !== high - sum ? rounded : left > 0 ? high : low;
}

describe("products in blocks", () => {
  const loops = fastLoops();
  const once = (x: Float32Array, e: Float32Array) => {
    const groups = Math.ceil(x.length / 512);
    const [v, list] = [0, 2048 * groups];
    const [xAt, eAt] = [list + 64, list + 64 + 2048 * groups];
    loops.reserve(eAt + 2048 * groups);
    for (const [vector, to] of [
      [x, xAt],
      [e, eAt],
    ] as const) {
      new Float32Array(loops.memory.buffer, v, 512 * groups).fill(0).set(vector);
      loops.inBlocks(v, groups, to);
    }
    const places = [0, 1, 2, 3].flatMap((k) => [xAt, eAt, list + 48 + 4 * k]);
    new Int32Array(loops.memory.buffer, list, 12).set(places);
    loops.fused?.(list, 4, groups);
    return [...new Float32Array(loops.memory.buffer, list + 48, 4)];
  };
  const close = 1 + 2 ** -12;
  // (1 + 2⁻¹²)² − (1 + 2⁻¹¹) is 2⁻²⁴ if it is rounded once, and 0 if twice.
  const isFused = once(Float32Array.of(1, close), Float32Array.of(-1 - 2 ** -11, close))[0] === 2 ** -24;

  it("are there with this engine", () => {
    expect(loops.fused).toBeTypeOf("function");
  });

  it.skipIf(!isFused).each([5, 128, 300, 1100])(
    `of %i numbers have the bits of fused sums in blocks of 128 (seed ${seed})`,
    (D) => {
      const random = new Random(`${seed}/fused/${D}`);
      for (let trial = 0; trial < 50; trial++) {
        // Every other time few bits, so that sums lie half-way.
        const one = () => (trial % 2 === 0 ? random.normal() : Math.round(2 ** 13 * random.normal()) / 2 ** 12);
        const [x, e] = [0, 1].map(() => Float32Array.from({ length: D }, one)) as [Float32Array, Float32Array];
        let z = 0;
        for (let from = 0; from < D; from += 128) {
          let block = 0;
          for (let d = from; d < Math.min(D, from + 128); d++) block = fusedOf(x[d]!, e[d]!, block);
          z = Math.fround(z + block);
        }
        expect(once(x, e)).toEqual([z, z, z, z]);
      }
    },
  );
});
