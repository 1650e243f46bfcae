import { bytesOf, type DType } from "./dtype.ts";
import { checkedMembers } from "./members.ts";
import type { ByteSource } from "./source.ts";
import { type TensorFile, type TensorInfo, tensorFile } from "./tensor-file.ts";
import { type Fail, failureIn, readZip, type ZipEntry } from "./zip.ts";

/** numpy's names of the number formats; one byte has no order. */
const dtypes: Readonly<Record<string, DType>> = {
  "<f8": "F64",
  "<f4": "F32",
  "<f2": "F16",
  "<i8": "I64",
  "<i4": "I32",
  "<i2": "I16",
  "|i1": "I8",
  "|u1": "U8",
  "|b1": "BOOL",
};

const largestHeader = 65_536;

/**
 * Opens a file that numpy.savez wrote: a zip archive of .npy arrays (numpy's format versions 1 to 3), stored as they are, so that rows can be read
 * by offset. Arrays of objects, which Python would unpickle, are refused like all formats that are not numbers.
 *
 * @throws UserError if the file is damaged or compressed, or an array is in Fortran order or of another format; reading throws one if the array's
 * checksum is another one
 */
export async function openNpz(source: ByteSource): Promise<TensorFile> {
  const fail = failureIn(source);
  const tensors = new Map<string, TensorInfo>();
  const entries = await readZip(source);
  const members = checkedMembers(source, entries.values());
  for (const entry of entries.values()) {
    if (!entry.name.endsWith(".npy")) {
      fail(
        "npz file",
        "arrays (.npy) alone",
        `${entry.name.slice(0, 100)}, which is not read,`,
        "Save the arrays alone.",
      );
    }
    tensors.set(entry.name.slice(0, -4), await readArray(members.source, entry, fail));
  }
  return members.tensors(tensorFile(members.source, tensors), (name) => entries.get(`${name}.npy`));
}

async function readArray(source: ByteSource, { name, offset, length }: ZipEntry, fail: Fail): Promise<TensorInfo> {
  if (length < 12) return fail(`array ${name}`, "a header", `${length} bytes`);
  const start = await source.read(offset, 12);
  const view = new DataView(start.buffer, start.byteOffset, 12);
  const isArray = [0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59].every((byte, i) => start[i] === byte);
  const version = start[6]!;
  if (!isArray || version < 1 || version > 3) return fail(`array ${name}`, "numpy's header", "other bytes");
  const headerStart = version === 1 ? 10 : 12;
  const headerLength = version === 1 ? view.getUint16(8, true) : view.getUint32(8, true);
  const dataStart = headerStart + headerLength;
  if (dataStart > length || headerLength > largestHeader) {
    return fail(`array ${name}`, `a header within ${length} bytes`, `one of ${headerLength}`);
  }
  const header = new TextDecoder("latin1").decode(await source.read(offset + headerStart, headerLength));
  const { dtype, shape } = parseHeader(name, header, fail);
  const bytes = shape.reduce((product, n) => product * n, bytesOf[dtype]);
  if (dataStart + bytes !== length) {
    return fail(`array ${name}`, `${bytes} bytes for ${dtype} [${shape}]`, `${length - dataStart}`);
  }
  return { dtype, shape, offset: offset + dataStart, length: bytes };
}

/** `{'descr': '<f4', 'fortran_order': False, 'shape': (24, 8), }`: what numpy writes, in this order. */
function parseHeader(name: string, header: string, fail: Fail): { dtype: DType; shape: number[] } {
  const pattern = /^\{'descr': (.{1,200}), 'fortran_order': (True|False), 'shape': \(([^()]*)\), ?\}\s*$/s;
  const [, descr = "", fortran, shapeText = ""] = pattern.exec(header) ?? [];
  if (fortran === undefined) return fail(`array ${name}`, "numpy's header", header.slice(0, 80));
  const format = /^'(.*)'$/.exec(descr)?.[1] ?? "";
  const dtype = Object.hasOwn(dtypes, format) ? dtypes[format] : undefined;
  if (!dtype) {
    const advice = "Save it as float32 numbers.";
    return fail(`number format of array ${name}`, `one of ${Object.keys(dtypes).join(", ")}`, descr, advice);
  }
  if (fortran === "True") {
    const advice = "Save it after numpy.ascontiguousarray.";
    return fail(`array ${name}`, "rows that lie together (C order)", "Fortran order", advice);
  }
  const parts = shapeText.split(",").map((part) => part.trim());
  if (parts.at(-1) === "") parts.pop();
  const shape = parts.map(Number);
  if (!parts.every((part) => /^\d+$/.test(part)) || !shape.every(Number.isSafeInteger)) {
    return fail(`shape of array ${name}`, "whole numbers from 0 up", `(${shapeText})`);
  }
  return { dtype, shape };
}
