import { describe, expect, it } from "vitest";
import type { Activation, Dictionary, Encoder, Normalization } from "../src/dictionaries/dictionary.ts";
import { codeReader, codeRow, mayPay, type SparseCodes, type WideLimits } from "../src/dictionaries/encode.ts";
import { quantiseRow, rowPlace } from "../src/dictionaries/quantise.ts";
import { type Found, openWide, sumsAlike, WideEncoder } from "../src/dictionaries/wide.ts";
import { StoppedError } from "../src/errors.ts";
import { type Loops, openLoops, slowLoops } from "../src/graph/loops/loops.ts";
import { Random } from "../src/random.ts";

const seed = "20261126/wide";
/** Where sums in the loop are known to be those of the runtime; elsewhere products of gathered columns may stand in. */
const { arch } = process;
const never: WideLimits = { bytes: Infinity, gain: Infinity };
const always: WideLimits = { bytes: 0, gain: Infinity };

/** A dictionary of these weights; with parts, no one may ask for its encoder as a whole. */
function dictionaryOf(encoder: Encoder, parts: boolean): Dictionary {
  const F = encoder.bias.length;
  const D = encoder.weight.length / F;
  const { weight, bias, activation, ...rest } = encoder;
  const refuse = async () => {
    throw new Error("asked for weights as a whole");
  };
  return {
    name: "test",
    reads: "resid_post.0",
    writes: "resid_post.0",
    inputWidth: D,
    outputWidth: D,
    featureCount: F,
    kind: activation.kind,
    encoder: parts ? refuse : async () => encoder,
    ...(parts && {
      async encoderPart(first: number, end: number) {
        const rows = new Float32Array((end - first) * D);
        for (let i = first; i < end; i++) for (let d = 0; d < D; d++) rows[(i - first) * D + d] = weight[d * F + i]!;
        const own: Activation =
          activation.kind === "jumprelu"
            ? { kind: "jumprelu", threshold: activation.threshold.slice(first, end) }
            : activation;
        return { ...rest, rows, bias: bias.slice(first, end), activation: own };
      },
    }),
    decoder: refuse,
    decoderRows: refuse,
    decoderBias: refuse,
    sha256: async () => "",
    close: async () => {},
  };
}

async function codesOf(encoder: Encoder, x: Float32Array, wide: WideLimits, parts = false): Promise<SparseCodes> {
  const reader = codeReader({ threads: 1, wide });
  try {
    return await reader.encode(dictionaryOf(encoder, parts), x);
  } finally {
    await reader.release();
  }
}

/** Compares bytes: as numbers a difference of the last bit would be seen too, but it takes far longer. */
function expectSame(codes: SparseCodes, expected: SparseCodes): void {
  expect(codes.features.length).toBe(expected.features.length);
  for (const part of ["offsets", "features", "values"] as const) {
    const bytes = ({ [part]: { buffer, byteOffset, byteLength } }: SparseCodes) =>
      Buffer.from(buffer, byteOffset, byteLength);
    expect(bytes(codes).equals(bytes(expected)), part).toBe(true);
  }
}

function randomEncoder(D: number, F: number, activation: Activation, normalization?: Normalization): Encoder {
  const random = new Random(`${seed}/${D}/${F}`);
  const normal = (n: number, scale: number) => Float32Array.from({ length: n }, () => scale * random.normal());
  return {
    weight: normal(D * F, D ** -0.5),
    bias: normal(F, 0.1),
    inputBias: normal(D, 0.2),
    activation,
    ...(normalization && { normalization }),
  };
}

/** Rows of very different lengths, one of zeros, and some with single large numbers as in the residual stream. */
function randomRows(rows: number, D: number): Float32Array {
  const random = new Random(`${seed}/x/${D}`);
  const x = new Float32Array(rows * D);
  for (let r = 1; r < rows; r++) {
    const scale = 10 ** (random.uniform() * 4 - 2);
    for (let d = 0; d < D; d++) x[r * D + d] = scale * random.normal() * (r % 5 === 0 && d % 31 === 7 ? 40 : 1);
  }
  return x;
}

const F = 2_000;
const activations: Readonly<Record<string, () => Activation>> = {
  relu: () => ({ kind: "relu" }),
  jumprelu: () => {
    const random = new Random(`${seed}/threshold`);
    return { kind: "jumprelu", threshold: Float32Array.from({ length: F }, () => Math.abs(3 * random.normal())) };
  },
  topk: () => ({ kind: "topk", k: 40 }),
};
const normalizations = [undefined, "layer_norm", "constant_norm_rescale"] as const;

