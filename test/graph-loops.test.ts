import { describe, expect, it } from "vitest";
import { openLoops } from "../src/graph/loops.ts";
import { Random } from "../src/random.ts";

const seed = "20261124/loops";

describe(`loops in WebAssembly do what JavaScript does (seed ${seed})`, () => {
  it.each([4, 12, 64, 192])("takeOut with %i numbers", (D) => {
    const random = new Random(`${seed}/${D}`);
    const loops = openLoops();
    const [error, g, w] = [0, 8 * D, 16 * D];
    loops.reserve(20 * D);
    const errors = new Float64Array(loops.memory.buffer, error, D);
    const gs = new Float64Array(loops.memory.buffer, g, D);
    const ws = new Float32Array(loops.memory.buffer, w, D);
    for (const array of [errors, gs, ws]) for (let i = 0; i < D; i++) array[i] = random.normal();
    const delta = random.normal();
    const expected = Array.from(errors, (e, d) => e - delta * ws[d]!);
    const dot = gs.reduce((sum, value, d) => sum + value * ws[d]!, 0);
    expect(loops.takeOut(error, g, w, delta, D)).toBeCloseTo(dot, 12);
    expect([...errors]).toEqual(expected);
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

  it("above finds nothing beyond its row", () => {
    const loops = openLoops();
    const numbers = new Float32Array(loops.memory.buffer, 0, 48).fill(0);
    numbers[3] = numbers[40] = 1;
    expect(loops.above(0, 32, 512, 1024, 2048)).toBe(1);
    expect(new Int32Array(loops.memory.buffer, 1024, 1)[0]).toBe(3);
  });
});
