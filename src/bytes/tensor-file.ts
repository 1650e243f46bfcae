import { UserError } from "../errors.ts";
import { blockFormatOf, decodeStored, type Stored } from "./blocks.ts";
import { areFinite } from "./finite.ts";
import type { ByteSource } from "./source.ts";

/** Where a tensor lies in its file: `length` bytes from byte `offset` of the file. Rows that lie together are whole blocks. */
export interface TensorInfo {
  readonly dtype: Stored;
  readonly shape: readonly number[];
  readonly offset: number;
  readonly length: number;
  /** A matrix that lies column after column; all other tensors lie row after row. */
  readonly byColumns?: boolean;
}

/** A matrix as the file names it, or transposed. */
export interface Orientation {
  readonly transposed?: boolean;
}

/** A file of named tensors whose header has been read; numbers are read when they are asked for, always as float32. */
export interface TensorFile {
  readonly source: ByteSource;
  readonly metadata: Readonly<Record<string, string>>;
  readonly tensors: ReadonlyMap<string, TensorInfo>;
  /**
   * All numbers of a tensor, or of a matrix transposed, in row-major order.
   *
   * @throws UserError if there is no such tensor
   */
  read(name: string, orientation?: Orientation): Promise<Float32Array>;
  /**
   * Some rows of a matrix, or of its transpose, [indices.length, row length], in the order of the indices. Rows that lie together in the file are
   * read alone (with small gaps between them). Of a matrix that lies the other way round, neighbouring rows take a read for each of its columns, others
   * a pass over all of it, in pieces.
   *
   * @throws UserError if there is no such tensor, it is not a matrix, or an index is out of range
   */
  rows(name: string, indices: ArrayLike<number>, orientation?: Orientation): Promise<Float32Array>;
}

/** Numbers are read and converted in pieces of at most this many bytes. */
const pieceBytes = 16 * 2 ** 20;
/** Rows from a file of this machine are read in pieces of at most this many bytes, which stay in the processor's cache until they are converted. */
const rowPieceBytes = 2 ** 20;
/** Rows that lie closer together than this many bytes are read at once. */
const gapBytes = 16 * 2 ** 10;

/** The tensors of a file, read by where they lie in it. */
export function tensorFile(
  source: ByteSource,
  tensors: ReadonlyMap<string, TensorInfo>,
  metadata: Readonly<Record<string, string>> = {},
): TensorFile {
  const find = (name: string) => {
    const info = tensors.get(name);
    if (!info)
      throw new UserError(`tensor: expected "${name}", got none of that name in ${source.name}. Check the file.`);
    return info;
  };
  return {
    source,
    metadata,
    tensors,
    async read(name, { transposed = false } = {}) {
      const info = find(name);
      if (transposed === (info.byColumns ?? false)) return readAll(source, info);
      const { rows: R, columns: C } = storedShape(name, info, source);
      const out = new Float32Array(R * C);
      for await (const { first, count, values } of pieces(source, info, R, C)) {
        for (let r = 0; r < count; r++) for (let c = 0; c < C; c++) out[c * R + first + r] = values[r * C + c]!;
      }
      return out;
    },
    async rows(name, indices, { transposed = false } = {}) {
      const info = find(name);
      const { rows: R, columns: C } = storedShape(name, info, source);
      const what = `tensor ${name} in ${source.name}`;
      if (transposed === (info.byColumns ?? false)) return readRows(source, info, R, C, indices, what);
      checkIndices(indices, C, what);
      const out = new Float32Array(indices.length * R);
      const span = spanOf(indices);
      if (span && blockFormatOf(info.dtype).numbers === 1 && bytesOfRow(info.dtype, C - span.count) > gapBytes) {
        await readColumns(source, info, R, C, span, out);
        return out;
      }
      for await (const { first, count, values } of pieces(source, info, R, C)) {
        for (let n = 0; n < indices.length; n++) {
          for (let r = 0; r < count; r++) out[n * R + first + r] = values[r * C + indices[n]!]!;
        }
      }
      return out;
    },
  };
}

