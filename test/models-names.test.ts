import { describe, expect, it } from "vitest";
import { isOtherModel } from "../src/models/names.ts";

describe("a model's name in an SAE's files", () => {
  it.each([
    // Names as SAELens' list of releases and the hub have them.
    ["gpt2-small", "gpt2", ["/models/my-gpt2"]],
    ["gpt2", "gpt2", ["openai-community/gpt2"]],
    ["google/gemma-2-2b", "gemma2", ["google/gemma-2-2b"]],
    ["gemma-2-2b", "gemma2", ["/data/gemma-2-2b-Q4_K_M.gguf"]],
    ["gemma-2b", "gemma", ["google/gemma-2b"]],
    ["EleutherAI/pythia-70m-deduped", "gpt_neox", ["/home/me/pythia-70m-deduped/"]],
    ["meta-llama/Llama-3.2-1B", "llama", ["/data/llama-3.2-1b"]],
    ["Qwen/Qwen2.5-7B-Instruct", "qwen2", ["Qwen2.5-7B-Instruct"]],
    ["my-own-model", "llama", ["demo"]],
    ["gemma-2-2b", "gemma2", ["weights"]],
  ])("%s may be a %s at %j", (said, type, names) => expect(isOtherModel(said, type, names)).toBe(false));

  it.each([
    ["gpt2-small", "llama", ["llama"]],
    ["gemma-2b", "gemma2", ["gemma-2-2b"]],
    ["gemma-2-9b", "gemma2", ["google/gemma-2-2b"]],
    ["gemma-2-2b", "gemma2", ["google/gemma-2-2b-it"]],
    ["google/gemma-2-2b-it", "gemma2", ["google/gemma-2-2b"]],
    ["pythia-70m", "gpt_neox", ["EleutherAI/pythia-70m-deduped"]],
    ["pythia-160m-deduped", "gpt_neox", ["pythia-70m-deduped"]],
    ["meta-llama/Llama-3.2-1B", "llama", ["meta-llama/Llama-3.1-1B"]],
    ["gpt-neo-125m", "gpt_neox", ["pythia-160m"]],
    ["mistral-7b", "qwen3", ["Qwen3-8B"]],
  ])("%s is none of %s at %j", (said, type, names) => expect(isOtherModel(said, type, names)).toBe(true));
});
