import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, it, vi } from "vitest";
import { type MethodSpec, methodFolder, namesIn, parseMethods } from "../src/analysis/compare-methods.ts";
import type { MethodResult } from "../src/analysis/compare-results.ts";
import { featuresToPatch, findingsOf } from "../src/analysis/compare-results.ts";
import { workLine } from "../src/analysis/estimate.ts";
import { UsageError } from "../src/errors.ts";
import { type Comparison, comparisonSchema } from "../src/report/comparison.ts";
import { comparisonText } from "../src/report/comparison-text.ts";
import { peakBytes, resetPeak, residentBytes } from "../src/storage/resident.ts";

const tenMiddle = { steps: 10, rule: "midpoint" } as const;
const parse = (text: string) => parseMethods(text, tenMiddle);

describe("--methods", () => {
  it("are names, with steps and rule after @ and pairs per batch after a colon", () => {
    expect(parse("analytic, sfc:64,analytic-ig@40-left:16,sfc-ig@left,analytic-ig@40,exact,spliced")).toEqual([
      { name: "analytic", method: "analytic", batch: null, steps: null, rule: null },
      { name: "sfc:64", method: "sfc", batch: 64, steps: null, rule: null },
      { name: "analytic-ig@40-left:16", method: "analytic-ig", batch: 16, steps: 40, rule: "left" },
      { name: "sfc-ig@left", method: "sfc-ig", batch: null, steps: 10, rule: "left" },
      { name: "analytic-ig@40", method: "analytic-ig", batch: null, steps: 40, rule: "midpoint" },
      { name: "exact", method: "exact", batch: null, steps: null, rule: null },
      { name: "spliced", method: "spliced", batch: null, steps: null, rule: null },
    ]);
  });

  it("have folders that differ where they differ, without the colon", () => {
    const names = ["sfc-ig", "sfc-ig:40", "sfc-ig@40", "sfc-ig@40-left:2"];
    const folders = names.map(methodFolder);
    expect(new Set(folders).size).toBe(names.length);
    expect(folders.join("")).not.toContain(":");
  });

  it.each([
    ["magic", /^--methods: expected some of analytic, analytic-ig, sfc, sfc-ig, spliced, secant, exact, got "magic"/],
    ["", /expected some of analytic.*got ""/],
    ["analytic,", /expected some of analytic.*got ""/],
    ["analytic:0", /expected name\[@steps-rule\]\[:pairs per batch\].*got "analytic:0"/],
    ["sfc:x", /got "sfc:x"/],
    ["analytic-ig@0", /got "analytic-ig@0"/],
    ["analytic-ig@right", /got "analytic-ig@right"/],
    ["analytic-ig:4@40", /got "analytic-ig:4@40"/],
    ["exact:64", /expected exact without a batch, got "exact:64"/],
    ["secant@left", /rules on the first two, got "secant@left"/],
    ["secant:8", /expected secant without a batch/],
    [
      "sfc@40:3",
      /expected steps on analytic-ig, sfc-ig and secant, and rules on the first two, got "sfc@40:3"\. Write sfc:3\./,
    ],
    ["sfc,sfc", /got sfc twice/],
    ["analytic-ig,analytic-ig@10-midpoint", /got analytic-ig@10-midpoint which is the same as analytic-ig/],
  ])("refuses %j", (text, message) => {
    expect(() => parse(text)).toThrow(UsageError);
    expect(() => parse(text)).toThrow(message);
  });

  it("in a stored comparison never lead out of its folder", () => {
    expect(namesIn("analytic,sfc-ig@40-left:16,../other,/etc,later-method")).toEqual([
      "analytic",
      "sfc-ig@40-left:16",
      "later-method",
    ]);
    expect(namesIn(undefined)).toEqual([]);
  });
});

/** A method's result on two pairs, whose metric goes from −1 to 2 and from −2 to 3: total effects 3 and 5. */
function result(sites: Record<string, Partial<MethodResult["sites"][number]>>, more: object = {}): MethodResult {
  return {
    seconds: 2,
    loading_seconds: 1,
    loaded_bytes: 300,
    peak_bytes: 500,
    peak_above_loaded: true,
    rows: 7,
    m_clean: [-1, -2],
    m_patch: [2, 3],
    ...more,
    sites: Object.entries(sites).map(([site, of]) => ({
      site,
      feature: [],
      effect: [],
      sum: 0,
      pair_sums: null,
      ...of,
    })),
  };
}

