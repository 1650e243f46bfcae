import { copyFile, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { describe, expect, it, onTestFinished } from "vitest";
import { openFile, openFolder } from "../src/bytes/file.node.ts";
import { memoryFolder } from "../src/bytes/folder.ts";
import { openSafetensors } from "../src/bytes/safetensors.ts";
import { UserError } from "../src/errors.ts";
import { compile, int64 } from "../src/graph/session.ts";
import { modelFromConfig } from "../src/models/architectures.ts";
import { openCheckpoint } from "../src/models/checkpoint.ts";
import { openGgufModel } from "../src/models/gguf/open.ts";
import { contextInputs, forward, type Model, type Weights } from "../src/models/model.ts";
import { heldWeights } from "../src/models/weights.ts";
import { openModel } from "../src/open/open.ts";
import { makeGguf, type Tensor, type Value } from "./make-gguf.ts";

const fixtures = new URL("fixtures/", import.meta.url).pathname;
const names = [
  ...["llama-gqa", "llama-scaled", "llama-bias", "mistral", "mistral-yarn", "qwen2", "qwen3", "qwen3-bias"],
  ...["gemma", "gemma2", "gemma3_text", "gemma3", "gpt2", "gpt2-scaled", "gpt_neox"],
];

/** llama.cpp's converter made the files, transformers the logits, from the weights as they are rounded in the files (test/oracles/make_gguf.py). */
describe.each(names)("%s as llama.cpp stores it", (name) => {
  it("gives the logits that transformers gives", async () => {
    const checkpoint = await openCheckpoint(await openFolder(`${fixtures}gguf`), `${name}.gguf`);
    const model = modelFromConfig(checkpoint.config, name);
    const weights = await heldWeights(model, checkpoint);
    const expected = await openSafetensors(await openFile(`${fixtures}gguf/expected.safetensors`));
    const { prompts } = JSON.parse(await readFile(`${fixtures}${name}/expected.json`, "utf8"));
    for (const [p, { tokens }] of prompts.entries()) {
      const logits = await lastLogits(model, weights, tokens);
      expect(relativeGap(logits, await expected.read(`${name}/p${p}`)), `prompt ${p}`).toBeLessThan(1e-5);
    }
    await expected.source.close();
    await checkpoint.close();
  });

  it("has the weights of its twin under their names, whole and by rows", async () => {
    const { config, weights } = await openGgufModel(await openFolder(`${fixtures}gguf`), `${name}.gguf`);
    const twin = await openCheckpoint(await openFolder(`${fixtures}${name}`));
    const model = modelFromConfig(config, name);
    for (const [parameter, shape] of model.parameters) {
      const expected = await twin.tensor(parameter, shape);
      expect(weights.tensors.get(parameter)?.shape, parameter).toEqual(shape);
      const values = await weights.read(parameter);
      // Q8_0 rounds to 1/254 of the largest number of a block, float16 to 2^-11 of each.
      expect(relativeGap(values, expected), parameter).toBeLessThan(0.006);
      const [rows, columns] = shape as [number, number];
      if (shape.length === 1) continue;
      const some = [rows - 1, 3, 0, 3, 2];
      const taken = some.flatMap((row) => [...values.subarray(row * columns, (row + 1) * columns)]);
      expect(await weights.rows(parameter, some), parameter).toEqual(Float32Array.from(taken));
    }
    await weights.source.close();
    await twin.close();
  });
});

it("the config that the metadata give is the twin's, as far as it bears on the computation", async () => {
  for (const name of names) {
    const checkpoint = await openCheckpoint(await openFolder(`${fixtures}gguf`), `${name}.gguf`);
    const whole = JSON.parse(await readFile(`${fixtures}${name}/config.json`, "utf8"));
    const twin = whole.text_config ?? whole;
    const rope = twin.rope_parameters ?? {};
    const spelled: Record<string, unknown> = {
      ...twin,
      rope_theta: rope.full_attention?.rope_theta ?? rope.rope_theta,
      rope_local_base_freq: rope.sliding_attention?.rope_theta,
      n_inner: twin.n_inner ?? 4 * twin.n_embd,
      rotary_emb_base: rope.rope_theta,
      rotary_pct: rope.partial_rotary_factor,
      hidden_activation: twin.hidden_activation ?? twin.hidden_act,
      head_dim: twin.head_dim ?? twin.hidden_size / twin.num_attention_heads,
      // What the files cannot say.
      ...(name.startsWith("gemma") ? { query_pre_attn_scalar: 12 } : {}),
      ...(name.startsWith("qwen") ? { use_sliding_window: false } : {}),
      // To llama.cpp it is a Llama.
      ...(name.startsWith("mistral") ? { model_type: "llama", attention_bias: false, mlp_bias: false } : {}),
    };
    for (const [field, value] of Object.entries(checkpoint.config)) {
      if (field === "rope_scaling" || field.endsWith("_token_id")) continue;
      const expected = spelled[field];
      if (typeof value === "number") expect(value, `${name} ${field}`).toBeCloseTo(Number(expected), 8);
      else expect(value, `${name} ${field}`).toEqual(expected);
    }
    await checkpoint.close();
  }
});

it("a config.json beside the file may say what the file cannot: Mistral's window, Gemma 3 of which the text model is a part", async () => {
  for (const name of ["mistral", "gemma3"]) {
    const config = await readFile(`${fixtures}${name}/config.json`);
    const gguf = await readFile(`${fixtures}gguf/${name}.gguf`);
    const files = { "config.json": new Uint8Array(config), "model.gguf": new Uint8Array(gguf) };
    const checkpoint = await openCheckpoint(memoryFolder(name, files));
    const model = modelFromConfig(checkpoint.config, name);
    expect(model.modelType).toBe(name);
    const { prompts } = JSON.parse(await readFile(`${fixtures}${name}/expected.json`, "utf8"));
    const expected = await openSafetensors(await openFile(`${fixtures}${name}/expected.safetensors`));
    const weights = await heldWeights(model, checkpoint);
    const gapOf = async (model: Model) =>
      relativeGap(await lastLogits(model, weights, prompts[2].tokens), await expected.read("p2/logits"));
    // float16 rounds the weights.
    expect(await gapOf(model), name).toBeLessThan(0.01);
    if (name === "mistral") {
      const all = modelFromConfig({ ...checkpoint.config, sliding_window: null }, name);
      expect(await gapOf(all)).toBeGreaterThan(0.05);
    }
    await expected.source.close();
  }
});

it("Llama 3's rope scaling is found from its factors, whatever the original context", async () => {
  const checkpoint = await openCheckpoint(await openFolder(`${fixtures}gguf`), "llama-scaled.gguf");
  const { rope_scaling: found } = checkpoint.config as { rope_scaling: Record<string, number> };
  // The same as low 1, high 4 and a context of 32.
  expect(found.factor).toBeCloseTo(8, 5);
  expect(found.low_freq_factor! / found.original_max_position_embeddings!).toBeCloseTo(1 / 32, 5);
  expect(found.high_freq_factor! / found.original_max_position_embeddings!).toBeCloseTo(4 / 32, 5);
  await checkpoint.close();
});

describe("what is beside the file", () => {
  const bytes = async (path: string) => new Uint8Array(await readFile(`${fixtures}${path}`));
  const files = async (...more: [string, Uint8Array][]) =>
    memoryFolder("models/x", { "model.gguf": await bytes("gguf/llama-gqa.gguf"), ...Object.fromEntries(more) });

  it("wins over its metadata, and is part of the model's identity", async () => {
    const plain = await openCheckpoint(await files());
    expect(plain.name).toBe("models/x");
    expect(plain.tokenizer).toHaveProperty("model.vocab.w5", 5);
    const tokenizer = await bytes("llama-gqa/tokenizer.json");
    const config = JSON.parse(new TextDecoder().decode(await bytes("llama-gqa/config.json")));
    const changed = new TextEncoder().encode(JSON.stringify({ ...config, rms_norm_eps: 0.5 }));
    const own = await openCheckpoint(await files(["config.json", changed], ["tokenizer.json", tokenizer]));
    expect(own.config.rms_norm_eps).toBe(0.5);
    expect(own.tokenizer).toHaveProperty("model.type", "WordLevel");
    const hashes = [plain, own, await openCheckpoint(await files(["config.json", changed]))].map((c) => c.sha256());
    expect(new Set(await Promise.all(hashes)).size).toBe(3);
  });

  it("has to be of the same kind", async () => {
    await expect(openCheckpoint(await files(["config.json", await bytes("qwen2/config.json")]))).rejects.toThrow(
      "model_type: expected llama as in model.gguf, got qwen2 in config.json of models/x.",
    );
  });

  it("and weights in safetensors go before it", async () => {
    const twin: [string, Uint8Array][] = [];
    for (const name of ["config.json", "tokenizer.json", "model.safetensors"])
      twin.push([name, await bytes(`llama-mha/${name}`)]);
    expect((await openCheckpoint(await files(...twin))).config.num_hidden_layers).toBe(2);
  });

  it("may not be another GGUF file, unless one is named", async () => {
    const folder = await files(["other.gguf", await bytes("gguf/qwen2.gguf")]);
    await expect(openCheckpoint(folder)).rejects.toThrow(
      "model: expected one GGUF file, got model.gguf, other.gguf in models/x. Name the file itself.",
    );
    expect((await openCheckpoint(folder, "other.gguf")).config.model_type).toBe("qwen2");
    await expect(openCheckpoint(folder, "third.gguf")).rejects.toThrow("model: expected a file third.gguf, got none");
  });
});

it("a path on the command line may be a GGUF file or its folder", async () => {
  const folder = await mkdtemp(join(tmpdir(), "sfc-gguf-"));
  onTestFinished(() => rm(folder, { recursive: true }));
  await copyFile(`${fixtures}gguf/llama-gqa.gguf`, join(folder, "model.gguf"));
  await copyFile(`${fixtures}llama-gqa/tokenizer.json`, join(folder, "tokenizer.json"));
  for (const path of [folder, join(folder, "model.gguf")]) {
    const opened = await openModel(path);
    expect(opened.model.modelType).toBe("llama");
    expect(opened.folder).toBe(folder);
    expect(opened.tokenizer.bos).toBe(1);
    await opened.checkpoint.close();
  }
  await writeFile(join(folder, "model.gguf"), "GGUF");
  await expect(openModel(join(folder, "model.gguf"))).rejects.toThrow("model.gguf. The file is cut short or damaged");
  await expect(openModel(join(folder, "none.gguf"))).rejects.toThrow("No such folder or file");
});

describe("what would not be computed correctly is refused by name:", () => {
  const llama: Record<string, Value> = {
    ...{ "general.architecture": "llama", "llama.embedding_length": 8, "llama.block_count": 1 },
    ...{ "llama.attention.head_count": 2, "llama.feed_forward_length": 12, "llama.context_length": 16 },
    ...{ "llama.attention.layer_norm_rms_epsilon": 1e-5, "tokenizer.ggml.model": "llama" },
    ...{ "tokenizer.ggml.tokens": ["<unk>", "<s>", "a"], "tokenizer.ggml.scores": Float32Array.of(0, 0, 0) },
    ...{ "tokenizer.ggml.bos_token_id": 1, "mradermacher.quantize_version": "2", "general.file_type": 1 },
  };
  const gemma3 = Object.fromEntries(
    Object.entries(llama).map(([key, value]) => [
      key.replace("llama.", "gemma3."),
      value === "llama" && !key.startsWith("tok") ? "gemma3" : value,
    ]),
  );
  const embedding: Tensor = { name: "token_embd.weight", ne: [8, 3], type: 0, offset: 0 };
  const numbers = (...values: number[]) => new Uint8Array(Float32Array.from(values).buffer);
  const opening = (
    values: Readonly<Record<string, Value>>,
    { tensors = [], data = numbers() }: { tensors?: readonly Tensor[]; data?: Uint8Array } = {},
  ) => {
    const whole = new Uint8Array(512);
    whole.set(data, 256);
    const bytes = makeGguf({ values, tensors: [embedding, ...tensors], data: whole });
    return openCheckpoint(memoryFolder("models/x", { "model.gguf": bytes }));
  };
  const added = (more: Readonly<Record<string, Value>>) => ({ ...llama, ...more });

  it("but the metadata that the cases below change are fine", async () => {
    expect((await opening(llama)).config).toMatchObject({ num_key_value_heads: 2, head_dim: 4, rope_theta: 10_000 });
    const same = { "llama.attention.head_count_kv": Int32Array.of(1, 1), "llama.rope.scaling.type": "none" };
    expect((await opening(added({ ...same, "llama.rope.scaling.factor": 4 }))).config.num_key_value_heads).toBe(1);
    expect((await opening(gemma3)).config).toMatchObject({
      layer_types: ["full_attention"],
      rope_local_base_freq: 10_000,
    });
    const linear = { factor: 4, rope_type: "linear" };
    expect((await opening(added({ "llama.rope.scaling.factor": 4 }))).config.rope_scaling).toEqual(linear);
    expect((await opening(added({ "llama.rope.scale_linear": 4 }))).config.rope_scaling).toEqual(linear);
    const yarn = {
      ...{ "llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 4, "llama.rope.scaling.finetuned": true },
      ...{ "llama.rope.scaling.yarn_attn_factor": 1.5, "llama.rope.scaling.yarn_beta_slow": 2 },
    };
    expect((await opening(added(yarn))).config.rope_scaling).toEqual({
      ...{ rope_type: "yarn", factor: 4, attention_factor: 1.5, beta_fast: 32, beta_slow: 2 },
      original_max_position_embeddings: 16,
    });
    const ones = { tensors: [{ name: "rope_freqs.weight", ne: [2], type: 0, offset: 256 }], data: numbers(1, 1) };
    expect((await opening(llama, ones)).config.rope_scaling).toBeUndefined();
  });

  it.each<[string, Readonly<Record<string, Value>>, string]>([
    [
      "an architecture",
      added({ "general.architecture": "mamba" }),
      "general.architecture: expected one of llama, qwen2",
    ],
    ["no architecture", { "general.name": "x" }, "general.architecture: expected one of llama, qwen2"],
    ["an adapter", added({ "general.type": "adapter" }), 'general.type: expected "model", got "adapter"'],
    ["a part of a model", added({ "split.count": 2 }), "split.count: expected a model in one file, got 2"],
    ["a key that is not known", added({ "llama.residual_scale": 0.5 }), "llama.residual_scale: expected a key that"],
    [
      "scaled positions",
      added({ "llama.rope.scaling.type": "longrope" }),
      'llama.rope.scaling.type: expected "none" or "linear" or "yarn", got "longrope"',
    ],
    [
      "YaRN as DeepSeek has it",
      added({ "llama.rope.scaling.type": "yarn", "llama.rope.scaling.yarn_log_multiplier": 0.1 }),
      "llama.rope.scaling.yarn_log_multiplier: expected 0, got 0.1",
    ],
    [
      "a scaling that is no number",
      added({ "llama.rope.scaling.factor": "4" }),
      'llama.rope.scaling.factor: expected a number from 0 up, got "4"',
    ],
    [
      "YaRN's numbers where it is not",
      added({ "llama.rope.scaling.yarn_beta_fast": 16 }),
      "llama.rope.scaling.yarn_beta_fast: expected a key that",
    ],
    ["experts", added({ "llama.expert_count": 8 }), "llama.expert_count: expected 0, got 8"],
    [
      "a part of the axes that turns",
      added({ "llama.rope.dimension_count": 2 }),
      "llama.rope.dimension_count: expected 4, got 2",
    ],
    [
      "other heads in other blocks",
      added({ "llama.attention.head_count": Int32Array.of(2, 4) }),
      "llama.attention.head_count: expected a whole number from 1 to 16777216, got a list of 2",
    ],
    [
      "heads that are no number",
      added({ "llama.attention.head_count": "2" }),
      'llama.attention.head_count: expected a whole number from 1 to 16777216, got "2"',
    ],
    [
      "no epsilon",
      without("llama.attention.layer_norm_rms_epsilon"),
      "llama.attention.layer_norm_rms_epsilon: expected a number from 0 up, got nothing",
    ],
    [
      "keys unlike values",
      added({ "llama.attention.value_length": 6 }),
      "llama.attention.value_length: expected 4, got 6",
    ],
    [
      "a window in Llama",
      added({ "llama.attention.sliding_window": 8 }),
      "llama.attention.sliding_window: expected a key",
    ],
    [
      "a soft-cap in Gemma 3",
      { ...gemma3, "gemma3.final_logit_softcapping": 30 },
      "gemma3.final_logit_softcapping: expected 0, got 30",
    ],
    ["no tokenizer", without("tokenizer.ggml.model"), "tokenizer.ggml.model: expected one of gpt2, llama, got nothing"],
  ])("%s", async (_, values, message) => {
    await expect(opening(values)).rejects.toThrow(message);
    await expect(opening(values)).rejects.toThrow(/^[^\n]*in models\/x\/model\.gguf\.[^\n]*$/);
  });

  it("blocks that the file does not have", async () => {
    await expect(opening(added({ "llama.block_count": 2_000_000_000 }))).rejects.toThrow(
      "llama.block_count: expected at most 1, got 2000000000",
    );
  });

  it("or opened: metadata of any numbers never hang or crash", async () => {
    const number = fc.oneof(fc.integer(), fc.constantFrom(0, 1, 2, 3, 8, 2 ** 24, 2 ** 31 - 1), fc.float());
    const value = fc.oneof(number, fc.boolean(), fc.string(), fc.constant(["x"]), fc.constant(Float32Array.of(1, 2)));
    const damage = (values: Readonly<Record<string, Value>>) =>
      fc
        .uniqueArray(fc.tuple(fc.constantFrom(...Object.keys(values).slice(1)), value), { minLength: 1, maxLength: 3 })
        .map((some) => {
          return { ...values, ...Object.fromEntries(some) };
        });
    await fc.assert(
      fc.asyncProperty(fc.oneof(damage(llama), damage(gemma3)), async (values) => {
        const error = await opening(values).then(
          () => undefined,
          (e: unknown) => e as Error,
        );
        if (error !== undefined && !(error instanceof UserError)) throw error;
        expect(error?.message ?? "").not.toContain("\n");
      }),
      { numRuns: 500, seed: 1 },
    );
  });

  it("a tensor that is not known", async () => {
    const tensors = [{ name: "blk.0.attn_q_norm.weight", ne: [8], type: 0, offset: 256 }];
    await expect(opening(llama, { tensors })).rejects.toThrow(
      "tensor blk.0.attn_q_norm.weight: expected one that llama is known to have, got another in models/x/model.gguf.",
    );
  });

  it("factors of the frequencies that are not Llama 3's", async () => {
    const tensors = [{ name: "rope_freqs.weight", ne: [2], type: 0, offset: 256 }];
    const message = "tensor rope_freqs.weight: expected factors as Llama 3.1 scales its 2 frequencies, got others";
    await expect(opening(llama, { tensors, data: numbers(1, 3) })).rejects.toThrow(message);
    await expect(opening(llama, { tensors, data: numbers(1, Number.NaN) })).rejects.toThrow(
      "rope_freqs.weight: expected finite",
    );
  });

  it("factors of the frequencies beside another scaling", async () => {
    const tensors = [{ name: "rope_freqs.weight", ne: [2], type: 0, offset: 256 }];
    const scaled = added({ "llama.rope.scaling.factor": 4 });
    await expect(opening(scaled, { tensors, data: numbers(1, 3) })).rejects.toThrow(
      "tensor rope_freqs.weight: expected",
    );
  });

  it("a weight that is missing, of another shape, or not finite", async () => {
    const tensors = [{ name: "output_norm.weight", ne: [8], type: 0, offset: 256 }];
    const checkpoint = await opening(llama, { tensors, data: numbers(1, Number.NaN) });
    expect(checkpoint.names).toEqual(["model.embed_tokens.weight", "model.norm.weight"]);
    await expect(checkpoint.tensor("lm_head.weight", [3, 8])).rejects.toThrow(
      "weight lm_head.weight: expected one of that",
    );
    await expect(checkpoint.tensor("model.embed_tokens.weight", [8, 3])).rejects.toThrow("expected [8,3], got [3,8]");
    await expect(checkpoint.tensor("model.norm.weight", [8])).rejects.toThrow(
      "tensor model.norm.weight: expected finite numbers, got NaN at 1 in models/x/model.gguf.",
    );
  });

  function without(key: string) {
    return Object.fromEntries(Object.entries(llama).filter(([name]) => name !== key));
  }
});

/** The logits after a prompt. */
async function lastLogits(model: Model, weights: Weights, tokens: readonly number[]): Promise<Float32Array> {
  const T = tokens.length;
  const x = forward(model, weights, contextInputs(T, "float32"), (_, value) => value);
  const session = await compile({ logits: model.logits(weights, x) });
  const mask = Float32Array.from({ length: T * T }, (_, i) => (i % T <= Math.floor(i / T) ? 0 : -Infinity));
  const { logits } = await session.run({
    tokens: int64(tokens, T),
    positions: int64([...tokens.keys()], T),
    mask: { dtype: "float32", data: mask, shape: [1, T, T] },
  });
  return (logits.data as Float32Array).subarray((T - 1) * model.vocabulary);
}

/** Largest difference over the largest expected number. */
function relativeGap(got: ArrayLike<number>, expected: ArrayLike<number>): number {
  expect(got.length).toBe(expected.length);
  let [gap, scale] = [0, 0];
  for (let i = 0; i < expected.length; i++) {
    gap = Math.max(gap, Math.abs(got[i]! - expected[i]!));
    scale = Math.max(scale, Math.abs(expected[i]!));
  }
  return gap / scale;
}
