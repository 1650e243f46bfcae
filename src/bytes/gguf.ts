import { UserError } from "../errors.ts";
import { blockFormatOf, isStored, type Stored } from "./blocks.ts";
import type { ByteSource } from "./source.ts";
import { type TensorFile, type TensorInfo, tensorFile } from "./tensor-file.ts";

/** A value of a GGUF file's metadata; 64-bit whole numbers are rounded to float64. */
export type GgufValue = string | number | boolean | readonly string[] | GgufNumbers;

/** A list of numbers (truth values as 0 and 1). */
export type GgufNumbers = Float64Array | Float32Array | Int32Array;

/** A GGUF file whose header has been read. */
export interface GgufFile extends TensorFile {
  /** The metadata, by key. */
  readonly values: ReadonlyMap<string, GgufValue>;
}

/** A header longer than this is not one: vocabularies of 262,144 tokens take 7 MB. */
const largestHeader = 2 ** 28;
const windowBytes = 2 ** 20;
/** ggml has no tensors of more dimensions. */
const mostDimensions = 4;
const largestAlignment = 2 ** 20;

/** ggml's names of number formats (`enum ggml_type` in ggml.h). */
const typeNames = new Map(
  Object.entries({
    ...{ F32: 0, F16: 1, Q4_0: 2, Q4_1: 3, Q5_0: 6, Q5_1: 7, Q8_0: 8, Q8_1: 9, Q2_K: 10, Q3_K: 11, Q4_K: 12, Q5_K: 13 },
    ...{ Q6_K: 14, Q8_K: 15, IQ2_XXS: 16, IQ2_XS: 17, IQ3_XXS: 18, IQ1_S: 19, IQ4_NL: 20, IQ3_S: 21, IQ2_S: 22 },
    ...{ IQ4_XS: 23, I8: 24, I16: 25, I32: 26, I64: 27, F64: 28, IQ1_M: 29, BF16: 30, TQ1_0: 34, TQ2_0: 35 },
    ...{ MXFP4: 39, NVFP4: 40 },
  }).map(([name, id]) => [id, name]),
);

/**
 * Opens a GGUF file of version 2 or 3 (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md): reads its metadata and where its tensors lie.
 * Shapes are turned round, the length of a row last, as everywhere else; the numbers of quantised tensors are dequantised when they are read.
 *
 * @throws UserError if the file is cut short or damaged, of another version or byte order, or holds a tensor of a number format that cannot be read
 */
export async function openGguf(source: ByteSource): Promise<GgufFile> {
  const fail: Fail = (what, expected, got, advice = "The file is cut short or damaged; fetch it again.") => {
    throw new UserError(`${oneLine(what)}: expected ${expected}, got ${oneLine(got)} in ${source.name}. ${advice}`);
  };
  const header = new HeaderReader(source, fail);
  const { tensorCount, valueCount } = await readStart(header, fail);

  const values = new Map<string, GgufValue>();
  await header.expectAtLeast(valueCount, 13, "metadata values");
  for (let i = 0; i < valueCount; i++) {
    const key = await header.text("key of the metadata");
    if (values.has(key)) fail(`metadata ${key}`, "one value", "two");
    values.set(key, await readValue(header, `metadata ${key}`, fail));
  }

  const found: Found[] = [];
  await header.expectAtLeast(tensorCount, 24, "tensors");
  for (let i = 0; i < tensorCount; i++) found.push(await readInfo(header, fail));
  const tensors = placed(found, dataStart(values, header.at, fail), source.size, fail);
  return { ...tensorFile(source, tensors), values };
}

type Fail = (what: string, expected: string, got: string, advice?: string) => never;

/** A text from a file, fit for a message. */
function oneLine(text: string): string {
  return text.replace(/\s+/g, " ").slice(0, 100);
}

/** Magic, version and counts. */
async function readStart(header: HeaderReader, fail: Fail) {
  const magic = await header.uint32("file");
  if (magic !== 0x46554747)
    fail("file", 'GGUF\'s first bytes "GGUF"', "others", "It is not a GGUF file; check its name.");
  const version = await header.uint32("version of GGUF");
  const another = "Convert it again with a current llama.cpp.";
  if (version !== 0 && version % 0x10000 === 0) fail("byte order", "little-endian numbers", "big-endian ones", another);
  if (version !== 2 && version !== 3) fail("version of GGUF", "2 or 3", `${version}`, another);
  return { tensorCount: await header.uint64("count of tensors"), valueCount: await header.uint64("count of values") };
}

