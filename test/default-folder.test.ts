import { join } from "node:path";
import { describe, expect, it } from "vitest";
import type { CompareOptions, JobOptions } from "../src/analysis/options.ts";
import { compareFolder, runFolder } from "../src/commands/default-folder.ts";

const setting = {
  model_name: "demo",
  sae_source: null,
  layers: null,
  sites: null,
  num_examples: null,
  task: "agreement",
  pairs: null,
  seed: 1,
  precision: "float32",
  device: "cpu",
} as const;

const run = (more: Partial<JobOptions> = {}) =>
  runFolder({
    ...setting,
    batch_size: null,
    method: "analytic",
    score: "effect",
    top: 20,
    keep: "all",
    weights: "auto",
    ...more,
  });

const compare = (more: Partial<CompareOptions> = {}) =>
  compareFolder({
    ...setting,
    methods: "analytic,sfc",
    steps: 10,
    rule: "midpoint",
    top: null,
    by_pair: false,
    weights: "held",
    ...more,
  });

describe("the folder of results without --output_dir", () => {
  it.each([
    [{}, "demo-agreement-1"],
    [{ task: "pronoun", seed: 7 }, "demo-pronoun-7"],
    [{ task: null, pairs: "there/mine.v2.jsonl", layers: "2-4,0" }, "demo-mine.v2-1-layers2-4+0"],
    [{ model_name: "./llama/", sae_source: "../more/saes" }, "llama-agreement-1-saes"],
    [{ model_name: "org/name@main", sae_source: "a/b/layer_*" }, "name@main-agreement-1-layer__"],
    [{ score: "gradient" as const }, "demo-agreement-1-gradient"],
    [{ method: "analytic-ig" as const, steps: 10, rule: "midpoint" as const }, "demo-agreement-1-analytic-ig"],
    [{ method: "sfc-ig" as const, steps: 40, rule: "left" as const }, "demo-agreement-1-sfc-ig-steps40-left"],
    [{ sites: "attn_out, embed", keep: "correct" as const, top: 5 }, "demo-agreement-1-attn_out+embed-correct-top5"],
    [{ answer_tokens: "first" as const, num_examples: 3 }, "demo-agreement-1-n3-first"],
    [{ precision: "float64" as const, device: "cuda" }, "demo-agreement-1-float64-cuda"],
  ])("of a run with %o", (options, name) => {
    expect(run(options)).toBe(join("outputs", name));
  });

  it.each([
    [{}, "demo-agreement-1-compare"],
    [{ methods: "analytic,sfc:64,exact", top: 20 }, "demo-agreement-1-compare-analytic+sfc_64+exact-top20"],
    [{ methods: "analytic-ig@10-left", by_pair: true }, "demo-agreement-1-compare-analytic-ig@10-left-by_pair"],
    [{ layers: "3", weights: "streamed" as const }, "demo-agreement-1-layers3-compare-streamed"],
  ])("of a comparison with %o", (options, name) => {
    expect(compare(options)).toBe(join("outputs", name));
  });

  it("does not depend on what never changes results", () => {
    expect(run({ batch_size: 3, weights: "streamed" })).toBe(run());
  });

  it("has a name that every file system takes, of options of any length", () => {
    const many = (last: number) => Array.from({ length: 90 }, (_, i) => (i === 89 ? last : i)).join(",");
    expect(run({ layers: many(200) })).not.toBe(run({ layers: many(201) }));
    for (const folder of [run({ layers: many(1) }), run({ sae_source: ".\u001b[31m/x:y|z" })]) {
      expect(folder).toMatch(/^outputs[\\/][\w.+@-]{1,100}$/);
    }
  });

  it("is never hidden, nor outside of outputs", () => {
    expect(run({ model_name: ".." })).toMatch(/^outputs[\\/]\w[^\\/]*$/);
    expect(run({ model_name: "/" })).toBe(join("outputs", "model-agreement-1"));
  });
});
