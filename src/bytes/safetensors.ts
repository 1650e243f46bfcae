import { isWhole } from "../amounts.ts";
import { messageOf, UserError } from "../errors.ts";
import { bytesOf, encodeFloat32, type FloatDType, isDType } from "./dtype.ts";
import { repeatedKey } from "./json.ts";
import type { ByteSource } from "./source.ts";
import { checkFinite, type TensorFile, type TensorInfo, tensorFile } from "./tensor-file.ts";

/** A header longer than this is not one (the limit of the format's own library). */
const largestHeader = 100_000_000;

/**
 * Opens a safetensors file (https://huggingface.co/docs/safetensors): reads its header and checks it against the file's length.
 *
 * @throws UserError if the file is cut short, its header is damaged, or a tensor's place, shape or number format cannot be right
 */
export async function openSafetensors(source: ByteSource): Promise<TensorFile> {
  const { metadata, tensors } = await readHeader(source);
  return tensorFile(source, tensors, metadata);
}

type Header = Pick<TensorFile, "metadata" | "tensors">;

async function readHeader(source: ByteSource): Promise<Header> {
  const fail: Fail = (what, expected, got, advice = "The file is cut short or damaged; fetch it again.") => {
    throw new UserError(`${oneLine(what)}: expected ${expected}, got ${got} in ${source.name}. ${advice}`);
  };
  if (source.size < 8) fail("safetensors file", "at least 8 bytes", `${source.size}`);
  const lengthBytes = await source.read(0, 8);
  const headerLength = Number(new DataView(lengthBytes.buffer, lengthBytes.byteOffset, 8).getBigUint64(0, true));
  if (headerLength > source.size - 8 || headerLength > largestHeader) {
    fail(
      "safetensors header",
      `at most ${Math.min(source.size - 8, largestHeader)} bytes`,
      `a length of ${headerLength}`,
    );
  }

  const header = parseHeader(await source.read(8, headerLength), fail);
  const start = 8 + headerLength;
  const tensors = new Map<string, TensorInfo>();
  let metadata: Record<string, string> = {};
  for (const [name, entry] of Object.entries(header)) {
    if (name === "__metadata__") metadata = checkMetadata(entry, fail);
    else tensors.set(name, checkEntry(name, entry, start, fail));
  }
  checkCover(tensors, start, source.size, fail);
  return { metadata, tensors };
}

type Fail = (what: string, expected: string, got: string, advice?: string) => never;

function parseHeader(bytes: Uint8Array, fail: Fail): Record<string, unknown> {
  let header: unknown;
  let text = "";
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
    header = JSON.parse(text);
  } catch (error) {
    return fail("safetensors header", "JSON", `other bytes (${oneLine(messageOf(error))})`);
  }
  if (!isRecord(header)) return fail("safetensors header", "a JSON object", "another value");
  const repeated = repeatedKey(text);
  if (repeated !== undefined) return fail(`tensor ${repeated}`, "one entry", "two in the header");
  return header;
}