it.each(
  Object.keys(activations).flatMap((kind) =>
    normalizations.flatMap((normalization) => [127, 63].map((most) => [kind, normalization, most] as const)),
  ),
)(
  `codes of %s, normalised by %s, whole numbers up to %i, are the dense ones bit for bit (seed ${seed})`,
  async (kind, normalization, most) => {
    const D = kind === "relu" ? 100 : 192;
    const encoder = randomEncoder(D, F, activations[kind]!(), normalization);
    // The last chunk of the dense product has 60 rows: of one alone the runtime sums in another order.
    const x = randomRows(316, D);
    if (normalization) x.fill(1, 0, D).fill(2, 0, 7);
    const dense = await codesOf(encoder, x, never);
    expect(dense.features.length).toBeGreaterThan(5_000);
    expect(dense.features.length).toBeLessThan(0.6 * 316 * F);
    for (const parts of [false, true]) {
      expectSame(await codesOf(encoder, x, { ...always, block: 624, most }, parts), dense);
    }
  },
);

it("few rows, one row, and all features in one part", async () => {
  const encoder = randomEncoder(192, F, activations.jumprelu!());
  const x = randomRows(316, 192).slice(192);
  for (const rows of [2, 3, 17]) {
    const part = x.subarray(0, rows * 192);
    expectSame(await codesOf(encoder, part, always), await codesOf(encoder, part, never));
  }
  const two = await codesOf(encoder, x.subarray(0, 2 * 192), never);
  const { features, values } = await codesOf(encoder, x.subarray(0, 192), always);
  expect({ features, values }).toEqual(codeRow(two, 0));
});

/** The next float32 number above a positive one. */
function above(x: number): number {
  const bits = new Uint32Array(Float32Array.of(x).buffer);
  bits[0]!++;
  return new Float32Array(bits.buffer)[0]!;
}

/**
 * Rows and features whose rests point the same way as what they are multiplied with: the product of whole numbers is below the true one by the whole
 * bound, but for the share 1e-3 of it that the first number of each takes, which sets the scale.
 */
function adversaries(D: number, F: number, rows: number) {
  const random = new Random(`${seed}/adversaries`);
  const sign = Float32Array.from({ length: D }, () => (random.uniform() < 0.5 ? -1 : 1));
  const vector = (whole: number, most: number, scale: number) =>
    Float32Array.from(sign, (s, d) => scale * (d === 0 ? most * s : (whole + 0.49) * s));
  const x = new Float32Array(rows * D);
  for (let r = 0; r < rows; r++) x.set(vector(30 + r, 127, 10 ** (r - 2)), r * D);
  const weight = new Float32Array(D * F);
  for (let i = 0; i < F; i++) {
    const e = vector(20 + (i % 40), 127, 10 ** ((i % 5) - 4));
    for (let d = 0; d < D; d++) weight[d * F + i] = e[d]!;
  }
  return { x, weight };
}

it(`features at their thresholds are found where the whole bound is used up (seed ${seed})`, async () => {
  const [D, F, rows] = [1024, 320, 6];
  const { x, weight } = adversaries(D, F, rows);
  // What the bound has to make up for is what it allows: no smaller one would do.
  const [loops, place] = [openLoops(), rowPlace(D, 16)];
  const quantised = (v: Float32Array) => {
    new Float32Array(loops.memory.buffer, place.v, D).set(v);
    const known = quantiseRow(loops, place, 127, 0);
    return { ...known, whole: new Int8Array(loops.memory.buffer, place.q, D).slice() };
  };
  const column = (i: number) => Float32Array.from({ length: D }, (_, d) => weight[d * F + i]!);
  for (const [r, i] of [
    [0, 0],
    [3, 17],
    [5, 300],
  ] as const) {
    const row = x.subarray(r * D, (r + 1) * D);
    const [a, b] = [quantised(row), quantised(column(i))];
    const [q, e] = [a.whole, b.whole];
    const product = row.reduce((sum, value, d) => sum + value * weight[d * F + i]!, 0);
    const whole = a.scale * b.scale * q.reduce((sum, value, d) => sum + value * e[d]!, 0);
    const bound = Math.sqrt(q.reduce((sum, value) => sum + (a.scale * value) ** 2, 0)) * b.rest + a.rest * b.norm;
    expect((product - whole) / bound).toBeGreaterThan(0.93);
    expect((product - whole) / bound).toBeLessThan(1);
  }
  const bias = new Float32Array(F);
  const z = await codesOf({ weight, bias, activation: { kind: "relu" } }, x, never);
  expect(z.features.length).toBe(rows * F);
  for (let r = 0; r < rows; r++) {
    // Thresholds just below this row's products, and equal to them.
    const { values } = codeRow(z, r);
    const at = Float32Array.from(values);
    const below = Float32Array.from(values, (value, i) => (i % 2 === 0 ? value : Math.fround(value * (1 - 2 ** -24))));
    for (const threshold of [at, below, below.map(above)]) {
      const encoder: Encoder = { weight, bias, activation: { kind: "jumprelu", threshold } };
      const dense = await codesOf(encoder, x, never);
      for (const most of [127, 63]) {
        expectSame(await codesOf(encoder, x, { ...always, block: 160, most }, true), dense);
      }
      // The same by a bias: z − θ + 0 just above 0, or just not.
      const shifted: Encoder = { weight, bias: threshold.map((t) => -t), activation: { kind: "relu" } };
      expectSame(await codesOf(shifted, x, always), await codesOf(shifted, x, never));
    }
  }
});

