import { readFile } from "node:fs/promises";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { runModel } from "../src/capture/run.ts";
import { prefixForest } from "../src/forest/forest.ts";
import { planMetric } from "../src/forest/packs.ts";
import { input } from "../src/graph/tensor.ts";
import {
  agreementPairs,
  analyse,
  type LanguageModel,
  openModel,
  openSaes,
  type PromptPair,
  type Saes,
  type UserError,
} from "../src/index.ts";
import { tokenizePairs } from "../src/prompts/check.ts";

let model: LanguageModel;
let saes: Saes;
beforeAll(async () => {
  model = await openModel("demo");
  saes = await openSaes("demo", { model, sites: ["resid_post.3", "mlp_out.1"] });
});
afterAll(async () => {
  await saes.close();
  await model.close();
});

const answers = { clean_answer: " runs", patch_answer: " run" };
const prompts = ["The dog near the cars", "The dog near the cat", "The dogs"].map((prompt) => ({ prompt, ...answers }));

describe("a model's activations of plain prompts", () => {
  it("are those of each prompt alone, and say where prefixes are shared", async () => {
    const sites = ["embed", "attn_z.2", "resid_post.5"];
    const all = await model.capture(prompts, sites);
    const plain = await model.capture(
      prompts.map(({ prompt }) => prompt),
      sites,
    );
    expect(all.tokens).toEqual(prompts.map(({ prompt }) => model.tokenizer.encode(prompt)));
    expect(plain.tokens).toEqual(all.tokens);
    // Without answers there is no metric, and nothing that could be taken for its gradient.
    expect(Object.keys(plain).sort()).toEqual(["tokens", "width", "x"]);
    for (const [p, prompt] of prompts.entries()) {
      const alone = await model.capture([prompt], sites);
      expect(all.m[p]).toBeCloseTo(alone.m[0]!, 4);
      for (const site of sites) {
        const D = all.width[site]!;
        expect(all.x[site]![p]!.length).toBe(all.tokens[p]!.length * D);
        for (const kind of ["x", "g"] as const) {
          const [here, there] = [all[kind][site]![p]!, alone[kind][site]![0]!];
          const scale = Math.max(...there.map(Math.abs));
          expect(scale).toBeGreaterThan(0);
          expect(Math.max(...here.map((v, i) => Math.abs(v - there[i]!)))).toBeLessThan(1e-5 * scale);
        }
        const scale = Math.max(...all.x[site]![p]!.map(Math.abs));
        const apart = plain.x[site]![p]!.map((v, i) => Math.abs(v - all.x[site]![p]![i]!));
        expect(Math.max(...apart)).toBeLessThan(1e-5 * scale);
      }
    }
    const D = model.width;
    const first = (p: number) => all.x["resid_post.5"]![p]!.slice(2 * D, 3 * D);
    expect(first(0)).toEqual(first(1));
    expect(first(0)).not.toEqual(first(2));
  });

  it("are the same with streamed weights", async () => {
    await using streamed = await openModel("demo", { weights: "streamed" });
    const sites = ["attn_out.1", "resid_post.4"];
    const [there, here] = [await model.capture(prompts, sites), await streamed.capture(prompts, sites)];
    for (const kind of ["x", "g"] as const) {
      for (const site of sites) {
        for (const p of prompts.keys()) {
          const [a, b] = [there[kind][site]![p]!, here[kind][site]![p]!];
          const scale = Math.max(...a.map(Math.abs));
          expect(scale).toBeGreaterThan(0);
          expect(Math.max(...a.map((v, i) => Math.abs(v - b[i]!)))).toBeLessThan(1e-5 * scale);
        }
      }
    }
    const plain = await streamed.capture(["The dogs"], ["embed"]);
    expect(plain.x.embed[0]!.length).toBe(plain.tokens[0]!.length * model.width);
  });

  it("come with the gradients that central differences give", async () => {
    await using exact = await openModel("demo", { precision: "float64" });
    const site = "resid_post.2";
    const { tokens, g, m } = await exact.capture(prompts, [site]);
    const D = exact.width;
    for (const [p, { prompt }] of prompts.entries()) {
      const pair = { clean_prefix: prompt, patch_prefix: null, ...answers, case: "one", split: "train" } as const;
      const forest = prefixForest(tokenizePairs([pair], exact.tokenizer).kept);
      const { packs } = planMetric(forest);
      const direction = Float64Array.from({ length: tokens[p]!.length * D }, (_, i) => Math.sin(i + p));
      const at = async (step: number) => {
        let metric = Number.NaN;
        const [pack] = packs;
        const N = pack!.tokens.length;
        const shift = new Float64Array(N * D);
        pack!.positions.forEach((position, row) => {
          if (pack!.node[row]! < 0) return;
          for (let d = 0; d < D; d++) shift[row * D + d] = step * direction[position * D + d]!;
        });
        const value = { dtype: "float64", data: shift, shape: [N, D] } as const;
        const hook = {
          trace: (x: import("../src/graph/tensor.ts").Tensor, at: { named(input: string): string }) => ({
            y: x.add(input(at.named("shift"), "float64", x.shape)),
          }),
        };
        const job = {
          pack: pack!,
          inputs: () => ({ shift: value }),
          metric: (v: ArrayLike<number>) => (metric = v[0]!),
        };
        await runModel(exact.loaded, [{ ...job, metric: (v) => void job.metric(v) }], {
          hooks: new Map([[site, hook]]),
        });
        return metric;
      };
      expect(await at(0)).toBeCloseTo(m[p]!, 10);
      const h = 1e-5;
      const slope = ((await at(h)) - (await at(-h))) / (2 * h);
      const expected = [...g[site]![p]!].reduce((sum, value, i) => sum + value * direction[i]!, 0);
      expect(Math.abs(expected)).toBeGreaterThan(1e-4);
      expect(expected).toBeCloseTo(slope, 6);
    }
  });

  it("are refused where a site does not exist or a prompt cannot be read", async () => {
    const code = (work: Promise<unknown>) => work.then(String, (error: UserError) => [error.code, error.message]);
    expect(await code(model.capture(["The dog"], ["resid_post.6"]))).toEqual([
      "not_found",
      expect.stringContaining("got resid_post.6"),
    ]);
    const unknown = { prompt: "The dog", clean_answer: " antidisestablishmentarianism", patch_answer: " run" };
    expect(await code(model.capture([unknown], ["embed"]))).toEqual([
      "invalid_input",
      expect.stringContaining("answer"),
    ]);
  });
});

