import { isWhole } from "../amounts.ts";
import { bytesOf, type DType } from "./dtype.ts";
import { checkedMembers } from "./members.ts";
import { Global, type Globals, type Pickled, readPickle } from "./pickle.ts";
import type { ByteSource } from "./source.ts";
import { type TensorFile, type TensorInfo, tensorFile } from "./tensor-file.ts";
import { type Fail, failureIn, readZip, type ZipEntry } from "./zip.ts";

/** What a file of torch.save holds beside its tensors; a list or another object is undefined. */
export type TorchValue = string | number | boolean | null | undefined;

/** A file of torch.save: its tensors by name, and the numbers, texts and truth values beside them. Dicts within dicts have names joined by dots. */
export interface TorchFile extends TensorFile {
  readonly values: ReadonlyMap<string, TorchValue>;
}

const storages: Readonly<Record<string, DType>> = {
  DoubleStorage: "F64",
  FloatStorage: "F32",
  HalfStorage: "F16",
  BFloat16Storage: "BF16",
  LongStorage: "I64",
  IntStorage: "I32",
  ShortStorage: "I16",
  CharStorage: "I8",
  ByteStorage: "U8",
  BoolStorage: "BOOL",
};

const largestPickle = 64 * 2 ** 20;

/** The bytes of one or several tensors. */
class Storage {
  readonly dtype: DType;
  readonly entry: ZipEntry;
  constructor(dtype: DType, entry: ZipEntry) {
    this.dtype = dtype;
    this.entry = entry;
  }
}

class TensorRecord {
  readonly info: TensorInfo;
  readonly entry: ZipEntry;
  constructor(info: TensorInfo, entry: ZipEntry) {
    this.info = info;
    this.entry = entry;
  }
}

/**
 * Opens a file that torch.save wrote from a dict of tensors (a zip archive with a pickle, PyTorch 1.6 and later). No code is run: the pickle may
 * only name what tensors and dicts are made of. Tensors lie in the archive as they are and are read by offset.
 *
 * @throws UserError if the file is damaged, names anything else, or a tensor's place, shape or strides cannot be right; reading throws one if the
 * storage's checksum is another one
 */
export async function openTorch(source: ByteSource): Promise<TorchFile> {
  const fail = failureIn(source);
  const entries = await readZip(source);
  // torch.serialization.set_crc32_options(False) leaves zeros.
  const hasChecksums = [...entries.values()].some(({ crc }) => crc !== 0);
  const members = checkedMembers(source, hasChecksums ? entries.values() : []);
  const pickle = [...entries.values()].find((entry) => /^[^/]+\/data\.pkl$/.test(entry.name));
  if (!pickle) return fail("torch file", "a file data.pkl in it", "none", "Save it with torch.save.");
  if (pickle.length > largestPickle)
    fail("torch file", `a pickle of at most ${largestPickle} bytes`, `${pickle.length}`);
  const folder = pickle.name.slice(0, -"data.pkl".length);
  const order = entries.get(`${folder}byteorder`);
  if (order) {
    const text = order.length > 16 ? "other text" : new TextDecoder().decode(await members.read(order));
    if (text !== "little") fail("torch file", "byteorder little", text, "Save it on another machine.");
  }
  const root = readPickle(
    await members.read(pickle),
    globalsOf(fail),
    (id) => storageOf(id, entries, folder, fail),
    fail,
  );
  const records = new Map<string, TensorRecord>();
  const values = new Map<string, TorchValue>();
  collect(root, "", new Set(), records, values, fail);
  const tensors = new Map([...records].map(([name, { info }]) => [name, info]));
  return { ...members.tensors(tensorFile(members.source, tensors), (name) => records.get(name)?.entry), values };
}

function globalsOf(fail: Fail): Globals {
  const named = (): Pickled => fail("pickle", "a storage's name", "a call of it");
  return new Map<string, (args: readonly Pickled[]) => Pickled>([
    ["collections OrderedDict", () => new Map()],
    ["torch._utils _rebuild_tensor_v2", (args) => tensorOf(args, fail)],
    ["torch._utils _rebuild_parameter", ([tensor]) => tensor ?? null],
    ...Object.keys(storages).map((name) => [`torch ${name}`, named] as const),
  ]);
}

