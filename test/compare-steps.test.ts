import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type ComparisonContext, type ComparisonPlaces, compareStep } from "../src/analysis/compare.ts";
import { type ComparedInput, type MemoryMeter, type MethodRun, measureStep } from "../src/analysis/compare-measure.ts";
import { parseMethods } from "../src/analysis/compare-methods.ts";
import type { MethodResult } from "../src/analysis/compare-results.ts";
import { memoryPlaces } from "../src/analysis/memory.ts";
import { usablePairs } from "../src/analysis/pairs.ts";
import { analysePairs, prepare } from "../src/analysis/steps.ts";
import { StoppedError } from "../src/errors.ts";
import { heldWeights, loadedModel } from "../src/models/weights.ts";
import { type OpenJob, openJob } from "../src/open/open.ts";
import { postingReporter, type Reporter } from "../src/progress.ts";
import { isOutside } from "../src/prompts/outside.ts";
import type { Comparison } from "../src/report/comparison.ts";

const quiet = (stopped = () => false): Reporter => postingReporter(() => {}, stopped);
const meter: MemoryMeter = { begin: () => ({ bytes: 300, isReset: true }), peak: () => 500 };
const options = {
  model_name: "demo",
  ...{ sae_source: null, layers: "4", sites: "resid_post,mlp_out" },
  ...{ num_examples: 1, task: "agreement", pairs: null, seed: 1 },
};

let opened: OpenJob;
let input: ComparedInput;
let context: ComparisonContext;
beforeAll(async () => {
  opened = await openJob(options);
  const { model, checkpoint, tokenizer, dictionaries } = opened;
  const pairs = usablePairs(opened.source, opened, options, quiet()).kept;
  // An analysis packs its nodes in other tiles than a comparison; in float32 that shows in the tenth decimal.
  const loaded = loadedModel(model, await heldWeights(model, checkpoint, "float64"), { dtype: "float64" });
  input = { loaded, tokenizer, dictionaries, pairs };
  context = {
    format: 1,
    command: "compare",
    options: {},
    versions: {},
    machine: { cpu: "a CPU", cores: 2, memory_bytes: 1e9 },
    model: { name: "demo", model_type: model.modelType, parameters: 1 },
    dictionaries: { source: "the model's own", dummy: false, sites: [...dictionaries.keys()], features: 1 },
    sha256: { model: "", dictionaries: "", pairs: "" },
    task: "agreement",
    pairs: pairs.length,
    warnings: ["one of before"],
  };
});
afterAll(() => opened.close());

/** Places of a comparison in memory, with all that was asked of them; methods run in this process. */
function placesInMemory(reporter = quiet()) {
  const results = new Map<string, MethodResult>();
  const runs: MethodRun[] = [];
  const kept: Comparison[] = [];
  const places: ComparisonPlaces = {
    begin: async (comparison) => void kept.push(comparison),
    stored: async ({ name }) => results.get(name) ?? null,
    async measure(run) {
      runs.push(run);
      const { result } = await measureStep(input, run, meter, reporter);
      const whole = { ...result, loading_seconds: 0 };
      results.set(run.spec.name, whole);
      return whole;
    },
    finish: async (comparison) => void kept.push(comparison),
  };
  return { places, results, runs, kept };
}

const specsOf = (methods: string) => parseMethods(methods, { steps: 10, rule: "midpoint" });
const whole = { top: null, byPair: false };

describe("the steps of a comparison, in memory", () => {
  it("measure a method: its effects are the means over all pairs that an analysis gives, BOS left out", async () => {
    const [spec] = specsOf("analytic");
    const { result } = await measureStep(input, { spec: spec!, byPair: false, features: null }, meter, quiet());
    expect(result).toMatchObject({ loaded_bytes: 300, peak_bytes: 500, peak_above_loaded: true });
    const { loaded, dictionaries, pairs } = input;
    const { tokenizer } = opened;
    const places = memoryPlaces();
    const analysis = { method: "analytic", score: "effect", top: 5 } as const;
    const record = {
      counts: { pairs: 0, nodes_forward: 0, nodes_backward: 0, tokens: 0, rows: 0 },
      ...{ accuracy: [], checks: [], warnings: [] },
    };
    const all = { loaded, tokenizer, dictionaries, options: analysis };
    await analysePairs(all, prepare(pairs, analysis), places, record, quiet());
    const { token_id, position } = places.tables.nodes!;
    for (const { site, feature, effect } of result.sites) {
      const { node, feature: of, effect: rows } = places.tables.effects.get(site)!;
      const means = new Map<number, number>();
      node.forEach((n, i) => {
        if (of[i]! < 0 || isOutside(tokenizer.outside, token_id[n]!, position[n]!)) return;
        means.set(of[i]!, (means.get(of[i]!) ?? 0) + rows[i]! / pairs.length);
      });
      expect(feature).toEqual([...means.keys()].sort((a, b) => a - b));
      feature.forEach((f, i) => {
        expect(effect[i]).toBeCloseTo(means.get(f)!, 9);
      });
    }
  });

  it("run exact last, on the strongest features of the others, and tell of methods in the order of their names", async () => {
    const { places, runs, kept } = placesInMemory();
    const comparison = await compareStep(
      specsOf("exact,analytic,analytic:3"),
      { ...whole, top: 2 },
      context,
      places,
      quiet(),
    );
    expect(runs.map(({ spec }) => spec.name)).toEqual(["analytic", "analytic:3", "exact"]);
    expect(runs.map(({ features }) => features === null)).toEqual([true, true, false]);
    for (const [, features] of runs[2]!.features as [string, number[]][]) expect([2, 3, 4]).toContain(features.length);
    expect(kept.map(({ status, methods }) => [status, methods.map(({ name }) => name)])).toEqual([
      ["running", []],
      ["finished", ["exact", "analytic", "analytic:3"]],
    ]);
    expect(kept[1]).toBe(comparison);
    expect(comparison.warnings[0]).toBe("one of before");
    const alike = comparison.agreement.find(({ a, b, site }) => a === "analytic" && b === "analytic:3" && site === "")!;
    expect(alike.difference! / alike.scale!).toBeLessThan(1e-4);
  });

  it("find again what an interrupted comparison has put into its places", async () => {
    const specs = specsOf("analytic,analytic:3");
    const untouched = await compareStep(specs, whole, context, placesInMemory().places, quiet());
    let stopping = false;
    const { places, results, runs } = placesInMemory(quiet(() => stopping));
    const stop: ComparisonPlaces = {
      ...places,
      async measure(run) {
        stopping = run.spec.name === "analytic:3";
        return places.measure(run);
      },
    };
    await expect(compareStep(specs, whole, context, stop, quiet())).rejects.toThrow(StoppedError);
    expect([...results.keys()]).toEqual(["analytic"]);
    stopping = false;
    const resumed = await compareStep(specs, whole, context, places, quiet());
    expect(runs.map(({ spec }) => spec.name)).toEqual(["analytic", "analytic:3", "analytic:3"]);
    expect(resumed.agreement).toEqual(untouched.agreement);
    expect(resumed.scatter).toEqual(untouched.scatter);
  });
});
