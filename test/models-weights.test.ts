import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { type Folder, memoryFolder } from "../src/bytes/folder.ts";
import { memorySource } from "../src/bytes/memory.ts";
import { openSafetensors, writeSafetensors } from "../src/bytes/safetensors.ts";
import { openCheckpoint } from "../src/models/checkpoint.ts";
import { fittedModel } from "../src/models/fitted.ts";
import { heldWeights } from "../src/models/weights.ts";
import { lastLogits, relativeGap } from "./last-logits.ts";

type Config = Readonly<Record<string, unknown>>;
type Tensors = Map<string, { readonly shape: readonly number[]; readonly data: Float32Array }>;

const fixtures = new URL("fixtures/", import.meta.url).pathname;
const read = (path: string) => new Uint8Array(readFileSync(`${fixtures}${path}`));
const json = (path: string) => JSON.parse(readFileSync(`${fixtures}${path}`, "utf8"));
const bytes = (value: unknown) => new TextEncoder().encode(JSON.stringify(value));

/** The tensors of a fixture. */
async function tensorsOf(name: string): Promise<Tensors> {
  const file = await openSafetensors(memorySource(name, read(`${name}/model.safetensors`)));
  const found: Tensors = new Map();
  for (const [tensor, { shape }] of file.tensors) found.set(tensor, { shape, data: await file.read(tensor) });
  return found;
}

/** A fixture with a changed config.json and changed tensors. */
async function changed(name: string, change: Config, edit: (tensors: Tensors) => void): Promise<Folder> {
  const tensors = await tensorsOf(name);
  edit(tensors);
  return memoryFolder(name, {
    "config.json": bytes({ ...json(`${name}/config.json`), ...change }),
    "tokenizer.json": read(`${name}/tokenizer.json`),
    "model.safetensors": writeSafetensors(tensors),
  });
}

async function opened(folder: Folder) {
  return fittedModel(await openCheckpoint(folder));
}

async function gapOf(name: string, { model, checkpoint }: Awaited<ReturnType<typeof opened>>): Promise<number> {
  const expected = await openSafetensors(memorySource(name, read(`${name}/expected.safetensors`)));
  const tokens = json(`${name}/expected.json`).prompts[2].tokens;
  const logits = await lastLogits(model, await heldWeights(model, checkpoint), tokens);
  return relativeGap(logits, await expected.read("p2/logits"));
}

interface Case {
  readonly model: string;
  readonly change: Config;
  readonly pattern: string;
  readonly by: string;
  readonly same: boolean;
}
const cases = json("weight-names.json") as Case[];
const renaming = ({ pattern, by }: Case) =>
  function rename(tensors: Tensors) {
    const entries = [...tensors].map(([name, tensor]) => [name.replace(new RegExp(pattern), by), tensor] as const);
    tensors.clear();
    for (const [name, tensor] of entries) tensors.set(name, tensor);
  };

describe("weights are used as transformers uses them", () => {
  it.each(cases.filter(({ same }) => same))("$model $change, $pattern → $by", async (one) => {
    const found = await opened(await changed(one.model, one.change, renaming(one)));
    expect(await gapOf(one.model, found)).toBeLessThan(1e-5);
    // Whoever ties an unembedding that is not the embedding is told.
    const [warning] = found.warnings;
    if (one.change.tie_word_embeddings === true) expect(warning).toMatch(/^config.json ties .* is used, as by/);
    else expect(warning).toBeUndefined();
  });

  it.each(cases.filter(({ same }) => !same))("or refused by name: $model $change", async (one) => {
    await expect(opened(await changed(one.model, one.change, renaming(one)))).rejects.toThrow(
      /^weight model\.layers\.0\.(self_attn|mlp)\.\w+\.bias: expected .* If the model was trained with it, config.json has to say so/,
    );
  });
});

describe("an unembedding beside a config that ties it", () => {
  const head = (change: (data: Float32Array) => void) => (tensors: Tensors) => {
    const { shape, data } = tensors.get("model.embed_tokens.weight")!;
    const own = data.slice();
    change(own);
    tensors.set("lm_head.weight", { shape, data: own });
  };

  it("is the embedding where it equals it", async () => {
    const { model, warnings } = await opened(
      await changed(
        "llama-scaled",
        {},
        head(() => {}),
      ),
    );
    expect(model.parameters.has("lm_head.weight")).toBe(false);
    expect(warnings).toEqual([]);
  });

  it("is used where its last number alone is another", async () => {
    const edit = head((data) => {
      data[data.length - 1]! += 0.5;
    });
    const { model, warnings } = await opened(await changed("llama-scaled", {}, edit));
    expect(model.parameters.has("lm_head.weight")).toBe(true);
    expect(warnings).toHaveLength(1);
  });

  it("of another size is refused, as config.json gives its size", async () => {
    const edit = (tensors: Tensors) =>
      void tensors.set("lm_head.weight", { shape: [2, 32], data: new Float32Array(64) });
    await expect(opened(await changed("llama-scaled", {}, edit))).rejects.toThrow(
      "shape of weight lm_head.weight: expected [64,32], got [2,32]",
    );
  });

  it("is used in a GGUF file too", async () => {
    const config = { ...json("llama-gqa/config.json"), tie_word_embeddings: true };
    const files = { "config.json": bytes(config), "m.gguf": read("gguf/llama-gqa.gguf") };
    const { model, warnings } = await opened(memoryFolder("x", files));
    expect(model.parameters.has("lm_head.weight")).toBe(true);
    expect(warnings).toHaveLength(1);
  });

  it("is missed where it should be there", async () => {
    const edit = (tensors: Tensors) => void tensors.delete("lm_head.weight");
    await expect(opened(await changed("llama-gqa", {}, edit))).rejects.toThrow(
      "weight lm_head.weight: expected one of that name, got none in llama-gqa. It was saved without its unembedding",
    );
    const noEmbedding = (tensors: Tensors) => void tensors.delete("model.embed_tokens.weight");
    await expect(opened(await changed("llama-gqa", {}, noEmbedding))).rejects.toThrow(
      "weight model.embed_tokens.weight: expected one of that name, got none",
    );
  });
});

