/** A value of a GGUF file's metadata: texts, whole numbers (int32), numbers (float32) and truth values, and lists of the first three. */
export type Value = string | number | boolean | readonly string[] | Int32Array | Float32Array;

/** A tensor as its header says it is; `type` is ggml's number of the format, `ne` the shape with the length of a row first. */
export interface Tensor {
  readonly name: string;
  readonly ne: readonly (number | bigint)[];
  readonly type: number;
  readonly offset: number | bigint;
}

export interface Gguf {
  readonly magic?: string;
  readonly version?: number;
  readonly values?: Readonly<Record<string, Value>> | readonly (readonly [string, Value | Uint8Array])[];
  readonly tensors?: readonly Tensor[];
  /** Bytes of data behind the header. */
  readonly data?: Uint8Array;
  /** What the header says of their numbers, if not the truth. */
  readonly counts?: { readonly tensors?: bigint; readonly values?: bigint };
}

/** The bytes of a GGUF file, damaged ones too: nothing is checked. A value of raw bytes begins with its type. */
export function makeGguf({
  magic = "GGUF",
  version = 3,
  values = {},
  tensors = [],
  data,
  counts = {},
}: Gguf): Uint8Array {
  const entries = Array.isArray(values) ? values : Object.entries(values);
  const parts = [
    new TextEncoder().encode(magic),
    uint32(version),
    uint64(counts.tensors ?? tensors.length),
    uint64(counts.values ?? entries.length),
    ...entries.flatMap(([key, value]) => [text(key), value instanceof Uint8Array ? value : typed(value)]),
    ...tensors.flatMap(({ name, ne, type, offset }) => [
      ...[text(name), uint32(ne.length), ...ne.map(uint64), uint32(type), uint64(offset)],
    ]),
  ];
  const length = parts.reduce((sum, part) => sum + part.length, 0);
  return join([...parts, new Uint8Array((32 - (length % 32)) % 32), ...(data ? [data] : [])]);
}

export function uint32(n: number): Uint8Array {
  return new Uint8Array(Uint32Array.of(n).buffer);
}

export function uint64(n: number | bigint): Uint8Array {
  return new Uint8Array(BigUint64Array.of(BigInt(n)).buffer);
}

export function text(value: string): Uint8Array {
  const bytes = new TextEncoder().encode(value);
  return join([uint64(bytes.length), bytes]);
}

export function join(parts: readonly Uint8Array[]): Uint8Array {
  const all = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

function typed(value: Value): Uint8Array {
  if (typeof value === "string") return join([uint32(8), text(value)]);
  if (typeof value === "boolean") return join([uint32(7), Uint8Array.of(Number(value))]);
  if (typeof value === "number") {
    return Number.isInteger(value)
      ? join([uint32(5), new Uint8Array(Int32Array.of(value).buffer)])
      : join([uint32(6), new Uint8Array(Float32Array.of(value).buffer)]);
  }
  if (value instanceof Int32Array || value instanceof Float32Array) {
    const numbers = new Uint8Array(value.slice().buffer);
    return join([uint32(9), uint32(value instanceof Int32Array ? 5 : 6), uint64(value.length), numbers]);
  }
  return join([uint32(9), uint32(8), uint64(value.length), ...value.map(text)]);
}
