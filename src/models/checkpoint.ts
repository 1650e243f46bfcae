import { type Folder, readJson } from "../bytes/folder.ts";
import { openSafetensors } from "../bytes/safetensors.ts";
import { sha256OfFiles } from "../bytes/sha256.ts";
import type { ByteSource } from "../bytes/source.ts";
import { checkFinite, checkFiniteBits } from "../bytes/tensor-file.ts";
import { UserError } from "../errors.ts";
import { checkModelType } from "./architectures.ts";
import type { WeightFile } from "./gguf/names.ts";
import { openGgufModel } from "./gguf/open.ts";

/** A model's files: configuration and tokenizer are read, weights are read when they are asked for. */
export interface Checkpoint {
  /** The folder's name. */
  readonly name: string;
  /** config.json, or what stands in its place in a GGUF file. */
  readonly config: Readonly<Record<string, unknown>>;
  /** tokenizer.json, or what stands in its place in a GGUF file. */
  readonly tokenizer: Readonly<Record<string, unknown>>;
  /** tokenizer_config.json; empty if the folder has none. */
  readonly tokenizerConfig: Readonly<Record<string, unknown>>;
  /** Names of all tensors, sorted, as the files spell them; those of a GGUF file in Hugging Face's spelling. */
  readonly names: readonly string[];
  /** Length of all weight files in bytes. */
  readonly bytes: number;
  /** A weight's name as the files spell it; undefined if they have none of that name, or of another spelling of it (so for all that follow). */
  spelling(name: string): string | undefined;
  /** Whether the files have a weight of this name. */
  has(name: string): boolean;
  /**
   * Looks whether a weight can be read, without reading it.
   *
   * @throws UserError if there is no such tensor, its shape is another one, or its numbers are whole ones
   */
  check(name: string, expectedShape: readonly number[]): void;
  /** @throws UserError if there is no such tensor */
  shape(name: string): readonly number[];
  /**
   * A weight as float32, in row-major order.
   *
   * @throws UserError as `check`, or if a number is not finite
   */
  tensor(name: string, expectedShape: readonly number[]): Promise<Float32Array>;
  /**
   * Rows of a weight that is a matrix as float32, [indices.length, row length], in the order of the indices; only they are read.
   *
   * @throws UserError as `tensor`, or if an index is out of range
   */
  rows(name: string, expectedShape: readonly number[], indices: ArrayLike<number>): Promise<Float32Array>;
  /** The form in which `stored` gives a weight: 16-bit numbers stay as they are, all else becomes float32. */
  storedType(name: string): StoredType;
  /**
   * A weight as it lies in its file, in row-major order: the bits of 16-bit numbers, or float32. A weight is checked to be finite once, not each time.
   *
   * @param into memory that may be filled instead of taking new memory: as many bytes as the weight has in that form, from a multiple of 4
   * @throws UserError as `tensor`
   */
  stored(name: string, expectedShape: readonly number[], into?: Uint8Array): Promise<Float32Array | Uint16Array>;
  /** One hash for the weight files and those of config.json and tokenizer.json that were used: the model's identity. */
  sha256(): Promise<string>;
  /** Closes the files. */
  close(): Promise<void>;
}

/** Number formats in which weights are streamed: those of 16 bits are widened to float32 by whoever reads them. */
export type StoredType = "float32" | "bfloat16" | "float16";

/** Bytes of a number. */
export const storedBytes: Readonly<Record<StoredType, number>> = { float32: 4, bfloat16: 2, float16: 2 };

/**
 * A weight's name and its other spellings: a model that was saved without its unembedding, as published GPT-2 was, leaves out what stands in front of
 * all others; transformers 5 calls GPT-NeoX's unembedding `lm_head`; and where a model sees pictures too its text model is one part of it, by the
 * name of `language_model`.
 */
function spellings(name: string): readonly string[] {
  const [, base, rest] = /^(model|transformer|gpt_neox)\.(.*)$/.exec(name) ?? [];
  return [
    name,
    name.replace(/^embed_out\./, "lm_head."),
    ...(base === "model" ? [`model.language_model.${rest}`] : []),
    `language_model.${name}`,
    ...(base === "model" ? [`language_model.${rest}`] : []),
    ...(rest === undefined ? [] : [rest]),
  ];
}

/** Number formats that no weight has by itself: what holds them is quantised. */
const wholeNumbers = new Set(["I64", "I32", "I16", "I8", "U8", "BOOL"]);