const measured = (name: string, of: MethodResult): { spec: MethodSpec; result: MethodResult } => ({
  spec: parse(name)[0]!,
  result: of,
});

describe("what methods found, side by side", () => {
  const one = measured(
    "analytic",
    result({
      "mlp_out.0": { feature: [3], effect: [1], sum: 9 },
      "resid_post.0": { feature: [3, 8], effect: [-2, 0.5], sum: 3, pair_sums: [1.5, 5] },
    }),
  );
  const two = measured(
    "sfc:64",
    result({
      "mlp_out.0": { feature: [3], effect: [1], sum: 9 },
      "resid_post.0": { feature: [8, 9], effect: [0.5, 1], sum: 4, pair_sums: [3, 5] },
    }),
  );
  const exact = measured(
    "exact",
    result({ "mlp_out.0": {}, "resid_post.0": { feature: [3], effect: [-1.5], sum: 1 } }),
  );

  it("agree over all sites together and at each", () => {
    const { agreement, scatter } = findingsOf([one, two], null);
    expect(agreement.map(({ a, b, site, features }) => [a, b, site, features])).toEqual([
      ["analytic", "sfc:64", "", 4],
      ["analytic", "sfc:64", "mlp_out.0", 1],
      ["analytic", "sfc:64", "resid_post.0", 3],
    ]);
    expect(agreement[0]).toMatchObject({ sign: 1, difference: 2, scale: 2 });
    expect(scatter).toEqual([
      {
        a: "analytic",
        b: "sfc:64",
        site: ["resid_post.0", "mlp_out.0", "resid_post.0", "resid_post.0"],
        feature: [3, 3, 9, 8],
        x: [-2, 1, 0, 0.5],
        y: [0, 1, 1, 0.5],
      },
    ]);
  });

  it("add up at the residual stream, in all and by pair", () => {
    const { sums } = findingsOf([one, two], null);
    expect(sums).toEqual([
      { method: "analytic", site: "resid_post.0", sum: 3, total: 4, gap: 0.25, median_gap: 0.25 },
      { method: "sfc:64", site: "resid_post.0", sum: 4, total: 4, gap: 0, median_gap: 0 },
    ]);
  });

  it("are held against exact over what it patched, and nothing else", () => {
    const { exactness, agreement, sums } = findingsOf([one, exact, two], 1);
    expect(
      exactness.map(({ method, site, features, difference, error }) => [method, site, features, difference, error]),
    ).toEqual([
      ["analytic", "", 1, 0.5, 0.5 / 1.5],
      ["analytic", "mlp_out.0", 0, 0, null],
      ["analytic", "resid_post.0", 1, 0.5, 0.5 / 1.5],
      ["sfc:64", "", 1, 1.5, 1],
      ["sfc:64", "mlp_out.0", 0, 0, null],
      ["sfc:64", "resid_post.0", 1, 1.5, 1],
    ]);
    const all = agreement.filter(({ site }) => site === "");
    expect(all.map(({ a, b, features }) => [a, b, features])).toEqual([
      ["analytic", "exact", 1],
      ["analytic", "sfc:64", 4],
      ["exact", "sfc:64", 1],
    ]);
    // Some features alone do not add up to anything.
    expect(sums.map(({ method }) => method)).toEqual(["analytic", "sfc:64"]);
    expect(findingsOf([one, exact], null).sums.map(({ method }) => method)).toEqual(["analytic", "exact"]);
  });

  it("exact patches the strongest of any of them", () => {
    expect(featuresToPatch([one.result, two.result], 1)).toEqual([
      ["mlp_out.0", [3]],
      ["resid_post.0", [3, 9]],
    ]);
    expect(featuresToPatch([], 5)).toBe(5);
    expect(featuresToPatch([one.result], null)).toBeNull();
  });

  it("take memory above the loaded model, and the accuracy is that of the clean prompts", () => {
    const wrong = measured("analytic", result({ embed: {} }, { m_clean: [-1, 1], peak_above_loaded: false }));
    const { methods, accuracy, warnings } = findingsOf([wrong], null);
    expect(methods).toEqual([
      {
        name: "analytic",
        method: "analytic",
        batch: null,
        steps: null,
        rule: null,
        seconds: 2,
        loading_seconds: 1,
        loaded_bytes: 300,
        peak_bytes: 500,
        above_bytes: 200,
        rows: 7,
      },
    ]);
    expect(accuracy).toBe(0.5);
    expect(warnings).toEqual([expect.stringContaining("50 % of the pairs"), expect.stringContaining("peaks include")]);
  });

  it("are a comparison that a terminal can show", () => {
    const comparison: Comparison = comparisonSchema.parse({
      format: 1,
      status: "finished",
      command: "compare",
      options: {},
      versions: {},
      machine: { cpu: "a cpu", cores: 2, memory_bytes: 1 },
      model: { name: "demo", model_type: "llama", parameters: 1 },
      dictionaries: { source: "the model's own", dummy: false, sites: ["mlp_out.0", "resid_post.0"], features: 80 },
      sha256: { model: "", dictionaries: "", pairs: "" },
      task: "agreement",
      pairs: 2,
      ...findingsOf([one, two, { ...exact, result: { ...exact.result, seconds: 90, peak_bytes: 9e8 } }], 1),
      warnings: ["Something."],
    });
    expect(comparisonText("outputs/there", "outputs/there/report.html", comparison)).toMatchInlineSnapshot(`
      "2 pairs, accuracy 100.0 %; 2 sites, 80 features.

      method    time        ×      memory above the model  ×          peak
      analytic  2.0 s       1.0 ×  200 bytes               1.0 ×      500 bytes
      sfc:64    2.0 s       1.0 ×  200 bytes               1.0 ×      500 bytes
      exact     1 min 30 s  45 ×   900 MB                  4499999 ×  900 MB

      all sites together  features  Pearson  Spearman  sign   top 10  50     100    largest difference / effect
      analytic, sfc:64    4         0.8274   0.6325    100 %  67 %    67 %   67 %   1.0
      analytic, exact     1         –        –         100 %  100 %   100 %  100 %  0.25
      sfc:64, exact       1         –        –         –      –       –      –      1.0

      against exact  patched features  Pearson  Spearman  sign   Σ|difference| / Σ|exact|
      analytic       1                 –        –         100 %  0.33
      sfc:64         1                 –        –         –      1.0

      effects and error  sum    m(patch) − m(clean)  largest gap  at            median of the pairs
      analytic           3.000  4.000                0.25         resid_post.0  0.25
      sfc:64             4.000  4.000                0.0          resid_post.0  0.0

      warning  Something.

      Report: outputs/there/report.html"
    `);
  });
});

