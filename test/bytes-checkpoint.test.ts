import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { openFolder } from "../src/bytes/file.node.ts";
import { memoryFolder } from "../src/bytes/folder.ts";
import { writeSafetensors } from "../src/bytes/safetensors.ts";
import { openCheckpoint } from "../src/models/checkpoint.ts";

const llama = "test/fixtures/llama-gqa";
const json = (value: unknown) => new TextEncoder().encode(JSON.stringify(value));
const tensor = (...values: number[]) => ({ shape: [values.length], data: Float32Array.from(values) });
const weights = (tensors: Record<string, ReturnType<typeof tensor>>) =>
  writeSafetensors(new Map(Object.entries(tensors)));

const base = { "config.json": json({ model_type: "llama" }), "tokenizer.json": json({ model: {} }) };
const whole = { ...base, "model.safetensors": weights({ a: tensor(1, 2), b: tensor(3) }) };
const index = { weight_map: { a: "model-1.safetensors", b: "model-2.safetensors" } };
const sharded = {
  ...base,
  "model.safetensors.index.json": json(index),
  "model-1.safetensors": weights({ a: tensor(1, 2) }),
  "model-2.safetensors": weights({ b: tensor(3) }),
};

const opening = (files: Record<string, Uint8Array>) => openCheckpoint(memoryFolder("models/x", files));

/** The files without one of them. */
function without(files: Record<string, Uint8Array>, path: string): Record<string, Uint8Array> {
  return Object.fromEntries(Object.entries(files).filter(([name]) => name !== path));
}

describe("a checkpoint", () => {
  test("that transformers saved has its configuration, tokenizer and weights", async () => {
    const checkpoint = await openCheckpoint(await openFolder(llama));
    expect(checkpoint.config.num_key_value_heads).toBe(2);
    expect(checkpoint.tokenizer).toHaveProperty("model.vocab.w5", 5);
    expect(checkpoint.tokenizerConfig).toEqual({});
    expect(checkpoint.shape("model.layers.2.mlp.down_proj.weight")).toEqual([32, 48]);
    expect(checkpoint.names).toHaveLength(3 * 9 + 3);
    expect(checkpoint.bytes).toBe(readFileSync(`${llama}/model.safetensors`).length);
    const embedding = await checkpoint.tensor("model.embed_tokens.weight", [96, 32]);
    const std = Math.sqrt(embedding.reduce((sum, x) => sum + x * x, 0) / embedding.length);
    expect(std).toBeGreaterThan(0.29);
    expect(std).toBeLessThan(0.31);
    await checkpoint.close();
  });

  test("in shards is the same as in one file, under another identity", async () => {
    const [one, two] = [await opening(whole), await opening(sharded)];
    expect(two.names).toEqual(one.names);
    expect(await two.tensor("a", [2])).toEqual(Float32Array.of(1, 2));
    expect(await two.tensor("b", [1])).toEqual(Float32Array.of(3));
    expect(await two.sha256()).not.toBe(await one.sha256());
  });

  test("has an identity that does not depend on where it lies, but on weights and configuration", async () => {
    const hash = async (name: string, files: Record<string, Uint8Array>) =>
      (await openCheckpoint(memoryFolder(name, files))).sha256();
    const here = await hash("here", whole);
    expect(here).toMatch(/^[0-9a-f]{64}$/);
    expect(await hash("there", whole)).toBe(here);
    expect(await hash("here", { ...whole, "config.json": json({ model_type: "gemma" }) })).not.toBe(here);
    expect(await hash("here", { ...whole, "model.safetensors": weights({ a: tensor(1, 2), b: tensor(4) }) })).not.toBe(
      here,
    );
  });

  const cases: [string, Record<string, Uint8Array>, string][] = [
    ["config.json", without(whole, "config.json"), "model: expected a file config.json, got none in models/x."],
    [
      "tokenizer.json",
      without(whole, "tokenizer.json"),
      "model: expected a file tokenizer.json, got none in models/x.",
    ],
    ["weights", base, "model: expected model.safetensors or model.safetensors.index.json, got neither in models/x."],
    [
      "a shard",
      without(sharded, "model-2.safetensors"),
      "shards: expected the file model-2.safetensors, got none of that name in models/x/model.safetensors.index.json.",
    ],
    [
      "a tensor of the index",
      { ...sharded, "model-2.safetensors": weights({ c: tensor(3) }) },
      "shards: expected the tensor b, got none of that name in models/x/model-2.safetensors.",
    ],
    [
      "the index's map",
      { ...sharded, "model.safetensors.index.json": json({}) },
      "shards: expected a weight_map, got none",
    ],
    [
      "the end of its weights",
      { ...whole, "model.safetensors": whole["model.safetensors"].slice(0, -4) },
      "in models/x/model.safetensors. The file is cut short or damaged",
    ],
  ];
  test.each(cases)("without %s is a one-line error that names folder or file", async (_, files, message) => {
    await expect(opening(files)).rejects.toThrow(message);
    await expect(opening(files)).rejects.toThrow(/^[^\n]*$/);
  });

  test("refuses a weight that is missing, of another shape, or not finite", async () => {
    const bytes = whole["model.safetensors"].slice();
    new DataView(bytes.buffer).setFloat32(bytes.length - 4, Number.NaN, true);
    const checkpoint = await opening({ ...whole, "model.safetensors": bytes });
    await expect(checkpoint.tensor("c", [1])).rejects.toThrow(
      "weight c: expected one of that name, got none in models/x.",
    );
    await expect(checkpoint.tensor("a", [2, 1])).rejects.toThrow(
      "shape of weight a: expected [2,1], got [2] in models/x/model.safetensors.",
    );
    await expect(checkpoint.tensor("b", [1])).rejects.toThrow(
      "tensor b: expected finite numbers, got NaN at 0 in models/x/model.safetensors.",
    );
  });
});