/**
 * Opens a model: a folder in Hugging Face layout (config.json, tokenizer.json and either model.safetensors or the shards that
 * model.safetensors.index.json names), or with a GGUF file in place of all these.
 *
 * @param gguf the GGUF file to read, whatever else is in the folder; by default the only one of a folder without safetensors
 * @param allowedFields unknown fields of config.json to go on with, as for `modelFromConfig`
 * @throws UserError if a file is missing or damaged, or the model is of an architecture that cannot be run
 */
export async function openCheckpoint(
  folder: Folder,
  gguf?: string,
  allowedFields: readonly string[] = [],
): Promise<Checkpoint> {
  const path = gguf ?? (await onlyGguf(folder));
  const { config, tokenizer, tokenizerConfig, files, texts } = await (path === undefined
    ? openHuggingFace(folder)
    : openOneFile(folder, path, allowedFields));
  const tensors = new Map<string, WeightFile>();
  for (const file of files.values()) {
    for (const name of file.tensors.keys()) {
      const other = tensors.get(name);
      if (other !== undefined) {
        await closeAll([...files.values()].map(({ source }) => source));
        throw new UserError(
          `weight ${name}: expected it in one file, got it in ${other.source.name} and ${file.source.name}. Remove the file that does not belong to the model.`,
        );
      }
      tensors.set(name, file);
    }
  }

  const spelled = (name: string) => spellings(name).find((spelling) => tensors.has(spelling));
  const find = (name: string) => {
    const spelling = spelled(name);
    const file = tensors.get(spelling ?? name);
    const info = file?.tensors.get(spelling ?? name);
    if (!file || !info || spelling === undefined) {
      throw new UserError(
        `weight ${name}: expected one of that name, got none in ${folder.name}. The model is of another kind, or its files are not complete.`,
      );
    }
    return { file, info, spelling };
  };
  const shaped = (name: string, expectedShape: readonly number[]) => {
    const found = find(name);
    const { shape, dtype } = found.info;
    if (wholeNumbers.has(dtype)) {
      throw new UserError(
        `number format of weight ${name}: expected floating point, got ${dtype} in ${found.file.source.name}. ${notQuantised}`,
      );
    }
    if (shape.length !== expectedShape.length || shape.some((n, i) => n !== expectedShape[i])) {
      throw new UserError(
        `shape of weight ${name}: expected [${expectedShape}], got [${shape}] in ${found.file.source.name}. config.json and weights do not belong together.`,
      );
    }
    return found;
  };
  /** Number format of a weight that is streamed as it lies in the file; undefined if it has to be converted, turned or corrected. */
  const direct = ({ file, info, spelling }: ReturnType<typeof find>): "F32" | "BF16" | "F16" | undefined => {
    const { dtype, byColumns } = info;
    const plain = dtype === "F32" || dtype === "BF16" || dtype === "F16";
    return plain && !byColumns && !file.corrected?.(spelling) ? dtype : undefined;
  };
  const storedType = (name: string): StoredType => {
    const dtype = direct(find(name));
    return dtype === "BF16" ? "bfloat16" : dtype === "F16" ? "float16" : "float32";
  };
  const checked = new Set<string>();
  return {
    name: folder.name,
    config,
    tokenizer,
    tokenizerConfig,
    names: [...tensors.keys()].sort(),
    bytes: [...files.values()].reduce((sum, file) => sum + file.source.size, 0),
    spelling: spelled,
    has: (name) => spelled(name) !== undefined,
    check: (name, expectedShape) => void shaped(name, expectedShape),
    shape: (name) => find(name).info.shape,
    async tensor(name, expectedShape) {
      const { file, spelling } = shaped(name, expectedShape);
      const values = await file.read(spelling);
      checkFinite(values, name, file.source.name);
      return values;
    },
    async rows(name, expectedShape, indices) {
      const { file, spelling } = shaped(name, expectedShape);
      const values = await file.rows(spelling, indices);
      const columns = expectedShape[1]!;
      for (let i = 0; i < indices.length; i++) {
        checkFinite(values.subarray(i * columns, (i + 1) * columns), `${name}, row ${indices[i]}`, file.source.name);
      }
      return values;
    },
    storedType,
    async stored(name, expectedShape, into) {
      const found = shaped(name, expectedShape);
      const { file, info, spelling } = found;
      const dtype = direct(found);
      let values: Float32Array | Uint16Array;
      if (dtype === undefined) values = await file.read(spelling);
      else {
        const read = await file.source.read(info.offset, info.length, into);
        const bytes = read.byteOffset % 4 === 0 ? read : new Uint8Array(read);
        const make = dtype === "F32" ? Float32Array : Uint16Array;
        values = new make(bytes.buffer as ArrayBuffer, bytes.byteOffset, bytes.length / make.BYTES_PER_ELEMENT);
      }
      if (!checked.has(name)) {
        if (values instanceof Float32Array) checkFinite(values, name, file.source.name);
        else checkFiniteBits(values, dtype as "BF16" | "F16", name, file.source.name);
      }
      checked.add(name);
      return values;
    },
    async sha256() {
      const sources = new Map<string, ByteSource>([...files].map(([path, file]) => [path, file.source]));
      const opened = await openAll(folder, texts);
      try {
        return await sha256OfFiles(new Map([...sources, ...opened]));
      } finally {
        await closeAll(opened.values());
      }
    },
    close: () => closeAll([...files.values()].map((file) => file.source)),
  };
}