it("exact says first how long it will take, at .6 of the rate of matrix products", () => {
  expect(workLine(12_345, 10.8e12, 100)).toBe("exact: 12,345 patches, about 3 min 00 s.");
});

it.runIf(process.platform === "linux")("the peak of memory begins anew", async () => {
  let block: Uint8Array | undefined = new Uint8Array(200e6).fill(1);
  const with200MB = peakBytes();
  expect(with200MB).toBeGreaterThanOrEqual(block.length);
  block = undefined;
  globalThis.gc?.();
  if (!resetPeak()) return;
  // The block may be given back between the two.
  await vi.waitFor(() => {
    resetPeak();
    expect(peakBytes()).toBeLessThan(residentBytes() + 50e6);
  });
});

it("the process that is measured loads no database before it has measured", () => {
  const seen = new Set<string>();
  const packages = new Set<string>();
  const visit = (file: string) => {
    if (seen.has(file)) return;
    seen.add(file);
    for (const [, name] of readFileSync(file, "utf8").matchAll(
      /^(?:import|export)\s(?!type\b)[^;]*?from "([^"]+)";/gm,
    )) {
      if (name!.startsWith(".")) visit(join(dirname(file), name!));
      else packages.add(name!);
    }
  };
  visit(fileURLToPath(new URL("../src/commands/compare-child.ts", import.meta.url)));
  expect(seen.size).toBeGreaterThan(20);
  expect([...packages].filter((name) => name.startsWith("@duckdb"))).toEqual([]);
});
