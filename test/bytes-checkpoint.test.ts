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
    expect(await hash("here", { ...whole, "config.json": json({ model_type: "other" }) })).not.toBe(here);
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
