import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { openFolder } from "../src/bytes/file.node.ts";
import { memorySource } from "../src/bytes/memory.ts";
import { openSafetensors } from "../src/bytes/safetensors.ts";
import { modelFromConfig } from "../src/models/architectures.ts";
import { openCheckpoint } from "../src/models/checkpoint.ts";
import { heldWeights } from "../src/models/weights.ts";
import { lastLogits, relativeGap } from "./last-logits.ts";

type Config = Readonly<Record<string, unknown>>;
interface Case {
  readonly model: string;
  readonly change: Config;
  readonly agrees: boolean;
  readonly same: boolean;
}

const fixtures = new URL("fixtures/", import.meta.url).pathname;
const json = (path: string) => JSON.parse(readFileSync(`${fixtures}${path}`, "utf8"));
const cases = json("config-fields.json") as Case[];
const changed = (name: string, change: Config): Config =>
  Object.fromEntries(Object.entries({ ...json(`${name}/config.json`), ...change }).filter(([, v]) => v !== null));

describe("fields that transformers says change nothing", () => {
  it.each(cases.filter(({ agrees }) => agrees))("$model $change", async ({ model: name, change, same }) => {
    expect(same).toBe(true);
    const checkpoint = await openCheckpoint(await openFolder(`${fixtures}${name}`));
    const model = modelFromConfig(changed(name, change), name);
    const weights = await heldWeights(model, checkpoint);
    await checkpoint.close();
    const expected = await openSafetensors(
      memorySource("expected", readFileSync(`${fixtures}${name}/expected.safetensors`)),
    );
    const logits = await lastLogits(model, weights, json(`${name}/expected.json`).prompts[2].tokens);
    expect(relativeGap(logits, await expected.read("p2/logits"))).toBeLessThan(1e-5);
  });
});

describe("a config that says two things is refused, whichever of them transformers takes", () => {
  const contradictions = cases.filter(({ agrees }) => !agrees);
  it.each(contradictions)("$model $change", ({ model: name, change }) => {
    expect(() => modelFromConfig(changed(name, change), "x")).toThrow(/: expected .* Leave out the one that is wrong/);
  });

  it("of which transformers takes now the one, now the other", () => {
    expect(new Set(contradictions.map(({ same }) => same))).toEqual(new Set([true, false]));
  });
});

describe("unknown fields", () => {
  const config = changed("llama-mha", { residual_scale: 0.5, extra: [1] });

  it("are refused with the flag that allows them, and go on with it", () => {
    expect(() => modelFromConfig(config, "x")).toThrow(
      "residual_scale: expected a field that this architecture is known to have, got 0.5 in config.json of x. " +
        "Where it changes nothing that the model computes, --allow_config_field residual_scale goes on without it.",
    );
    expect(() => modelFromConfig(config, "x", ["residual_scale"])).toThrow("extra: expected");
    expect(modelFromConfig(config, "x", ["extra", "residual_scale"]).ignoredFields).toEqual([
      "residual_scale",
      "extra",
    ]);
  });

  it.each(["misspelt", "hidden_size", "model_type"])("are all that can be allowed: not %s", (field) => {
    expect(() => modelFromConfig(config, "x", ["extra", "residual_scale", field])).toThrow(
      `--allow_config_field ${field}: expected an unknown field, got one that is missing or understood`,
    );
  });

  it("within others have their path", () => {
    const gemma = json("gemma3/config.json");
    const within = { ...gemma, text_config: { ...gemma.text_config, muP: 2 } };
    expect(() => modelFromConfig(within, "x", ["muP"])).toThrow("--allow_config_field text_config.muP");
    expect(modelFromConfig(within, "x", ["text_config.muP"]).ignoredFields).toEqual(["text_config.muP"]);
    const scaling = { rope_type: "linear", factor: 2.5, rope_theta: 100, note: "x" };
    const form = changed("llama-bias", { rope_parameters: scaling });
    expect(() => modelFromConfig(form, "x")).toThrow("rope_parameters.note: expected no such field");
    expect(modelFromConfig(form, "x", ["rope_parameters.note"]).ignoredFields).toEqual(["rope_parameters.note"]);
  });

  it.each(["quantization_config", "compression_config"])("that say how weights are quantised cannot: %s", (field) => {
    const quantised = changed("qwen2", { [field]: { bits: 4 } });
    expect(() => modelFromConfig(quantised, "x", [field])).toThrow(`${field}: expected weights that are not quantised`);
  });
});