/** What a checkpoint is made from. */
interface Parts extends Pick<Checkpoint, "config" | "tokenizer" | "tokenizerConfig"> {
  /** The weight files by path, headers read. */
  readonly files: ReadonlyMap<string, WeightFile>;
  /** Paths of the other files that say what the model computes. */
  readonly texts: readonly string[];
}

async function openHuggingFace(folder: Folder): Promise<Parts> {
  const config = await wantedJson(folder, "config.json", "Name a folder in Hugging Face layout, or a GGUF file.");
  // Whoever has to bring more files should know that they would be of use.
  checkModelType(config, folder.name);
  const tokenizer = await wantedJson(
    folder,
    "tokenizer.json",
    "Save the model's fast tokenizer into it, with AutoTokenizer.from_pretrained and save_pretrained of transformers.",
  );
  const tokenizerConfig = (await readJson(folder, "tokenizer_config.json")) ?? {};
  await refuseAdapter(folder);
  const files = await openWeights(folder);
  return { config, tokenizer, tokenizerConfig, files, texts: ["config.json", "tokenizer.json"] };
}

async function openOneFile(folder: Folder, path: string, allowedFields: readonly string[]): Promise<Parts> {
  const { weights, ...parts } = await openGgufModel(folder, path, allowedFields);
  return { ...parts, files: new Map([[path, weights]]) };
}

/** The GGUF file of a folder without safetensors. @throws UserError if there are several */
async function onlyGguf(folder: Folder): Promise<string | undefined> {
  const names = await folder.list();
  if (names.some((name) => name === wholeFile || name === indexFile || shardName.test(name))) return undefined;
  const [path, ...others] = names.filter((name) => /^[^/]+\.gguf$/i.test(name));
  if (others.length > 0) {
    throw new UserError(
      `model: expected one GGUF file, got ${[path, ...others].join(", ")} in ${folder.name}. Name the file itself.`,
    );
  }
  return path;
}

async function wantedJson(folder: Folder, path: string, advice: string): Promise<Record<string, unknown>> {
  const value = await readJson(folder, path);
  if (value) return value;
  const adapter = (await folder.list()).find((name) => adapterName.test(name));
  const [got, what] = adapter === undefined ? ["none", advice] : [`an adapter (${adapter})`, mergeAdapter];
  throw new UserError(`model: expected a file ${path}, got ${got} in ${folder.name}. ${what}`);
}

const wholeFile = "model.safetensors";
const indexFile = "model.safetensors.index.json";
const shardName = /^model-(\d{5})-of-(\d{5})\.safetensors$/;
const adapterName = /^adapter_(config\.json|model\.\w+)$/;

/** An adapter beside the weights: transformers adds it to them where peft is installed. @throws UserError */
async function refuseAdapter(folder: Folder): Promise<void> {
  const source = await folder.open("adapter_config.json");
  await source?.close();
  if (
    !source ||
    !(await folder.list()).some((name) => name === wholeFile || name === indexFile || shardName.test(name))
  )
    return;
  throw new UserError(
    `model: expected weights alone, got an adapter beside them (adapter_config.json) in ${folder.name}. ${mergeAdapter} If they are merged already, remove the adapter's files.`,
  );
}

/** What to do with weights that are quantised. */
export const notQuantised = "The weights are quantised: name the model that they were made from, or a GGUF file.";
/** What to do with an adapter. */
export const mergeAdapter =
  "Merge the adapter into its model (merge_and_unload of peft), save the model and name that folder.";

