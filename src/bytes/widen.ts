import {
  assemble,
  defineFunction,
  f32x4,
  i32,
  i32x4,
  type Local,
  repeatWhile,
  type Statement,
  type Value,
  v128,
} from "../wasm/assembler.ts";

/**
 * Widens numbers of 16 bits to float32: eight at a time where there is WebAssembly with vectors, since this passes over all of a model that is streamed,
 * for each way through it.
 *
 * @param bits little-endian
 * @param out receives the numbers from `at` on
 */
export function widen(dtype: "BF16" | "F16", bits: Uint16Array, out: Float32Array, at = 0): void {
  widener ??= openWidener();
  const { narrow, wide, loops } = widener;
  for (let first = 0; first < bits.length; first += pieceNumbers) {
    const n = Math.min(pieceNumbers, bits.length - first);
    narrow.set(n === bits.length ? bits : bits.subarray(first, first + n));
    loops[dtype](2 * n);
    out.set(n === pieceNumbers ? wide : wide.subarray(0, n), at + first);
  }
}

/** Numbers at a time: they stay in the processor's cache. */
const pieceNumbers = 8192;
/** Where wide numbers lie, behind the narrow ones. */
const wideAt = 2 * pieceNumbers;

interface Widener {
  /** Numbers are copied here and from here: WebAssembly sees no other memory. */
  readonly narrow: Uint16Array;
  readonly wide: Float32Array;
  /** Widen the numbers before byte `end`, and perhaps some behind it. */
  readonly loops: Readonly<Record<"BF16" | "F16", (end: number) => void>>;
}

let widener: Widener | undefined;

function openWidener(): Widener {
  try {
    const instance = new WebAssembly.Instance(
      new WebAssembly.Module(assemble([loop("BF16", ofBfloat16), loop("F16", ofFloat16)])),
    );
    const { memory, ...loops } = instance.exports as unknown as Widener["loops"] & {
      readonly memory: WebAssembly.Memory;
    };
    return { ...viewsOf(memory.buffer), loops };
  } catch {
    // The system grants no memory, or the engine has no vectors.
    return slowWidener();
  }
}

const viewsOf = (buffer: ArrayBuffer) => ({
  narrow: new Uint16Array(buffer, 0, pieceNumbers),
  wide: new Float32Array(buffer, wideAt, pieceNumbers),
});

/** The widener in JavaScript. */
export function slowWidener(): Widener {
  const buffer = new ArrayBuffer(wideAt + 4 * pieceNumbers);
  const { narrow, wide } = viewsOf(buffer);
  const words = new Int32Array(buffer, wideAt);
  return {
    narrow,
    wide,
    loops: {
      BF16(end) {
        for (let i = 0; 2 * i < end; i++) words[i] = narrow[i]! << 16;
      },
      F16(end) {
        const values = float16Values();
        for (let i = 0; 2 * i < end; i++) wide[i] = values[narrow[i]!]!;
      },
    },
  };
}

let float16Table: Float32Array | undefined;

/** The values of all float16 numbers, by their bits. */
export function float16Values(): Float32Array {
  float16Table ??= Float32Array.from({ length: 65536 }, (_, i) => float16Value(i));
  return float16Table;
}

/** IEEE 754 binary16: 1 sign, 5 exponent (bias 15), 10 fraction bits. */
function float16Value(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 31) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY;
  return sign * (exponent === 0 ? fraction * 2 ** -24 : (1024 + fraction) * 2 ** (exponent - 25));
}

type Vector = Value<"v128">;

/** What makes float32 numbers of four of 16 bits, which stand in `four` with 16 zeros in front of them. */
type Widen = (
  four: Vector,
  local: () => Local<"v128">,
) => { readonly before?: readonly Statement[]; readonly during?: readonly Statement[]; readonly wide: Vector };

/** bfloat16 are the upper halves of float32. */
const ofBfloat16: Widen = (four) => ({ wide: i32x4.shl(four, 16) });

/** float16 have the sign of float32, an exponent that is 112 less, and 13 bits less behind it. */
const ofFloat16: Widen = (four, local) => {
  const constants: Statement[] = [];
  const constant = (n: number): Vector => {
    const made = local();
    constants.push(made.set(i32x4.splat(i32.const(n))));
    return made;
  };
  const magnitude = local();
  const normal = i32x4.add(magnitude, constant(112 << 23));
  // Subnormal: 2⁻¹⁴ with the fraction behind it, less 2⁻¹⁴. So no float32 is subnormal on the way, which would be slow.
  const [least, exponent] = [constant(113 << 23), constant(1 << 23)];
  const subnormal = f32x4.sub(i32x4.add(magnitude, least), least);
  const finite = v128.bitselect(subnormal, normal, i32x4.ltS(magnitude, exponent));
  const infinite = v128.and(i32x4.geS(magnitude, constant(31 << 23)), constant(255 << 23));
  const sign = i32x4.shl(v128.and(four, constant(0x8000)), 16);
  return {
    before: constants,
    during: [magnitude.set(i32x4.shl(v128.and(four, constant(0x7fff)), 13))],
    wide: v128.or(v128.or(finite, infinite), sign),
  };
};

/** A function that widens the numbers before byte `end`. */
function loop(name: "BF16" | "F16", widen: Widen) {
  return defineFunction(name, { end: "i32" }, ({ end }, local) => {
    const [at, to, eight, four] = [local("i32"), local("i32"), local("v128"), local("v128")];
    const { before = [], during = [], wide } = widen(four, () => local("v128"));
    const half = (numbers: Vector, offset: number) => [four.set(numbers), ...during, v128.store(to, wide, offset)];
    return {
      body: [
        ...before,
        repeatWhile(i32.ltU(at, end), [
          to.set(i32.shl(at, i32.const(1))),
          eight.set(v128.load(at)),
          ...half(i32x4.extendLowI16x8U(eight), wideAt),
          ...half(i32x4.extendHighI16x8U(eight), wideAt + 16),
          at.set(i32.add(at, i32.const(16))),
        ]),
      ],
    };
  });
}