describe("a folder that holds something else than a checkpoint says what", () => {
  const config = { ...base };
  const shard = (name: string, tensors: Record<string, ReturnType<typeof tensor>>) => ({ [name]: weights(tensors) });
  const pointer = new TextEncoder().encode(
    `version https://git-lfs.github.com/spec/v1\noid sha256:${"0".repeat(64)}\nsize 12345\n`,
  );
  const withDtype = (dtype: string) => {
    const header = new TextEncoder().encode(JSON.stringify({ a: { dtype, shape: [2], data_offsets: [0, 2] } }));
    const bytes = new Uint8Array(8 + header.length + 2);
    new DataView(bytes.buffer).setBigUint64(0, BigInt(header.length), true);
    bytes.set(header, 8);
    return bytes;
  };

  test.each<[string, Record<string, Uint8Array>, string]>([
    ["a pointer for weights", { ...whole, "model.safetensors": pointer }, "model.safetensors. Run git lfs pull"],
    ["a pointer for a shard", { ...sharded, "model-2.safetensors": pointer }, "model-2.safetensors. Run git lfs pull"],
    ["a pointer for the tokenizer", { ...whole, "tokenizer.json": pointer }, "tokenizer.json. Run git lfs pull"],
    ["a pointer for config.json", { ...whole, "config.json": pointer }, "config.json. Run git lfs pull"],
    ["a pointer for a GGUF file", { "m.gguf": pointer }, "m.gguf. Run git lfs pull"],
    [
      "an architecture that we do not have, and no tokenizer",
      { "config.json": json({ model_type: "mamba" }) },
      'model_type: expected one of llama, mistral, qwen2, qwen3, gemma, gemma2, gemma3_text, gemma3, gpt2, gpt_neox, got "mamba"',
    ],
    [
      "numbers of 8 bits",
      { ...whole, "model.safetensors": withDtype("F8_E4M3") },
      'got "F8_E4M3" in models/x/model.safetensors. This number format is not read; save the file in bfloat16',
    ],
    [
      "a shard of two",
      { ...config, ...shard("model-00001-of-00002.safetensors", { a: tensor(1) }) },
      "shards: expected 2 files like model-00001-of-00002.safetensors, got 1, without model-00002-of-00002.safetensors, in models/x.",
    ],
    [
      "a tensor in two shards",
      {
        ...config,
        ...shard("model-00001-of-00002.safetensors", { a: tensor(1) }),
        ...shard("model-00002-of-00002.safetensors", { a: tensor(1) }),
      },
      "weight a: expected it in one file, got it in models/x/model-00001-of-00002.safetensors and models/x/model-00002-of-00002.safetensors.",
    ],
    ["an index of nothing", { ...config, "model.safetensors.index.json": json({ weight_map: {} }) }, "got none in"],
    ["pickled weights", { ...config, "pytorch_model.bin": pointer }, "got only pytorch_model.bin in models/x. Save"],
    [
      "pickled shards",
      { ...config, "pytorch_model.bin.index.json": json({}), "pytorch_model-00001-of-00002.bin": pointer },
      "got only pytorch_model-00001-of-00002.bin in models/x. Save the model as safetensors, with AutoModelForCausalLM",
    ],
    ["weights of a variant", { ...config, "model.fp16.safetensors": pointer }, "got model.fp16.safetensors"],
    ["another layout", { ...config, "consolidated.safetensors": pointer }, "got only consolidated.safetensors"],
    [
      "an adapter",
      { "adapter_config.json": json({}), "adapter_model.safetensors": pointer },
      "got an adapter (adapter_config.json) in models/x. Merge the adapter into its model",
    ],
    [
      "an adapter beside a config.json",
      { ...config, "adapter_config.json": json({}), "adapter_model.bin": pointer },
      "got an adapter (adapter_config.json) in models/x. Merge",
    ],
    [
      "an adapter beside the weights",
      {
        ...config,
        ...shard("model-00001-of-00001.safetensors", { a: tensor(1) }),
        "adapter_config.json": json({}),
        "adapter_model.safetensors": pointer,
      },
      "got an adapter beside them (adapter_config.json) in models/x. Merge",
    ],
  ])("%s", async (_, files, message) => {
    await expect(opening(files)).rejects.toThrow(message);
    await expect(opening(files)).rejects.toThrow(/^[^\n]{1,500}$/);
  });

  test("whole shards without an index are read", async () => {
    const checkpoint = await opening({
      ...config,
      ...shard("model-00001-of-00002.safetensors", { a: tensor(1, 2) }),
      ...shard("model-00002-of-00002.safetensors", { b: tensor(3) }),
    });
    expect(checkpoint.names).toEqual(["a", "b"]);
    expect(await checkpoint.tensor("b", [1])).toEqual(Float32Array.of(3));
  });

  test.each(["I8", "U8", "BOOL"])("a weight of whole numbers (%s) is refused, not read as it lies", async (dtype) => {
    const checkpoint = await opening({ ...whole, "model.safetensors": withDtype(dtype) });
    const message = `number format of weight a: expected floating point, got ${dtype} in models/x/model.safetensors.`;
    expect(() => checkpoint.check("a", [2])).toThrow(message);
    await expect(checkpoint.tensor("a", [2])).rejects.toThrow(message);
    await expect(checkpoint.stored("a", [2])).rejects.toThrow(message);
  });
});
