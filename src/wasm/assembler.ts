/**
 * WebAssembly modules written as TypeScript expressions: the instructions have the names of the text format, in camel case, and types that the
 * compiler checks. What they make is the binary format (https://webassembly.github.io/spec/core/binary).
 */
export type Type = keyof typeof typeByte;

const typeByte = { i32: 0x7f, f32: 0x7d, f64: 0x7c, v128: 0x7b } as const;

type Code = readonly number[];

/** Instructions that leave nothing behind. */
export interface Statement {
  readonly code: Code;
}

/** Instructions that leave a value on the stack. */
export interface Value<T extends Type> {
  readonly type: T;
  readonly code: Code;
}

/** A variable of a function. */
export interface Local<T extends Type> extends Value<T> {
  set(value: Value<T>): Statement;
}

export interface WasmFunction {
  readonly name: string;
  readonly parameters: readonly Type[];
  readonly locals: readonly Type[];
  readonly result: Type | undefined;
  readonly code: Code;
}

type LocalsOf<P> = { readonly [name in keyof P]: P[name] extends Type ? Local<P[name]> : never };

/**
 * A function that a module exports.
 *
 * @param parameters types by name, in the order in which they are passed
 * @param define makes the statements of its body, and its result if there is one; `local` gives it a variable that begins at 0
 */
export function defineFunction<P extends Readonly<Record<string, Type>>>(
  name: string,
  parameters: P,
  define: (
    parameters: LocalsOf<P>,
    local: <T extends Type>(type: T) => Local<T>,
  ) => { readonly body: readonly Statement[]; readonly result?: Value<Type> },
): WasmFunction {
  const types = Object.values(parameters);
  const locals: Type[] = [];
  const named = Object.fromEntries(Object.entries(parameters).map(([key, type], i) => [key, localAt(i, type)]));
  const { body, result } = define(named as LocalsOf<P>, (type) => localAt(types.length + locals.push(type) - 1, type));
  const code = [...codeOf(body), ...(result?.code ?? [])];
  return { name, parameters: types, locals, result: result?.type, code };
}

function localAt<T extends Type>(index: number, type: T): Local<T> {
  return {
    type,
    code: [0x20, ...unsigned(index)],
    set: (value) => ({ code: [...value.code, 0x21, ...unsigned(index)] }),
  };
}

/** Runs `body`, and again as long as the condition after it holds. */
export function repeatWhile(condition: Value<"i32">, body: readonly Statement[]): Statement {
  return { code: [0x03, 0x40, ...codeOf(body), ...condition.code, 0x0d, 0, 0x0b] };
}

/** Runs `body` if the condition holds. */
export function when(condition: Value<"i32">, body: readonly Statement[]): Statement {
  return { code: [...condition.code, 0x04, 0x40, ...codeOf(body), 0x0b] };
}

const codeOf = (body: readonly Statement[]) => body.flatMap(({ code }) => code);

/** Instructions on one value, and on two of a type. */
const unary =
  <A extends Type, R extends Type>(_: A, type: R, ...opcode: number[]) =>
  (x: Value<A>): Value<R> => ({ type, code: [...x.code, ...opcode] });
const binary =
  <A extends Type, R extends Type>(_: A, type: R, ...opcode: number[]) =>
  (a: Value<A>, b: Value<A>): Value<R> => ({ type, code: [...a.code, ...b.code, ...opcode] });

const ternary =
  <T extends Type>(type: T, ...opcode: number[]) =>
  (a: Value<T>, b: Value<T>, c: Value<T>): Value<T> => ({ type, code: [...a.code, ...b.code, ...c.code, ...opcode] });

const simd = (opcode: number) => [0xfd, ...unsigned(opcode)] as const;

/** Reads at a place in memory, plus an offset. The alignment promised is that of bytes. */
const load =
  <R extends Type>(type: R, ...opcode: number[]) =>
  (at: Value<"i32">, offset = 0): Value<R> => ({ type, code: [...at.code, ...opcode, 0, ...unsigned(offset)] });

const store =
  <T extends Type>(_: T, ...opcode: number[]) =>
  (at: Value<"i32">, value: Value<T>, offset = 0): Statement => ({
    code: [...at.code, ...value.code, ...opcode, 0, ...unsigned(offset)],
  });

export const i32 = {
  const: (n: number): Value<"i32"> => ({ type: "i32", code: [0x41, ...signed(n)] }),
  add: binary("i32", "i32", 0x6a),
  sub: binary("i32", "i32", 0x6b),
  ltU: binary("i32", "i32", 0x49),
  and: binary("i32", "i32", 0x71),
  mul: binary("i32", "i32", 0x6c),
  shl: binary("i32", "i32", 0x74),
  shrU: binary("i32", "i32", 0x76),
  load: load("i32", 0x28),
  store: store("i32", 0x36),
  store8: store("i32", 0x3a),
};

export const f32 = {
  zero: { type: "f32", code: [0x43, 0, 0, 0, 0] } satisfies Value<"f32">,
  load: load("f32", 0x2a),
  store: store("f32", 0x38),
  gt: binary("f32", "i32", 0x5e),
  add: binary("f32", "f32", 0x92),
  max: binary("f32", "f32", 0x97),
  mul: binary("f32", "f32", 0x94),
};

