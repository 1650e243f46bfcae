import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import type { Dictionary, TrainedOn } from "../src/dictionaries/dictionary.ts";
import { dummyDictionary } from "../src/dictionaries/dummy.ts";
import { fitDictionary, unlikeTraining } from "../src/dictionaries/fit.ts";
import { modelFromConfig } from "../src/models/architectures.ts";
import { siteName } from "../src/site.ts";

const read = (path: string) => JSON.parse(readFileSync(new URL(`fixtures/${path}`, import.meta.url), "utf8"));
const modelOf = (name: string) => modelFromConfig(read(`${name}/config.json`), name);

describe("a model says of itself what transformers' modules do:", () => {
  const facts = Object.entries<Record<string, boolean>>(read("module-sites.json"));
  it("of every architecture", () => expect(facts.length).toBeGreaterThan(20));
  it.each(facts)("%s", (name, fact) => {
    const { moduleSites, ignoresMean, valueBias } = modelOf(name);
    expect({ ignoresMean, valueBias }).toEqual({ ignoresMean: fact.ignoresMean, valueBias: fact.valueBias });
    const isAdded = fact["attn_out and mlp_out"];
    expect(["attn_out", "mlp_out"].map((kind) => (moduleSites as string[]).includes(kind))).toEqual([isAdded, isAdded]);
    expect(moduleSites.includes("resid_post")).toBe(fact.resid_post);
    // What transformers 5 alone gives is left out.
    if (!fact.embed) expect(moduleSites).not.toContain("embed");
  });
});

/** An SAE of a site, with what its files say. */
function sae(trainedOn: TrainedOn, kind: "attn_out" | "mlp_out" | "resid_post" | "embed" = "mlp_out"): Dictionary {
  const site = kind === "embed" ? "embed" : siteName({ kind, layer: 1 });
  return { ...dummyDictionary(site, 32, 40, 1), trainedOn };
}

describe("a dictionary that does not fit a model's site:", () => {
  const model = { ...modelOf("llama-mha"), sites: { mlp_out: 32, resid_post: 32 } };
  it("one of another width", () => {
    expect(() => fitDictionary(sae({}), model)).not.toThrow();
    expect(() => fitDictionary(sae({}), { ...model, sites: { mlp_out: 64 } })).toThrow(
      /^SAE width: expected 64, the model's at mlp_out\.1, got 32 in dummy/,
    );
  });

  it("one whose decoder's rows are of another width than its encoder's", () => {
    expect(() => fitDictionary({ ...sae({}), outputWidth: 64 }, model)).toThrow(
      /^SAE decoder rows: expected 32 numbers, as many as the encoder reads at mlp_out\.1, got 64 in dummy/,
    );
  });

  it("one that reads one site and writes another", () => {
    for (const reads of ["resid_post.0", "resid_post.1", "mlp_out.0"]) {
      expect(() => fitDictionary({ ...sae({}), reads }, model)).toThrow(
        `SAE: expected one that reads and writes one site, got one that reads ${reads} and writes mlp_out.1 in dummy`,
      );
    }
  });

  it("one that adds a linear map of what it reads", () => {
    const skip = async () => new Float32Array(32 * 32);
    expect(() => fitDictionary({ ...sae({}), skip }, model)).toThrow(/a linear map of its input .* not supported/);
  });
});

describe("an SAE of a module's output", () => {
  const module = (name: string) => ({ module: { name, isSure: true } });
  it.each(["gemma2", "gemma3_text", "gemma3"])("is refused where a norm follows, as in %s", (name) => {
    const model = { ...modelOf(name), sites: { attn_out: 32, mlp_out: 32, resid_post: 32, embed: 32 } };
    expect(() => fitDictionary(sae(module("model.layers.1.mlp")), model)).toThrow(
      /^SAE: expected one of what is added to the residual stream, got one of model\.layers\.1\.mlp's output, .* leave mlp_out\.1 out /,
    );
    expect(() => fitDictionary(sae(module("layers.1.self_attn"), "attn_out"), model)).toThrow(
      "layers.1.self_attn's output",
    );
    expect(fitDictionary(sae(module("layers.1"), "resid_post"), model).warnings).toBeUndefined();
  });

  it.each(["llama-mha", "qwen2", "gpt_neox", "gpt2"])("is one of what %s adds to the stream", (name) => {
    const model = { ...modelOf(name), sites: { mlp_out: 32 } };
    expect(fitDictionary(sae(module("layers.1.mlp")), model).warnings).toBeUndefined();
  });

  it("is refused where positions or a factor follow the embedding", () => {
    for (const name of ["gpt2", "gemma", "gemma2"]) {
      const model = { ...modelOf(name), sites: { embed: 32 } };
      expect(() => fitDictionary(sae(module("wte"), "embed"), model)).toThrow("expected one of what block 0 reads");
    }
  });

  it("is told of where its name may mean either", () => {
    const either = sae({ module: { name: "mlp_out_layer_1", isSure: false } });
    const post = { ...modelOf("gemma2"), sites: { mlp_out: 32 } };
    expect(fitDictionary(either, post).warnings).toEqual([
      expect.stringMatching(
        /^SAEs named like mlp_out_layer_<layer> are taken for mlp_out, .* their effects are wrong\.$/,
      ),
    ]);
    expect(fitDictionary(either, { ...modelOf("llama-mha"), sites: { mlp_out: 32 } }).warnings).toBeUndefined();
  });
});