it.each([0.01, 0])(
  `rows that differ in few directions but for %d: fewer features may be active, and those at their thresholds are found (seed ${seed})`,
  async (noise) => {
    const [D, rows] = [192, 120];
    const random = new Random(`${seed}/directions`);
    const normal = (n: number) => Float32Array.from({ length: n }, () => random.normal());
    const main = Array.from({ length: 5 }, () => normal(D));
    const x = new Float32Array(rows * D);
    for (let r = 0; r < rows; r++) {
      const row = normal(D).map((value) => noise * value);
      for (const [k, direction] of main.entries()) {
        const size = 30 * 3 ** -k * random.normal();
        for (let d = 0; d < D; d++) row[d]! += size * direction[d]!;
      }
      x.set(row, r * D);
    }
    const weight = normal(D * F).map((value) => value * D ** -0.5);
    const bias = new Float32Array(F);
    const z = await codesOf({ weight, bias, activation: { kind: "relu" } }, x, never);
    const listed = async (encoder: Encoder, directions: number) => {
      const sessions = await openWide({ threads: 1 });
      const loops = openLoops();
      let count = 0;
      const counting: Loops = {
        ...loops,
        possible(...given) {
          const found = loops.possible(...given);
          count += found;
          return found;
        },
      };
      const wide = new WideEncoder(counting, sessions, 624, 127, directions);
      const found = await wide.find(dictionaryOf(encoder, true), rows, async () => x);
      await sessions.release();
      return { count, found };
    };
    for (const r of [0, 50, 119]) {
      // Thresholds at this row's products, one step above and one below them.
      const threshold = normal(F).map((value) => 30 + Math.abs(value));
      const { features, values } = codeRow(z, r);
      for (const [k, i] of features.entries()) {
        const value = values[k]!;
        threshold[i] = k % 3 === 0 ? value : k % 3 === 1 ? above(value) : Math.fround(value * (1 - 2 ** -24));
      }
      const encoder: Encoder = { weight, bias, activation: { kind: "jumprelu", threshold } };
      const dense = await codesOf(encoder, x, never);
      for (const most of [127, 63]) expectSame(await codesOf(encoder, x, { ...always, block: 624, most }, true), dense);
      const [without, apart] = [await listed(encoder, 0), await listed(encoder, 16)];
      expectFound(without.found, dense);
      expectFound(apart.found, dense);
      expect(without.count).toBeGreaterThan(1.1 * dense.features.length);
      expect(apart.count).toBeLessThan(1.05 * dense.features.length);
      // Features at right angles to this row, whose product with it is nothing but rounding.
      const row = x.subarray(r * D, (r + 1) * D);
      const squares = row.reduce((sum, value) => sum + value * value, 0);
      const across = new Float32Array(D * F);
      for (let i = 0; i < F; i++) {
        let product = 0;
        for (let d = 0; d < D; d++) product += row[d]! * weight[d * F + i]!;
        for (let d = 0; d < D; d++) across[d * F + i] = weight[d * F + i]! - (product / squares) * row[d]!;
      }
      const level: Encoder = { weight: across, bias, activation: { kind: "relu" } };
      expectSame(await codesOf(level, x, { ...always, block: 624 }, true), await codesOf(level, x, never));
      // In JavaScript too.
      expectFound((await foundWith(slowLoops(), encoder, x)).found, dense);
    }
  },
);