describe("fields that change something unless they have one value", () => {
  it.each<[string, string, unknown, unknown]>([
    ["gpt2", "pruned_heads", {}, { 0: [1] }],
    ["llama-mha", "auto_map", {}, { AutoModelForCausalLM: "modeling_mine.Mine" }],
    ["gemma2", "is_encoder_decoder", false, true],
    ["llama-mha", "use_sliding_window", false, true],
    ["mistral", "attention_bias", false, true],
    ["gpt2", "rotary_pct", 1, 0.5],
    ["llama-mha", "partial_rotary_factor", 1, 0.5],
    ["qwen3", "per_layer_config", {}, { 1: { sliding_window: 2 } }],
  ])("%s: %s", (name, field, neutral, other) => {
    expect(() => modelFromConfig(changed(name, { [field]: neutral }), "x")).not.toThrow();
    expect(() => modelFromConfig(changed(name, { [field]: other }), "x")).toThrow(`${field}: expected`);
  });
});

describe("null", () => {
  it("in place of a window is none", () => {
    const config = { ...json("qwen2/config.json"), sliding_window: null, layer_types: null };
    expect(() => modelFromConfig(config, "x")).not.toThrow();
  });
});

/** Lists within lists. */
function nested(depth: number): unknown {
  let value: unknown = 1;
  for (let i = 0; i < depth; i++) value = [value];
  return value;
}

describe("numbers that no model has are refused at once, in a line of bounded length", () => {
  it.each<[string, string, unknown]>([
    ["llama-gqa", "num_hidden_layers", 1_000_000],
    ["gpt2", "n_layer", 1e9],
    ["llama-gqa", "vocab_size", 1e9],
    ["gemma2", "vocab_size", -64],
    ["qwen2", "hidden_size", 2 ** 53],
    ["mistral", "intermediate_size", 1e300],
    ["gpt_neox", "num_attention_heads", 0],
    ["gpt2", "n_embd", "21"],
    ["llama-gqa", "num_key_value_heads", 3],
    ["llama-gqa", "head_dim", 0.5],
    ["llama-gqa", "rms_norm_eps", Number.POSITIVE_INFINITY],
    ["gemma2", "final_logit_softcapping", 1e300],
    ["gemma2", "sliding_window", null],
    ["gpt2", "tie_word_embeddings", null],
    ["llama-yarn", "rope_parameters", { rope_type: "yarn", factor: 1e-38, rope_theta: 1e4 }],
    ["gemma3_text", "layer_types", Array(100_000).fill("full_attention")],
    ["gemma3", "text_config", [1, 2]],
    ["llama-gqa", "rope_scaling", 4],
    ["llama-gqa", "rope_parameters", "default"],
    ["llama-gqa", "rope_theta", "1e4"],
    ["llama-gqa", "model_type", ["llama"]],
    ["llama-gqa", "hidden_act", { silu: true }],
    ["llama-gqa", "residual_scale", "x".repeat(10_000)],
    ["llama-gqa", "residual_scale", nested(100_000)],
    ["llama-gqa", "auto_map", nested(100_000)],
    ["llama-gqa", "model_type", nested(100_000)],
  ])("%s: %s, case %#", (name, field, value) => {
    const config = { ...changed(name, {}), [field]: value };
    expect(() => modelFromConfig(config, "x")).toThrow(/^[^\n]{1,500}$/);
    expect(() => modelFromConfig(config, "x")).toThrow(`${field}: expected`);
  });
});