/** The matrix's shape as stored. @throws UserError if it is none */
function storedShape(name: string, { shape, byColumns }: TensorInfo, source: ByteSource) {
  const [a, b] = shape;
  if (shape.length !== 2 || a === undefined || b === undefined) {
    throw new UserError(`tensor ${name}: expected a matrix, got shape [${shape}] in ${source.name}.`);
  }
  return byColumns ? { rows: b, columns: a } : { rows: a, columns: b };
}

const isLittleEndian = new Uint8Array(Uint16Array.of(1).buffer)[0] === 1;

async function readAll(source: ByteSource, { dtype, offset, length }: TensorInfo): Promise<Float32Array> {
  const block = blockFormatOf(dtype);
  const out = new Float32Array((length / block.bytes) * block.numbers);
  if (dtype === "F32" && isLittleEndian) {
    const bytes = await source.read(offset, length, new Uint8Array(out.buffer));
    if (bytes.buffer !== out.buffer) decodeStored(bytes, dtype, out);
    return out;
  }
  const most = Math.floor(pieceBytes / block.bytes) * block.bytes;
  for (let at = 0; at < length; at += most) {
    const bytes = await source.read(offset + at, Math.min(most, length - at));
    decodeStored(bytes, dtype, out, (at / block.bytes) * block.numbers);
  }
  return out;
}

/** A matrix in pieces of whole rows: `values` [count, columns] begin with row `first`, and are valid until the next piece. */
async function* pieces(source: ByteSource, { dtype, offset }: TensorInfo, rows: number, columns: number) {
  const rowBytes = bytesOfRow(dtype, columns);
  const most = Math.max(1, Math.floor(pieceBytes / Math.max(1, rowBytes)));
  const values = new Float32Array(Math.min(most, rows) * columns);
  for (let first = 0; first < rows; first += most) {
    const count = Math.min(most, rows - first);
    decodeStored(await source.read(offset + first * rowBytes, count * rowBytes), dtype, values);
    yield { first, count, values };
  }
}

async function readRows(
  source: ByteSource,
  { dtype, offset }: TensorInfo,
  rows: number,
  columns: number,
  indices: ArrayLike<number>,
  what: string,
): Promise<Float32Array> {
  checkIndices(indices, rows, what);
  const rowBytes = bytesOfRow(dtype, columns);
  const out = new Float32Array(indices.length * columns);
  const runs = runsOf(indices, rowBytes, source.overNetwork ? pieceBytes : rowPieceBytes);
  const longest = runs.reduce((most, { first, last }) => Math.max(most, last - first + 1), 0) * rowBytes;
  // Two that are filled in turns: new memory for every run would take longer than reading it.
  const room = Array.from({ length: Math.min(2, runs.length) }, () => new Uint8Array(longest));
  const begin = (at: number) => {
    const run = runs[at];
    if (!run) return undefined;
    const length = (run.last - run.first + 1) * rowBytes;
    const read = source.read(offset + run.first * rowBytes, length, room[at % 2]!.subarray(0, length));
    // Whoever waits for it has the error.
    read.catch(() => {});
    return read;
  };
  let next = begin(0);
  for (const [at, { first, places }] of runs.entries()) {
    const bytes = (await next)!;
    next = begin(at + 1);
    for (let k = 0, n = 1; k < places.length; k += n) {
      const [place, row] = [places[k]!, indices[places[k]!]!];
      for (n = 1; places[k + n] === place + n && indices[place + n] === row + n; ) n++;
      const start = (row - first) * rowBytes;
      decodeStored(bytes.subarray(start, start + n * rowBytes), dtype, out, place * columns);
    }
  }
  return out;
}