describe("an analysis by the library", () => {
  it("gives sites in order, features by rank, effects that add up, and what could not be used", async () => {
    const pairs: PromptPair[] = [
      ...agreementPairs({ perCase: 3, cases: ["nounpp_plural", "simple_singular"] }),
      { clean_prefix: "The dog", patch_prefix: "The dog", ...answers, case: "equal", split: "train" },
    ];
    const phases: string[] = [];
    const result = await analyse(model, saes, pairs, {
      onProgress: (progress) => "phase" in progress && phases.push(progress.phase),
    });
    expect(result.sites).toEqual(["mlp_out.1", "resid_post.3"]);
    expect(result.pairs.length).toBe(12);
    expect(result.rejected.map(({ reason }) => reason)).toEqual(["prompts are equal"]);
    expect([...new Set(phases)]).toEqual(expect.arrayContaining(["capture", "effects", "checks", "writing"]));
    expect(result.checks.length).toBe(4);
    expect(result.checks.every(({ passed }) => passed)).toBe(true);
    // The embedded model's own SAEs give back nearly all of it.
    for (const share of Object.values(result.unexplained)) expect(share).toBeLessThan(0.1);
    expect(Object.keys(result.unexplained)).toEqual(result.sites);

    const top = result.top({ site: "resid_post.3", k: 4, split: "test", case: "nounpp_plural" });
    expect(top.map(({ rank }) => rank)).toEqual([1, 2, 3, 4]);
    // The same from the rows of the nodes.
    const { node, feature, effect } = result.effects("resid_post.3");
    const sums = new Map<number, number>();
    const { outside } = model.tokenizer;
    node.forEach((n, i) => {
      const [split, name] = [result.nodes.split[n], result.nodes.case[n]];
      const first = result.nodes.position[n] === 0 && outside.first.has(result.nodes.token_id[n]!);
      if (split !== "test" || name !== "nounpp_plural" || feature[i] === -1 || first) return;
      sums.set(feature[i]!, (sums.get(feature[i]!) ?? 0) + effect[i]! / 3);
    });
    const ranked = [...sums].sort(([, a], [, b]) => Math.abs(b) - Math.abs(a)).slice(0, 4);
    expect(top.map((row) => row.feature)).toEqual(ranked.map(([of]) => of));
    for (const [i, [, mean]] of ranked.entries()) expect(top[i]!.effect).toBeCloseTo(mean, 9);

    expect(() => result.top({ site: "resid_post.4" })).toThrow(
      "expected one of mlp_out.1, resid_post.3, got resid_post.4",
    );
    expect(() => result.top({ site: "resid_post.3", case: "nounpp" })).toThrow("case: expected one of");
  });

  it("is ended by its signal, with the signal's reason", async () => {
    const reason = new Error("enough");
    const controller = new AbortController();
    const work = analyse(model, saes, agreementPairs({ perCase: 8 }), {
      signal: controller.signal,
      onProgress: (progress) => "phase" in progress && progress.phase === "capture" && controller.abort(reason),
    });
    await expect(work).rejects.toBe(reason);
    await expect(openModel("demo", { signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
  });

  it("says by a code what kind of error it is", async () => {
    const codeOf = (work: Promise<unknown>) => work.then(String, (error: UserError) => error.code);
    expect(await codeOf(openModel("./none"))).toBe("not_found");
    expect(await codeOf(openSaes("demo", { model, sites: ["resid_post.9"] }))).toBe("not_found");
    const unknown = { clean_prefix: "Zzyzx", patch_prefix: "Qwrty", ...answers, case: "none", split: "train" } as const;
    expect(await codeOf(analyse(model, saes, [{ ...unknown, patch_prefix: "Zzyzx" }]))).toBe("no_pairs");
    const text = await readFile("src/errors.ts", "utf8");
    const { errorCodes } = await import("../src/errors.ts");
    for (const code of errorCodes) expect(text).toContain(` * - \`${code}\`: `);
  });
});