/** A name from a file, fit for a message. */
function oneLine(text: string): string {
  return text.replace(/\s+/g, " ").slice(0, 100);
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function checkMetadata(entry: unknown, fail: Fail): Record<string, string> {
  if (!isRecord(entry) || Object.values(entry).some((value) => typeof value !== "string")) {
    return fail("safetensors metadata", "an object of texts", "another value");
  }
  return entry as Record<string, string>;
}

/** What a header says of one tensor, with its place counted from the beginning of the file. */
function checkEntry(name: string, entry: unknown, start: number, fail: Fail): TensorInfo {
  if (!isRecord(entry)) return fail(`tensor ${name}`, "an object with dtype, shape and data_offsets", "another value");
  const { dtype, shape, data_offsets: offsets } = entry;
  if (!isDType(dtype)) {
    return fail(
      `dtype of tensor ${name}`,
      `one of ${Object.keys(bytesOf).join(", ")}`,
      shown(dtype),
      typeof dtype === "string" ? "This number format is not read; save the file in bfloat16 or float32." : undefined,
    );
  }
  if (!Array.isArray(shape) || !shape.every(isWhole)) {
    return fail(`shape of tensor ${name}`, "a list of whole numbers from 0 up", shown(shape));
  }
  if (!Array.isArray(offsets) || offsets.length !== 2 || !offsets.every(isWhole)) {
    return fail(`data_offsets of tensor ${name}`, "[begin, end] as whole numbers from 0 up", shown(offsets));
  }
  const [begin, end] = offsets as unknown as [number, number];
  const wanted = shape.reduce((product, n) => product * n, bytesOf[dtype]);
  if (wanted !== end - begin) {
    return fail(`length of tensor ${name}`, `${wanted} bytes for ${dtype} [${shape}]`, `${end - begin}`);
  }
  return { dtype, shape, offset: start + begin, length: wanted };
}

function shown(value: unknown): string {
  const text = JSON.stringify(value) ?? "nothing";
  return text.length > 60 ? `${text.slice(0, 60)}…` : text;
}

/** Tensors must follow one another without overlap or gap, from the end of the header to the end of the file. */
function checkCover(tensors: ReadonlyMap<string, TensorInfo>, start: number, size: number, fail: Fail): void {
  let end = start;
  for (const [name, info] of [...tensors].sort(([, a], [, b]) => a.offset - b.offset || a.length - b.length)) {
    if (info.offset !== end) {
      const how = info.offset < end ? "an overlap with another tensor" : "a gap";
      fail(`data_offsets of tensor ${name}`, `a begin of ${end - start}`, `${info.offset - start}, ${how},`);
    }
    end += info.length;
  }
  if (end !== size) fail("safetensors file", `${end} bytes`, `${size}`);
}

/**
 * The bytes of a safetensors file: header padded to a multiple of 8, tensors ordered by name, so that equal tensors give equal bytes.
 *
 * @param dtype the format of all numbers in the file, rounded to nearest
 * @throws UserError if a number is not finite, or too large for the format
 */
export function writeSafetensors(
  tensors: ReadonlyMap<string, { readonly shape: readonly number[]; readonly data: Float32Array }>,
  { dtype = "F32", metadata = {} }: { dtype?: FloatDType; metadata?: Readonly<Record<string, string>> } = {},
): Uint8Array {
  const header: Record<string, unknown> = Object.keys(metadata).length > 0 ? { __metadata__: metadata } : {};
  const parts: Uint8Array[] = [];
  let end = 0;
  for (const [name, { shape, data }] of [...tensors].sort(([a], [b]) => (a < b ? -1 : 1))) {
    const count = shape.reduce((product, n) => product * n, 1);
    if (count !== data.length) throw new Error(`internal: ${name} [${shape}] has ${data.length} numbers`);
    checkFinite(data, name, "the tensors to be written");
    if (dtype === "F16" || dtype === "BF16") checkRepresentable(data, name, dtype);
    const bytes = encodeFloat32(data, dtype);
    header[name] = { dtype, shape, data_offsets: [end, end + bytes.length] };
    parts.push(bytes);
    end += bytes.length;
  }
  const text = new TextEncoder().encode(JSON.stringify(header));
  const start = 8 + Math.ceil(text.length / 8) * 8;
  const file = new Uint8Array(start + end).fill(0x20, 8, start);
  new DataView(file.buffer).setBigUint64(0, BigInt(start - 8), true);
  file.set(text, 8);
  let at = start;
  for (const part of parts) {
    file.set(part, at);
    at += part.length;
  }
  return file;
}

/** Half-way between the largest finite number of the format and the next: from here on numbers round to infinity. */
const tooLarge = { F16: 65520, BF16: 2 ** 127 * (2 - 2 ** -8) };

function checkRepresentable(values: Float32Array, tensor: string, dtype: "F16" | "BF16"): void {
  const limit = tooLarge[dtype];
  const at = values.findIndex((x) => Math.abs(x) >= limit);
  if (at >= 0) {
    throw new UserError(
      `tensor ${tensor}: expected numbers below ${limit}, got ${values[at]} at ${at}. Write it as float32.`,
    );
  }
}