/** The weight files by path, headers read: the single file if there is one, else the shards of the index, or as their names count them. */
async function openWeights(folder: Folder): Promise<ReadonlyMap<string, WeightFile>> {
  const single = await openAll(folder, [wholeFile]);
  if (single.size > 0) return openHeaders(single);
  const index = await readJson(folder, indexFile);
  if (index) return openIndexed(folder, index);
  const names = await folder.list();
  const shards = countedShards(names, folder.name);
  if (shards.length > 0) return openHeaders(await openAll(folder, shards));
  throw noWeights(names, folder.name);
}

/** Shards without an index, whose names say how many there are; none if there is none. @throws UserError if some of them lack */
function countedShards(names: readonly string[], where: string): readonly string[] {
  const there = new Set(names);
  const first = names.find((name) => shardName.test(name));
  if (first === undefined) return [];
  const count = Number(shardName.exec(first)![2]);
  const shards = Array.from({ length: count }, (_, i) => first.replace(/\d{5}/, String(i + 1).padStart(5, "0")));
  const missing = shards.filter((name) => !there.has(name));
  if (missing.length > 0 || count === 0) {
    throw new UserError(
      `shards: expected ${count} files like ${first}, got ${count - missing.length}, without ${missing[0] ?? "any"}, in ${where}. The files are not complete; fetch the others.`,
    );
  }
  return shards;
}

/** The error of a folder without weights that can be read, by what it has instead. */
function noWeights(names: readonly string[], where: string): UserError {
  const refusal = (got: string, advice: string) =>
    new UserError(`model: expected ${wholeFile} or ${indexFile}, got ${got} in ${where}. ${advice}`);
  const find = (pattern: RegExp) => names.find((name) => pattern.test(name));
  const adapter = find(adapterName);
  if (adapter !== undefined) return refusal(`an adapter (${adapter})`, mergeAdapter);
  const variant = find(/^model[.-][^/]*\.safetensors$/);
  if (variant !== undefined) return refusal(variant, `Rename it to ${wholeFile}, or save the model again.`);
  const other = find(/^[^/]*\.(safetensors|bin|pt|pth|ckpt|msgpack|h5|onnx|nemo)(\.index\.json)?$/);
  if (other !== undefined) {
    return refusal(
      `only ${other}`,
      "Save the model as safetensors, with AutoModelForCausalLM.from_pretrained and save_pretrained of transformers.",
    );
  }
  return refusal("neither", "Fetch the model's weights, as safetensors.");
}

/** The shards that an index names. @throws UserError if the index is damaged, or a file or tensor that it names is missing */
async function openIndexed(
  folder: Folder,
  index: Readonly<Record<string, unknown>>,
): Promise<ReadonlyMap<string, WeightFile>> {
  const fail = (expected: string, got: string, where = indexFile): never => {
    throw new UserError(
      `shards: expected ${expected}, got ${got} in ${folder.name}/${where}. The files are not complete; fetch them again.`,
    );
  };
  const places = index.weight_map;
  if (typeof places !== "object" || places === null) return fail("a weight_map", "none");
  const paths = [...new Set(Object.values(places) as unknown[])].sort();
  if (paths.length === 0) return fail("tensors in weight_map", "none");
  if (!paths.every((path) => typeof path === "string")) return fail("file names in weight_map", "other values");

  const sources = await openAll(folder, paths);
  const missing = paths.find((path) => !sources.has(path));
  if (missing !== undefined) {
    await closeAll(sources.values());
    fail(`the file ${missing}`, "none of that name");
  }
  const files = await openHeaders(sources);
  for (const [name, path] of Object.entries(places as Record<string, string>)) {
    if (!files.get(path)?.tensors.has(name)) {
      await closeAll(sources.values());
      fail(`the tensor ${name}`, "none of that name", path);
    }
  }
  return files;
}

async function openAll(folder: Folder, paths: readonly string[]): Promise<ReadonlyMap<string, ByteSource>> {
  const opened = new Map<string, ByteSource>();
  for (const path of paths) {
    const source = await folder.open(path);
    if (source) opened.set(path, source);
  }
  return opened;
}

async function openHeaders(sources: ReadonlyMap<string, ByteSource>): Promise<ReadonlyMap<string, WeightFile>> {
  try {
    const files = new Map<string, WeightFile>();
    for (const [path, source] of sources) files.set(path, await openSafetensors(source));
    return files;
  } catch (error) {
    await closeAll(sources.values());
    throw error;
  }
}

async function closeAll(sources: Iterable<ByteSource>): Promise<void> {
  for (const source of sources) await source.close();
}