it("no feature of a part may be active, nor of any", async () => {
  const D = 300;
  const encoder = randomEncoder(D, F, {
    kind: "jumprelu",
    threshold: new Float32Array(F).fill(1e9).fill(0, 900, 1200),
  });
  const x = randomRows(40, D);
  const dense = await codesOf(encoder, x, never);
  expect(dense.features.length).toBeGreaterThan(1000);
  expectSame(await codesOf(encoder, x, { ...always, block: 304 }), dense);
  const none: Encoder = { ...encoder, activation: { kind: "jumprelu", threshold: new Float32Array(F).fill(1e9) } };
  expectSame(await codesOf(none, x, { ...always, block: 304 }), await codesOf(none, x, never));
});

it("the k-th largest may be one of several equal ones, or below zero", async () => {
  const D = 192;
  const random = randomEncoder(D, F, { kind: "topk", k: 40 });
  // Every feature four times, far apart.
  const weight = random.weight.map((_, at) => random.weight[at - (at % F) + ((at % F) % 500)]!);
  const bias = random.bias.map((_, i) => random.bias[i % 500]!);
  const x = randomRows(60, D);
  for (const shift of [0, -2]) {
    for (const k of [1, 2, 39, 700]) {
      const encoder: Encoder = { ...random, weight, bias: bias.map((b) => b + shift), activation: { kind: "topk", k } };
      const dense = await codesOf(encoder, x, never);
      expectSame(await codesOf(encoder, x, { ...always, block: 496 }, true), dense);
    }
  }
});

/** Codes found with given loops, and whether their sums were taken to be those of the dense product. */
async function foundWith(loops: Loops, encoder: Encoder, x: Float32Array) {
  const [D, rows] = [
    encoder.weight.length / encoder.bias.length,
    (x.length * encoder.bias.length) / encoder.weight.length,
  ];
  const sessions = await openWide({ threads: 1 });
  const found = await new WideEncoder(loops, sessions, 624).find(dictionaryOf(encoder, true), rows, async () => x);
  const alike = await sumsAlike(loops, sessions, D);
  await sessions.release();
  return { found, alike };
}

function expectFound(found: readonly Found[] | undefined, dense: SparseCodes): void {
  expect(found!.length).toBe(dense.rows);
  for (const [r, { features, values }] of found!.entries()) {
    const row = codeRow(dense, r);
    expect(features).toEqual([...row.features]);
    expect(values.every((value, k) => value === row.values[k])).toBe(true);
  }
}

it.runIf(arch === "x64")("sums in the loop are those of the dense product here", async () => {
  const sessions = await openWide({ threads: 1 });
  for (const D of [1, 100, 192, 512, 2304, 4096]) expect(await sumsAlike(openLoops(), sessions, D), `${D}`).toBe(true);
  await sessions.release();
});

describe("a loop whose sums are not the dense ones is found out, and its sums are not used", () => {
  const { inputBias: _, ...encoder } = randomEncoder(300, F, activations.jumprelu!());
  const x = randomRows(60, 300);
  const real = openLoops();
  /** Does something to the values of the real loop. */
  const planted = (change: (z: Float32Array, list: Int32Array, n: number) => void): Loops => ({
    ...real,
    fused(list, n, groups) {
      real.fused!(list, n, groups);
      const { buffer } = real.memory;
      const pairs = new Int32Array(buffer, list, 3 * n);
      for (let k = 0; k < n; k++) change(new Float32Array(buffer, pairs[3 * k + 2]!, 1), pairs.subarray(3 * k), groups);
    },
  });
  const last = (z: Float32Array) => {
    new Int32Array(z.buffer, z.byteOffset, 1)[0]! += 1;
  };
  it.each<[string, () => Loops]>([
    ["no such loop", () => ({ ...real, fused: undefined }) as unknown as Loops],
    ["loops in JavaScript", slowLoops],
    ["the last bit of one sum in a hundred", () => planted((z) => (z[0]! % 0.01 > 0.0099 ? last(z) : undefined))],
    [
      "products rounded on their own",
      () =>
        planted((z, [at, eAt], groups) => {
          const [one, two] = [at!, eAt!].map((from) => new Float32Array(z.buffer, from, 512 * groups));
          let sum = 0;
          for (let block = 0; block < 4 * groups; block++) {
            let part = 0;
            for (let d = 0; d < 128; d++) {
              const k = 512 * Math.floor(block / 4) + 4 * d + (block % 4);
              part = Math.fround(part + Math.fround(one![k]! * two![k]!));
            }
            sum = Math.fround(sum + part);
          }
          z[0] = sum;
        }),
    ],
  ])("%s", async (_, loops) => {
    const dense = await codesOf(encoder, x, never);
    const { found, alike } = await foundWith(loops(), encoder, x);
    expect(alike).toBe(false);
    expectFound(found, dense);
  });
});