describe("tensors beside a model's own", () => {
  const adding = (...names: [string, readonly number[]][]) =>
    function add(tensors: Tensors) {
      for (const [name, shape] of names) {
        tensors.set(name, { shape, data: new Float32Array(shape.reduce((a, b) => a * b, 1)).fill(0.5) });
      }
    };

  it.each<[string, [string, readonly number[]][]]>([
    [
      "gpt2",
      [
        ["transformer.h.0.attn.bias", [1, 1, 4, 4]],
        ["transformer.h.0.attn.masked_bias", []],
      ],
    ],
    [
      "gpt_neox",
      [
        ["gpt_neox.layers.1.attention.bias", [1, 1, 4, 4]],
        ["gpt_neox.layers.1.attention.masked_bias", []],
      ],
    ],
    ["gpt_neox", [["gpt_neox.layers.0.attention.rotary_emb.inv_freq", [2]]]],
    [
      "llama-mha",
      [
        ["model.layers.1.self_attn.rotary_emb.inv_freq", [4]],
        ["model.rotary_emb.inv_freq", [4]],
      ],
    ],
  ])("are left out where they follow from the config: %s %j", async (name, tensors) => {
    const found = await opened(await changed(name, {}, adding(...tensors)));
    expect(found.warnings).toEqual([]);
    expect(await gapOf(name, found)).toBeLessThan(1e-5);
  });

  it.each<[string, string, readonly number[], string]>([
    ["llama-mha", "model.layers.0.self_attn.q_norm.weight", [8], "save the model again with transformers"],
    ["llama-mha", "model.layers.2.input_layernorm.weight", [32], "save the model again"],
    ["llama-mha", "lm_head.bias", [80], "config.json has to say so"],
    ["llama-mha", "norm.weight", [32], "save the model again"],
    ["gpt2", "transformer.h.0.attn.bias", [63], "config.json has to say so"],
    ["mistral", "model.layers.0.mlp.down_proj.lora_A.default.weight", [2, 2], "Merge the adapter"],
    ["gemma2", "base_model.model.model.norm.weight", [20], "Merge the adapter"],
    ["qwen2", "model.layers.0.mlp.up_proj.weight_scale", [1], "The weights are quantised"],
    ["llama-gqa", "model.layers.0.self_attn.k_proj.qweight", [2, 2], "The weights are quantised"],
    ["llama-gqa", "model.layers.0.self_attn.k_proj.SCB", [2], "The weights are quantised"],
    ["llama-gqa", "model.layers.0.mlp.up_proj.weight.quant_state.bitsandbytes__nf4", [2], "quantised"],
    ["gemma3_text", "score.weight", [2, 18], "save the model again"],
  ])("are refused by name: %s %s", async (name, tensor, shape, advice) => {
    const folder = await changed(name, {}, adding([tensor, shape]));
    await expect(opened(folder)).rejects.toThrow(`weight ${tensor}: expected`);
    await expect(opened(folder)).rejects.toThrow(advice);
  });

  it("say what is there in place of a weight that is missing", async () => {
    const edit = (tensors: Tensors) => renaming({ pattern: "^", by: "_orig_mod." } as Case)(tensors);
    await expect(opened(await changed("llama-mha", {}, edit))).rejects.toThrow(
      /^weight model.embed_tokens.weight: expected one of that name, got none, but _orig_mod\.\S+ in llama-mha\./,
    );
  });
});

describe("weights and config.json that do not belong together", () => {
  it.each<[string, Config, string]>([
    ["llama-gqa", { vocab_size: 16_000_000 }, "shape of weight model.embed_tokens.weight: expected [16000000,32]"],
    ["llama-gqa", { num_hidden_layers: 10_000 }, "weight model.layers.3.input_layernorm.weight: expected one"],
    ["llama-gqa", { num_hidden_layers: 2 }, "weight model.layers.2.input_layernorm.weight: expected those"],
    ["gpt2", { n_positions: 1024 }, "shape of weight transformer.wpe.weight: expected [1024,21]"],
    ["qwen2", { intermediate_size: 41 }, "shape of weight model.layers.0.mlp.gate_proj.weight: expected [41,24]"],
  ])("are refused before any weight is read: %s %j", async (name, change, message) => {
    await expect(opened(await changed(name, change, () => {}))).rejects.toThrow(message);
  });
});