export const f64 = {
  zero: { type: "f64", code: [0x44, 0, 0, 0, 0, 0, 0, 0, 0] } satisfies Value<"f64">,
  load: load("f64", 0x2b),
  store: store("f64", 0x39),
  add: binary("f64", "f64", 0xa0),
};

export const v128 = {
  load: load("v128", ...simd(0)),
  load64Zero: load("v128", ...simd(93)),
  store: store("v128", ...simd(11)),
  and: binary("v128", "v128", ...simd(78)),
  or: binary("v128", "v128", ...simd(80)),
  /** The bits of a where those of c are 1, of b elsewhere. */
  bitselect: ternary("v128", ...simd(82)),
  anyTrue: unary("v128", "i32", ...simd(83)),
};

/** Numbers of 32 bits of either operand: 0 to 3 are those of a, 4 to 7 those of b. */
type Place = 0 | 1 | 2 | 3 | 4 | 5 | 6 | 7;

export const i32x4 = {
  splat: unary("i32", "v128", ...simd(17)),
  extendLowI16x8U: unary("v128", "v128", ...simd(169)),
  extendHighI16x8U: unary("v128", "v128", ...simd(170)),
  ltS: binary("v128", "v128", ...simd(57)),
  geS: binary("v128", "v128", ...simd(63)),
  add: binary("v128", "v128", ...simd(174)),
  shl: (x: Value<"v128">, bits: number): Value<"v128"> => ({
    type: "v128",
    code: [...x.code, ...i32.const(bits).code, ...simd(171)],
  }),
  bitmask: unary("v128", "i32", ...simd(164)),
  extractLane: (x: Value<"v128">, lane: 0 | 1 | 2 | 3) => unary("v128", "i32", ...simd(27), lane)(x),
  truncSatF64x2Zero: unary("v128", "v128", ...simd(252)),
  shuffle: (a: Value<"v128">, b: Value<"v128">, ...places: readonly [Place, Place, Place, Place]) =>
    binary("v128", "v128", ...simd(13), ...places.flatMap((at) => [0, 1, 2, 3].map((byte) => 4 * at + byte)))(a, b),
};

export const f32x4 = {
  /** a·b + c, rounded once or twice, as the processor likes; not every engine has it. */
  relaxedMadd: ternary("v128", ...simd(0x105)),
  gt: binary("v128", "v128", ...simd(68)),
  abs: unary("v128", "v128", ...simd(224)),
  max: binary("v128", "v128", ...simd(233)),
  add: binary("v128", "v128", ...simd(228)),
  sub: binary("v128", "v128", ...simd(229)),
  mul: binary("v128", "v128", ...simd(230)),
  splat: unary("f32", "v128", ...simd(19)),
  convertI32x4: unary("v128", "v128", ...simd(250)),
  extractLane: (x: Value<"v128">, lane: 0 | 1 | 2 | 3) => unary("v128", "f32", ...simd(31), lane)(x),
};

export const f64x2 = {
  splat: unary("f64", "v128", ...simd(20)),
  extractLane: (x: Value<"v128">, lane: 0 | 1) => unary("v128", "f64", ...simd(33), lane)(x),
  promoteLowF32x4: unary("v128", "v128", ...simd(95)),
  add: binary("v128", "v128", ...simd(240)),
  sub: binary("v128", "v128", ...simd(241)),
  mul: binary("v128", "v128", ...simd(242)),
  nearest: unary("v128", "v128", ...simd(148)),
};

/** A module of functions and one memory of a page at first, all exported by name; the memory as `memory`. */
export function assemble(functions: readonly WasmFunction[]): Uint8Array<ArrayBuffer> {
  const section = (id: number, items: readonly Code[]) => [id, ...sized(vector(items))];
  const types = functions.map(({ parameters, result }) => [
    0x60,
    ...vector(parameters.map((type) => [typeByte[type]])),
    ...vector(result ? [[typeByte[result]]] : []),
  ]);
  const bodies = functions.map(({ locals, code }) =>
    sized([...vector(locals.map((type) => [1, typeByte[type]])), ...code, 0x0b]),
  );
  return Uint8Array.from([
    ...[0, 0x61, 0x73, 0x6d, 1, 0, 0, 0],
    ...section(1, types),
    ...section(
      3,
      functions.map((_, i) => unsigned(i)),
    ),
    ...section(5, [[0, 1]]),
    ...section(7, [[...text("memory"), 2, 0], ...functions.map(({ name }, i) => [...text(name), 0, ...unsigned(i)])]),
    ...section(10, bodies),
  ]);
}

const vector = (items: readonly Code[]): number[] => [...unsigned(items.length), ...items.flat()];
const sized = (bytes: Code): number[] => [...unsigned(bytes.length), ...bytes];
const text = (name: string): number[] => sized([...new TextEncoder().encode(name)]);

/** An unsigned number in LEB128, seven bits to a byte. */
function unsigned(n: number): number[] {
  return n < 128 ? [n] : [(n & 127) | 128, ...unsigned(n >>> 7)];
}

/** A number of 32 bits in signed LEB128: the last byte's bit 6 is its sign. */
function signed(n: number): number[] {
  return n >= -64 && n < 64 ? [n & 127] : [(n & 127) | 128, ...signed(n >> 7)];
}