describe("where bounds are to be faster", () => {
  const encoder = randomEncoder(192, F, activations.jumprelu!());
  const x = randomRows(600, 192);
  /** A dictionary that counts how often its weights are asked for as a whole, and in parts. */
  const counting = (one: Encoder) => {
    const asked = { whole: 0, parts: 0 };
    const [parts, whole] = [dictionaryOf(one, true), dictionaryOf(one, false)];
    const dictionary: Dictionary = {
      ...parts,
      async encoder() {
        asked.whole++;
        return whole.encoder();
      },
      async encoderPart(first, end) {
        asked.parts++;
        return parts.encoderPart!(first, end);
      },
    };
    return { asked, dictionary };
  };

  it.runIf(arch === "x64")("they are used, or given up at first sight or on the way, to the same bits", async () => {
    const { threshold } = encoder.activation as { threshold: Float32Array };
    // Behind the features that are looked at first, nearly all may be active.
    const late = { kind: "jumprelu", threshold: threshold.map((t, i) => (i < 1500 ? 30 * t + 30 : 0)) } as const;
    const cases = [
      [encoder, 1, { whole: 0, parts: 4 }],
      [encoder, 0.9, { whole: 0, parts: 5 }],
      [encoder, 0.001, { whole: 1, parts: 1 }],
      [{ ...encoder, activation: late }, 0.05, { whole: 1, parts: 5 }],
    ] as const;
    for (const [one, mostCandidates, expected] of cases) {
      const dense = await codesOf(one, x, never);
      const { asked, dictionary } = counting(one);
      const reader = codeReader({ threads: 1, wide: { bytes: Infinity, gain: 0, block: 512, mostCandidates } });
      expectSame(await reader.encode(dictionary, x), dense);
      expect(asked).toEqual(expected);
      if (asked.whole > 0) {
        // The second time it is not tried.
        expectSame(await reader.encode(dictionary, x), dense);
        expect(asked).toEqual({ ...expected, whole: 2 });
      }
      await reader.release();
    }
  });

  it("is told by sizes, rows and threads", () => {
    const sizes = (featureCount: number, inputWidth: number) =>
      ({ kind: "jumprelu", featureCount, inputWidth }) as const;
    expect(mayPay(sizes(65_536, 2304), 10_000, 1)).toBe(true);
    expect(mayPay(sizes(65_536, 2304), 200, 1)).toBe(false);
    expect(mayPay(sizes(65_536, 2304), 10_000, 16)).toBe(false);
    expect(mayPay({ ...sizes(65_536, 2304), meanActive: 3000 }, 10_000, 1)).toBe(false);
    expect(mayPay(sizes(1_536, 192), 10_000, 1)).toBe(false);
    expect(mayPay({ ...sizes(65_536, 2304), kind: "identity" }, 10_000, 1)).toBe(false);
  });
});

it("a row has the same bits wherever it stands, be it the last of 257", async () => {
  const encoder = randomEncoder(192, F, activations.jumprelu!());
  const x = randomRows(300, 192).slice(0, 257 * 192);
  const all = await codesOf(encoder, x, never);
  const two = await codesOf(encoder, x.slice(255 * 192), never);
  for (const [r, at] of [
    [255, 0],
    [256, 1],
  ] as const)
    expect(codeRow(all, r)).toEqual(codeRow(two, at));
  expectSame(await codesOf(encoder, x, always), all);
});

it("ends when it is asked to stop", async () => {
  const dictionary = dictionaryOf(randomEncoder(8, 256, { kind: "relu" }), true);
  const reader = codeReader({ threads: 1, wide: always });
  const asked = reader.encode(dictionary, new Float32Array(4 * 8).fill(1), { stopped: () => true });
  await expect(asked).rejects.toThrow(StoppedError);
  await reader.release();
});