/** ("storage", class, key, device, number of elements): the archive's file data/<key>. */
function storageOf(id: Pickled, entries: ReadonlyMap<string, ZipEntry>, folder: string, fail: Fail): Storage {
  const [tag, type, key, , count] = Array.isArray(id) ? (id as Pickled[]) : [];
  const dtype = type instanceof Global ? storages[type.name.replace(/^torch /, "")] : undefined;
  if (tag !== "storage" || !dtype || typeof key !== "string" || !isWhole(count)) {
    return fail("pickle", "a storage", "another reference");
  }
  const entry = entries.get(`${folder}data/${key}`);
  if (!entry) return fail(`storage ${key}`, "a file of its own", "none");
  if (count * bytesOf[dtype] !== entry.length) {
    fail(`storage ${key}`, `${count} numbers of ${bytesOf[dtype]} bytes`, `${entry.length} bytes`);
  }
  return new Storage(dtype, entry);
}

/** (storage, offset, shape, strides, …), offset and strides in elements. */
function tensorOf([storage, start, shape, strides, , , marks]: readonly Pickled[], fail: Fail): TensorRecord {
  // A view of negated or conjugated numbers is marked so: what lies in the file are the others.
  if (marks !== undefined && marks !== null && !(marks instanceof Map && marks.size === 0)) {
    fail("tensor", "numbers as they are", "a view that changes them (neg or conj)", "Save it after .resolve_neg().");
  }
  if (!(storage instanceof Storage) || !isWhole(start) || !isCounts(shape) || !isCounts(strides)) {
    return fail("pickle", "a tensor's storage, offset, shape and strides", "other values");
  }
  const { dtype, entry } = storage;
  const length = shape.reduce((product, n) => product * n, bytesOf[dtype]);
  const offset = entry.offset + start * bytesOf[dtype];
  if (!(offset + length <= entry.offset + entry.length)) {
    fail("tensor", `an end within its storage ${entry.name}`, `shape [${shape}] from ${start}`);
  }
  const byColumns = shape.length === 2 && !isDense(shape, strides) && isDense(shape.toReversed(), strides.toReversed());
  if (!byColumns && !isDense(shape, strides)) {
    const advice = "Save it after .contiguous().";
    return fail("tensor", "numbers that lie one after another", `strides [${strides}] of shape [${shape}]`, advice);
  }
  return new TensorRecord({ dtype, shape, offset, length, ...(byColumns ? { byColumns } : {}) }, entry);
}

/** Whether elements lie row after row without gaps. The stride of an axis of size 1 is never used. */
function isDense(shape: readonly number[], strides: readonly number[]): boolean {
  let step = 1;
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    if (shape[axis] !== 1 && strides[axis] !== step) return false;
    step *= shape[axis]!;
  }
  return shape.length === strides.length;
}

function isCounts(value: unknown): value is readonly number[] {
  return Array.isArray(value) && value.every(isWhole);
}

/** State dicts nest a few levels; thousands would end the stack that walks them. */
const deepest = 100;

function collect(
  value: Pickled,
  name: string,
  seen: Set<object>,
  tensors: Map<string, TensorRecord>,
  values: Map<string, TorchValue>,
  fail: Fail,
  depth = 0,
): void {
  if (!(value instanceof Map) && (tensors.has(name) || values.has(name))) {
    fail("torch file", `one value by the name ${name.slice(0, 100)}`, "two", "Save the state dict alone.");
  }
  if (value instanceof TensorRecord) tensors.set(name, value);
  else if (value instanceof Map) {
    // Dicts that hold one another could have more paths through them than can be walked.
    if (seen.has(value)) fail("pickle", "dicts that hold one another once", `${name || "the outer one"} twice`);
    seen.add(value);
    if (depth > deepest) fail("pickle", `dicts nested at most ${deepest} deep`, "deeper ones", "Save the state dict.");
    for (const [key, inner] of value) {
      collect(inner, name === "" ? `${key}` : `${name}.${key}`, seen, tensors, values, fail, depth + 1);
    }
  } else if (name === "") fail("torch file", "a dict of tensors", "another value", "Save the state dict.");
  else values.set(name, value === null || typeof value !== "object" ? value : undefined);
}