/** Numbers and texts of a file, one after the other, read in pieces. Nothing is allocated for what the file does not have. */
class HeaderReader {
  /** Offset in the file of what is read next. */
  at = 0;
  readonly #source: ByteSource;
  readonly #fail: Fail;
  readonly #end: number;
  readonly #decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  #start = 0;
  #bytes: Uint8Array = new Uint8Array(0);
  #view: DataView = new DataView(new ArrayBuffer(0));

  constructor(source: ByteSource, fail: Fail) {
    this.#source = source;
    this.#fail = fail;
    this.#end = Math.min(source.size, largestHeader);
  }

  /** Refuses a count of things of at least `size` bytes each for which the file is too short. */
  async expectAtLeast(count: number, size: number, what: string): Promise<void> {
    const most = Math.floor((this.#end - this.at) / size);
    if (count > most) this.#fail(`count of ${what}`, `at most ${most}`, `${count}`);
  }

  uint32(what: string): Promise<number> {
    return this.number((view, at) => view.getUint32(at, true), 4, what);
  }

  /** A whole number of 64 bits, rounded to float64. */
  uint64(what: string): Promise<number> {
    return this.number((view, at) => Number(view.getBigUint64(at, true)), 8, what);
  }

  /** A number of a fixed size. */
  async number(read: (view: DataView, at: number) => number, size: number, what: string): Promise<number> {
    const at = await this.#skip(size, what);
    return read(this.#view, at);
  }

  async text(what: string): Promise<string> {
    const length = await this.uint64(`length of ${what}`);
    const at = await this.#skip(length, what);
    return this.#decoder.decode(this.#bytes.subarray(at, at + length));
  }

  async texts(count: number, what: string): Promise<string[]> {
    const texts: string[] = [];
    for (let i = 0; i < count; i++) texts.push(this.#textAtHand() ?? (await this.text(what)));
    return texts;
  }

  /** The next text if all of it has been read already: vocabularies have hundreds of thousands, too many to wait for each. */
  #textAtHand(): string | undefined {
    const from = this.at - this.#start;
    if (from + 8 > this.#bytes.length || this.#view.getUint32(from + 4, true) !== 0) return undefined;
    const end = from + 8 + this.#view.getUint32(from, true);
    if (end > this.#bytes.length) return undefined;
    this.at = this.#start + end;
    return this.#decoder.decode(this.#bytes.subarray(from + 8, end));
  }

  async numbers<T extends GgufNumbers>(
    out: (count: number) => T,
    read: (view: DataView, at: number) => number,
    count: number,
    size: number,
    what: string,
  ): Promise<T> {
    const at = await this.#skip(count * size, what);
    const values = out(count);
    for (let i = 0; i < count; i++) values[i] = read(this.#view, at + i * size);
    return values;
  }

  /** Moves on by so many bytes; gives where they begin in the window, all of them in it. */
  async #skip(length: number, what: string): Promise<number> {
    if (length > this.#end - this.at) {
      this.#fail(what, `at most ${this.#end - this.at} bytes`, `${length}`);
    }
    if (this.at + length > this.#start + this.#bytes.length) {
      const wanted = Math.min(Math.max(length, windowBytes), this.#source.size - this.at);
      this.#bytes = await this.#source.read(this.at, wanted);
      this.#view = new DataView(this.#bytes.buffer, this.#bytes.byteOffset, this.#bytes.length);
      this.#start = this.at;
    }
    const from = this.at - this.#start;
    this.at += length;
    return from;
  }
}

/** The types of numbers in metadata, by their id: size in bytes, how to read one, the list for several. */
const numberTypes: Readonly<
  Record<number, readonly [number, (view: DataView, at: number) => number, (count: number) => GgufNumbers]>
> = {
  0: [1, (v, at) => v.getUint8(at), (n) => new Int32Array(n)],
  1: [1, (v, at) => v.getInt8(at), (n) => new Int32Array(n)],
  2: [2, (v, at) => v.getUint16(at, true), (n) => new Int32Array(n)],
  3: [2, (v, at) => v.getInt16(at, true), (n) => new Int32Array(n)],
  4: [4, (v, at) => v.getUint32(at, true), (n) => new Float64Array(n)],
  5: [4, (v, at) => v.getInt32(at, true), (n) => new Int32Array(n)],
  6: [4, (v, at) => v.getFloat32(at, true), (n) => new Float32Array(n)],
  7: [1, (v, at) => v.getUint8(at), (n) => new Int32Array(n)],
  10: [8, (v, at) => Number(v.getBigUint64(at, true)), (n) => new Float64Array(n)],
  11: [8, (v, at) => Number(v.getBigInt64(at, true)), (n) => new Float64Array(n)],
  12: [8, (v, at) => v.getFloat64(at, true), (n) => new Float64Array(n)],
};
const [boolType, stringType, arrayType] = [7, 8, 9];

async function readValue(header: HeaderReader, what: string, fail: Fail): Promise<GgufValue> {
  const type = await header.uint32(what);
  if (type === stringType) return header.text(what);
  if (type === arrayType) return readArray(header, what, fail);
  const numberType = numberTypes[type];
  if (!numberType) return fail(`type of ${what}`, "a type from 0 to 12", `${type}`);
  const [size, read] = numberType;
  const value = await header.number(read, size, what);
  return type === boolType ? value !== 0 : value;
}

async function readArray(header: HeaderReader, what: string, fail: Fail): Promise<GgufValue> {
  const type = await header.uint32(what);
  const count = await header.uint64(`length of ${what}`);
  if (type === stringType) {
    await header.expectAtLeast(count, 8, `texts of ${what}`);
    return header.texts(count, what);
  }
  const numberType = numberTypes[type];
  if (!numberType) {
    return fail(what, "a list of numbers or texts", type === arrayType ? "a list of lists" : `a list of type ${type}`);
  }
  const [size, read, make] = numberType;
  await header.expectAtLeast(count, size, `numbers of ${what}`);
  return header.numbers(make, read, count, size, what);
}

/** What the header says of a tensor, its place counted from the beginning of the data. */
interface Found extends TensorInfo {
  readonly name: string;
}

async function readInfo(header: HeaderReader, fail: Fail): Promise<Found> {
  const name = await header.text("name of a tensor");
  const dimensions = await header.uint32(`dimensions of tensor ${name}`);
  if (dimensions > mostDimensions) {
    fail(`tensor ${name}`, `at most ${mostDimensions} dimensions`, `${dimensions}`);
  }
  const shape: number[] = [];
  for (let i = 0; i < dimensions; i++) shape.unshift(await header.uint64(`shape of tensor ${name}`));
  const dtype = storedAs(name, await header.uint32(`number format of tensor ${name}`), fail);
  const offset = await header.uint64(`offset of tensor ${name}`);

  const block = blockFormatOf(dtype);
  const count = shape.reduce((product, n) => product * n, 1);
  const length = (count / block.numbers) * block.bytes;
  if (!Number.isSafeInteger(count) || !Number.isSafeInteger(length)) {
    fail(`shape of tensor ${name}`, "a size that a file can have", `[${shape}]`);
  }
  if ((shape.at(-1) ?? 1) % block.numbers !== 0) {
    fail(`shape of tensor ${name}`, `rows of whole blocks of ${block.numbers} numbers (${dtype})`, `[${shape}]`);
  }
  return { name, dtype, shape, offset, length };
}

function storedAs(name: string, type: number, fail: Fail): Stored {
  const format = typeNames.get(type);
  if (format === undefined) return fail(`number format of tensor ${name}`, "one of ggml's", `type ${type}`);
  if (!isStored(format)) {
    const readable = [...typeNames.values()].filter(isStored).join(", ");
    const advice = "Use a file quantised to one of these.";
    return fail(`number format of tensor ${name}`, `one of ${readable}`, format, advice);
  }
  return format;
}

/** Where the data begin: behind the header, at a multiple of the file's alignment. */
function dataStart(values: ReadonlyMap<string, GgufValue>, end: number, fail: Fail): number {
  const alignment = values.get("general.alignment") ?? 32;
  const isPower = typeof alignment === "number" && Number.isInteger(Math.log2(alignment)) && alignment >= 1;
  if (!isPower || alignment > largestAlignment) {
    return fail("metadata general.alignment", "a power of two", JSON.stringify(alignment));
  }
  return Math.ceil(end / alignment) * alignment;
}

/** The tensors by name, with their places in the file. They may lie in any order and with gaps, but neither overlap nor end behind the file. */
function placed(found: readonly Found[], start: number, size: number, fail: Fail): Map<string, TensorInfo> {
  const tensors = new Map<string, TensorInfo>();
  for (const { name, offset, ...info } of found) {
    if (tensors.has(name)) fail(`tensor ${name}`, "one entry", "two");
    if (!(start + offset + info.length <= size)) {
      fail(`tensor ${name}`, `${info.length} bytes from ${start + offset} on`, `a file of ${size} bytes`);
    }
    tensors.set(name, { ...info, offset: start + offset });
  }
  let end = start;
  for (const [name, { offset, length }] of [...tensors].sort(
    ([, a], [, b]) => a.offset - b.offset || a.length - b.length,
  )) {
    if (offset < end) fail(`offset of tensor ${name}`, `at least ${end}`, `${offset}, an overlap with another tensor,`);
    end = Math.max(end, offset + length);
  }
  return tensors;
}