describe("what an SAE's files say of the model", () => {
  const [llama, gpt2] = ["llama-mha", "gpt2"].map((name) => ({
    ...modelOf(name),
    sites: { mlp_out: 32, resid_post: 32 },
  })) as [ReturnType<typeof modelOf>, ReturnType<typeof modelOf>];

  it("by default alone is told of where it counts", () => {
    const byDefault = {
      ...sae({ centredWeights: "byDefault" }),
      forModel: (ignoresMean: boolean) => sae({ model: `${ignoresMean}` }),
    };
    const fitted = fitDictionary(byDefault, gpt2);
    expect(fitted.trainedOn).toEqual({ model: "true" });
    expect(fitted.warnings).toEqual([expect.stringContaining("SAELens before 3.19.2")]);
    expect(fitDictionary(byDefault, llama)).toMatchObject({ trainedOn: { model: "false" } });
    expect(fitDictionary(byDefault, llama).warnings).toBeUndefined();
  });

  it("of biases of values is refused where there are such biases", () => {
    const folded = sae({ foldedValueBiases: "byDefault" });
    expect(() => fitDictionary(folded, gpt2)).toThrow(/fold_value_biases: expected false/);
    expect(fitDictionary(folded, llama).warnings).toBeUndefined();
  });

  it("of the length of texts must fit into the model", () => {
    expect(fitDictionary(sae({ contextSize: 65 }), llama).warnings).toEqual([
      "The SAEs were trained on texts of 65 tokens; this model takes at most 64, so it is hardly the one that they were trained on.",
    ]);
    expect(fitDictionary(sae({ contextSize: 64 }), llama).warnings).toBeUndefined();
  });
});

describe("prompts unlike the texts of the training", () => {
  const bos = new Set([1]);
  const [behind, without] = [
    [1, 5, 6],
    [5, 6],
  ];
  const told = (flags: (boolean | undefined)[], prompts: number[][]) =>
    unlikeTraining(
      flags.map((flag) => sae({ ...(flag !== undefined && { bos: flag }) })),
      prompts,
      bos,
    );

  it("are told of, once for all SAEs", () => {
    expect(told([true, true], [without, without])).toEqual([
      "The SAEs were trained with BOS in front (prepend_bos); this tokenizer puts none. --bos yes puts it there.",
    ]);
    expect(told([true, undefined], [without, behind])).toEqual([
      "1 of 2 SAEs were trained with BOS in front (prepend_bos); 1 of 2 prompts have none. --bos yes puts it there.",
    ]);
    expect(told([false], [behind])).toEqual([
      "The SAEs were trained without BOS in front (prepend_bos); the prompts have it. --bos no leaves out the tokenizer's.",
    ]);
    expect(told([true, false], [behind])).toHaveLength(1);
  });

  it("are not where they are alike, or the files do not say", () => {
    expect(told([true], [behind, behind])).toEqual([]);
    expect(told([false], [without])).toEqual([]);
    expect(told([undefined], [without, behind])).toEqual([]);
    expect(told([true], [])).toEqual([]);
  });

  it("are told of if they are longer than those", () => {
    const lines = unlikeTraining([sae({ contextSize: 2 }), sae({ contextSize: 8 })], [behind, without], bos);
    expect(lines).toEqual(["The SAEs were trained on texts of 2 tokens; prompts have up to 3."]);
  });
});