/** Indices that follow one another, or undefined. */
function spanOf(indices: ArrayLike<number>): { readonly first: number; readonly count: number } | undefined {
  const [first = 0, count] = [indices[0], indices.length];
  for (let n = 1; n < count; n++) if (indices[n] !== first + n) return undefined;
  return count > 0 ? { first, count } : undefined;
}

/** Neighbouring columns of a stored matrix as rows, [count, rows]. Several reads are under way at a time. */
async function readColumns(
  source: ByteSource,
  { dtype, offset }: TensorInfo,
  rows: number,
  columns: number,
  { first, count }: { readonly first: number; readonly count: number },
  out: Float32Array,
): Promise<void> {
  const bytes = bytesOfRow(dtype, count);
  const [values, atOnce] = [new Float32Array(count), 16];
  for (let from = 0; from < rows; from += atOnce) {
    const reads = Array.from({ length: Math.min(atOnce, rows - from) }, (_, k) =>
      source.read(offset + bytesOfRow(dtype, (from + k) * columns + first), bytes),
    );
    for (const [k, read] of (await Promise.all(reads)).entries()) {
      decodeStored(read, dtype, values);
      for (let n = 0, at = from + k; n < count; n++, at += rows) out[at] = values[n]!;
    }
  }
}

function bytesOfRow(dtype: Stored, columns: number): number {
  const { numbers, bytes } = blockFormatOf(dtype);
  return (columns / numbers) * bytes;
}

function checkIndices(indices: ArrayLike<number>, rows: number, what: string): void {
  for (let n = 0; n < indices.length; n++) {
    const row = indices[n]!;
    if (!Number.isInteger(row) || row < 0 || row >= rows) {
      throw new UserError(`row: expected 0 to ${rows - 1}, got ${row} of ${what}.`);
    }
  }
}

/** Rows first..last of a matrix that are read at once, and the places in the list of indices that want one of them. */
interface Run {
  readonly first: number;
  last: number;
  readonly places: number[];
}

/** @param most bytes of a run, unless one row has more */
function runsOf(indices: ArrayLike<number>, rowBytes: number, most: number): Run[] {
  const places = Int32Array.from({ length: indices.length }, (_, i) => i);
  if (places.some((i) => i > 0 && indices[i]! < indices[i - 1]!)) places.sort((a, b) => indices[a]! - indices[b]!);
  const runs: Run[] = [];
  let run: Run | undefined;
  for (const place of places) {
    const row = indices[place]!;
    const near = run !== undefined && (row - run.last - 1) * rowBytes <= gapBytes;
    if (run && near && (row - run.first + 1) * rowBytes <= most) {
      run.last = row;
      run.places.push(place);
    } else {
      run = { first: row, last: row, places: [place] };
      runs.push(run);
    }
  }
  return runs;
}

/**
 * `checkFinite` for the bits of 16-bit numbers.
 *
 * @throws UserError naming tensor, place and file
 */
export function checkFiniteBits(bits: Uint16Array, dtype: "BF16" | "F16", tensor: string, file: string): void {
  if (areFinite(bits, dtype)) return;
  const exponent = dtype === "BF16" ? 0x7f80 : 0x7c00;
  const at = bits.findIndex((b) => (b & exponent) === exponent);
  const value = new Float32Array(1);
  decodeStored(Uint8Array.of(bits[at]! & 0xff, bits[at]! >> 8), dtype, value);
  throw notFinite(tensor, value[0]!, at, file);
}

/**
 * Refuses numbers that are not finite: one NaN in a weight makes every result NaN.
 *
 * @throws UserError naming tensor, place and file
 */
export function checkFinite(values: Float32Array, tensor: string, file: string): void {
  if (areFinite(values, "F32")) return;
  const at = values.findIndex((value) => !Number.isFinite(value));
  throw notFinite(tensor, values[at]!, at, file);
}

function notFinite(tensor: string, value: number, at: number, file: string): UserError {
  return new UserError(
    `tensor ${tensor}: expected finite numbers, got ${value} at ${at} in ${file}. The file is damaged; fetch or make it again.`,
  );
}
